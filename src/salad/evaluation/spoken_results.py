"""What speech costs, out of raw samples: voices and their spread, noise and controls against clean, WER and CER."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from salad.evaluation.results import (
    REFERENCE,
    chance_of,
    gap_interval,
    markdown_table,
    paired_test,
    percent_interval,
    pool_metric,
    result_of,
)
from salad.measure.statistics import accuracy, gap, pooled_gap
from salad.text.normalise import normalise, wer_words
from salad.text.speakable import speakable
from salad.types import Result

Samples = Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]  # system -> task -> rows


def clean_systems(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those of the main table: nothing was done to what they hear."""
    return [name for name, system in systems.items() if not _inputs(system).get("condition")]


def spoken_figures(
    systems: Mapping[str, Mapping[str, Any]], samples: Samples, metrics: Mapping[str, str], resamples: int, seed: int
) -> dict[str, Any]:
    """{metric, systems, spread}: of each system that hears or reads a transcript, over all items of all tasks by one
    length normalisation (`pool_metric`).

    A system's row: {kind, voice, trained, condition, n, accuracy, chance, gap (text base minus it), clean (the same
    without the condition, minus it), wer, cer}; `spread`: of the clean accuracies over voices, by kind.
    """
    metric = pool_metric(metrics.values())
    results = {
        name: {task: [result_of(row, metric) for row in rows] for task, rows in by_task.items()}
        for name, by_task in samples.items()
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, system in systems.items():
        inputs = _inputs(system)
        if not inputs:
            continue
        own = [result for task in results[name].values() for result in task]
        chance = [chance_of(row) for task in samples[name].values() for row in task]
        rows[name] = {
            "kind": name.partition("/")[0],
            **{key: inputs[key] for key in ("voice", "trained", "condition")},
            "n": len(own),
            "accuracy": accuracy(own),
            "chance": float(np.mean(chance)),
        }
        if REFERENCE in results:
            rows[name]["gap"] = _difference(results[REFERENCE], results[name], resamples, seed)
        clean = name.rpartition("/")[0]
        if inputs["condition"] and clean in results:
            rows[name]["clean"] = _difference(results[clean], results[name], resamples, seed)
        if "asr" in inputs:
            rows[name] |= {"asr": inputs["asr"]["name"], **error_rates(samples[name])}
    return {"metric": metric, "systems": rows, "spread": _spread(rows)} if rows else {}


def _inputs(system: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = system.get("inputs")
    return inputs if isinstance(inputs, Mapping) and "voice" in inputs else {}


def _difference(
    first: Mapping[str, Sequence[Result]], second: Mapping[str, Sequence[Result]], resamples: int, seed: int
) -> dict[str, Any]:
    """First minus second over the items of all tasks, resampled within their task; with McNemar's test."""
    pairs = [(first[task], own) for task, own in second.items() if task in first]
    ours = [[result for pair in pairs for result in pair[side]] for side in (0, 1)]
    between = gap(*pairs[0], resamples, seed) if len(pairs) == 1 else pooled_gap(pairs, resamples, seed)[0]
    return {**asdict(between), **paired_test(*ours)}


def error_rates(tasks: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """{wer, cer} of transcripts, each text once: edits over words in Whisper's normal form, and over characters
    with numbers spelled out."""
    import jiwer

    heard = {pair for rows in tasks.values() for row in rows for pair in zip(row["said"], row["heard"], strict=True)}
    words = [tuple(" ".join(wer_words(text)) for text in pair) for pair in sorted(heard)]
    spelled = [tuple(normalise(" ".join(speakable(text.split()))) for text in pair) for pair in sorted(heard)]
    rates = {}
    for name, measure, rows in (("wer", jiwer.wer, words), ("cer", jiwer.cer, spelled)):
        said, got = zip(*(pair for pair in rows if pair[0]), strict=True)
        rates[name] = float(measure(list(said), list(got)))
    return rates


def _spread(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Over voices: mean, lowest, highest and standard deviation of the accuracies without noise."""
    out = {}
    for kind in dict.fromkeys(row["kind"] for row in rows.values()):
        values = [row["accuracy"]["value"] for row in rows.values() if row["kind"] == kind and not row["condition"]]
        if len(values) > 1:
            spread = {"mean": np.mean(values), "lowest": min(values), "highest": max(values)}
            out[kind] = {k: float(v) for k, v in spread.items()} | {"sd": float(np.std(values, ddof=1))}
    return out


def spoken_tables(figures: Mapping[str, Any]) -> str:
    """Markdown below the main table: voices with their spread, then noise and controls; in per cent."""
    rows = list(figures["systems"].values())
    clean = [row for row in rows if not row["condition"]]
    base = ["system", "voice", "trained on it", "n", "accuracy", "chance", f"gap to {REFERENCE}", "WER", "CER"]
    lines = [[r["kind"], r["voice"], _trained(r), *_figures(r), gap_interval(r.get("gap")), *_errors(r)] for r in clean]
    for kind, spread in figures["spread"].items():
        text = f"{_percent(spread['mean'])}, {_percent(spread['lowest'])} to {_percent(spread['highest'])}"
        lines.append([kind, "all voices", "", "", f"{text}, sd {_percent(spread['sd'])}", "", "", "", ""])
    text = f"\nVoices (all items, {figures['metric']}):\n\n{markdown_table(base, lines)}"
    changed = [row for row in rows if row["condition"]]
    if changed:
        base = ["condition", "system", "voice", "n", "accuracy", "chance", "clean - it", "WER", "CER"]
        order = list(dict.fromkeys(row["condition"] for row in changed))
        lines = [
            [r["condition"], r["kind"], r["voice"], *_figures(r), gap_interval(r.get("clean")), *_errors(r)]
            for r in sorted(changed, key=lambda row: order.index(row["condition"]))
        ]
        text += f"\nNoise and controls (all items, {figures['metric']}):\n\n{markdown_table(base, lines)}"
    return text


def _trained(row: Mapping[str, Any]) -> str:
    """Whether the model was trained on the voice; a cascade's text base was trained on none."""
    return "" if "asr" in row else str(row["trained"])


def _figures(row: Mapping[str, Any]) -> list[str]:
    return [str(row["n"]), percent_interval(row["accuracy"]), _percent(row["chance"])]


def _errors(row: Mapping[str, Any]) -> list[str]:
    return [_percent(row[key]) if key in row else "" for key in ("wer", "cer")]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
