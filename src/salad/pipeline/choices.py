"""Multiple choice in `evaluate`: the same items read, heard, and read from a transcript, and two controls."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.align.transcript_match import words_for_ranges
from salad.audio import read_audio, split_at_quiet, to_samples
from salad.engine.machine import default_device
from salad.evaluation.benchmark import Settings, load_samples
from salad.evaluation.next_sentence import Item, build_items
from salad.evaluation.recordings import SHUFFLED, SILENCE
from salad.evaluation.results import result_of
from salad.evaluation.score import score_options
from salad.evaluation.spoken_benchmark import Speech, run_speech_eval
from salad.files import write_jsonl
from salad.measure.controls import Spoken, others_frames
from salad.measure.statistics import accuracy, gap, margin, margin_over, pooled_gap
from salad.model import SaladForConditionalGeneration, load_encoder
from salad.model.processor import MAX_SPAN_S
from salad.pipeline.heldout import Setting
from salad.pipeline.run import Run
from salad.progress import progress
from salad.report.values import NEXT_SENTENCE
from salad.types import Result

__all__ = ["accuracies", "answer", "items_of"]

ITEMS_AT_ONCE = 8
HEARING = ("speech_adapted", "blind", "other")  # own recording, silence as long, another document's recording
CONTROLS = {SILENCE: "blind", SHUFFLED: "other"}  # conditions of `salad eval --control`
Prefixes = Callable[[], list[torch.Tensor]]
Ways = dict[str, tuple[SaladForConditionalGeneration, list[torch.Tensor]]]  # by whom, and what it takes in


def items_of(setting: Setting) -> list[Item]:
    """The multiple-choice items that the recipe builds from its held-out documents."""
    settings, seed = setting.run.recipe.evaluate, setting.run.recipe.seed
    return build_items(setting.documents, settings.items, settings.options, settings.context_words, seed)


def answer(
    setting: Setting,
    items: list[Item],
    heard: dict[str, str],
    systems: tuple[str, ...] = (),
    silence: np.ndarray | None = None,
) -> dict[str, list[Result]]:
    """What each system answers; `systems` names those that are asked, all of them if none is named.

    silence: frames that `blind` hears; without them it is not asked.
    """
    wanted = [name for name in HEARING if not systems or name in systems]
    frames = _frames(setting, items, wanted, silence) if wanted else {}
    results: dict[str, list[Result]] = {}
    with progress("multiple choice", len(items), "items") as bar:
        for start in range(0, len(items), ITEMS_AT_ONCE):
            group = items[start : start + ITEMS_AT_ONCE]
            ways = _prefixes(setting, heard, group, frames, systems)
            for name, (model, prefixes) in ways.items():
                options = [[setting.ids(f" {option}") for option in item.options] for item in group]
                asked = list(zip(prefixes, options, strict=True))
                same = _same_text(results, ways, name, start) if name == "cascade" else {}
                new = [one for i, one in enumerate(asked) if i not in same]
                scores = iter(score_options(model, new) if new else [])
                found = [same.get(i) or next(scores) for i in range(len(asked))]
                rows = [Result(item.id, item.answer, own) for item, own in zip(group, found, strict=True)]
                results.setdefault(name, []).extend(rows)
            bar.advance(len(group))
    if setting.frozen and "text_base" in results:
        results["text_adapted"] = results["text_base"]  # the same weights read the same text
    return results


def _same_text(results: dict[str, list[Result]], ways: Ways, name: str, start: int) -> dict[int, tuple[float, ...]]:
    """Scores of the items of the group from `start` on whose transcript is the text itself: they are the text's."""
    if "text_base" not in ways:
        return {}
    pairs = zip(ways["text_base"][1], ways[name][1], strict=True)
    same = [i for i, (read, transcript) in enumerate(pairs) if torch.equal(read, transcript)]
    return {i: results["text_base"][start + i].scores for i in same}


def _prefixes(
    setting: Setting,
    heard: dict[str, str],
    items: list[Item],
    frames: dict[str, dict[str, list[torch.Tensor]]],
    systems: tuple[str, ...],
) -> Ways:
    """The context of each item as each system takes it in: read, heard, or read from a transcript."""
    base, model = setting.base, setting.model
    contexts = [item.context for item in items]
    ways: dict[str, tuple[SaladForConditionalGeneration, Prefixes]] = {
        "text_base": (base, lambda: [setting.read(base, text) for text in contexts]),
        "cascade": (base, lambda: [setting.read(base, text) for text in _transcripts(setting, items, heard)]),
    }
    for name, own in frames.items():
        ways[name] = (model, lambda own=own: _heard(setting, [own[item.id] for item in items]))
    if not setting.frozen:
        ways["text_adapted"] = (model, lambda: [setting.read(model, text) for text in contexts])
    return {name: (by, prefixes()) for name, (by, prefixes) in ways.items() if not systems or name in systems}


def _transcripts(setting: Setting, items: Sequence[Item], heard: dict[str, str]) -> list[str]:
    utterances = [setting.by_document[item.document_id] for item in items]
    return [
        " ".join(words_for_ranges(u.text.split(), heard.get(u.id, ""), [item.context_words])[0])
        for item, u in zip(items, utterances, strict=True)
    ]


def _frames(
    setting: Setting, items: Sequence[Item], wanted: Sequence[str], silence: np.ndarray | None
) -> dict[str, dict[str, list[torch.Tensor]]]:
    """For each way of hearing, the frames of each item's context: its own, as much silence, as much of another's."""
    encoder = load_encoder(setting.run.recipe.assets.encoder, setting.run.recipe.threads)
    with progress("encode contexts", len(items), "items") as bar:
        own = {}
        for item in items:
            own[item.id] = _encoded(setting, encoder, item)
            bar.advance()
    found = {"speech_adapted": own}
    if silence is not None:
        hush = torch.from_numpy(silence).to(setting.device)
        found["blind"] = {i: [hush[: len(span)] for span in spans] for i, spans in own.items()}
    spoken = [
        Spoken(
            item.document_id,
            item.domain,
            setting.by_document[item.document_id].speaker,
            tuple(span.cpu().numpy() for span in own[item.id]),
        )
        for item in items
    ]
    others = others_frames(spoken) if "other" in wanted else []
    if others and all(spans is not None for spans in others):
        found["other"] = {
            item.id: [torch.from_numpy(span).to(setting.device) for span in spans or ()]
            for item, spans in zip(items, others, strict=True)
        }
    return {name: frames for name, frames in found.items() if name in wanted}


def _encoded(setting: Setting, encoder: Any, item: Item) -> list[torch.Tensor]:
    """The context as sound alone: cut out of the recording and encoded once."""
    utterance = setting.by_document[item.document_id]
    key = (utterance.id, tuple(item.context_words))
    if key not in setting.item_frames:
        samples, rate = read_audio(utterance.audio, encoder.sample_rate_hz)
        first, last = item.context_words
        start, end = (to_samples(t, rate) for t in (utterance.words[first].start_s, utterance.words[last - 1].end_s))
        spans = encoder.encode(split_at_quiet(samples[start:end], rate, MAX_SPAN_S))
        setting.item_frames[key] = [torch.from_numpy(span).to(setting.device) for span in spans]
    return setting.item_frames[key]


def _heard(setting: Setting, contexts: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """What is heard of each context (its spans' frames), behind the start token."""
    speech, lengths = setting.model.speech_embeddings([span for context in contexts for span in context])
    table = setting.model.get_input_embeddings()
    start_token = table(torch.tensor([setting.model.config.start_token_id], device=setting.device))
    spans = iter(speech.to(table.weight.dtype).split(lengths))
    return [torch.cat([start_token, *itertools.islice(spans, len(context))]) for context in contexts]


def accuracies(run: Run, items: list[Item], results: dict[str, list[Result]], folder: Path) -> dict[str, Any]:
    """The same items read, heard, and read from a transcript; `tasks`: those of the recipe beside them, and all."""
    settings, seed = run.recipe.evaluate, run.recipe.seed
    figures: dict[str, Any] = {}
    rows, pairs, labels = [], [], []
    if items:
        write_jsonl(folder / "items.jsonl", [asdict(item) for item in items])
        answers = [{"system": k, **asdict(r)} for k, group in results.items() for r in group]
        write_jsonl(folder / "results.jsonl", answers)
        labels = [[item.document_id for item in items]]  # items of one document share subject and voice
        figures = _compared(results, [len(item.options) for item in items], settings.bootstrap, seed, labels[0])
        rows, pairs = [{"task": NEXT_SENTENCE, **figures}], [(results["text_base"], results["speech_adapted"])]
    for task, (own, options) in _tasks(run, folder / "tasks").items():
        rows.append({"task": task, **_compared(own, options, settings.bootstrap, seed)})
        pairs.append((own["text_base"], own["speech_adapted"]))
        labels.append(None)
    if len(pairs) > 1:
        everything, _ = pooled_gap(pairs, settings.bootstrap, seed, groups=labels)
        rows.append({"task": "all items", "n": everything.n, "gap": asdict(everything)})
    return {**figures, "tasks": rows}


def _compared(
    results: dict[str, list[Result]], options: list[int], resamples: int, seed: int, groups: list[str] | None = None
) -> dict[str, Any]:
    """Accuracy of each system, chance by the numbers of options, the gap between reading and hearing, and margins."""
    between = gap(results["text_base"], results["speech_adapted"], resamples, seed, groups=groups)
    own = {name: rows for name, rows in results.items() if name in HEARING}
    margins = {name: margin(rows, resamples, seed, groups=groups) for name, rows in own.items()}
    for control in ("blind", "other"):
        if control in own:
            more = margin_over(own["speech_adapted"], own[control], resamples, seed, groups=groups)
            margins[f"over_{control}"] = more
    return {
        **{name: accuracy(rows, resamples, seed, groups=groups) for name, rows in results.items()},
        "chance": float(np.mean([1 / number for number in options])),
        "n": len(options),
        "gap": asdict(between),
        "margin": {name: asdict(value) for name, value in margins.items()},
    }


def _tasks(run: Run, out: Path) -> dict[str, tuple[dict[str, list[Result]], list[int]]]:
    """Of each of the recipe's tasks: results by system, heard in the held-out voice, and numbers of options.

    `blind` hears silence: what the options alone give away; `other` the question of another item.
    """
    recipe, voice = run.recipe, run.recipe.corpus.heldout_voice
    if not recipe.evaluate.tasks:
        return {}
    device, frozen = default_device(), recipe.stage1.llm == "frozen"
    run_speech_eval(
        str(run.latest.folder("stage2") / "model"),
        recipe.evaluate.tasks,
        out,
        Settings(resamples=recipe.evaluate.bootstrap, seed=recipe.seed),
        Speech(
            voices=(voice,),
            controls=tuple(CONTROLS),
            workers=recipe.engine.workers,
            asr_precision=recipe.evaluate.asr_precision,
        ),
        bf16=run.uses_bf16("score", device),
        device=device,
        reads=not frozen,
    )
    plan, samples = load_samples(out)
    own = {}
    for name, system in plan["systems"].items():  # one voice: a kind, and the kinds that hear something else
        condition = (system["inputs"] or {}).get("condition")
        own[CONTROLS.get(condition) or name.partition("/")[0]] = samples[name]
    found = {}
    for task, described in plan["tasks"].items():
        metric = described["config"]["metric"]
        results = {system: [result_of(row, metric) for row in rows[task]] for system, rows in own.items()}
        if frozen:
            results["text_adapted"] = results["text_base"]  # the same weights read the same text
        found[task] = (results, [len(row["options"]) for row in own["text_base"][task]])
    return found
