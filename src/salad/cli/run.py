"""Commands that make something: run, stage, prepare, align, train, synthesize, plan."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from salad.cli.common import (
    BEGIN,
    MAKE,
    EngineKind,
    Overrides,
    RecipePath,
    Replaced,
    Wait,
    command,
    print_table,
    run_recipe,
)

app = typer.Typer()


@command(app, "salad run recipes/demo.yaml", BEGIN)
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    engine: EngineKind = None,
    wait: Wait = False,
    replaced: Replaced = "ask",
) -> None:
    """Run every stage of a recipe; what is finished and unchanged is skipped."""
    run_recipe(recipe, _with_engine(overrides, engine), wait=wait, replaced=replaced)


@command(app, "salad stage report recipes/demo.yaml", MAKE)
def stage(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as corpus, stage1 or report.")],
    recipe: RecipePath,
    overrides: Overrides = None,
    engine: EngineKind = None,
    wait: Wait = False,
    replaced: Replaced = "ask",
) -> None:
    """Run one stage of a recipe; the stages before it must be finished."""
    run_recipe(recipe, _with_engine(overrides, engine), only=name, wait=wait, replaced=replaced)


@command(app, "salad prepare my.yaml", MAKE)
def prepare(
    recipe: RecipePath,
    overrides: Overrides = None,
    wait: Wait = False,
    replaced: Replaced = "ask",
) -> None:
    """Read the recipe's data: fetch what that needs, run the corpus stage, and show the data card."""
    from salad.config import load_recipe

    settings = load_recipe(recipe, overrides or [])
    from salad import assets
    from salad.data.readers.detect import check_places
    from salad.pipeline.corpus_needs import assets_needed
    from salad.pipeline.run import Run, run_pipeline

    check_places(settings.corpus)
    for name in sorted(assets_needed(settings)):
        assets.get(name)
    run_pipeline(settings, only="corpus", wait=wait, replaced=replaced)
    typer.echo((Run(settings).folder("corpus") / "data_card.md").read_text(encoding="utf-8"))


@command(app, "salad train my.yaml --overfit-one-batch", MAKE)
def train(
    recipe: RecipePath,
    overfit_one_batch: Annotated[
        bool,
        typer.Option(
            "--overfit-one-batch", help="Train Stage I on its first batch alone, over and over: the loss must fall."
        ),
    ] = False,
    stages: Annotated[
        str, typer.Option("--stages", metavar="A,B", help="Training stages to run, in order.")
    ] = "warm_start,spell,stage1",
    overrides: Overrides = None,
    wait: Wait = False,
    replaced: Replaced = "ask",
) -> None:
    """Run training stages of a recipe (warm_start, spell, stage1, stage2); those before them must be finished.

    A stage that the recipe leaves out, such as spell without model.ears: symbols, does nothing.

    Under torchrun each process takes its part of every batch of stage1 and stage2.
    """
    if overfit_one_batch:
        _overfit(recipe, overrides, wait)
        return
    for name in stages.split(","):
        run_recipe(recipe, overrides, only=name.strip(), wait=wait, replaced=replaced)


@command(app, "salad align my.yaml", MAKE)
def align(
    recipe: RecipePath,
    overrides: Overrides = None,
    wait: Wait = False,
    replaced: Replaced = "ask",
) -> None:
    """Find the time of every spoken word of a recipe's corpus, and encode its speech.

    Utterances that cannot be used are listed in quarantine.jsonl, each with its reason.
    """
    run_recipe(recipe, overrides, only="align", wait=wait, replaced=replaced)


@command(app, "salad synthesize --texts my-texts.jsonl --out speech --voice piper-joe --word-times", MAKE)
def synthesize(
    texts: Annotated[
        list[Path],
        typer.Option("--texts", metavar="FILE", help="A file of text, or of JSON lines {text, id?, domain?}."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder that audio and manifests go to.")],
    voices: Annotated[
        list[str],
        typer.Option(
            "--voice",
            metavar="V[=SHARE]",
            help="piper-joe, kokoro:NAME or openai:MODEL:VOICE@URL; several are mixed by share.",
        ),
    ],
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that speak, one thread each.")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="Seed of every random choice.")] = 0,
    speed_jitter: Annotated[
        float, typer.Option("--speed-jitter", min=0, max=0.3, help="0.1: each document 0.9 to 1.1 times as fast.")
    ] = 0.0,
    pitch_jitter: Annotated[
        float, typer.Option("--pitch-jitter", min=0, max=0.5, help="0.17: each document 1/1.17 to 1.17 times as high.")
    ] = 0.0,
    noise: Annotated[
        float, typer.Option("--noise", min=0, max=1, help="Share of a Piper voice's own noise; 1: livelier speech.")
    ] = 0.0,
    opus: Annotated[bool, typer.Option("--opus", help="Write Ogg Opus in place of FLAC.")] = False,
    word_times: Annotated[bool, typer.Option("--word-times", help="Find when each word is said.")] = False,
    max_cer: Annotated[
        float | None,
        typer.Option(
            "--max-cer", min=0, help="Leave out speech of which the ASR hears a larger share of letters wrong."
        ),
    ] = None,
    asr: Annotated[
        str, typer.Option("--asr", help="Asset or folder for --word-times and --max-cer.")
    ] = "whisper-tiny.en",
    engine: EngineKind = None,
    wait: Wait = False,
) -> None:
    """Speak texts. Numbers, units and symbols are spelled out first. The same command resumes."""
    from salad.config import Variation
    from salad.engine import using
    from salad.pipeline.lock import owned
    from salad.synthesize.job import parse_shares, synthesize_texts

    with owned(out, wait=wait), using(engine or "local"):
        done = synthesize_texts(
            texts,
            out,
            parse_shares(voices),
            workers=workers,
            seed=seed,
            variation=Variation(speed_jitter=speed_jitter, pitch_jitter=pitch_jitter, noise=noise),
            audio="opus" if opus else "flac",
            word_times=word_times,
            max_cer=max_cer,
            asr=asr,
        )
    print_table(("what", "figure"), [(key, f"{value:.4g}") for key, value in vars(done).items()])
    if done.quarantined:
        typer.echo(f"{done.quarantined} lines or documents are set aside: {out / 'quarantine.jsonl'} says why of each")


@command(app, "salad plan recipes/salad-3b.yaml --devices 8", MAKE)
def plan(
    recipe: RecipePath = Path("recipes/demo.yaml"),
    devices: Annotated[int, typer.Option("--devices", min=1, help="GPUs to spread the training over.")] = 1,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time this machine for such recipes, and write a card of it.")
    ] = False,
    card: Annotated[
        Path | None, typer.Option("--card", metavar="FILE", help="The card to forecast from, or to write.")
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", metavar="DEVICE", help="Without a card: cpu, H100, A100 and others.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="RUN", help="A finished run of the card's machine: say how far off."),
    ] = None,
    speech_hours: Annotated[
        float | None, typer.Option("--speech-hours", min=0, help="Of the recipe's own recordings.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Tell what a recipe will take: parameters, memory, tokens, operations; then hours, memory and disk of each stage.

    Each figure is marked measured (of a card that --calibrate wrote), data sheet or assumed. Then what it measures on,
    and every setting that is not the paper's, with the reason.
    """
    from dataclasses import astuple

    from salad.config import load_recipe
    from salad.config.paper import departures
    from salad.pipeline.plan import check
    from salad.pipeline.plan.card import Card, choose_card
    from salad.pipeline.plan.forecast import Forecast
    from salad.training.estimate import make_plan, rows

    settings = load_recipe(recipe, overrides or [])
    if calibrate:
        from salad.pipeline.plan.calibrate import calibrated

        typer.echo(f"the card is {calibrated(settings, card, against or [])}")
        return
    known = Card.read(card) if card else choose_card(settings, on)
    checks = [check.check(known, folder, devices, speech_hours) for folder in against or []]
    print_table(("for", "what", "figure"), list(rows(make_plan(settings, devices), settings)))
    named = f"{devices} of " if devices > 1 else ""
    typer.echo(f"on {named}{known.device}; {'a card' if card else 'no card: give --card FILE, or --on DEVICE'}")
    forecast = Forecast(settings, known, devices, speech_hours)
    print_table(("stage", "what", "figure", "mark", "source"), list(forecast.rows()))
    if checks:
        header = ("run", "stage", "forecast", "took", "difference")
        print_table(header, [row for found in checks for row in check.rows(found)])
    for found in (*known.checks, *checks):
        typer.echo(check.sentence(found))
    print_table(("not the paper's", "paper", "this recipe", "what for"), [astuple(d) for d in departures(settings)])


def _overfit(recipe: Path, overrides: list[str] | None, wait: bool) -> None:
    from salad.config import load_recipe
    from salad.files import read_jsonl
    from salad.pipeline.lock import owned
    from salad.pipeline.run import Run, check_above
    from salad.progress import console

    run = Run(load_recipe(recipe, overrides or []))
    check_above(run, "stage1")
    from salad.pipeline.stages.stage1 import run as stage1
    from salad.types import SaladError

    folder = run.folder("overfit")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SaladError("--overfit-one-batch: looks at one process; start it without torchrun")
    with owned(run.dir, wait=wait):
        shutil.rmtree(folder, ignore_errors=True)
        stage1(run, overfit=folder)
    losses = [row["loss"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
    console.print(f"one batch: loss {losses[0]:.4f} -> {losses[-1]:.4f} in {len(losses)} steps; see {folder}")


def _with_engine(overrides: list[str] | None, engine: str | None) -> list[str]:
    return [*(overrides or []), *([f"engine.kind={engine}"] if engine else [])]
