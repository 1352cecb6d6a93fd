"""`salad divergence`: M, its blind and deaf controls, the teacher's divergence and F of a saved model on any corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad import assets
from salad.engine.memory import keep_freed_memory
from salad.evaluation.saved_model import LoadedModel, MeasuredCorpus, read_corpus, silence
from salad.files import sha256_json, write_json, write_jsonl
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
from salad.measure.hearing import HeardSpan, heard_of_utterances, marked, pooled_errors, voice_errors
from salad.model.teacher import Teacher
from salad.progress import progress
from salad.training.loop import autocast
from salad.types import Example

COLUMNS = ("misalignment", "blind", "deaf", "teacher", "forgetting")
RESAMPLES = 2000
Rows = dict[str, list[DocumentKL]]


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
) -> dict[str, Any]:
    """Nats per token with standard errors, whole and by domain, and word errors; writes divergence.json,
    divergence.jsonl, and what was heard of each spoken span, word by word, as heard.jsonl to `out`.

    misalignment: KL(adapted LLM on the text || model on the interleaved document), eq. 2; blind hears silence, deaf
    nothing. teacher: KL(original LLM on the text || model on the interleaved document), eq. 5. forgetting: KL(original
    LLM || adapted LLM) on text, eq. 3. The last two are left out where the original LLM is not known.
    """
    keep_freed_memory()
    loaded, found = LoadedModel(model, teacher, device), read_corpus(corpus, trusted)
    rows, spans = _measure(loaded, found, out, bf16, device, workers)
    figures = {
        "model": {"path": str(model), "fingerprint": assets.fingerprint(model), "llm_frozen": loaded.frozen},
        "teacher": loaded.teacher_name,
        "corpus": {
            "path": str(corpus),
            "sha256": sha256_json([[u.id, u.text] for u in (*found.utterances, *found.documents)]),
            "utterances": len(found.utterances),
            "documents": len(found.texts),
            "quarantined": len(found.quarantined),
        },
        "sequence": loaded.sequence.model_dump(mode="json"),
        "seed": loaded.seed,
        "precision": "bf16" if bf16 else "fp32",
        **_figures(rows, {u.id: u.document_id or u.id for u in found.utterances}, loaded.seed),
        "hearing": _hearing(spans, loaded.seed),
    }
    write_jsonl(out / "heard.jsonl", [asdict(marked(span)) for span in spans])
    write_jsonl(out / "divergence.jsonl", [{"of": k, **asdict(row)} for k, group in rows.items() for row in group])
    write_jsonl(out / "quarantine.jsonl", [{"stage": "divergence", **row} for row in found.quarantined])
    write_json(out / "divergence.json", figures)
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
    silent_frames = dict(zip([e.id for e in spoken], silence(model, spoken), strict=True)) if spoken else {}

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
            rows["blind"] = divergence(model, reading, spoken, speech_ears(model, lambda e: silent_frames[e.id]))
            bar.advance()
            rows["deaf"] = divergence(model, reading, spoken, deaf_ears(model))
            bar.advance()
        if original is not None:
            rows["teacher"] = rows["misalignment"] if reading is original else hearing(original)
            bar.advance()
            rows["forgetting"] = forgetting(model, original, texts)
            bar.advance()
    return rows, spans


def _hearing(spans: Sequence[HeardSpan], seed: int) -> dict[str, Any] | None:
    """{all, by_voice: {voice: ...}}: word and phone error rates over spoken spans, with 95 % intervals."""
    if not spans:
        return None

    by_voice = {row.voice: asdict(row) for row in voice_errors(spans, RESAMPLES, seed)}
    return {"all": asdict(pooled_errors(spans, RESAMPLES, seed)), "by_voice": by_voice}


def _figures(rows: Rows, documents: Mapping[str, str], seed: int) -> dict[str, Any]:
    """{all: {figure: {value, se, n_documents, n_tokens}}, by_domain, by_voice, heard}."""
    domains = sorted({row.domain for group in rows.values() for row in group if row.domain})
    voices = sorted({row.speaker for row in rows["misalignment"] if row.speaker})
    spoken = {k: g for k, g in rows.items() if k != "forgetting"}

    def part(of: Rows, field: str, value: str) -> dict[str, Any]:
        own = {name: [row for row in group if getattr(row, field) == value] for name, group in of.items()}
        return {name: _one(g, documents) for name, g in own.items() if g} | {"heard": _heard(own, documents, seed)}

    return {
        "all": {name: _one(group, documents) for name, group in rows.items()},
        "heard": _heard(rows, documents, seed),
        "by_domain": {d: part(rows, "domain", d) for d in domains},
        "by_voice": {v: part(spoken, "speaker", v) for v in voices},
    }


def _one(rows: Sequence[DocumentKL], documents: Mapping[str, str]) -> dict[str, Any]:
    known = summary(rows, documents)
    se = known["se"] if np.isfinite(known["se"]) else None
    return {"value": known["all"], "se": se, "n_documents": known["n_documents"], "n_tokens": known["n_tokens"]}


def _heard(rows: Rows, documents: Mapping[str, str], seed: int) -> dict[str, Any] | None:
    """1 - M / M_ref, as no cascade is measured here; M_ref is the lower of deaf and blind."""
    references = {name: rows[name] for name in ("deaf", "blind") if rows.get(name)}
    share = heard(rows["misalignment"], references, None, documents=documents, seed=seed) if references else None
    return asdict(share) if share else None


def table_of(figures: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and lines for the terminal: all, then each domain and each voice."""
    names = [name for name in COLUMNS if name in figures["all"]]
    heard_words = figures.get("hearing") or {}
    header = ("of", "documents", "tokens", *names, WITHOUT_CASCADE, *(("WER",) if heard_words else ()))
    wer = {"all": heard_words.get("all")} | {f"voice {v}": own for v, own in heard_words.get("by_voice", {}).items()}
    whole = {**figures["all"], "heard": figures["heard"]}
    parts = [("all", whole), *figures["by_domain"].items()]
    parts += [(f"voice {voice}", part) for voice, part in figures["by_voice"].items() if len(figures["by_voice"]) > 1]
    lines = []
    for name, part in parts:
        counted = part.get("misalignment") or part["forgetting"]
        cells = [_shown(part.get(column)) for column in (*names, "heard")]
        if heard_words:
            cells.append(_shown((wer.get(name) or {}).get("wer")))
        lines.append((name, str(counted["n_documents"]), str(counted["n_tokens"]), *cells))
    return header, lines


def _shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    if "low" in cell:
        one = cell["low"] == cell["high"]  # document, which has no spread
        return with_interval({"value": cell["value"]} if one else cell)
    return f"{cell['value']:.3f}" + ("" if cell["se"] is None else f" ({cell['se']:.3f})")
