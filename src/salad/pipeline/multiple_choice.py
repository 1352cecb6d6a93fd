"""Multiple choice in `evaluate`: the same items read, heard, and read from a transcript, and two controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from salad.align.transcript_match import words_for_ranges
from salad.audio import read_audio, split_at_quiet, to_samples
from salad.engine.machine import default_device
from salad.evaluation.benchmark import BenchmarkOptions, load_samples, run_eval
from salad.evaluation.next_sentence import NextSentenceItem, build_items
from salad.evaluation.prompt import Request, Segment, Sound, request
from salad.evaluation.recordings import SHUFFLED, SILENCE
from salad.evaluation.results import chance_of, pool_metric, result_of
from salad.evaluation.sample import Sample
from salad.evaluation.score import OptionScore, per_token, score
from salad.evaluation.scorer_model import Reader
from salad.evaluation.spoken_benchmark import SpeechInput
from salad.files import write_jsonl
from salad.measure.accuracy import accuracy, chance, gap, margin, margin_over, pooled_gap
from salad.measure.controls import Silence, Spoken, others_frames
from salad.measure.results import Accuracies, Interval, SystemAccuracies, TaskAccuracies
from salad.model import load_encoder
from salad.model.processor import MAX_SPAN_S
from salad.pipeline.heldout import HeldoutEvaluator
from salad.pipeline.run import Run
from salad.progress import progress
from salad.report.values import NEXT_SENTENCE
from salad.types import Result

SOUNDS_AT_ONCE = 8
HEARING = ("speech_adapted", "blind", "other")  # own recording, silence as long, another document's recording
CONTROLS = {SILENCE: "blind", SHUFFLED: "other"}  # conditions of `salad eval --control`
Frames = tuple[np.ndarray, ...]  # [num_frames, frame_dim] of each span of one context


def items_of(evaluator: HeldoutEvaluator) -> list[NextSentenceItem]:
    """The multiple-choice items that the recipe builds from its held-out documents."""
    settings, seed = evaluator.run.recipe.evaluate, evaluator.run.recipe.seed
    return build_items(evaluator.documents, settings.items, settings.options, settings.context_words, seed)


def answer(
    evaluator: HeldoutEvaluator,
    items: list[NextSentenceItem],
    transcripts: dict[str, str],
    systems: tuple[str, ...] = (),
    silence: Silence | None = None,
) -> dict[str, list[Result]]:
    """What each system answers; `systems` names those that are asked, all of them if none is named.

    transcripts: by utterance, which the cascade reads. silence: what `blind` hears; without it that
    is not asked. Scores are nats per token of each option, from the scorer of `salad eval`.
    """
    wanted = [name for name in HEARING if not systems or name in systems]
    frames = _frames(evaluator, items, wanted, silence) if wanted else {}
    asked = _requests(evaluator, items, transcripts, frames, systems)
    bf16, scores = evaluator.run.uses_bf16("score", evaluator.device), dict[str, list[tuple[OptionScore, ...]]]()
    with progress("multiple choice", len(items) * len(asked), "items") as bar:
        for name, requests in asked.items():
            model = evaluator.base if name in ("text_base", "cascade") else evaluator.model
            known: dict[Request, tuple[OptionScore, ...]] = {}
            if name == "cascade" and "text_base" in asked:  # a transcript that is the text itself scores as the text
                known = dict(zip(asked["text_base"], scores["text_base"], strict=True))
            new = [one for one in requests if one not in known]
            bar.advance(len(requests) - len(new))
            reader = Reader(model, evaluator.tokenizer, start="document", bf16=bf16, together=SOUNDS_AT_ONCE)
            known |= dict(zip(new, score(reader, new, advance=bar.advance), strict=True))
            scores[name] = [known[one] for one in requests]
    results = {
        name: [per_token(item.id, item.answer, own) for item, own in zip(items, found, strict=True)]
        for name, found in scores.items()
    }
    if evaluator.frozen and "text_base" in results:
        results["text_adapted"] = results["text_base"]  # the same weights read the same text
    return results


def _requests(
    evaluator: HeldoutEvaluator,
    items: Sequence[NextSentenceItem],
    transcripts: dict[str, str],
    frames: dict[str, dict[str, Frames]],
    systems: tuple[str, ...],
) -> dict[str, list[Request]]:
    """The items as each system takes them in: the context read, read from a transcript, or heard (frames by item)."""
    texts = {"text_base": [item.context for item in items], "cascade": _transcripts(evaluator, items, transcripts)}
    prompts: dict[str, list[tuple[Segment, Frames]]] = {}
    prompts |= {name: [(Segment("text", text), ()) for text in own] for name, own in texts.items()}
    prompts |= {k: [(Segment("speech", item.context), own[item.id]) for item in items] for k, own in frames.items()}
    if not evaluator.frozen:
        prompts["text_adapted"] = prompts["text_base"]

    def asked(name: str, item: NextSentenceItem, segment: Segment, spans: Frames) -> Request:
        options, sound = [f" {option}" for option in item.options], Sound(f"{name}/{item.id}", spans)
        return request(evaluator.tokenizer, [segment], options, start="document", sound=lambda _: sound)

    return {
        name: [asked(name, item, *prompt) for item, prompt in zip(items, own, strict=True)]
        for name, own in prompts.items()
        if not systems or name in systems
    }


def _transcripts(
    evaluator: HeldoutEvaluator, items: Sequence[NextSentenceItem], transcripts: dict[str, str]
) -> list[str]:
    utterances = [evaluator.by_document[item.document_id] for item in items]
    return [
        " ".join(words_for_ranges(u.text.split(), transcripts.get(u.id, ""), [item.context_words])[0])
        for item, u in zip(items, utterances, strict=True)
    ]


def _frames(
    evaluator: HeldoutEvaluator, items: Sequence[NextSentenceItem], wanted: Sequence[str], silence: Silence | None
) -> dict[str, dict[str, Frames]]:
    """For each way of hearing, the frames of each item's context: its own, as much silence, as much of another's."""
    encoder = load_encoder(evaluator.run.recipe.assets.encoder, evaluator.run.recipe.threads)
    with progress("encode contexts", len(items), "items") as bar:
        own = {}
        for item in items:
            own[item.id] = _encoded(evaluator, encoder, item)
            bar.advance()
    found = {"speech_adapted": own}
    if silence is not None:
        found["blind"] = {i: tuple(silence.like(spans)) for i, spans in own.items()}
    spoken = [
        Spoken(item.document_id, item.domain, evaluator.by_document[item.document_id].speaker, own[item.id])
        for item in items
    ]
    others = others_frames(spoken) if "other" in wanted else []
    if others and all(spans is not None for spans in others):
        found["other"] = {item.id: tuple(spans or ()) for item, spans in zip(items, others, strict=True)}
    return {name: frames for name, frames in found.items() if name in wanted}


def _encoded(evaluator: HeldoutEvaluator, encoder: Any, item: NextSentenceItem) -> Frames:
    """The context as sound alone: cut out of the recording and encoded once."""
    utterance = evaluator.by_document[item.document_id]
    key = (utterance.id, item.context_words)
    if key not in evaluator.item_frames:
        samples, rate = read_audio(utterance.audio, encoder.sample_rate_hz)
        first, last = item.context_words
        start, end = (to_samples(t, rate) for t in (utterance.words[first].start_s, utterance.words[last - 1].end_s))
        spans = encoder.encode(split_at_quiet(samples[start:end], rate, MAX_SPAN_S))
        evaluator.item_frames[key] = tuple(spans)
    return evaluator.item_frames[key]


def accuracies(run: Run, items: list[NextSentenceItem], results: dict[str, list[Result]], folder: Path) -> Accuracies:
    """Accuracies on items read, heard, and read from a transcript; `tasks`: those of the recipe beside them, and all.

    The gap over all has one length normalisation: that of the next sentences (nats a token) where there are some.
    """
    settings, seed = run.recipe.evaluate, run.recipe.seed
    figures = SystemAccuracies()
    rows, pairs = [], []
    labels: list[Sequence[str] | None] = []
    if items:
        write_jsonl(folder / "items.jsonl", [asdict(item) for item in items])
        answers = [{"system": k, **asdict(r)} for k, group in results.items() for r in group]
        write_jsonl(folder / "results.jsonl", answers)
        own = [item.document_id for item in items]  # items of one document share subject and voice
        labels = [own]
        chances = [chance(item.options, item.answer) for item in items]
        figures = _compared(results, chances, settings.bootstrap, seed, own)
        rows = [TaskAccuracies(**vars(figures), task=NEXT_SENTENCE)]
        pairs = [(results["text_base"], results["speech_adapted"])]
    tasks = _tasks(run, folder / "tasks")
    metric = "acc_token" if items else pool_metric(metric for _, metric in tasks.values())
    for task, (samples, own_metric) in tasks.items():
        results = _results(samples, own_metric)
        chances = [chance_of(row) for row in samples["text_base"]]
        rows.append(TaskAccuracies(**vars(_compared(results, chances, settings.bootstrap, seed)), task=task))
        pooled = _results(samples, metric)
        pairs.append((pooled["text_base"], pooled["speech_adapted"]))
        labels.append(None)
    if len(pairs) > 1:
        everything, _ = pooled_gap(pairs, settings.bootstrap, seed, groups=labels)
        own_gap = Interval.of(everything)
        rows.append(TaskAccuracies(n=everything.n, gap=own_gap, task="all items", metric=metric))
    return Accuracies(**vars(figures), tasks=tuple(rows))


def _compared(
    results: dict[str, list[Result]], chances: list[float], resamples: int, seed: int, groups: list[str] | None = None
) -> SystemAccuracies:
    """Accuracy of each system, mean chance, the gap between reading and hearing, and margins."""
    between = gap(results["text_base"], results["speech_adapted"], resamples, seed, groups=groups)
    own = {name: rows for name, rows in results.items() if name in HEARING}
    margins = {name: margin(rows, resamples, seed, groups=groups) for name, rows in own.items()}
    for control in ("blind", "other"):
        if control in own:
            more = margin_over(own["speech_adapted"], own[control], resamples, seed, groups=groups)
            margins[f"over_{control}"] = more
    right = {name: accuracy(rows, groups) for name, rows in results.items()}
    return SystemAccuracies(
        **{name: Interval(share.value, share.low, share.high) for name, share in right.items()},
        chance=float(np.mean(chances)),
        n=len(chances),
        gap=Interval.of(between),
        margin={name: Interval.of(value) for name, value in margins.items()},
    )


def _results(samples: dict[str, list[Sample]], metric: str) -> dict[str, list[Result]]:
    return {system: [result_of(row, metric) for row in rows] for system, rows in samples.items()}


def _tasks(run: Run, out: Path) -> dict[str, tuple[dict[str, list[Sample]], str]]:
    """Answers to each of the recipe's tasks: samples by system, heard in the held-out voice, and its metric.

    `blind` hears silence: what the options alone give away; `other` the question of another item.
    """
    recipe, voice = run.recipe, run.recipe.corpus.heldout_voice
    if not recipe.evaluate.tasks:
        return {}
    device, frozen = default_device(), recipe.stage1.llm == "frozen"
    run_eval(
        str(run.latest.folder("stage2") / "model"),
        recipe.evaluate.tasks,
        out,
        BenchmarkOptions(
            num_fewshot=recipe.evaluate.num_fewshot, resamples=recipe.evaluate.bootstrap, seed=recipe.seed
        ),
        SpeechInput(
            voices=(voice,),
            controls=tuple(CONTROLS),
            workers=recipe.engine.workers,
            asr_precision=recipe.evaluate.asr_precision,
        ),
        data_dir=recipe.evaluate.task_data,
        hub=recipe.evaluate.task_hub,
        bf16=run.uses_bf16("score", device),
        device=device,
        reads=not frozen,
    )
    plan, samples = load_samples(out)
    own = {}
    for name, system in plan.systems.items():  # one voice: a kind, and the kinds that hear something else
        condition = system.spoken.condition if system.spoken else ""
        own[CONTROLS.get(condition) or name.partition("/")[0]] = samples[name]
    if frozen:
        own["text_adapted"] = own["text_base"]  # the same weights read the same text
    return {
        task: ({system: rows[task] for system, rows in own.items()}, described.metric)
        for task, described in plan.tasks.items()
    }
