"""What speech costs, out of raw samples: voices and their spread, noise and controls against clean, WER and CER."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from salad.evaluation.results import (
    REFERENCE,
    Samples,
    chance_of,
    gap_interval,
    markdown_table,
    paired_gap,
    percent_interval,
    pool_metric,
    result_of,
)
from salad.evaluation.sample import PlannedSystem, Sample
from salad.measure.accuracy import accuracy, gap, pooled_gap
from salad.measure.results import ErrorRates, Interval, PairedGap
from salad.text.error_rates import pooled_cer, pooled_wer
from salad.types import Result


@dataclass(frozen=True)
class SpokenRow:
    """A system that hears or reads a transcript, over all items of all tasks.

    gap: the text base minus it; clean: the same without the condition, minus it; wer, cer: of a transcript.
    """

    kind: str
    voice: str
    trained: str | bool
    condition: str
    n: int
    accuracy: Interval
    chance: float
    gap: PairedGap | None = None
    clean: PairedGap | None = None
    asr: str | None = None
    wer: float | None = None
    cer: float | None = None


@dataclass(frozen=True)
class Spread:
    """How accuracies spread over voices, without noise."""

    mean: float
    lowest: float
    highest: float
    sd: float


@dataclass(frozen=True)
class SpokenFigures:
    """speech.json: by the length normalisation `metric` (`pool_metric`); spread: by kind."""

    metric: str
    systems: Mapping[str, SpokenRow]
    spread: Mapping[str, Spread]


def clean_systems(systems: Mapping[str, PlannedSystem]) -> list[str]:
    """The systems of the main table: nothing was done to what they hear."""
    return [name for name, system in systems.items() if not (system.spoken and system.spoken.condition)]


def spoken_figures(
    systems: Mapping[str, PlannedSystem], samples: Samples, metrics: Mapping[str, str], resamples: int, seed: int
) -> SpokenFigures | None:
    """The figures of each system that hears or reads a transcript; None where there is none."""
    metric = pool_metric(metrics.values())
    results = {
        name: {task: [result_of(row, metric) for row in rows] for task, rows in by_task.items()}
        for name, by_task in samples.items()
    }
    rows: dict[str, SpokenRow] = {}
    for name, system in systems.items():
        inputs = system.spoken
        if not inputs:
            continue
        own = [result for task in results[name].values() for result in task]
        chance = [chance_of(row) for task in samples[name].values() for row in task]
        right, clean = accuracy(own), name.rpartition("/")[0]
        against = {"gap": REFERENCE, "clean": clean if inputs.condition else ""}
        errors = error_rates(samples[name]) if inputs.asr else ErrorRates()
        rows[name] = SpokenRow(
            kind=name.partition("/")[0],
            voice=inputs.voice,
            trained=inputs.trained,
            condition=inputs.condition,
            n=len(own),
            accuracy=Interval(right.value, right.low, right.high),
            chance=float(np.mean(chance)),
            **{
                key: _difference(results[other], results[name], resamples, seed)
                for key, other in against.items()
                if other in results
            },
            asr=inputs.asr.name if inputs.asr else None,
            wer=errors.wer,
            cer=errors.cer,
        )
    return SpokenFigures(metric, rows, _spread(rows)) if rows else None


def _difference(
    first: Mapping[str, Sequence[Result]], second: Mapping[str, Sequence[Result]], resamples: int, seed: int
) -> PairedGap:
    """First minus second over the items of all tasks, resampled within their task; with McNemar's test."""
    pairs = [(first[task], own) for task, own in second.items() if task in first]
    ours = [[result for pair in pairs for result in pair[side]] for side in (0, 1)]
    between = gap(*pairs[0], resamples, seed) if len(pairs) == 1 else pooled_gap(pairs, resamples, seed)[0]
    return paired_gap(between, *ours)


def error_rates(tasks: Mapping[str, Sequence[Sample]]) -> ErrorRates:
    """Of transcripts, each text once, all edits pooled: long texts weigh more than short ones."""
    heard = {pair for rows in tasks.values() for row in rows for pair in zip(row.heard or (), row.said, strict=True)}
    return ErrorRates(wer=pooled_wer(heard), cer=pooled_cer(heard))


def _spread(rows: Mapping[str, SpokenRow]) -> dict[str, Spread]:
    """The spread of each kind that has more than one voice."""
    out = {}
    for kind in dict.fromkeys(row.kind for row in rows.values()):
        own = (row.accuracy.value for row in rows.values() if row.kind == kind and not row.condition)
        values = [value for value in own if value is not None]
        if len(values) > 1:
            out[kind] = Spread(float(np.mean(values)), min(values), max(values), float(np.std(values, ddof=1)))
    return out


def spoken_tables(figures: SpokenFigures) -> str:
    """Markdown below the main table: voices with their spread, then noise and controls; in per cent."""
    rows = list(figures.systems.values())
    clean = [row for row in rows if not row.condition]
    base = ["system", "voice", "trained on it", "n", "accuracy", "chance", f"gap to {REFERENCE}", "WER", "CER"]
    lines = [[r.kind, r.voice, _trained(r), *_figures(r), gap_interval(r.gap), *_errors(r)] for r in clean]
    for kind, spread in figures.spread.items():
        text = f"{_percent(spread.mean)}, {_percent(spread.lowest)} to {_percent(spread.highest)}"
        lines.append([kind, "all voices", "", "", f"{text}, sd {_percent(spread.sd)}", "", "", "", ""])
    text = f"\nVoices (all items, {figures.metric}):\n\n{markdown_table(base, lines)}"
    changed = [row for row in rows if row.condition]
    if changed:
        base = ["condition", "system", "voice", "n", "accuracy", "chance", "clean - it", "WER", "CER"]
        order = list(dict.fromkeys(row.condition for row in changed))
        lines = [
            [r.condition, r.kind, r.voice, *_figures(r), gap_interval(r.clean), *_errors(r)]
            for r in sorted(changed, key=lambda row: order.index(row.condition))
        ]
        text += f"\nNoise and controls (all items, {figures.metric}):\n\n{markdown_table(base, lines)}"
    return text


def _trained(row: SpokenRow) -> str:
    """Whether the model was trained on the voice; a cascade's text base was trained on none."""
    return "" if row.asr is not None else str(row.trained)


def _figures(row: SpokenRow) -> list[str]:
    return [str(row.n), percent_interval(row.accuracy), _percent(row.chance)]


def _errors(row: SpokenRow) -> list[str]:
    return ["" if rate is None else _percent(rate) for rate in (row.wer, row.cer)]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
