"""Commands that measure and compare: eval, divergence, retention, answer, doctor, ablate, reproduce, analyze."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from salad import api
from salad.api import takes_bf16
from salad.cli.common import (
    MEASURE,
    AlignedCorpus,
    Device,
    EncodeWorkers,
    Group,
    Overrides,
    Precision,
    RecipePath,
    SavedModel,
    Teacher,
    Trusted,
    Wait,
    command,
    names,
    print_table,
)

Figures = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where figures and frames go.")]
app = typer.Typer()
analyze_app = typer.Typer(help="Fit laws to results.", no_args_is_help=True, cls=Group)


@command(app, "salad eval runs/demo/stage2/model --tasks my-questions.jsonl", MEASURE, "eval")
def evaluate(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A SALAD model's or LLM's folder or name.")
    ] = None,
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="A,B=FILE", help="Names, NAME=FILE, or files of items.")
    ] = "",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where samples and results go.")] = Path(
        "runs/eval"
    ),
    base: Annotated[str | None, typer.Option("--base", help="The text LLM that MODEL started from.")] = None,
    num_fewshot: Annotated[int, typer.Option("--num-fewshot", min=0, max=5, help="Examples, as many as fit.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first items of each task.")] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="A folder with NAME.jsonl.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Fetch items that are not here from the hub.")] = False,
    context: Annotated[int, typer.Option("--context", min=16, help="Positions that an item may take.")] = 2048,
    start: Annotated[
        Literal["auto", "tokenizer", "document"], typer.Option("--start", help="What opens a prompt.")
    ] = "auto",
    precision: Precision = "fp32",
    device: Device = "cpu",
    infer_only: Annotated[bool, typer.Option("--infer-only", help="Write raw scores, no results.")] = False,
    score_only: Annotated[
        bool, typer.Option("--score-only", help="Results from the samples in --out; no model.")
    ] = False,
    wait: Wait = False,
    resamples: Annotated[int, typer.Option("--resamples", min=1, help="Draws of the bootstrap.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of every random choice.")] = 0,
    speech: Annotated[bool, typer.Option("--speech", help="Also speak the items to MODEL, and to a cascade.")] = False,
    voices: Annotated[
        str, typer.Option("--voices", metavar="A,B", help="Such as piper-joe,kokoro:af_heart. Default: piper-joe.")
    ] = "",
    recordings: Annotated[
        Path | None, typer.Option("--recordings", metavar="DIR", help="Real recordings of the items: ID.wav or .flac.")
    ] = None,
    form: Annotated[
        str, typer.Option("--form", help="context: options are text. all: they are spoken too, the letter is scored.")
    ] = "context",
    asr: Annotated[
        str, typer.Option("--asr", help="Asset, hub name or folder of the cascade's ASR; none: no cascade.")
    ] = "whisper-tiny.en",
    asr_precision: Annotated[
        str | None, typer.Option("--asr-precision", help="How it computes, float32 or int8; default: as in a run.")
    ] = None,
    noise: Annotated[
        str, typer.Option("--noise", metavar="A,B", help="Such as white:10,reverb,codec,speed:1.2,telephone.")
    ] = "",
    control: Annotated[
        str, typer.Option("--control", metavar="A,B", help="shuffled: another item's recording. silence: none.")
    ] = "",
    audio_cache: Annotated[
        Path | None, typer.Option("--audio-cache", metavar="DIR", help="Where spoken items and transcripts are kept.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that speak.")] = 2,
    questions: Annotated[
        str, typer.Option("--questions", metavar="A,B", help="Ask aloud, openly: salad_questions, or .jsonl files.")
    ] = "",
) -> None:
    """Score multiple-choice tasks, read and heard: accuracy with intervals, and the gap to the text base.

    `--questions` asks aloud what is answered freely: how often the answer is that of the LLM that reads the question.
    """
    from salad.types import SaladError

    if score_only == bool(model) or bool(model) != bool(tasks or questions):
        raise SaladError("eval: expected MODEL and --tasks or --questions, or --score-only with --out and none of them")
    if not speech and (noise or control or (not questions and (voices or recordings))):
        raise SaladError("eval: --voices, --recordings, --noise and --control are about speech; add --speech")
    if score_only:
        from salad.evaluation.benchmark import score_samples
        from salad.pipeline.lock import owned

        with owned(out, wait=wait, field="--out") if out.is_dir() else nullcontext():  # else there is nothing to score
            typer.echo(score_samples(out), nl=False)
        return
    heard = None
    if speech or questions:
        from salad.evaluation.spoken_benchmark import ASR_PRECISION, SpeechInput

        heard = SpeechInput(
            names(voices) or (() if recordings else ("piper-joe",)),
            recordings,
            form,
            "" if asr == "none" else asr,
            names(noise),
            names(control),
            audio_cache,
            workers,
            asr_precision or ASR_PRECISION,
        )
    if questions:
        from salad.evaluation.spoken_questions import ask_spoken

        assert heard is not None
        with api.measuring(model or "", out, wait=wait) as place:
            bf16 = takes_bf16(precision, place, device, writes=True)
            asked = ask_spoken(
                Path(place), names(questions), out, heard, base=base, limit=limit, seed=seed, bf16=bf16, device=device
            )
        typer.echo(asked.table(), nl=False)
    if not tasks:
        return
    found = api.evaluate(
        model or "",
        names(tasks),
        out,
        speech=heard if speech else None,
        base=base,
        data=data,
        hub=hub,
        start=None if start == "auto" else start,
        precision=precision,
        device=device,
        infer_only=infer_only,
        num_fewshot=num_fewshot,
        limit=limit,
        context=context,
        resamples=resamples,
        seed=seed,
        wait=wait,
    )
    typer.echo(found.table(), nl=False)


@command(app, "salad ablate my.yaml --vary select.gamma=5,0 --vary select.replicate=0,1,2 --budget 3h", MEASURE)
def ablate(
    recipe: RecipePath,
    vary: Annotated[
        list[str], typer.Option("--vary", metavar="A.B=X,Y", help="Values of one key; given again, all combinations.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the cells' run directories go.")] = Path(
        "runs/ablate"
    ),
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="20m", help="Time for all cells; those that do not fit are named.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="ARM", help="The arm to compare with; default: the last.")
    ] = None,
    reuse: Annotated[
        list[Path] | None, typer.Option("--reuse", metavar="RUN", help="A run whose finished stages may be taken.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Run a recipe over a grid of settings and compare M: gamma, K, score, budget, anything a recipe has.

    `--vary select.gamma=5,0 --vary select.replicate=0,1,2` compares active with uniform selection over three draws.
    """
    from salad.study.ablation import table
    from salad.study.sweep import cells_of, run_cells, seconds_of

    budget_s = None if budget is None else seconds_of(budget)
    cells = cells_of(vary)
    rows = run_cells(recipe, cells, out, overrides=overrides or [], budget_s=budget_s, reuse=reuse or [])
    header, lines = table(rows, reference)
    print_table(tuple(header), [tuple(line) for line in lines])


@command(app, "salad reproduce --budget 20m", MEASURE)
def reproduce(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECIPE]", help="The base of the grid; default: recipes/reproduce.yaml, from an hour on its -long."
        ),
    ] = None,
    budget: Annotated[str, typer.Option("--budget", metavar="20m", help="Time for everything: 90s, 20m, 3h.")] = "20m",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="At most so many seeds of every cell.")] = 3,
    only: Annotated[
        str, typer.Option("--only", metavar="A,B", help="Begin only cells whose names begin so; none: only their data.")
    ] = "",
    rows: Annotated[
        Path | None,
        typer.Option("--rows", metavar="FILE", help="A kept results.jsonl: cells in it with the same key are not run."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train the paper's grid in small, as much of it as the budget allows, and write reproduce.html."""
    from salad.config import load_recipe
    from salad.study.sweep import seconds_of

    budget_s = seconds_of(budget)
    if recipe is None:
        recipe = Path("recipes") / ("reproduce-long.yaml" if budget_s >= 3600 else "reproduce.yaml")
    settings = load_recipe(recipe, overrides or [])
    from salad.study.grid import reproduce as grid

    table = grid(settings, budget_s=budget_s, seeds=seeds, only=[x for x in only.split(",") if x], rows=rows)
    print_table(("claim", "here", "verdict"), [(f.claim, f.ours, f.verdict) for f in table])
    typer.echo(f"see {settings.run_dir / 'reproduce.html'}")


@command(app, "salad doctor runs/demo", MEASURE)
def doctor(
    place: Annotated[
        Path, typer.Argument(metavar="RUN|FOLDER", help="A run directory, a saved model, or aligned speech.")
    ],
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", metavar="PATH", help="Aligned speech for a model that has no run beside it."),
    ] = None,
    teacher: Teacher = None,
    device: Device = "cpu",
) -> None:
    """Say whether a model hears, and if not, which part fails: recordings, alignment, encoder, ears or LLM.

    The exit code is 1 if one does.
    """
    from salad.evaluation.doctor import LEGEND, examine, table_of, verdict

    checks = examine(place, corpus, teacher=teacher, device=device)
    print_table(*table_of(checks))
    if any(check.what.startswith("M ") for check in checks):
        typer.echo(LEGEND)
    typer.echo(verdict(checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@command(analyze_app, "salad analyze scaling runs/reproduce/results.jsonl", name="scaling")
def analyze_scaling(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A .jsonl or .csv with one row a run.")],
    data: Annotated[str, typer.Option("--data", metavar="COLUMN", help="Hours or tokens.")] = "hours",
    value: Annotated[str, typer.Option("--value", metavar="COLUMN", help="What falls with it.")] = "misalignment",
    by: Annotated[str, typer.Option("--by", metavar="A,B", help="One law for each value of these columns.")] = (
        "speech,alpha"
    ),
) -> None:
    """Fit M(D) = E + B D^-beta with intervals, and compare it with a plain power law."""
    from salad.study.scaling_law import law_table

    header, lines = law_table(results, data, value, [name for name in by.split(",") if name])
    print_table(tuple(header), [tuple(line) for line in lines])


@command(app, "salad divergence runs/demo/stage2/model --corpus runs/demo/align/heldout.jsonl", MEASURE)
def divergence(
    model: SavedModel,
    corpus: AlignedCorpus,
    teacher: Teacher = None,
    out: Figures = Path("runs/divergence"),
    precision: Precision = "fp32",
    device: Device = "cpu",
    workers: EncodeWorkers = 2,
    trusted: Trusted = False,
    wait: Wait = False,
) -> None:
    """Measure M, F and the divergence from the teacher by domain, with the blind and deaf controls."""
    found = api.divergence(
        model, corpus, out, teacher=teacher, precision=precision, device=device, workers=workers, trusted=trusted,
        wait=wait,
    )  # fmt: skip
    print_table(*found.rows())
    figures = found.measured
    if figures.teacher is None:
        typer.echo("F and the teacher's divergence are not known without the text LLM: give --teacher")
    if figures.corpus.quarantined:
        typer.echo(f"{figures.corpus.quarantined} utterances set aside: see {out / 'quarantine.jsonl'}")
    typer.echo(f"nats per token (standard error over documents); see {out / 'divergence.json'}")


@command(app, "salad retention runs/demo/stage2/model --corpus speech --before init", MEASURE)
def retention(
    model: SavedModel,
    corpus: AlignedCorpus,
    before: Annotated[
        str | None, typer.Option("--before", metavar="X", help="A checkpoint, a model, or init; default: the encoder.")
    ] = None,
    teacher: Teacher = None,
    out: Figures = Path("runs/retention"),
    layouts: Annotated[int, typer.Option("--layouts", min=1, help="Interleavings of each document.")] = 2,
    precision: Precision = "fp32",
    device: Device = "cpu",
    workers: EncodeWorkers = 2,
    trusted: Trusted = False,
    wait: Wait = False,
) -> None:
    """Probe every layer for voice and speaking rate, and say what distillation has erased of them."""
    from salad.evaluation.retention import measure_retention, table_of

    with api.measuring(model, out, wait=wait) as place:
        bf16 = takes_bf16(precision, place, device)
        figures = measure_retention(
            Path(place), corpus, out, before=before, teacher=teacher, layouts=layouts, bf16=bf16, device=device,
            workers=workers, trusted=trusted,
        )  # fmt: skip
    print_table(*table_of(figures))
    if figures.quarantined:
        typer.echo(f"{figures.quarantined} utterances set aside: see {out / 'quarantine.jsonl'}")
    typer.echo(f"{figures.spans} spans of {figures.documents} documents; see {out / 'retention.json'}")


@command(app, "salad answer runs/demo/stage2/model --prompts prompts.jsonl", MEASURE)
def answer(
    model: SavedModel,
    prompts: Annotated[
        Path, typer.Option("--prompts", metavar="FILE", help="A file of lines {id, text, audio, prompt?, answers?}.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where answers and figures go.")] = Path(
        "runs/answer"
    ),
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 64,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="0: greedy; the paper samples among 250.")] = 0,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01, help="Where --top-k is given.")] = 0.7,
    seed: Annotated[int, typer.Option("--seed", help="Seed of every random choice.")] = 0,
    precision: Precision = "fp32",
    device: Device = "cpu",
    trusted: Trusted = False,
    wait: Wait = False,
) -> None:
    """Answer open prompts, once read and once heard, and say how far the two answers are apart."""
    from salad.evaluation.answers import answer_prompts, table_of
    from salad.evaluation.open_ended import Sampling

    sampling = Sampling(max_new_tokens, top_k, temperature, seed)
    with api.measuring(model, out, wait=wait) as place:
        bf16 = takes_bf16(precision, place, device, writes=True)
        figures = answer_prompts(Path(place), prompts, out, sampling, bf16=bf16, device=device, trusted=trusted)
    print_table(*table_of(figures))
    if figures.prompts.quarantined:
        typer.echo(f"{figures.prompts.quarantined} prompts set aside: see {out / 'quarantine.jsonl'}")
    typer.echo(f"see {out / 'answers.jsonl'}")
