"""The `salad` command. Heavy libraries are imported inside the commands, so that `--help` is quick."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from salad import __version__

__all__ = ["app", "main"]

USER_ERROR = 2
INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended

app = typer.Typer(
    help="Give a text LLM ears without making it dumber (arXiv 2510.13632).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
assets_app = typer.Typer(help="Pinned weights: list, fetch, check.", no_args_is_help=True)
app.add_typer(assets_app, name="assets")
analyze_app = typer.Typer(help="Look at results: scaling laws.", no_args_is_help=True)
app.add_typer(analyze_app, name="analyze")
data_app = typer.Typer(help="Speech data: look it over.", no_args_is_help=True)
app.add_typer(data_app, name="data")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as recipes/demo.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Set one key of the recipe; may be given again.")
]
EngineKind = Annotated[
    str | None,
    typer.Option("--engine", metavar="KIND", help="local or ray: who runs the data jobs; the files are equal."),
]
SavedModel = Annotated[Path, typer.Argument(metavar="MODEL", help="A saved model's folder, such as RUN/stage2/model.")]
AlignedCorpus = Annotated[
    Path, typer.Option("--corpus", metavar="PATH", help="Utterances with word times: ours, Lhotse's, or a folder.")
]
Teacher = Annotated[
    str | None, typer.Option("--teacher", metavar="LLM", help="The text LLM it came from; default: its run's.")
]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Multiply in bfloat16 (logits stay in float32).")]
Device = Annotated[str, typer.Option("--device", help="Such as cpu or cuda.")]
EncodeWorkers = Annotated[int, typer.Option("--workers", min=1, help="Single-thread processes that encode.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")]


@app.command()
def run(recipe: RecipePath, overrides: Overrides = None, engine: EngineKind = None, debug: Debug = False) -> None:
    """Run every stage of a recipe; what is finished and unchanged is skipped."""
    with _plain_errors(debug):
        _run(recipe, _with_engine(overrides, engine))


@app.command()
def stage(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as corpus, stage1 or report.")],
    recipe: RecipePath,
    overrides: Overrides = None,
    engine: EngineKind = None,
    debug: Debug = False,
) -> None:
    """Run one stage of a recipe; the stages before it must be finished."""
    with _plain_errors(debug):
        _run(recipe, _with_engine(overrides, engine), only=name)


@app.command()
def prepare(recipe: RecipePath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Read the recipe's data: fetch what that needs, run the corpus stage, and show the data card."""
    with _plain_errors(debug):
        from salad.recipe import load_recipe

        settings = load_recipe(recipe, overrides or [])
        from salad import assets
        from salad.pipeline import Run, run_pipeline
        from salad.stages.corpus import assets_needed

        for name in sorted(assets_needed(settings)):
            assets.get(name)
        run_pipeline(settings, only="corpus")
        typer.echo((Run(settings).folder("corpus") / "data_card.md").read_text(encoding="utf-8"))


@app.command()
def train(
    recipe: RecipePath,
    overfit_one_batch: Annotated[
        bool, typer.Option("--overfit-one-batch", help="Stage I on its first batch alone: the loss must fall.")
    ] = False,
    stages: Annotated[
        str, typer.Option("--stages", metavar="A,B", help="Training stages to run, in order.")
    ] = "warm_start,stage1",
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Run training stages of a recipe (warm_start, stage1, stage2); those before them must be finished.

    Under torchrun each process takes its part of every batch of stage1 and stage2.
    """
    with _plain_errors(debug):
        if overfit_one_batch:
            _overfit(recipe, overrides)
            return
        for name in stages.split(","):
            _run(recipe, overrides, only=name.strip())


@app.command()
def align(recipe: RecipePath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Find the time of every spoken word of a recipe's corpus, and encode its speech; what is unfit is kept aside."""
    with _plain_errors(debug):
        _run(recipe, overrides, only="align")


@app.command()
def synthesize(
    texts: Annotated[
        list[Path], typer.Option("--texts", metavar="FILE", help="Text, or JSON lines {text, id?, domain?}.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where audio and manifests go.")],
    voices: Annotated[
        list[str],
        typer.Option(
            "--voice",
            metavar="V[=SHARE]",
            help="piper-joe, kokoro:NAME or openai:MODEL:VOICE@URL; several are mixed by share.",
        ),
    ],
    workers: Annotated[int, typer.Option("--workers", min=1, help="Single-thread processes.")] = 2,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    speed_jitter: Annotated[
        float, typer.Option("--speed-jitter", min=0, max=0.3, help="0.1: each document 0.9 to 1.1 times as fast.")
    ] = 0.0,
    opus: Annotated[bool, typer.Option("--opus", help="Ogg Opus in place of FLAC.")] = False,
    word_times: Annotated[bool, typer.Option("--word-times", help="Align: when each word is said.")] = False,
    max_cer: Annotated[
        float | None, typer.Option("--max-cer", min=0, help="Set aside what the ASR hears further off than this.")
    ] = None,
    asr: Annotated[
        str, typer.Option("--asr", help="Asset or folder for --word-times and --max-cer.")
    ] = "whisper-tiny.en",
    engine: EngineKind = None,
    debug: Debug = False,
) -> None:
    """Speak texts: numbers, units and symbols are spelled out first. The same command resumes."""
    with _plain_errors(debug):
        from salad.engine import using
        from salad.synthesize.texts import parse_shares, synthesize_texts
        from salad.types import SaladError

        if engine not in (None, "local", "ray"):
            raise SaladError(f"--engine: got {engine!r}, expected local or ray")
        with using("ray" if engine == "ray" else "local"):
            done = synthesize_texts(
                texts,
                out,
                parse_shares(voices),
                workers=workers,
                seed=seed,
                speed_jitter=speed_jitter,
                audio="opus" if opus else "flac",
                word_times=word_times,
                max_cer=max_cer,
                asr=asr,
            )
        _print_table(("what", "figure"), [(key, f"{value:.4g}") for key, value in done.items()])


@app.command()
def plan(
    recipe: RecipePath,
    devices: Annotated[int, typer.Option("--devices", min=1, help="GPUs to spread the training over.")] = 1,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Tell what a recipe will take: parameters, memory, tokens, operations, GPU hours, speech to buy, disk."""
    with _plain_errors(debug):
        from salad.recipe import load_recipe
        from salad.train.plan import make_plan, rows

        settings = load_recipe(recipe, overrides or [])
        _print_table(("for", "what", "figure"), list(rows(make_plan(settings, devices), settings)))


@app.command("eval")
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
    start: Annotated[str, typer.Option("--start", help="What opens a prompt: auto, tokenizer or document.")] = "auto",
    bf16: Annotated[bool, typer.Option("--bf16", help="Multiply in bfloat16 (logits stay in float32).")] = False,
    device: Annotated[str, typer.Option("--device", help="Such as cpu or cuda.")] = "cpu",
    infer_only: Annotated[bool, typer.Option("--infer-only", help="Write raw scores, no results.")] = False,
    score_only: Annotated[
        bool, typer.Option("--score-only", help="Results from the samples in --out; no model.")
    ] = False,
    resamples: Annotated[int, typer.Option("--resamples", min=1, help="Draws of the bootstrap.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed")] = 0,
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
    debug: Debug = False,
) -> None:
    """Score multiple-choice tasks: accuracy with intervals, and what is lost against the text base."""
    with _plain_errors(debug):
        from salad.types import SaladError

        if score_only == bool(model) or bool(model) != bool(tasks):
            raise SaladError("eval: expected MODEL and --tasks, or --score-only with --out and neither of them")
        if start not in ("auto", "tokenizer", "document"):
            raise SaladError(f"--start: got {start!r}, expected auto, tokenizer or document")
        if not speech and (voices or recordings or noise or control):
            raise SaladError("eval: --voices, --recordings, --noise and --control are about speech; add --speech")
        from salad.stages.eval_tasks import Settings, run_eval, score_samples

        if score_only:
            typer.echo(score_samples(out), nl=False)
            return
        evaluation = run_eval
        if speech:
            from salad.stages.eval_speech import Speech, run_speech_eval

            heard = Speech(
                _names(voices) or (() if recordings else ("piper-joe",)),
                recordings,
                form,
                "" if asr == "none" else asr,
                _names(noise),
                _names(control),
                audio_cache,
                workers,
            )
            evaluation = functools.partial(run_speech_eval, speech=heard)
        table = evaluation(
            model or "",
            list(_names(tasks)),
            out,
            Settings(num_fewshot, limit, context, resamples, seed),
            base=base,
            data_dir=data,
            hub=hub,
            start=None if start == "auto" else start,
            bf16=bf16,
            device=device,
            infer_only=infer_only,
        )
        typer.echo(table, nl=False)


@app.command()
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
    debug: Debug = False,
) -> None:
    """Run a recipe over a grid of settings and compare M: gamma, K, score, budget, anything a recipe has.

    `--vary select.gamma=5,0 --vary select.replicate=0,1,2` compares active with uniform selection over three draws.
    """
    with _plain_errors(debug):
        from salad.analyze.ablation import table
        from salad.sweep import cells_of, run_cells, seconds_of

        budget_s = None if budget is None else seconds_of(budget)
        cells = cells_of(vary)
        rows = run_cells(recipe, cells, out, overrides=overrides or [], budget_s=budget_s, reuse=reuse or [])
        header, lines = table(rows, reference)
        _print_table(tuple(header), [tuple(line) for line in lines])


@app.command()
def reproduce(
    recipe: Annotated[Path, typer.Argument(metavar="[RECIPE]", help="The base of the grid.")] = Path(
        "recipes/reproduce.yaml"
    ),
    budget: Annotated[str, typer.Option("--budget", metavar="20m", help="Time for everything: 90s, 20m, 3h.")] = "20m",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="At most so many seeds of every cell.")] = 3,
    only: Annotated[
        str, typer.Option("--only", metavar="A,B", help="Begin only cells whose names begin so: active, narrow-alpha0.")
    ] = "",
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Train the paper's grid in small, as much of it as the budget allows, and write reproduce.html."""
    with _plain_errors(debug):
        from salad.recipe import load_recipe
        from salad.sweep import seconds_of

        budget_s, settings = seconds_of(budget), load_recipe(recipe, overrides or [])
        from salad.stages.reproduce import reproduce as grid

        table = grid(settings, budget_s=budget_s, seeds=seeds, only=[x for x in only.split(",") if x])
        _print_table(("claim", "here", "verdict"), [(f["claim"], f["ours"], f["verdict"]) for f in table])
        typer.echo(f"see {settings.run_dir / 'reproduce.html'}")


@analyze_app.command("scaling")
def analyze_scaling(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A .jsonl or .csv with one row a run.")],
    data: Annotated[str, typer.Option("--data", metavar="COLUMN", help="Hours or tokens.")] = "hours",
    value: Annotated[str, typer.Option("--value", metavar="COLUMN", help="What falls with it.")] = "misalignment",
    by: Annotated[str, typer.Option("--by", metavar="A,B", help="One law for each value of these columns.")] = (
        "speech,alpha"
    ),
    debug: Debug = False,
) -> None:
    """Fit M(D) = E + B D^-beta with intervals, and compare it with a plain power law."""
    with _plain_errors(debug):
        from salad.analyze.scaling import law_table

        header, lines = law_table(results, data, value, [name for name in by.split(",") if name])
        _print_table(tuple(header), [tuple(line) for line in lines])


@app.command()
def divergence(
    model: SavedModel,
    corpus: AlignedCorpus,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", metavar="LLM", help="The text LLM that MODEL came from; default: its run's."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where figures and frames go.")] = Path(
        "runs/divergence"
    ),
    bf16: Bf16 = False,
    device: Device = "cpu",
    workers: EncodeWorkers = 2,
    debug: Debug = False,
) -> None:
    """Measure M, F and the divergence from the teacher by domain, with the blind and deaf controls."""
    with _plain_errors(debug):
        from salad.stages.divergence import measure_divergence, table_of

        figures = measure_divergence(model, corpus, out, teacher=teacher, bf16=bf16, device=device, workers=workers)
        _print_table(*table_of(figures))
        if figures["teacher"] is None:
            typer.echo("F and the teacher's divergence are not known without the text LLM: give --teacher")
        if figures["corpus"]["quarantined"]:
            typer.echo(f"{figures['corpus']['quarantined']} utterances set aside: see {out / 'quarantine.jsonl'}")
        typer.echo(f"nats per token (standard error over documents); see {out / 'divergence.json'}")


@app.command()
def retention(
    model: SavedModel,
    corpus: AlignedCorpus,
    before: Annotated[
        str | None, typer.Option("--before", metavar="X", help="A checkpoint, a model, or init; default: the encoder.")
    ] = None,
    teacher: Teacher = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where figures and frames go.")] = Path(
        "runs/retention"
    ),
    layouts: Annotated[int, typer.Option("--layouts", min=1, help="Interleavings of each document.")] = 2,
    bf16: Bf16 = False,
    device: Device = "cpu",
    workers: EncodeWorkers = 2,
    debug: Debug = False,
) -> None:
    """Probe every layer for the voice and the speaking rate: what of them distillation has erased."""
    with _plain_errors(debug):
        from salad.stages.retention import measure_retention, table_of

        figures = measure_retention(
            model, corpus, out, before=before, teacher=teacher, layouts=layouts, bf16=bf16, device=device,
            workers=workers,
        )  # fmt: skip
        _print_table(*table_of(figures))
        if figures["quarantined"]:
            typer.echo(f"{figures['quarantined']} utterances set aside: see {out / 'quarantine.jsonl'}")
        typer.echo(f"{figures['spans']} spans of {figures['documents']} documents; see {out / 'retention.json'}")


@app.command()
def answer(
    model: SavedModel,
    prompts: Annotated[
        Path, typer.Option("--prompts", metavar="FILE", help="Lines {id, text, audio, prompt?, answers?}.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where answers and figures go.")] = Path(
        "runs/answer"
    ),
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 64,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="0: greedy; the paper samples among 250.")] = 0,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01, help="Where --top-k is given.")] = 0.7,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    bf16: Bf16 = False,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Answer open prompts read and heard: overlap with references and with each other, and divergence of the two."""
    with _plain_errors(debug):
        from salad.measure.openended import Sampling
        from salad.stages.answers import answer_prompts, table_of

        sampling = Sampling(max_new_tokens, top_k, temperature, seed)
        figures = answer_prompts(model, prompts, out, sampling, bf16=bf16, device=device)
        _print_table(*table_of(figures))
        if figures["prompts"]["quarantined"]:
            typer.echo(f"{figures['prompts']['quarantined']} prompts set aside: see {out / 'quarantine.jsonl'}")
        typer.echo(f"see {out / 'answers.jsonl'}")


@app.command()
def version() -> None:
    """Print the versions of salad, Python and the libraries that decide results."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    typer.echo(f"salad {__version__}")
    typer.echo(f"python {sys.version.split()[0]}")
    for library in ("torch", "transformers", "lhotse", "ctranslate2", "onnxruntime"):
        try:
            typer.echo(f"{library} {installed(library)}")
        except PackageNotFoundError:
            typer.echo(f"{library} not installed")


@assets_app.command("list")
def assets_list(debug: Debug = False) -> None:
    """Show the names that a recipe can use, and which of them are in the cache."""
    with _plain_errors(debug):
        from salad.assets import ASSETS, is_cached

        rows = [
            (
                name,
                "yes" if is_cached(name) else "no",
                f"{asset.num_bytes / 1e6:.0f} MB",
                asset.licence,
                asset.description,
            )
            for name, asset in ASSETS.items()
        ]
        _print_table(("name", "cached", "size", "licence", "what it is"), rows)


@assets_app.command("get")
def assets_get(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every asset in the list.")] = False,
    debug: Debug = False,
) -> None:
    """Fetch assets into the cache, check their sha256 and print where they are."""
    with _plain_errors(debug):
        from salad.assets import ASSETS, get
        from salad.types import SaladError

        if bool(names) == everything:
            raise SaladError("assets get: expected names from `salad assets list`, or --all (and not both)")
        _check_names(names or [])
        wanted = list(ASSETS) if everything else names or []
        _print_table(("name", "path"), [(name, str(get(name))) for name in wanted])


@assets_app.command("verify")
def assets_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Default: all in the cache.")] = None,
    debug: Debug = False,
) -> None:
    """Compare cached files with their pinned sha256; exit code 1 where one differs or is missing."""
    with _plain_errors(debug):
        from salad.assets import ASSETS, is_cached, verify

        _check_names(names or [])
        rows = [
            (name, file, status)
            for name in names or [name for name in ASSETS if is_cached(name)]
            for file, status in verify(name)
        ]
        _print_table(("name", "file", "status"), rows)
        if any(status != "ok" for _, _, status in rows):
            raise typer.Exit(1)


@data_app.command("inspect")
def data_inspect(
    place: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run, a stage's folder, shards, a manifest, or a folder of audio.")
    ],
    html: Annotated[Path | None, typer.Option("--html", metavar="PATH", help="Write a page with histograms.")] = None,
    to_json: Annotated[Path | None, typer.Option("--json", metavar="PATH", help="Write all figures.")] = None,
    headers: Annotated[
        bool, typer.Option("--headers", help="Read headers alone: quick, but deaf to silence, clipping, duplicates.")
    ] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one a core.")] = None,
    min_s: Annotated[float, typer.Option("--min-s", min=0, help="Shorter is too short.")] = 0.3,
    max_s: Annotated[float, typer.Option("--max-s", min=0, help="Longer is too long.")] = 120.0,
    debug: Debug = False,
) -> None:
    """Tell what speech data holds and what is wrong with it: hours, lengths, levels, texts, the worst files by name."""
    with _plain_errors(debug):
        from salad.analyze.data import fault_rows, overview_rows, quarantine_rows, write_data_page
        from salad.corpus.inspect import inspect_data
        from salad.files import write_json

        processes = workers or len(os.sched_getaffinity(0))
        result = inspect_data(place, decode=not headers, workers=processes, min_s=min_s, max_s=max_s)
        if to_json is not None:
            write_json(to_json, result)
        if html is not None:
            write_data_page(result, html)
        _print_table(("what", "figure"), overview_rows(result))
        _print_table(("fault", "utterances", "the worst", "what to do"), fault_rows(result))
        if result["quarantine"]:
            _print_table(("stage", "set aside because", "items", "such as"), quarantine_rows(result))


def main() -> None:
    """Entry point of the `salad` command."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # one bar for the whole house, in workers too
    app()


def _run(recipe: Path, overrides: list[str] | None, only: str | None = None) -> None:
    from salad.recipe import load_recipe

    checked = load_recipe(recipe, overrides or [])  # before the pipeline: a typo answers at once
    from salad.pipeline import run_pipeline

    run_pipeline(checked, only=only)


def _with_engine(overrides: list[str] | None, engine: str | None) -> list[str]:
    return [*(overrides or []), *([f"engine.kind={engine}"] if engine else [])]


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _overfit(recipe: Path, overrides: list[str] | None) -> None:
    from salad.files import read_jsonl
    from salad.pipeline import Run
    from salad.progress import console
    from salad.recipe import load_recipe

    run = Run(load_recipe(recipe, overrides or []))
    for before in ("corpus", "align") + (("warm_start",) if run.recipe.warm_start.enabled else ()):
        run.done(before)
    from salad.stages.stage1 import run as stage1
    from salad.types import SaladError

    folder = run.folder("overfit")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SaladError("--overfit-one-batch: looks at one process; start it without torchrun")
    shutil.rmtree(folder, ignore_errors=True)
    stage1(run, overfit=folder)
    losses = [row["loss"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
    console.print(f"one batch: loss {losses[0]:.4f} -> {losses[-1]:.4f} in {len(losses)} steps; see {folder}")


def _check_names(names: list[str]) -> None:
    from salad.assets import ASSETS
    from salad.types import SaladError

    for name in names:
        if name not in ASSETS:
            raise SaladError(f"asset: got {name!r}, expected one of {', '.join(ASSETS)}")


@contextmanager
def _plain_errors(debug: bool) -> Iterator[None]:
    """A user's error is one red message and exit code 2; Ctrl-C is 130. A bug keeps its traceback."""
    from salad.types import SaladError

    try:
        yield
    except SaladError as error:
        if debug:
            raise
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(USER_ERROR) from None
    except KeyboardInterrupt:
        if debug:
            raise
        again = shlex.join(["salad", *sys.argv[1:]])
        typer.secho(f"\nInterrupted. The same command resumes: {again}", fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(INTERRUPTED) from None


def _print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A drawn table for a person; tab-separated lines for a pipe, which has no width."""
    if not sys.stdout.isatty():
        typer.echo("\n".join("\t".join(row) for row in (header, *rows)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header)
    for row in rows:
        table.add_row(*map(Text, row))  # an id such as [a] is not markup
    Console().print(table)


if __name__ == "__main__":  # python -m salad.cli, as torchrun starts it
    main()
