"""evaluate: M and F with their controls, what was heard, and accuracy on text, on speech, and of the cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.align.transcribe import cer, wer
from salad.engine.memory import keep_freed_memory
from salad.files import read_json, write_json, write_jsonl
from salad.measure.divergence import (
    DocumentKL,
    deaf_ears,
    difference,
    divergence,
    forgetting,
    heard,
    speech_ears,
    summary,
    transcript_ears,
)
from salad.measure.oracle import oracle_rows, symbols_of_model
from salad.model import load_encoder
from salad.pipeline.choices import accuracies, answer, items_of
from salad.pipeline.hearing import hearing_figures, listen, said_symbols
from salad.pipeline.heldout import UNSEEN, Setting
from salad.pipeline.noisy import noise_rows
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import transcribe
from salad.pipeline.speechlm import heard_tokens
from salad.pipeline.stages.align import load_aligned
from salad.progress import console, progress
from salad.training.checkpoint import latest_checkpoint

__all__ = ["load_figures", "run"]

SECTIONS = ("evaluate",)

Rows = dict[str, list[DocumentKL]]
ORDER = ("init", "warm_start", "stage1", "stage2", "blind", "other", "deaf", "cascade")
NOT_HEARING = ("deaf", "blind")  # the lowest of their M is the M_ref of `heard`


def run(run: Run) -> dict[str, Any]:
    folder, settings = run.folder("evaluate"), run.recipe.evaluate
    torch.set_num_threads(run.recipe.threads)
    keep_freed_memory()
    heldout = load_aligned(run, "heldout")
    written: dict[str, str] = {}
    if _needs_asr(run):
        written = transcribe(
            run, folder / "transcripts", heldout, "transcribe held-out", precision=settings.asr_precision
        )
    setting, left_out = Setting(run), _left_out(run)
    for line in left_out:
        console.print(f"evaluate: {line}", highlight=False)
    with setting.reading():
        silence = _silence(run)
        rows, f = _divergences(setting, written, silence)
        spans = listen(setting, setting.model)
        oracles = _oracles(setting)
        noise = noise_rows(setting)
        items = items_of(setting) if settings.items else []
        results = answer(setting, items, written, silence=silence) if items else {}
    found = {**rows, **oracles}
    table = [{"of": name, **asdict(row)} for name, group in found.items() for row in group]
    write_jsonl(folder / "divergence.jsonl", table)
    hearing, errors = hearing_figures(setting, spans) if spans else ({}, {})
    figures = {
        "misalignment": _summaries(rows),
        "forgetting": f,
        **_shares(setting, rows),
        "over": {name: asdict(_over(setting, rows, name)) for name in ("other", "blind", "deaf") if name in rows},
        "voices": _voices(setting, rows, errors),
        "hearing": hearing or None,
        "noise": noise or None,
        "oracle": {name: summary(own) for name, own in oracles.items()} or None,
        "accuracy": accuracies(run, items, results, folder) if items or settings.tasks else None,
        "asr": {
            "cer": float(np.mean([cer(written.get(u.id, ""), u.text) for u in heldout])),
            "wer": float(np.mean([wer(written.get(u.id, ""), u.text) for u in heldout])),
        }
        if written
        else None,
        "left_out": left_out,
    }
    write_json(folder / "figures.json", figures)
    m = {f"M {name}": row["all"] for name, row in figures["misalignment"].items()}
    shown = {"heard": (figures["heard"] or {}).get("value"), **m}
    if items:
        shown |= {f"{k} accuracy": figures["accuracy"][f"{k}_adapted"]["value"] for k in ("speech", "text")}
    return {name: value for name, value in shown.items() if value is not None}


def _wanted(run: Run, name: str) -> bool:
    settings = run.recipe.evaluate
    if name in ("init", "warm_start", "stage1"):
        return name in (settings.only or settings.stages)
    return not settings.only or name in (*settings.only, "stage2", "deaf")


def _needs_asr(run: Run) -> bool:
    return _wanted(run, "cascade") or run.recipe.evaluate.items > 0


def _left_out(run: Run) -> list[str]:
    """What is not measured, or on fewer documents, to save time; for the log and the page."""
    settings, said = run.recipe.evaluate, []
    missing = [name for name in ("init", "warm_start", "stage1") if not _wanted(run, name)]
    if missing:
        said.append(f"M of {', '.join(missing)} is not measured (evaluate.stages)")
    measured = [name for name in ("init", "warm_start", "stage1") if name not in missing]
    if measured and settings.stage_documents < settings.documents:
        said.append(
            f"M of {', '.join(measured)} is measured on the first {settings.stage_documents} documents of each "
            "domain (evaluate.stage_documents)"
        )
    return said


def _checkpoints(run: Run) -> dict[str, Path]:
    found = {name: latest_checkpoint(run.latest.folder(name)) for name in ("warm_start", "stage1", "stage2")}
    return {name: path for name, path in found.items() if path is not None and _wanted(run, name)}


def _divergences(setting: Setting, written: dict[str, str], silence: np.ndarray) -> tuple[Rows, dict[str, Any]]:
    """M of every checkpoint and of the controls, document by document; F summed up. Leaves the last model loaded."""
    run, examples, teacher = setting.run, setting.examples, setting.teacher
    fewer = setting.fewer(run.recipe.evaluate.stage_documents)
    checkpoints, rows = _checkpoints(run), dict[str, list[DocumentKL]]()
    f: dict[str, Any] = {"init": {"all": 0.0, "se": 0.0, "by_domain": {}}}  # nothing is forgotten yet (invariant 2)
    with progress("measure M and F", 5 + 2 * len(checkpoints), "passes") as bar:
        rows["deaf"] = divergence(setting.base, teacher, examples, deaf_ears(setting.base))
        bar.advance()
        if _wanted(run, "cascade"):
            spoken = heard_tokens(setting.tokenizer, setting.utterances, examples, written)
            ears = transcript_ears(setting.base, lambda e: spoken[e.id])
            rows["cascade"] = divergence(setting.base, teacher, examples, ears)
        bar.advance()
        if _wanted(run, "init"):
            rows["init"] = divergence(setting.model, setting.reader(), fewer, speech_ears(setting.model))
        bar.advance()
        for name, path in checkpoints.items():
            model = setting.load(path)
            own = examples if name == "stage2" else fewer
            rows[name] = divergence(model, setting.reader(), own, speech_ears(model))
            bar.advance()
            if not setting.frozen:
                f[name] = summary(forgetting(model, teacher, setting.texts))
            bar.advance()
        if _wanted(run, "blind"):
            hush = speech_ears(model, lambda e: [silence[: len(span)] for span in e.speech_frames])
            rows["blind"] = divergence(model, setting.reader(), examples, hush)
        bar.advance()
        if _wanted(run, "other"):
            own, frames = setting.another()
            if own:
                rows["other"] = divergence(model, setting.reader(), own, speech_ears(model, lambda e: frames[e.id]))
        bar.advance()
    if setting.frozen:  # the same weights on the same text
        nothing = {"all": 0.0, "se": 0.0, "by_domain": {}, "note": "the LLM is frozen"}
        f |= {"stage1": nothing, "stage2": nothing}
    return rows, f


def _summaries(rows: Rows) -> dict[str, Any]:
    """Summary of each; `stage2` inside another stage's: M of stage2 on the documents that the other was measured on."""
    out = {name: summary(rows[name]) for name in ORDER if name in rows}
    for name in ("init", "warm_start", "stage1"):
        if name in rows and len(rows[name]) < len(rows["stage2"]):
            ids = {row.id for row in rows[name]}
            out[name]["stage2"] = summary([row for row in rows["stage2"] if row.id in ids])
    return out


def _oracles(setting: Setting) -> Rows:
    """Rows of `oracle_rows`, and `oracle_none`: M of the model as it is on the same documents."""
    symbols, settings = symbols_of_model(setting.model), setting.run.recipe.evaluate
    if symbols is None or not settings.oracle_documents or not _wanted(setting.run, "oracle"):
        return {}
    examples, model = setting.fewer(settings.oracle_documents), setting.model
    said = {e.id: said_symbols(setting, symbols, e) for e in examples}
    rows = oracle_rows(model, setting.reader(), examples, lambda e: said[e.id], setting.run.recipe.seed)
    return {"oracle_none": divergence(model, setting.reader(), examples, speech_ears(model)), **rows}


def _silence(run: Run) -> np.ndarray:
    encoder = load_encoder(run.recipe.assets.encoder, run.recipe.threads)
    return encoder.encode([np.zeros(20 * encoder.sample_rate_hz, np.float32)])[0]


def _shares(setting: Setting, rows: Rows) -> dict[str, Any]:
    """`heard`, over all documents, of each stage, and by domain."""

    def own(name: str, keep: Any = lambda row: True) -> dict[str, Any] | None:
        return _share(setting, {key: [row for row in group if keep(row)] for key, group in rows.items()}, name)

    domains = sorted({row.domain for row in rows["stage2"] if row.domain})
    by_domain = {d: own("stage2", lambda row, d=d: row.domain == d) for d in domains}
    return {
        "heard": own("stage2"),
        "heard_by_stage": {name: own(name) for name in ("init", "warm_start", "stage1", "stage2") if name in rows},
        "heard_by_domain": {d: share for d, share in by_domain.items() if share},
    }


def _share(setting: Setting, rows: Mapping[str, Sequence[DocumentKL]], name: str) -> dict[str, Any] | None:
    settings, seed = setting.run.recipe.evaluate, setting.run.recipe.seed
    references = {key: rows[key] for key in NOT_HEARING if rows.get(key)}
    share = heard(
        rows[name],
        references,
        rows.get("cascade"),
        documents=setting.document_of,
        resamples=settings.bootstrap,
        seed=seed,
    )
    return asdict(share) if share else None


def _over(setting: Setting, rows: Rows, control: str) -> Any:
    """M of a control less M of the model, paired: the test of whether the recording itself told anything."""
    settings, seed = setting.run.recipe.evaluate, setting.run.recipe.seed
    return difference(
        rows[control], rows["stage2"], documents=setting.document_of, resamples=settings.bootstrap, seed=seed
    )


def _voices(setting: Setting, rows: Rows, errors: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a voice, those trained on first: M and what it is held against, heard, word and phone errors."""
    voices = sorted({row.speaker for row in rows["stage2"] if row.speaker}, key=lambda v: (v.endswith(UNSEEN), v))
    out = []
    for voice in voices:
        own = {name: [row for row in group if row.speaker == voice] for name, group in rows.items()}
        row: dict[str, Any] = {"voice": voice, "unseen": voice.endswith(UNSEEN)}
        for name in ("stage2", "blind", "other", "deaf", "cascade"):
            if own.get(name):
                found = summary(own[name])
                row[name] = {key: found[key] for key in ("all", "se", "n_documents")}
        row["heard"] = _share(setting, own, "stage2")
        for kind in ("wer", "strict_wer", "phone_error"):
            value = getattr(errors.get(voice), kind, None)
            row[kind] = asdict(value) if value else None
        out.append(row)
    return out


def load_figures(run: Run) -> dict[str, Any]:
    """What this stage measured."""
    return read_json(run.folder("evaluate") / "figures.json")
