"""A saved model, the text LLM that it came from, and an aligned corpus for it to hear: what the measuring commands
share."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import soundfile
import torch
from transformers import AutoTokenizer

from salad import assets, config
from salad.data.manifest import to_utterance
from salad.data.readers.detect import kind_of as kind_of_file
from salad.data.readers.nemo_lhotse import TEXT_ALONE
from salad.data.readers.registry import READERS, open_source
from salad.data.readers.rows import check_text
from salad.files import read_json, sha256_json
from salad.model import SaladForConditionalGeneration
from salad.model.check import load_llm
from salad.model.encoders.base import Encoder
from salad.model.encoders.job import encode_all, items_of, kind_of, shared_encoder
from salad.model.encoders.load import encoder_name
from salad.sequence import FrameStore
from salad.sequence.examples import all_pieces, draw_layout, speech_examples, text_examples
from salad.types import Document, Example, SaladError, Span, Utterance

ENCODE_SHARD = 8
TOO_SHORT = "too short to be interleaved: no word is read after one that was heard"
NO_TIMES = "no word times; `salad synthesize --word-times` or a run's align stage gives them"


@dataclass(frozen=True)
class MeasuredCorpus:
    """A corpus to measure on: what can be heard, what is text alone, and what was set aside ({id, reason})."""

    utterances: list[Utterance]
    documents: list[Document]
    quarantined: list[dict[str, str]]

    @property
    def texts(self) -> list[Document]:
        """Every text once, in order."""
        spoken = [Document(u.document_id or u.id, u.text, u.source, u.domain) for u in self.utterances]
        return list({document.text: document for document in [*spoken, *self.documents]}.values())


@dataclass(frozen=True)
class ModelFiles:
    """A saved model as results name it: where it lies, and the hash of its files."""

    path: str
    fingerprint: str

    @classmethod
    def of(cls, model: Path) -> ModelFiles:
        return ModelFiles(str(model), assets.fingerprint(model))


class LoadedModel:
    """MODEL as `from_pretrained` reads it, its tokenizer, and how the run that made it interleaves.

    `frozen`: the LLM inside still has the text base's weights, so that base is the model itself and F is exactly 0.
    `base` is None where nobody says which text LLM the model came from.
    """

    def __init__(self, folder: Path, teacher: str | None = None, device: str = "cpu") -> None:
        self.folder = assets.model_folder(folder)
        self.model = load_saved(self.folder).to(device)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
        values = assets.recipe_behind(self.folder) or {}
        self.sequence = config.Sequence(**values.get("sequence", {}))
        self.seed = int(values.get("seed", 0))
        self.teacher_name = teacher or _at_hand(values.get("assets", {}).get("llm"))

    @functools.cached_property
    def encoder_name(self) -> str:
        """The frozen encoder's name, as `load_encoder` takes it; an exported model's folder, which holds its own."""
        return encoder_name(self.folder, self.model.config.encoder)

    @property
    def encoder(self) -> Encoder:
        return shared_encoder(self.encoder_name)

    @functools.cached_property
    def base(self) -> SaladForConditionalGeneration | None:
        """Loaded when it is first asked for."""
        if self.teacher_name is None:
            return None
        return untrained(self.model, self.teacher_name, self.seed).to(self.model.device)

    @functools.cached_property
    def frozen(self) -> bool:
        return self.base is not None and same_weights(self.model.llm, self.base.llm)

    def interleaved(self, found: MeasuredCorpus) -> MeasuredCorpus:
        """A corpus without those utterances of whose hearing M tells nothing, for no text stands behind a spoken span.

        They are set aside with the reason. Raises SaladError where no utterance is left.
        """
        layouts = [draw_layout(u, 0, self.sequence, self.seed) for u in found.utterances]
        kept = [u for u, spans in zip(found.utterances, layouts, strict=True) if _read_after_hearing(spans)]
        if found.utterances and not kept:
            raise SaladError(
                f"corpus: none of {len(layouts)} utterances can be measured ({found.utterances[0].id}, of "
                f"{len(found.utterances[0].words)} words, is {TOO_SHORT}); give longer recordings, or join short ones"
            )
        ids = {u.id for u in kept}
        short = [{"id": u.id, "reason": TOO_SHORT} for u in found.utterances if u.id not in ids]
        return replace(found, utterances=kept, quarantined=found.quarantined + short)

    def examples(self, utterances: Sequence[Utterance], frames: FrameStore, layout: int = 0) -> list[Example]:
        """One interleaved example of each utterance."""
        return speech_examples(self.tokenizer, utterances, frames, self.sequence, self.seed, layout)

    def texts(self, documents: Sequence[Document]) -> list[Example]:
        return text_examples(self.tokenizer, documents)

    def encode(self, utterances: Sequence[Utterance], out: Path, *, layouts: int = 1, workers: int = 2) -> FrameStore:
        """Frames of the speech spans, kept in `out` by encoder and by spans: a second command hears them at once."""
        name, encoder = self.encoder_name, self.encoder
        if encoder.frame_dim != self.model.config.frame_dim:
            raise SaladError(
                f"model: {self.folder} hears frames of {self.model.config.frame_dim}, but its encoder {encoder.name} "
                f"gives {encoder.frame_dim}; the encoder was exchanged after the training"
            )
        stored = self.sequence.stored
        items = [(u.audio, all_pieces(u, self.sequence, seed=self.seed, layouts=layouts)) for u in utterances]
        if self.sequence.encode == "recordings":
            items = list(items_of(encoder, utterances, self.sequence, seed=self.seed, layouts=layouts))
        changed = [[path, Path(path).stat().st_mtime_ns] for path, *_ in items]
        made_from = sha256_json([[encoder.fingerprint(), kind_of(encoder, stored)], changed, repr(items)])
        folder = out / "frames" / made_from[:12]
        return encode_all(name, items, folder, stored=stored, shard_items=ENCODE_SHARD, workers=workers, title="encode")


def _read_after_hearing(spans: Sequence[Span]) -> bool:
    modalities = [span.modality for span in spans]
    return "speech" in modalities and "text" in modalities[modalities.index("speech") :]


def _at_hand(llm: str | None) -> str | None:
    """None for the path of an LLM that is not on this machine: a model may have been moved away from it."""
    known = llm is None or llm in assets.ASSETS or assets.is_hub_name(llm) or Path(llm).expanduser().exists()
    return llm if known else None


def model_place(source: str | Path) -> str:
    """What the measuring functions take as a model: a known name as it is, else a folder; a run's is its last round's.

    OWNER/NAME on the hub is fetched where it is a SALAD model, and stays a name where it is a text LLM.
    """
    name = str(source)
    if name in assets.ASSETS:
        return name
    if assets.is_hub_name(name):
        fetched = assets.hub_folder(name)
        config = fetched / "config.json"
        return str(fetched) if config.is_file() and read_json(config).get("model_type") == "salad" else name
    folder = Path(name).expanduser()
    if (trained := trained_in(folder)) is not None:
        return str(trained)
    if (folder / "recipe.json").is_file() and not (folder / "config.json").is_file():
        raise SaladError(f"model: the run {folder} has no stage2/model yet; finish it: `salad run` goes on with it")
    return name


def trained_in(run: Path) -> Path | None:
    """The model of a run directory's last round that has one."""
    trained = [run / "stage2" / "model", *sorted(run.glob("rounds/*/stage2/model"))]
    return next((place for place in reversed(trained) if (place / "config.json").is_file()), None)


def load_saved(folder: Path) -> SaladForConditionalGeneration:
    """A SALAD model's folder, such as RUN/stage2/model, or the name of an asset of kind "ears"."""
    model: SaladForConditionalGeneration = SaladForConditionalGeneration.from_pretrained(saved_folder(folder))
    model.eval()
    return model


def saved_folder(folder: str | Path) -> Path:
    """The folder that `from_pretrained` reads of what `load_saved` takes."""
    folder = assets.model_folder(folder)
    if not (folder / "config.json").is_file() or read_json(folder / "config.json").get("model_type") != "salad":
        raise SaladError(f"model: {folder} is no saved SALAD model; give a folder such as runs/demo/stage2/model")
    return folder


def untrained(
    model: SaladForConditionalGeneration, llm_name: str, seed: int, lora_rank: int = 0
) -> SaladForConditionalGeneration:
    """A model of the same shape before any training: the text LLM's weights, and a fresh adapter by `seed`."""
    llm = load_llm(assets.llm_folder(llm_name))
    config = copy.deepcopy(model.config)
    config.llm_config, config.lora_rank = llm.config, lora_rank
    ours, theirs = (len(m.get_output_embeddings().weight) for m in (model, llm))
    if ours != theirs:
        raise SaladError(
            f"teacher: {llm_name} has {theirs} tokens, the model {ours}; name the text LLM that the model came from"
        )
    torch.manual_seed(seed)
    fresh = SaladForConditionalGeneration.from_llm(llm, config)
    if fresh.ctc is not None and model.ctc is not None:
        fresh.ctc.token_ids.copy_(model.ctc.token_ids)
    fresh.eval()
    return fresh


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape and torch.equal(left[name], right[name]) for name in left
    )


def read_corpus(path: Path, trusted: bool = False) -> MeasuredCorpus:
    """Utterances with word times from our JSON lines, a Lhotse manifest, or a folder that holds one (a run's too).

    Lines with text and no audio are documents that are only read. Set aside, with the reason: a line that cannot be
    read, no word times, a missing file or one of another rate, a file outside the manifest's folder unless `trusted`,
    an id that was there already.
    """
    kept: dict[str, Utterance] = {}
    documents: dict[str, Document] = {}
    quarantined = []
    for file in _manifests(path):
        kind = kind_of_file(file)
        entry = config.Speech(path=file, format=kind if kind in READERS else "utterances", trusted=trusted)
        for row in open_source(entry)[1]:
            try:
                if row.id in kept or row.id in documents:
                    raise SaladError("its id was there before")
                if row.problem == TEXT_ALONE:
                    documents[row.id] = Document(row.id, check_text(row.text), row.source, row.domain)
                    continue
                u = to_utterance(row)
                if not u.words:
                    raise SaladError(NO_TIMES)
                if not os.path.isfile(u.audio):  # Path would raise for a name too long
                    raise SaladError(f"{u.audio} does not exist")
                _check_rate(u)
                kept[u.id] = replace(u, document_id=u.document_id or u.id)
            except SaladError as error:
                quarantined.append({"id": row.id, "reason": str(error)})
    if not kept and not documents:
        first = f" ({quarantined[0]['id']}: {quarantined[0]['reason']})" if quarantined else ""
        what = f"none of {len(quarantined)} utterances can be used{first}" if quarantined else "it holds nothing"
        raise SaladError(f"corpus: {path}: {what}; expected aligned utterances, such as RUN/align/heldout.jsonl")
    return MeasuredCorpus(list(kept.values()), list(documents.values()), quarantined)


def _check_rate(utterance: Utterance) -> None:
    """Raises SaladError where the file has another rate than its manifest says: it would be cut at wrong places."""
    try:
        with soundfile.SoundFile(os.fsencode(utterance.audio)) as file:
            rate_hz = file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, OSError):
        return  # of a kind that soundfile does not know, or broken, which its reader says
    if rate_hz != utterance.sample_rate_hz:
        raise SaladError(
            f"sample_rate_hz: got {utterance.sample_rate_hz}, but {utterance.audio} has {rate_hz}; correct it, and "
            "num_samples with it"
        )


def _manifests(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for pattern in ("align/heldout.jsonl", "utterances.jsonl", "**/utterances.jsonl", "*cuts.jsonl*"):
        if files := sorted(path.glob(pattern)):
            return files
    raise SaladError(
        f"corpus: {path} holds no manifest; expected a file, or a folder with utterances.jsonl or cuts.jsonl.gz"
    )
