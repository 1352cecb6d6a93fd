"""M of every checkpoint of a run and of the controls on its held-out speech; F of the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from salad.config import Evaluate
from salad.evaluation.figures import Rows
from salad.measure.controls import Silence
from salad.measure.divergence import deaf_ears, divergence, forgetting, speech_ears, summary, transcript_ears
from salad.measure.hearing import exposure_parts
from salad.measure.oracle import oracle_rows, symbols_of_model
from salad.measure.results import MeanKL
from salad.pipeline.hearing import heard_counts, said_symbols
from salad.pipeline.heldout import HeldoutEvaluator
from salad.pipeline.speechlm import transcript_tokens
from salad.progress import progress
from salad.types import Example

BEFORE = ("init", "warm_start", "stage1")


def wanted(settings: Evaluate, name: str) -> bool:
    """Whether the recipe asks for M of this stage or control."""
    if name in BEFORE:
        return name in (settings.only or settings.stages)
    return not settings.only or name in (*settings.only, "stage2", "deaf")


def not_measured(settings: Evaluate) -> list[str]:
    """What is not measured, or on fewer documents, to save time; for the log and the page."""
    said = []
    missing = [name for name in BEFORE if not wanted(settings, name)]
    if missing:
        said.append(f"M of {', '.join(missing)} is not measured (evaluate.stages)")
    measured = [name for name in BEFORE if name not in missing]
    if measured and settings.stage_documents < settings.documents:
        said.append(
            f"M of {', '.join(measured)} is measured on the first {settings.stage_documents} documents of each "
            "domain (evaluate.stage_documents)"
        )
    return said


def divergences(
    evaluator: HeldoutEvaluator,
    settings: Evaluate,
    checkpoints: Mapping[str, Path],
    written: dict[str, str],
    silence: Silence,
) -> tuple[Rows, dict[str, MeanKL]]:
    """M of every checkpoint and of the controls, document by document; F summed up. Leaves the last model loaded.

    checkpoints: by stage; of stage2, the last one, M is also summed up by exposure. written: transcripts by utterance,
    for the cascade.
    """
    base, model, teacher, examples = evaluator.base, evaluator.model, evaluator.teacher, evaluator.examples
    fewer, rows = evaluator.fewer(settings.stage_documents), Rows()
    words, known = {u.id: u.text.split() for u in evaluator.utterances}, heard_counts(evaluator.run)

    def parts(example: Example) -> dict[str, np.ndarray]:
        return exposure_parts(example, words[example.id], known)

    f = {"init": MeanKL(0.0, 0.0, by_domain={})}  # nothing is forgotten yet (invariant 2)
    with progress("measure M and F", 5 + 2 * len(checkpoints), "passes") as bar:
        rows["deaf"] = divergence(base, teacher, examples, deaf_ears(base))
        bar.advance()
        if wanted(settings, "cascade"):
            spoken = transcript_tokens(evaluator.tokenizer, evaluator.utterances, examples, written)
            ears = transcript_ears(base, lambda e: spoken[e.id])
            rows["cascade"] = divergence(base, teacher, examples, ears)
        bar.advance()
        if wanted(settings, "init"):
            rows["init"] = divergence(model, evaluator.reader(), fewer, speech_ears(model))
        bar.advance()
        for name, path in checkpoints.items():
            model = evaluator.load(path)
            of_model = name == "stage2"
            own = examples if of_model else fewer
            rows[name] = divergence(model, evaluator.reader(), own, speech_ears(model), parts if of_model else None)
            bar.advance()
            if not evaluator.frozen:
                f[name] = summary(forgetting(model, teacher, evaluator.texts))
            bar.advance()
        if wanted(settings, "blind"):
            ears = speech_ears(model, lambda e: silence.like(e.speech_frames))
            rows["blind"] = divergence(model, evaluator.reader(), examples, ears)
        bar.advance()
        if wanted(settings, "other"):
            own, frames = evaluator.another()
            if own:
                rows["other"] = divergence(model, evaluator.reader(), own, speech_ears(model, lambda e: frames[e.id]))
        bar.advance()
    if evaluator.frozen:  # the same weights on the same text
        nothing = MeanKL(0.0, 0.0, by_domain={}, note="the LLM is frozen")
        f |= {"stage1": nothing, "stage2": nothing}
    return rows, f


def oracles(evaluator: HeldoutEvaluator, settings: Evaluate, seed: int) -> Rows:
    """Rows of `oracle_rows`, and `oracle_none`: M of the model as it is on the same documents."""
    symbols = symbols_of_model(evaluator.model)
    if symbols is None or not settings.oracle_documents or not wanted(settings, "oracle"):
        return {}
    examples, model = evaluator.fewer(settings.oracle_documents), evaluator.model
    said = {e.id: said_symbols(evaluator, symbols, e) for e in examples}
    rows = oracle_rows(model, evaluator.reader(), examples, lambda e: said[e.id], seed)
    return {"oracle_none": divergence(model, evaluator.reader(), examples, speech_ears(model)), **rows}
