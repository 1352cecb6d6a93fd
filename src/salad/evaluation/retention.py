"""`salad retention`: how much of voice and speaking rate is left in each layer of a saved model, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salad.engine.memory import keep_freed_memory
from salad.evaluation.probing import Probed, layer_states, probe, retention
from salad.evaluation.saved_model import LoadedModel, ModelFiles, load_saved, read_corpus, untrained
from salad.files import write_json, write_jsonl
from salad.measure.format import with_interval
from salad.measure.results import Interval
from salad.model import SaladForConditionalGeneration
from salad.progress import progress
from salad.records import to_json
from salad.training.checkpoint import Saved, load_weights
from salad.training.loop import autocast
from salad.types import SaladError, Utterance

SAME_EARS = "encoder"  # it is frozen: the same frames before and after
MIN_DOCUMENTS = 2  # of a voice: one to learn it from, one to know it by


@dataclass(frozen=True)
class ProbeFigure:
    """Balanced accuracy of voices, or R^2 of a rate, with its 95 % interval; chance: of shuffled labels."""

    value: float
    low: float
    high: float
    chance: float

    @classmethod
    def of(cls, found: Probed) -> ProbeFigure:
        """Without the guesses and draws that it comes from."""
        return cls(found.value, *found.interval, found.chance)


@dataclass(frozen=True)
class LayerFigures:
    """One layer after training and before; what of it is retained, of what was before and of the encoder's frames."""

    after: ProbeFigure
    before: ProbeFigure
    chance: float
    retention: Interval | None
    of_encoder: Interval | None


@dataclass(frozen=True)
class Rate:
    mean: float
    sd: float


@dataclass(frozen=True)
class RetentionFigures:
    """retention.json. voices: utterances of each; layers: by label (voice, rate) and name."""

    model: ModelFiles
    before: str
    spans: int
    documents: int
    voices: Mapping[str, int]
    words_per_second: Rate
    quarantined: int
    layers: Mapping[str, Mapping[str, LayerFigures]]


def measure_retention(
    model: Path,
    corpus: Path,
    out: Path,
    *,
    before: str | None = None,
    teacher: str | None = None,
    layouts: int = 2,
    bf16: bool = False,
    device: str = "cpu",
    workers: int = 2,
    trusted: bool = False,
) -> RetentionFigures:
    """Probe every layer for voice (balanced accuracy) and rate (R^2 of words a second about the voice's mean).

    `before`: a checkpoint's folder, another model's, or "init" (the text LLM with a fresh adapter); its layers are
    compared with the model's (`retention`). Every layer is also compared with the frozen encoder's frames
    (`of_encoder`), which is all there is where `before` is None. Writes retention.json,
    retention.jsonl (one row for each label and layer) and quarantine.jsonl to `out`.
    """
    keep_freed_memory()
    loaded, found = LoadedModel(model, teacher, device), read_corpus(corpus, trusted)
    utterances, quarantined = _voiced(found.utterances)
    quarantined = found.quarantined + quarantined
    frames = loaded.encode(utterances, out, layouts=layouts, workers=workers)
    by_example = [(u, e) for n in range(layouts)
                  for u, e in zip(utterances, loaded.examples(utterances, frames, n), strict=True)]  # fmt: skip
    examples = [example for _, example in by_example]
    spans = [(u, s) for u, e in by_example for s in e.spans if s.modality == "speech"]
    documents, recordings = [u.document_id for u, _ in spans], [u.id for u, _ in spans]
    voices = [u.speaker for u, _ in spans]
    rates = [s.num_words / max(1e-3, u.words[s.end_word - 1].end_s - u.words[s.start_word].start_s) for u, s in spans]
    labels: dict[str, tuple[Any, Sequence[str] | None]] = {
        "voice": (voices, recordings),
        "rate": (_about_mean(np.array(rates), voices), None),
    }
    models = {"after": loaded.model} | ({} if before is None else {"before": _earlier(loaded, before).to(device)})
    with autocast(bf16, device):
        states = {when: layer_states(model, examples) for when, model in models.items()}
    names = list(states["after"])
    rows: dict[str, dict[str, LayerFigures]] = {}
    with progress("probe", len(labels) * sum(map(len, states.values())), "layers") as bar:
        for of, (label, shuffled_by) in labels.items():
            probes: dict[str, dict[str, Probed]] = {when: {} for when in states}
            for when, layers in states.items():
                for name, values in layers.items():
                    probes[when][name] = probe(values, label, documents, recordings=shuffled_by, seed=loaded.seed)
                    bar.advance()
            for name in names:
                own = probes["after"][name]
                reference = probes["before"][name] if before is not None else probes["after"][SAME_EARS]
                rows.setdefault(of, {})[name] = LayerFigures(
                    after=ProbeFigure.of(own),
                    before=ProbeFigure.of(reference),
                    chance=own.chance,
                    retention=retention(own, reference),
                    of_encoder=retention(own, probes["after"][SAME_EARS]),
                )
    figures = RetentionFigures(
        model=ModelFiles.of(model),
        before=before or SAME_EARS,
        spans=len(spans),
        documents=len(set(documents)),
        voices=dict(sorted(Counter(u.speaker for u in utterances).items())),
        words_per_second=Rate(float(np.mean(rates)), float(np.std(rates))),
        quarantined=len(quarantined),
        layers=rows,
    )
    flat = ({"of": of, "layer": name, **to_json(own)} for of, group in rows.items() for name, own in group.items())
    write_jsonl(out / "retention.jsonl", flat)
    write_jsonl(out / "quarantine.jsonl", [{"stage": "retention", **row} for row in quarantined])
    write_json(out / "retention.json", to_json(figures))
    return figures


def _voiced(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[dict[str, str]]]:
    """Recordings of voices with enough documents; the others are set aside. SaladError where fewer than two stay."""
    held: dict[str, set[str]] = {}
    for u in utterances:
        held.setdefault(u.speaker, set()).add(u.document_id)
    enough = {voice for voice, own in held.items() if voice and len(own) >= MIN_DOCUMENTS}
    if len(enough) < 2:
        known = ", ".join(f"{voice or 'unnamed'} ({len(own)} documents)" for voice, own in sorted(held.items()))
        raise SaladError(
            f"corpus: a probe for the voice needs two voices or more with {MIN_DOCUMENTS} documents each, got "
            f"{known or 'no speech'}; `salad synthesize --voice A --voice B --word-times` makes such a corpus"
        )
    quarantined = [
        {"id": u.id, "reason": f"its voice {u.speaker!r} has {len(held[u.speaker])} documents, fewer than two"}
        for u in utterances
        if u.speaker not in enough
    ]
    return [u for u in utterances if u.speaker in enough], quarantined


def _earlier(loaded: LoadedModel, before: str) -> SaladForConditionalGeneration:
    """The model as it was: fresh, at a checkpoint, or another saved one."""
    path = Path(before).expanduser()
    if before != "init" and not (path / "state.json").is_file():
        return load_saved(path)
    if loaded.teacher_name is None:
        raise SaladError(f"before: {before!r} needs the text LLM that the model came from; give --teacher")
    holds_lora = before != "init" and any("lora_" in name for name in Saved(path, ["weights"]))
    lora = loaded.model.config.lora_rank if holds_lora else 0
    fresh = untrained(loaded.model, loaded.teacher_name, loaded.seed, lora_rank=lora)
    if before != "init":
        load_weights(path, fresh)
    fresh.eval()
    return fresh


def _about_mean(values: np.ndarray, voices: Sequence[str]) -> np.ndarray:
    """Less each voice's mean: a voice that is slow must not make its rate known by its timbre."""
    out = values.copy()
    for voice in set(voices):
        own = np.array([v == voice for v in voices])
        out[own] -= values[own].mean()
    return out


def table_of(figures: RetentionFigures) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and a line for each layer."""
    header: tuple[str, ...] = ("layer",)
    layers = figures.layers
    for of in layers:
        header += (of, f"{of}, {Path(figures.before).name}", "retained", "of the encoder's")
    lines = []
    for name in next(iter(layers.values())):
        line: tuple[str, ...] = (name,)
        for of in layers:
            cell = layers[of][name]
            shown = [with_interval(own, ".2f", missing="-") for own in (cell.after, cell.retention, cell.of_encoder)]
            line += (shown[0], f"{cell.before.value:.2f}", *shown[1:])
        lines.append(line)
    chance = [("chance", *(x for of in layers for x in (f"{layers[of][SAME_EARS].chance:.2f}", "", "", "")))]
    return header, lines + chance
