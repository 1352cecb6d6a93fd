"""The speech of a grid's cells, made when a cell first asks for it: narrow, broad, bought, natural; and its frames.

A base run of the recipe holds the corpus, its narrow speech, and the upper part of the ears, spelled from text alone.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from salad.align.utterances import align_utterance
from salad.align.whisper import load_aligner
from salad.assets import get
from salad.audio import read_audio
from salad.config import Recipe
from salad.data.manifest import read_utterances, write_utterances
from salad.files import write_json
from salad.pipeline.buying import excluded, market_of
from salad.pipeline.corpus_needs import stream_documents
from salad.pipeline.run import Run, run_pipeline
from salad.pipeline.speech_jobs import align, encode, open_frames, speak, training_pieces
from salad.pipeline.speechlm import ctc_vocabulary, load_tokenizer
from salad.pipeline.stages.align import load_aligned, load_frames
from salad.pipeline.stages.corpus import load_documents
from salad.select.choose import choose
from salad.sequence import Frames
from salad.study.cells import Cell
from salad.study.locks import alone
from salad.synthesize.speak import assign_voices
from salad.types import Document, Utterance

MARKET = 0.5  # share of D_web that each seed's purchases are made in, the same for every way of buying
UNHEARD_STAGES = {
    "steps": 2,
    "warmup_steps": 1,
    "checkpoint_every": 2,
}  # of the base's own lower part: no cell hears by it
PROBE_CTC_STEPS = 300  # of the model that the probe asks
NATURAL = {  # the recordings of the asset `human-speech` whose text is known
    "beckett": "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better.",
    "two_cities": (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
        "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it "
        "was the season of Darkness, it was the spring of hope, it was the winter of despair, we had everything "
        "before us, we had nothing before us, we were all going direct to Heaven, we were all going direct the "
        "other way— in short, the period was so far like the present period, that some of its noisiest authorities"
        " insisted on its being received, for good or for evil, in the superlative degree of comparison only."
    ),
}
Recordings = tuple[Sequence[Utterance], Frames]


@dataclass(frozen=True)
class CellData:
    """Everything that cells of one recipe train on. Parts are made under a lock, once, whichever process needs them."""

    recipe: Recipe

    @functools.cached_property
    def base(self) -> Run:
        """The run that all cells share, finished up to `spell`."""
        base = Run(base_recipe(self.recipe))
        with alone(self.recipe.run_dir, "base"):
            run_pipeline(base.recipe, until="spell")
        return base

    def behind(self, ears: str) -> Run:
        """The base as a cell with these ears sees it: behind a filter bank it has frames of its own."""
        if ears != "log-mel":
            return self.base
        recipe = self.base.recipe
        assets, model = (recipe.assets.model_copy(update={"encoder": "log-mel"}),
                         recipe.model.model_copy(update={"stride": 2}))  # fmt: skip
        run = Run(
            recipe.model_copy(update={"run_dir": self.recipe.run_dir / "log-mel", "assets": assets, "model": model})
        )
        with alone(self.recipe.run_dir, "log-mel"):
            for path in [*self.base.dir.iterdir(), *self.base.folder("align").iterdir()]:
                link = run.dir / path.relative_to(self.base.dir)
                if path.name != "align" and not path.name.startswith(("frames-", ".")) and not link.exists():
                    link.parent.mkdir(parents=True, exist_ok=True)
                    os.symlink(path.absolute(), link)
            for name in ("speech", "heldout"):
                load_frames(run, name, load_aligned(run, name))  # encodes what is missing
        return run

    def speech_of(self, cell: Cell) -> list[tuple[str, Sequence[Utterance], Frames]]:
        """The cell's recordings: its share of narrow or of broad speech, and what was bought beside it."""
        parts = [(cell.kind, *self.share_of(cell))]
        if cell.buys:
            parts.append(("bought", *self._recordings(self._purchase(cell))))
        return parts

    def share_of(self, cell: Cell) -> Recordings:
        """The cell's share of the narrow or of the broad speech, drawn by its seed."""
        run = self.behind(cell.ears)
        if cell.kind == "narrow":
            utterances: Sequence[Utterance] = load_aligned(run, "speech")
            frames = load_frames(run, "speech", utterances)
        else:
            utterances, frames = self._recordings(self._broad())
        order = np.random.default_rng([self.recipe.seed, cell.seed]).permutation(len(utterances))
        kept = order[: max(4, round(cell.share * len(utterances)))]
        return [utterances[i] for i in sorted(kept)], frames

    def must_make_s(self, cell: Cell) -> float:
        """About how many seconds it takes to make what this cell is the first to need."""
        if cell.kind == "broad":
            return 0.0 if (self._folder("broad") / "spoken.jsonl").exists() else self._speaking_s(1.0)
        if cell.ears == "log-mel":
            return 0.0 if (self.recipe.run_dir / "log-mel").exists() else 0.3 * self._speaking_s(1.0)
        if not cell.buys or (self._folder(_of_purchase(cell)) / "spoken.jsonl").exists():
            return 0.0
        probed = self._probed(cell, make=False).finished("probe")
        return self._speaking_s(self.recipe.select.budget_share) + (0.0 if probed else self._speaking_s(1.0) + 120)

    def natural(self, ears: str) -> tuple[list[Utterance], Frames]:
        """Recordings of people, aligned to their text."""
        run, folder = self.behind(ears), self.recipe.run_dir / "natural"
        with alone(self.recipe.run_dir, "natural"):
            if not (folder / "spoken.jsonl").exists():
                aligner, aligned = load_aligner(run.recipe.assets.asr), list[Utterance]()
                for name, text in NATURAL.items():
                    path = get("human-speech") / f"{name}.wav"
                    samples, rate_hz = read_audio(path)
                    whole = Utterance(name, text, str(path), rate_hz, len(samples), speaker=name, document_id=name)
                    asset, least = run.recipe.assets.asr, run.recipe.align.min_score
                    parts, _ = align_utterance(aligner, whole, None, folder, asset=asset, min_score=least)
                    aligned += parts
                write_utterances(folder / "spoken.jsonl", aligned)
            aligned = read_utterances(folder / "spoken.jsonl")
            return aligned, encode(run, run.dir / "natural-frames", aligned, "encode human speech", layouts=1)

    def domains(self, cell: Cell) -> dict[str, int]:
        """Words of each domain that were bought for a cell."""
        words: dict[str, int] = {}
        for utterance in read_utterances(self._folder(_of_purchase(cell)) / "spoken.jsonl"):
            words[utterance.domain] = words.get(utterance.domain, 0) + len(utterance.words)
        return words

    def _folder(self, name: str) -> Path:
        return self.recipe.run_dir / "speech" / name

    def _speaking_s(self, share: float) -> float:
        """Seconds to speak, align and encode so much of the narrow speech's hours, by what the base took."""
        return 1.2 * share * sum(self.base.done(stage).seconds for stage in ("corpus", "align"))

    def _broad(self) -> Path:
        """Random documents of D_web, spoken: as many hours as the narrow speech has."""
        base, folder = self.base, self._folder("broad")
        with alone(self.recipe.run_dir, "broad"):
            if not (folder / "spoken.jsonl").exists():
                narrow = load_aligned(base, "speech")
                seconds, words = sum(u.duration_s for u in narrow), sum(len(u.words) for u in narrow)
                documents, away = stream_documents(base, "web"), {row["id"] for row in excluded(base)}
                order = np.random.default_rng([self.recipe.seed, 5]).permutation(len(documents))
                wanted, left_s = list[Document](), seconds
                for document in (documents[int(i)] for i in order):
                    if left_s > 0 and document.id not in away:
                        wanted.append(document)
                        left_s -= len(document.words) * seconds / words
                self._speak(folder, wanted)
        return folder

    def _purchase(self, cell: Cell) -> Path:
        """What this cell buys, out of its seed's half of D_web, for a share of the narrow speech's hours."""
        run, folder = self._probed(cell), self._folder(_of_purchase(cell))
        with alone(self.recipe.run_dir, folder.name):
            if not (folder / "spoken.jsonl").exists():
                market = market_of(run, excluded(run))
                order = np.random.default_rng([self.recipe.seed, cell.seed]).permutation(len(market.documents))
                away = {market.documents[i].id for i in order[round(MARKET * len(order)) :]}
                hours = self.base.done("align").summary["hours"]
                settings = self.recipe.select.model_copy(update={**_way(cell), "replicate": cell.seed})
                _, bought = choose(
                    settings, replace(market, taken={*market.taken, *away}, kept={}),
                    budget_s=3600 * hours * settings.budget_share, seed=self.recipe.seed,
                )  # fmt: skip
                self._speak(folder, [document for document, _ in bought])
        return folder

    def _probed(self, cell: Cell, make: bool = True) -> Run:
        """The base with a probe of its clusters, or a run beside it with another K."""
        name, recipe = cell.speech, self.base.recipe
        if "-k" in name:
            cluster = recipe.cluster.model_copy(update={"k": int(name.partition("-k")[2])})
            recipe = recipe.model_copy(update={"run_dir": self.recipe.run_dir / name, "cluster": cluster})
        if make:
            with alone(self.recipe.run_dir, "base"):
                run_pipeline(recipe, until="probe", reuse=[] if recipe is self.base.recipe else [self.base.dir])
        return Run(recipe)

    def _speak(self, folder: Path, documents: Sequence[Document]) -> None:
        base, settings = self.base, self.base.recipe.synthesize
        voices = assign_voices(documents, settings.voices.shares, base.recipe.seed)
        spoken = speak(
            base, folder / "speech", voices, f"speak {folder.name}", variation=settings, audio=settings.audio
        )
        kept = align(base, folder / "aligned", spoken, f"align {folder.name}")
        encode(base, folder / "frames", kept, f"encode {folder.name}", **training_pieces(base))
        write_utterances(folder / "spoken.jsonl", kept)

    def _recordings(self, folder: Path) -> Recordings:
        utterances = read_utterances(folder / "spoken.jsonl")
        return utterances, open_frames(self.base, folder / "frames", utterances, **training_pieces(self.base))

    def write_vocabulary(self) -> None:
        """The classes of a single adapter's CTC head: the tokens of all texts and recordings, where its stages look."""
        base = self.base
        path = base.folder("warm_start") / "vocabulary.json"
        if not path.exists():
            texts = [d.text for name in ("speech", "web") for d in load_documents(base, name)]
            texts += [u.text for u in load_aligned(base, "speech")]
            write_json(path, ctc_vocabulary(load_tokenizer(base), texts))


def base_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the run that cells share. Its own lower part is a stub: each cell trains one of its own."""
    stub = recipe.warm_start.model_copy(update=UNHEARD_STAGES)
    probed = {"steps": 1, "warmup_steps": 0, "llm": "frozen", "ctc_steps": PROBE_CTC_STEPS, "probe_documents": 1}
    stage = recipe.stage1.model_copy(update=probed)
    return recipe.model_copy(update={"run_dir": recipe.run_dir / "base", "warm_start": stub, "stage1": stage})


def _of_purchase(cell: Cell) -> str:
    return f"{cell.speech}-seed{cell.seed}"


def _way(cell: Cell) -> dict[str, str | bool | float]:
    """The settings of `select` by which a cell buys: M as it was measured, whatever its evidence, as the paper does."""
    way: dict[str, str | bool | float] = {
        "draw": "clusters",
        "rule": "raw",
        "keep_probed": False,
        "score": "misalignment",
    }
    if cell.speech == "uniform":
        way["score"] = "uniform"
    if "-gamma" in cell.speech:
        way["gamma"] = float(cell.speech.partition("-gamma")[2])
    return way
