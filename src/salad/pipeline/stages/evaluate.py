"""evaluate: M and F with their controls, what was heard, and accuracy on text, on speech, and of the cascade."""

from __future__ import annotations

from dataclasses import asdict

from salad.config import Recipe
from salad.evaluation.benchmark_task import task_files
from salad.evaluation.figures import Figures
from salad.files import write_json, write_jsonl
from salad.measure.controls import Silence
from salad.measure.divergence import summary
from salad.measure.results import Interval, RunFigures
from salad.model import load_encoder
from salad.pipeline.divergences import BEFORE, divergences, not_measured, oracles, wanted
from salad.pipeline.fingerprints import of_content
from salad.pipeline.hearing import hearing_figures, listen, transcript_errors
from salad.pipeline.heldout import HeldoutEvaluator
from salad.pipeline.multiple_choice import accuracies, answer, items_of
from salad.pipeline.noise_conditions import noise_rows
from salad.pipeline.run import Run, Summary
from salad.pipeline.speech_jobs import transcribe
from salad.pipeline.stages.align import load_aligned
from salad.progress import console
from salad.records import read_record, to_json
from salad.training.checkpoint import latest_checkpoint

SECTIONS = ("evaluate",)


def inputs(recipe: Recipe) -> dict[str, str]:
    """The files of items that are the user's own."""
    files = task_files(recipe.evaluate.tasks, recipe.evaluate.task_data)
    return {"your tasks": of_content(files)} if files else {}


def run(run: Run) -> Summary:
    folder, settings, recipe = run.folder("evaluate"), run.recipe.evaluate, run.recipe
    run.use_threads()
    heldout, written = load_aligned(run, "heldout"), dict[str, str]()
    if wanted(settings, "cascade") or settings.items:
        title = "transcribe held-out"
        written = transcribe(run, folder / "transcripts", heldout, title, precision=settings.asr_precision)
    evaluator, left_out = HeldoutEvaluator(run), not_measured(settings)
    for line in left_out:
        console.print(f"evaluate: {line}", highlight=False)
    found = {name: latest_checkpoint(run.latest.folder(name)) for name in ("warm_start", "stage1", "stage2")}
    checkpoints = {name: path for name, path in found.items() if path is not None and wanted(settings, name)}
    with evaluator.reading():
        silence = Silence(load_encoder(recipe.assets.encoder, recipe.threads))
        rows, f = divergences(evaluator, settings, checkpoints, written, silence)
        spans = listen(evaluator, evaluator.model)
        true_parts = oracles(evaluator, settings, recipe.seed)
        noise = noise_rows(evaluator)
        items = items_of(evaluator) if settings.items else []
        results = answer(evaluator, items, written, silence=silence) if items else {}
    table = [{"of": name, **asdict(row)} for name, group in {**rows, **true_parts}.items() for row in group]
    write_jsonl(folder / "divergence.jsonl", table)
    hearing, errors = hearing_figures(evaluator, spans) if spans else (None, {})
    of_rows = Figures(rows, evaluator.document_of, settings.bootstrap, recipe.seed)
    m, heard = of_rows.misalignment(), of_rows.heard()
    accuracy = accuracies(run, items, results, folder) if items or settings.tasks else None
    figures = RunFigures(
        misalignment=m,
        forgetting=f,
        heard=heard,
        heard_by_stage=of_rows.heard_by_stage(),
        heard_by_domain=of_rows.heard_by_domain(),
        over={name: Interval.of(of_rows.over(name)) for name in ("other", "blind", "deaf") if name in rows},
        change={name: Interval.of(of_rows.change(name)) for name in BEFORE if name in rows},
        voices=tuple(of_rows.voices(errors)),
        hearing=hearing,
        noise=tuple(noise) or None,
        oracle={name: summary(own) for name, own in true_parts.items()} or None,
        accuracy=accuracy,
        asr=transcript_errors(heldout, written) if written else None,
        left_out=tuple(left_out),
    )
    write_json(folder / "figures.json", to_json(figures))
    shown = {"heard": heard.value if heard else None, **{f"M {name}": row.all for name, row in m.items()}}
    if items and accuracy:
        right = {"speech accuracy": accuracy.speech_adapted, "text accuracy": accuracy.text_adapted}
        shown |= {name: share.value for name, share in right.items() if share}
    return {name: value for name, value in shown.items() if value is not None}


def load_figures(run: Run) -> RunFigures:
    """What this stage measured."""
    return read_record(RunFigures, run.folder("evaluate") / "figures.json")
