"""Samples and results laid out as lm-eval's, made from raw scores alone: scoring needs no model.

Nothing in a file tells when it was made, so the same run writes the same bytes; a file's name holds a fingerprint of
what went in.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from salad import markdown
from salad.evaluation.benchmark_task import Task
from salad.evaluation.prompt import Segment
from salad.evaluation.sample import Doc, PlannedSystem, PlannedTask, Sample
from salad.evaluation.score import OptionScore
from salad.evaluation.task_items import TaskItem, as_read
from salad.files import JsonObject
from salad.measure.accuracy import accuracy, chance, gap, mcnemar, minimum_detectable_gap, pooled_gap
from salad.measure.format import with_detectable, with_interval
from salad.measure.results import Interval, PairedGap
from salad.records import to_json
from salad.types import Gap, Result

Samples = Mapping[str, Mapping[str, Sequence[Sample]]]  # system -> task -> rows
# What the summed log-probability of an option is divided by. acc, acc_norm and acc_bytes are lm-eval's.
METRICS = {
    "acc": lambda choice, tokens: 1.0,
    "acc_norm": lambda choice, tokens: float(len(choice)),
    "acc_bytes": lambda choice, tokens: float(len(choice.encode("utf-8"))),
    "acc_token": lambda choice, tokens: float(tokens),
}
REFERENCE = "text_base"
AUDIO = "<|audio|>"
DIGITS = 9  # of a log-probability: more would be noise of the arithmetic


def sample_row(
    index: int,
    task: Task,
    item: TaskItem,
    prompt: Sequence[Segment],
    scores: Sequence[OptionScore],
    *,
    num_shots: int = 0,
    heard: Sequence[str] | None = None,
    said: Sequence[str] | None = None,
) -> Sample:
    """One line of samples_*.jsonl. said: where that is not what the prompt speaks; heard: of a cascade."""
    doc = {"id": item.id, "context": item.context, "choices": list(item.choices), "answer": item.answer}
    text = "".join(s.text if s.modality == "text" else AUDIO for s in prompt)
    answers = task.answers(item)
    resps = tuple((f"{score.logprob:.{DIGITS}g}", str(score.greedy)) for score in scores)
    row = Sample(
        doc_id=index,
        doc=Doc(item.id, item.context, item.choices, item.answer),
        target=str(item.answer),
        arguments={
            f"gen_args_{i}": {"arg_0": text, "arg_1": task.option_delimiter + answer}
            for i, answer in enumerate(answers)
        },
        resps=tuple((resp,) for resp in resps),
        filtered_resps=resps,
        filter="none",
        metrics=tuple(METRICS),
        doc_hash=_sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        prompt_hash=_sha256(text),
        target_hash=_sha256(str(item.answer)),
        options=tuple(answers),
        num_tokens=tuple(score.num_tokens for score in scores),
        num_shots=num_shots,
        said=tuple([s.text for s in prompt if s.modality == "speech"] if said is None else said),
        heard=None if heard is None else tuple(heard),
    )
    acc, acc_norm, acc_bytes, acc_token = (float(result_of(row, metric).correct) for metric in METRICS)
    return replace(row, acc=acc, acc_norm=acc_norm, acc_bytes=acc_bytes, acc_token=acc_token)


def result_of(row: Sample, metric: str) -> Result:
    """An item's Result under a metric, from the raw scores of its line. Choices of one text have the score of the best
    of them, and the first stands for all: where the right one is written twice, both are right.
    """
    sums = [float(logprob) for logprob, _ in row.filtered_resps]
    lengths = [METRICS[metric](o, n) for o, n in zip(row.options, row.num_tokens, strict=True)]
    own, texts = [s / n for s, n in zip(sums, lengths, strict=True)], _choices(row)
    scores = tuple(max(s for s, other in zip(own, texts, strict=True) if other == text) for text in texts)
    return Result(row.doc.id, texts.index(texts[int(row.target)]), scores)


def chance_of(row: Sample) -> float:
    """`chance` of an item by its row of samples."""
    return chance(_choices(row), int(row.target))


def _choices(row: Sample) -> list[str]:
    return [as_read(choice) for choice in (row.options if row.doc.choices is None else row.doc.choices)]


def results_of(
    system: PlannedSystem, tasks: Mapping[str, PlannedTask], samples: Mapping[str, Sequence[Sample]]
) -> JsonObject:
    """results_*.json of one system, in lm-eval's layout; tasks: of all systems."""
    results = {}
    for name, rows in samples.items():
        values: dict[str, str | int | float] = {"alias": name, "sample_len": len(rows)}
        for metric in METRICS:
            right = [float(getattr(row, metric)) for row in rows]
            mean = sum(right) / len(right)
            values[f"{metric},none"] = mean
            spread = math.sqrt(mean * (1 - mean) / (len(right) - 1)) if len(right) > 1 else "N/A"
            values[f"{metric}_stderr,none"] = spread
        results[name] = values
    return {
        "results": results,
        "group_subtasks": {name: [] for name in samples},
        "configs": {name: tasks[name].config for name in samples},
        "versions": {name: tasks[name].config["version"] for name in samples},
        "n-shot": {name: max(row.num_shots for row in rows) for name, rows in samples.items()},
        "higher_is_better": {name: dict.fromkeys(METRICS, True) for name in samples},
        "n-samples": {
            name: {"original": tasks[name].num_rows, "effective": len(rows)} for name, rows in samples.items()
        },
        "config": to_json(system),
        "model_name": system.model,
        "task_hashes": {
            name: _sha256("".join(r.doc_hash + r.prompt_hash + r.target_hash for r in rows))
            for name, rows in samples.items()
        },
    }


def pool_metric(metrics: Iterable[str]) -> str:
    """The one length normalisation of a figure over several tasks: theirs where they share one, else acc_norm."""
    found = set(metrics)
    return found.pop() if len(found) == 1 else "acc_norm"


@dataclass(frozen=True)
class Lost:
    """What a system loses against the text base: by task, over all items, and as the mean of tasks."""

    tasks: Mapping[str, PairedGap]
    all_items: PairedGap
    mean_of_tasks: PairedGap

    def pooled(self) -> dict[str, PairedGap]:
        """The pooled gaps by their names in tables and files."""
        return {"all items": self.all_items, "mean of tasks": self.mean_of_tasks}


@dataclass(frozen=True)
class EvalFigures:
    """metric, chance: of each task; accuracy: by system and task; lost: by system."""

    metric: Mapping[str, str]
    chance: Mapping[str, float]
    accuracy: Mapping[str, Mapping[str, Interval]]
    lost: Mapping[str, Lost]

    def json(self) -> JsonObject:
        """The figures as figures.json has them."""
        lost = {name: {"tasks": own.tasks, **own.pooled()} for name, own in self.lost.items()}
        return dict(to_json({**vars(self), "lost": lost}))


def comparisons(samples: Samples, metrics: Mapping[str, str], resamples: int, seed: int) -> EvalFigures:
    """Accuracies with intervals, and what each system loses against the text base, by task and pooled.

    samples: {system: {task: rows}}; metrics: the headline metric of each task; what is pooled is scored anew by
    `pool_metric`. Systems are compared on the items that both have; `n` says how many.
    """
    results, pool = _scored(samples, metrics), pool_metric(metrics.values())
    pooled = _scored(samples, dict.fromkeys(metrics, pool))
    chances = {task: sum(map(chance_of, rows)) / len(rows) for task, rows in next(iter(samples.values())).items()}
    right = {
        system: {task: Interval.of(accuracy(list(own.values()))) for task, own in by_task.items()}
        for system, by_task in results.items()
    }
    lost: dict[str, Lost] = {}
    for system in results:
        if system == REFERENCE or REFERENCE not in results:
            continue
        pairs = _pairs(results[REFERENCE], results[system])
        if pairs:
            of_all = list(_pairs(pooled[REFERENCE], pooled[system]).values())
            by_item, by_task = pooled_gap(of_all, resamples, seed)
            everything = [[result for pair in of_all for result in pair[side]] for side in (0, 1)]
            lost[system] = Lost(
                tasks={task: paired_gap(gap(*pair, resamples, seed), *pair) for task, pair in pairs.items()},
                all_items=replace(paired_gap(by_item, *everything), metric=pool),
                mean_of_tasks=PairedGap(by_task.value, by_task.low, by_task.high, by_task.n, pool),
            )
    return EvalFigures(dict(metrics), chances, right, lost)


def _scored(samples: Samples, metrics: Mapping[str, str]) -> dict[str, dict[str, dict[str, Result]]]:
    """{system: {task: {item: result}}}."""
    return {
        system: {task: {r.doc.id: result_of(r, metrics[task]) for r in rows} for task, rows in by_task.items()}
        for system, by_task in samples.items()
    }


def _pairs(
    base: Mapping[str, Mapping[str, Result]], own: Mapping[str, Mapping[str, Result]]
) -> dict[str, tuple[list[Result], list[Result]]]:
    """Results of both by task, over the items that both have."""
    both = {task: [i for i in base.get(task, {}) if i in results] for task, results in own.items()}
    return {task: ([base[task][i] for i in ids], [own[task][i] for i in ids]) for task, ids in both.items() if ids}


def paired_gap(found: Gap, base: Sequence[Result], own: Sequence[Result]) -> PairedGap:
    """The gap with McNemar's test, and the smallest that this would have found with probability 0.8."""
    test = mcnemar(base, own)
    least = minimum_detectable_gap(len(base), max(1, test.only_first + test.only_second) / len(base))
    return PairedGap(found.value, found.low, found.high, found.n, mcnemar=test, minimum_detectable=least)


def results_table(figures: EvalFigures, systems: Sequence[str] = (), *, latex: bool = False) -> str:
    """Accuracy of each system and what it loses against the text base, in per cent with 95 % intervals.

    systems: those to show, by default all. A loss that cannot be told from 0 is followed by the smallest that could.
    """
    systems = list(systems or figures.accuracy)
    lost = [name for name in systems if name in figures.lost]
    header = ["task", "metric", "n", "chance", *systems, *(f"{_loss(name)}{REFERENCE} - {name}" for name in lost)]
    rows = []
    for task, metric in figures.metric.items():
        own = [figures.accuracy[system].get(task) for system in systems]
        cells = [percent_interval(value) for value in own]
        gaps = [figures.lost[name].tasks.get(task) for name in lost]
        n = next(str(value.n) for value in own if value)
        rows.append([task, metric, n, f"{100 * figures.chance[task]:.1f}", *cells, *map(gap_interval, gaps)])
    for title in ("all items", "mean of tasks") if lost and len(rows) > 1 else ():
        pooled = [figures.lost[name].pooled()[title] for name in lost]
        said = [title, pooled[0].metric or "", str(pooled[0].n), ""]
        rows.append([*said, *[""] * len(systems), *map(gap_interval, pooled)])
    return _latex(header, rows) if latex else markdown_table(header, rows)


def _loss(system: str) -> str:
    """What the paper calls this difference."""
    names = {"text_adapted": "forgetting: ", "speech_adapted": "gap: "}
    return names.get(system.partition("/")[0], "")


def percent_interval(value: Interval | None) -> str:
    """`57.1 [50.0, 64.2]` of a share, in per cent; "" for None."""
    return with_interval(value, ".1f", scale=100)


def gap_interval(value: PairedGap | None) -> str:
    """The same of a difference, what could have been told where it cannot, and the p of McNemar's test if known."""
    text = with_detectable(value, ".1f", scale=100)
    return f"{text}, p {value.mcnemar.p:.2g}" if value and value.mcnemar else text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"{line}\n" for line in markdown.table(header, rows))


def _latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.replace("_", r"\_") for cell in cells) + r" \\"

    body = [line(header), r"\midrule", *map(line, rows)]
    begin = [rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}", r"\toprule"]
    return "\n".join([*begin, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
