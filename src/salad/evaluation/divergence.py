"""`salad divergence`: M, its blind and deaf controls, the teacher's divergence and F of a saved model on any corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.engine.memory import keep_freed_memory
from salad.evaluation.saved_model import LoadedModel, MeasuredCorpus, ModelFiles, read_corpus
from salad.files import sha256_json, write_json, write_jsonl
from salad.measure.controls import Silence
from salad.measure.divergence import (
    WITHOUT_CASCADE,
    DocumentKL,
    deaf_ears,
    divergence,
    forgetting,
    heard,
    speech_ears,
    summary,
)
from salad.measure.format import with_interval
from salad.measure.hearing import (
    HeardSpan,
    VoiceErrors,
    heard_of_utterances,
    marked,
    pooled_errors,
    voice_errors,
)
from salad.measure.results import Share
from salad.measure.statistics import DRAWS
from salad.model.teacher import Teacher
from salad.progress import progress
from salad.records import null, to_json
from salad.training.loop import autocast
from salad.types import Estimate, Example

COLUMNS = ("misalignment", "blind", "deaf", "teacher", "forgetting")
Rows = dict[str, list[DocumentKL]]


@dataclass(frozen=True)
class Mean:
    """Nats per token; se: over documents, None where there is but one."""

    value: float
    n_documents: int
    n_tokens: int
    se: float | None = null()


@dataclass(frozen=True)
class Measures:
    """What was measured; the last two where the original LLM is known."""

    misalignment: Mean | None = None
    blind: Mean | None = None
    deaf: Mean | None = None
    teacher: Mean | None = None
    forgetting: Mean | None = None


@dataclass(frozen=True)
class Part(Measures):
    """The same of one domain or one voice, and the share that was heard."""

    heard: Share | None = null()


@dataclass(frozen=True)
class Parts:
    all: Measures
    heard: Share | None
    by_domain: Mapping[str, Part]
    by_voice: Mapping[str, Part]


@dataclass(frozen=True)
class MeasuredModel(ModelFiles):
    llm_frozen: bool


@dataclass(frozen=True)
class MeasuredOn:
    """A corpus; documents: different texts of it; quarantined: utterances that cannot be used."""

    path: str
    sha256: str
    utterances: int
    documents: int
    quarantined: int


@dataclass(frozen=True)
class HearingErrors:
    """Word and phone error rates over spoken spans, with 95 % intervals."""

    all: VoiceErrors
    by_voice: Mapping[str, VoiceErrors]


@dataclass(frozen=True)
class DivergenceFigures(Parts):
    """divergence.json. teacher: the original LLM, where it is known; sequence: the model's own interleaving."""

    model: MeasuredModel
    teacher: str | None
    corpus: MeasuredOn
    sequence: Mapping[str, Any]
    seed: int
    precision: str
    hearing: HearingErrors | None


def measure_divergence(
    model: Path,
    corpus: Path,
    out: Path,
    *,
    teacher: str | None = None,
    bf16: bool = False,
    device: str = "cpu",
    workers: int = 2,
    trusted: bool = False,
) -> DivergenceFigures:
    """Nats per token with standard errors, whole and by domain, and word errors; writes divergence.json,
    divergence.jsonl, and what was heard of each spoken span, word by word, as heard.jsonl to `out`.

    misalignment: KL(adapted LLM on the text || model on the interleaved document), eq. 2; blind hears silence, deaf
    nothing. teacher: KL(original LLM on the text || model on the interleaved document), eq. 5. forgetting: KL(original
    LLM || adapted LLM) on text, eq. 3. The last two are left out where the original LLM is not known.
    """
    keep_freed_memory()
    loaded = LoadedModel(model, teacher, device)
    found = loaded.interleaved(read_corpus(corpus, trusted))
    rows, spans = _measure(loaded, found, out, bf16, device, workers)
    told = [[u.id, u.text] for u in found.utterances] + [[d.id, d.text] for d in found.documents]
    measured = _figures(rows, {u.id: u.document_id or u.id for u in found.utterances}, loaded.seed)
    figures = DivergenceFigures(
        **vars(measured),
        model=MeasuredModel(**vars(ModelFiles.of(model)), llm_frozen=loaded.frozen),
        teacher=loaded.teacher_name,
        corpus=MeasuredOn(
            str(corpus), sha256_json(told), len(found.utterances), len(found.texts), len(found.quarantined)
        ),
        sequence=loaded.sequence.model_dump(mode="json"),
        seed=loaded.seed,
        precision="bf16" if bf16 else "fp32",
        hearing=_hearing(spans, loaded.seed),
    )
    write_jsonl(out / "heard.jsonl", [asdict(marked(span)) for span in spans])
    write_jsonl(out / "divergence.jsonl", [{"of": k, **asdict(row)} for k, group in rows.items() for row in group])
    write_jsonl(out / "quarantine.jsonl", [{"stage": "divergence", **row} for row in found.quarantined])
    write_json(out / "divergence.json", to_json(figures))
    return figures


def _measure(
    loaded: LoadedModel, found: MeasuredCorpus, out: Path, bf16: bool, device: str, workers: int
) -> tuple[Rows, list[HeardSpan]]:
    """Divergences, and each spoken span as it was heard ([] where the ears score no tokens)."""
    model, base = loaded.model, loaded.base
    spoken: list[Example] = []
    if found.utterances:
        spoken = loaded.examples(found.utterances, loaded.encode(found.utterances, out, workers=workers))
    unspoken, texts = loaded.texts(found.documents), loaded.texts(found.texts)
    original = Teacher(base, cache=True) if base is not None else None
    reading = original if original is not None and loaded.frozen else Teacher(model, cache=True)  # eq. 2's P
    silence = Silence(loaded.encoder)

    def hearing(reader: Teacher) -> list[DocumentKL]:
        by_ear = divergence(model, reader, spoken, speech_ears(model)) if spoken else []
        return by_ear + (divergence(model, reader, unspoken, deaf_ears(model)) if unspoken else [])

    rows: Rows = {}
    spans: list[HeardSpan] = []
    with progress("divergences", 5, "passes") as bar, torch.no_grad(), autocast(bf16, device):
        rows["misalignment"] = hearing(reading)
        bar.advance()
        if spoken:
            spans = heard_of_utterances(model, loaded.tokenizer.decode, spoken, found.utterances)
            rows["blind"] = divergence(
                model, reading, spoken, speech_ears(model, lambda e: silence.like(e.speech_frames))
            )
            bar.advance()
            rows["deaf"] = divergence(model, reading, spoken, deaf_ears(model))
            bar.advance()
        if original is not None:
            rows["teacher"] = rows["misalignment"] if reading is original else hearing(original)
            bar.advance()
            rows["forgetting"] = forgetting(model, original, texts)
            bar.advance()
    return rows, spans


def _hearing(spans: Sequence[HeardSpan], seed: int) -> HearingErrors | None:
    if not spans:
        return None
    by_voice = {row.voice: row for row in voice_errors(spans, DRAWS, seed)}
    return HearingErrors(pooled_errors(spans, DRAWS, seed), by_voice)


def _figures(rows: Rows, documents: Mapping[str, str], seed: int) -> Parts:
    domains = sorted({row.domain for group in rows.values() for row in group if row.domain})
    voices = sorted({row.speaker for row in rows["misalignment"] if row.speaker})
    spoken = {k: g for k, g in rows.items() if k != "forgetting"}

    def part(of: Rows, field: str, value: str) -> Part:
        own = {name: [row for row in group if getattr(row, field) == value] for name, group in of.items()}
        means = {name: _one(group, documents) for name, group in own.items() if group}
        return Part(**means, heard=_heard(own, documents, seed))

    return Parts(
        all=Measures(**{name: _one(group, documents) for name, group in rows.items()}),
        heard=_heard(rows, documents, seed),
        by_domain={d: part(rows, "domain", d) for d in domains},
        by_voice={v: part(spoken, "speaker", v) for v in voices},
    )


def _one(rows: Sequence[DocumentKL], documents: Mapping[str, str]) -> Mean:
    known = summary(rows, documents)
    return Mean(known.all, known.n_documents, known.n_tokens, known.se if np.isfinite(known.se) else None)


def _heard(rows: Rows, documents: Mapping[str, str], seed: int) -> Share | None:
    """1 - M / M_ref, as no cascade is measured here; M_ref is the lower of deaf and blind."""
    references = {name: rows[name] for name in ("deaf", "blind") if rows.get(name)}
    return heard(rows["misalignment"], references, None, documents=documents, seed=seed) if references else None


def table_of(figures: DivergenceFigures) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and lines for the terminal: all, then each domain and each voice."""
    names = [name for name in COLUMNS if getattr(figures.all, name) is not None]
    words = figures.hearing
    header = ("of", "documents", "tokens", *names, WITHOUT_CASCADE, *(("WER",) if words else ()))
    wer = {"all": words.all, **{f"voice {v}": own for v, own in words.by_voice.items()}} if words else {}
    parts = [("all", Part(**vars(figures.all), heard=figures.heard)), *figures.by_domain.items()]
    parts += [(f"voice {voice}", part) for voice, part in figures.by_voice.items() if len(figures.by_voice) > 1]
    lines = []
    for name, part in parts:
        counted = part.misalignment or part.forgetting
        assert counted is not None  # one of the two is measured of every part
        cells = [*(_mean_text(getattr(part, column)) for column in names), _interval_text(part.heard)]
        if words:
            cells.append(_interval_text(wer[name].wer if name in wer else None))
        lines.append((name, str(counted.n_documents), str(counted.n_tokens), *cells))
    return header, lines


def _mean_text(cell: Mean | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.value:.3f}" + ("" if cell.se is None else f" ({cell.se:.3f})")


def _interval_text(cell: Share | Estimate | None) -> str:
    if cell is None:
        return "-"
    one = cell.low == cell.high  # document, which has no spread
    return with_interval({"value": cell.value} if one else cell)
