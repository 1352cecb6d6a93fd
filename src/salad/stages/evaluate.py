"""evaluate: M and F of every stage with their controls, and accuracy on text, on speech, and of the cascade."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.align.transcribe import cer, wer
from salad.analyze.values import NEXT_SENTENCE
from salad.audio import read_audio, split_at_quiet, to_samples
from salad.engine.machine import default_device
from salad.engine.memory import keep_freed_memory
from salad.files import read_json, write_json, write_jsonl
from salad.measure.divergence import (
    deaf_ears,
    divergence,
    forgetting,
    speech_ears,
    summary,
    transcript_ears,
)
from salad.measure.items import Item, build_items
from salad.measure.results import result_of
from salad.measure.score import score_options
from salad.measure.spoken import SILENCE
from salad.measure.stats import accuracy, gap, pooled_gap
from salad.measure.transcript import words_for_ranges
from salad.model import SaladForConditionalGeneration, load_encoder
from salad.model.processor import MAX_SPAN_S
from salad.model.teacher import Teacher
from salad.pipeline import Run
from salad.progress import progress
from salad.stages.align import load_aligned, load_frames
from salad.stages.corpus import load_documents
from salad.stages.eval_speech import Speech, run_speech_eval
from salad.stages.eval_tasks import Settings, load_samples
from salad.stages.speech import transcribe
from salad.stages.speechlm import build_model, freeze, heard_tokens, load_tokenizer, speech_examples, text_examples
from salad.train.checkpoint import latest_checkpoint, load_weights
from salad.train.loop import autocast, uses_bf16
from salad.types import Document, Result, Utterance

__all__ = ["Setting", "answer", "items_of", "load_figures", "run"]

ITEMS_AT_ONCE = 8


class Setting:
    """What every measurement needs: held-out speech and text, the base LLM, a place to load checkpoints into."""

    def __init__(self, run: Run) -> None:
        recipe = run.recipe
        self.run, self.tokenizer = run, load_tokenizer(run)
        self.frozen = recipe.stage1.llm == "frozen"
        self.utterances = load_aligned(run, "heldout")
        frames = load_frames(run, "heldout", self.utterances)
        self.examples = speech_examples(run, self.tokenizer, self.utterances, frames)
        unseen = recipe.corpus.unseen_voices
        self.examples = [
            replace(e, speaker=f"{e.speaker} (unseen)") if e.speaker in unseen else e for e in self.examples
        ]
        seen = {u.document_id: u for u in self.utterances if u.speaker not in unseen}
        documents = load_documents(run, "heldout")
        self.documents = [d for d in documents if d.id in seen]
        self.by_document = seen
        measured = _first_of_each(self.documents, recipe.evaluate.documents)
        self.examples = [
            e for e in self.examples if e.speaker.endswith("(unseen)") or e.id in {seen[i].id for i in measured}
        ]
        self.texts = text_examples(self.tokenizer, [d for d in self.documents if d.id in measured])
        self.model = build_model(run, lora=recipe.stage1.llm == "lora")
        self.base = self.model if self.frozen else build_model(run)
        self.device = default_device()
        for each in {id(self.model): self.model, id(self.base): self.base}.values():
            freeze(each, "frozen", recipe.precision, self.device)
            each.to(self.device)
        self.teacher = Teacher(self.base, cache=True)
        self.item_frames: dict[tuple[str, tuple[int, int]], list[torch.Tensor]] = {}

    def load(self, checkpoint: Path) -> SaladForConditionalGeneration:
        load_weights(checkpoint, self.model)
        return self.model

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def read(self, model: SaladForConditionalGeneration, text: str) -> torch.Tensor:
        """Embeddings of the start token and the text: [1 + tokens, width]."""
        ids = torch.tensor([model.config.start_token_id, *self.ids(text)], device=self.device)
        return model.get_input_embeddings()(ids)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Without gradients, in the recipe's precision."""
        with torch.no_grad(), autocast(uses_bf16(self.run.recipe.precision, self.device), self.device):
            yield

    def reader(self) -> Teacher:
        """P on text: the adapted model itself; the same as Q where the LLM is frozen."""
        return self.teacher if self.frozen else Teacher(self.model, cache=False)


def _first_of_each(documents: list[Document], number: int) -> set[str]:
    """Ids of the first `number` documents of each domain."""
    taken: dict[str, list[str]] = {}
    for document in documents:
        taken.setdefault(document.domain, []).append(document.id)
    return {i for ids in taken.values() for i in ids[:number]}


def run(run: Run) -> dict[str, Any]:
    folder = run.folder("evaluate")
    torch.set_num_threads(run.recipe.threads)
    keep_freed_memory()
    heldout = load_aligned(run, "heldout")
    heard = transcribe(run, folder / "transcripts", heldout, "transcribe held-out") if _needs_asr(run) else {}
    setting = Setting(run)
    with setting.reading():
        divergences = _divergences(setting, heard, folder)
        items = items_of(setting) if run.recipe.evaluate.items else []
        results = answer(setting, items, heard) if items else {}
    accuracies = _accuracies(run, items, results, folder) if items or run.recipe.evaluate.tasks else None
    m = {name: row["all"] for name, row in divergences["misalignment"].items()}
    domains = divergences["misalignment"]
    figures = {
        **divergences,
        "recovered": 1 - m["stage2"] / m["deaf"],
        "recovered_by_stage": {k: 1 - m[k] / m["deaf"] for k in ("init", "warm_start", "stage1", "stage2") if k in m},
        "recovered_by_domain": {
            d: 1 - v / domains["deaf"]["by_domain"][d] for d, v in domains["stage2"]["by_domain"].items()
        },
        "accuracy": accuracies,
        "asr": {
            "cer": float(np.mean([cer(heard.get(u.id, ""), u.text) for u in heldout])),
            "wer": float(np.mean([wer(heard.get(u.id, ""), u.text) for u in heldout])),
        }
        if heard
        else None,
    }
    write_json(folder / "figures.json", figures)
    shown = {"recovered": figures["recovered"], **{f"M {name}": value for name, value in m.items()}}
    if items:
        shown |= {f"{k} accuracy": accuracies[f"{k}_adapted"]["value"] for k in ("speech", "text")}
    return shown


def _wanted(run: Run, name: str) -> bool:
    only = run.recipe.evaluate.only
    return not only or name in (*only, "stage2", "deaf")


def _needs_asr(run: Run) -> bool:
    return _wanted(run, "cascade") or run.recipe.evaluate.items > 0


def _checkpoints(run: Run) -> dict[str, Path]:
    found = {name: latest_checkpoint(run.latest.folder(name)) for name in ("warm_start", "stage1", "stage2")}
    return {name: path for name, path in found.items() if path is not None}


def _divergences(setting: Setting, heard: dict[str, str], folder: Path) -> dict[str, Any]:
    """M of every checkpoint and of the controls, F, document by document and summed up."""
    run, examples = setting.run, setting.examples
    checkpoints = {name: path for name, path in _checkpoints(run).items() if _wanted(run, name)}
    rows: dict[str, list[Any]] = {}
    f: dict[str, Any] = {}
    with progress(
        "measure M and F", 4 + len(checkpoints) + (len(checkpoints) - 1) * (not setting.frozen), "passes"
    ) as bar:
        rows["deaf"] = divergence(setting.base, setting.teacher, examples, deaf_ears(setting.base))
        bar.advance()
        if _wanted(run, "cascade"):
            spoken = heard_tokens(setting.tokenizer, setting.utterances, examples, heard)
            ears = transcript_ears(setting.base, lambda e: spoken[e.id])
            rows["cascade"] = divergence(setting.base, setting.teacher, examples, ears)
        bar.advance()
        if _wanted(run, "init"):
            rows["init"] = divergence(setting.model, setting.reader(), examples, speech_ears(setting.model))
        f["init"] = {"all": 0.0, "se": 0.0, "by_domain": {}}  # an untouched model forgets nothing (invariant 2)
        bar.advance()
        for name, path in checkpoints.items():
            model = setting.load(path)
            rows[name] = divergence(model, setting.reader(), examples, speech_ears(model))
            bar.advance()
            if name == "stage2" or not setting.frozen:
                f[name] = summary(forgetting(model, setting.teacher, setting.texts))
                bar.advance()
        if _wanted(run, "blind"):
            silence = _silence(run)
            hush = speech_ears(model, lambda e: [silence[: len(span)] for span in e.speech_frames])
            rows["blind"] = divergence(model, setting.reader(), examples, hush)
        bar.advance()
    if setting.frozen:
        f["stage1"] = {"all": 0.0, "se": 0.0, "by_domain": {}, "note": "the LLM is frozen"}
    table = [{"of": name, **asdict(row)} for name, group in rows.items() for row in group]
    write_jsonl(folder / "divergence.jsonl", table)
    order = ("init", "warm_start", "stage1", "stage2", "blind", "deaf", "cascade")
    return {"misalignment": {name: summary(rows[name]) for name in order if name in rows}, "forgetting": f}


def _silence(run: Run) -> np.ndarray:
    encoder = load_encoder(run.recipe.assets.encoder, run.recipe.threads)
    return encoder.encode([np.zeros(20 * encoder.sample_rate_hz, np.float32)])[0]


def _accuracies(run: Run, items: list[Item], results: dict[str, list[Result]], folder: Path) -> dict[str, Any]:
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
    """Accuracy of each system, chance by the numbers of options, and the gap between reading and hearing."""
    between = gap(results["text_base"], results["speech_adapted"], resamples, seed, groups=groups)
    return {
        **{name: accuracy(rows, resamples, seed, groups=groups) for name, rows in results.items()},
        "chance": float(np.mean([1 / number for number in options])),
        "n": len(options),
        "gap": asdict(between),
    }


def _tasks(run: Run, out: Path) -> dict[str, tuple[dict[str, list[Result]], list[int]]]:
    """Of each of the recipe's tasks: results by system, heard in the held-out voice, and numbers of options.

    `blind` hears silence: what the options alone give away.
    """
    recipe, voice = run.recipe, run.recipe.corpus.heldout_voice
    if not recipe.evaluate.tasks:
        return {}
    device = default_device()
    run_speech_eval(
        str(run.latest.folder("stage2") / "model"),
        recipe.evaluate.tasks,
        out,
        Settings(resamples=recipe.evaluate.bootstrap, seed=recipe.seed),
        Speech(voices=(voice,), controls=(SILENCE,), workers=recipe.engine.workers),
        bf16=uses_bf16(recipe.precision, device),
        device=device,
    )
    plan, samples = load_samples(out)
    own = {}
    for name, system in plan["systems"].items():  # one voice: a kind, and the kind that hears silence
        silent = (system["inputs"] or {}).get("condition") == SILENCE
        own["blind" if silent else name.partition("/")[0]] = samples[name]
    found = {}
    for task, described in plan["tasks"].items():
        metric = described["config"]["metric"]
        results = {system: [result_of(row, metric) for row in rows[task]] for system, rows in own.items()}
        found[task] = (results, [len(row["options"]) for row in own["text_base"][task]])
    return found


def items_of(setting: Setting) -> list[Item]:
    """The multiple-choice items that the recipe builds from its held-out documents."""
    settings, seed = setting.run.recipe.evaluate, setting.run.recipe.seed
    return build_items(setting.documents, settings.items, settings.options, settings.context_words, seed)


def answer(
    setting: Setting, items: list[Item], heard: dict[str, str], systems: tuple[str, ...] = ()
) -> dict[str, list[Result]]:
    """What each system answers; `systems` names those that are asked, all of them if none is named."""
    encoder = load_encoder(setting.run.recipe.assets.encoder, setting.run.recipe.threads)
    results: dict[str, list[Result]] = {}
    with progress("multiple choice", len(items), "items") as bar:
        for start in range(0, len(items), ITEMS_AT_ONCE):
            group = items[start : start + ITEMS_AT_ONCE]
            for name, (model, prefixes) in _prefixes(setting, encoder, heard, group, systems).items():
                options = [[setting.ids(f" {option}") for option in item.options] for item in group]
                scores = score_options(model, list(zip(prefixes, options, strict=True)))
                rows = [Result(item.id, item.answer, own) for item, own in zip(group, scores, strict=True)]
                results.setdefault(name, []).extend(rows)
            bar.advance(len(group))
    if setting.frozen and "text_base" in results:
        results["text_adapted"] = results["text_base"]  # the same weights read the same text
    return results


def _prefixes(
    setting: Setting, encoder: Any, heard: dict[str, str], items: list[Item], systems: tuple[str, ...]
) -> dict[str, tuple[SaladForConditionalGeneration, list[torch.Tensor]]]:
    """The context of each item as each system takes it in: read, heard, or read from a transcript."""
    utterances = [setting.by_document[item.document_id] for item in items]
    base, model = setting.base, setting.model
    transcripts = [
        " ".join(words_for_ranges(u.text.split(), heard.get(u.id, ""), [item.context_words])[0])
        for item, u in zip(items, utterances, strict=True)
    ]
    contexts = [item.context for item in items]
    ways = {
        "text_base": (base, lambda: [setting.read(base, text) for text in contexts]),
        "speech_adapted": (
            model,
            lambda: [_hear(setting, encoder, u, item) for item, u in zip(items, utterances, strict=True)],
        ),
        "cascade": (base, lambda: [setting.read(base, text) for text in transcripts]),
    }
    if not setting.frozen:
        ways["text_adapted"] = (model, lambda: [setting.read(model, text) for text in contexts])
    return {name: (by, prefixes()) for name, (by, prefixes) in ways.items() if not systems or name in systems}


def _hear(setting: Setting, encoder: Any, utterance: Utterance, item: Item) -> torch.Tensor:
    """The context as sound alone: cut out of the recording, encoded once, and put behind the start token."""
    key = (utterance.id, tuple(item.context_words))
    if key not in setting.item_frames:
        samples, rate = read_audio(utterance.audio, encoder.sample_rate_hz)
        first, last = item.context_words
        start, end = (to_samples(t, rate) for t in (utterance.words[first].start_s, utterance.words[last - 1].end_s))
        spans = encoder.encode(split_at_quiet(samples[start:end], rate, MAX_SPAN_S))
        setting.item_frames[key] = [torch.from_numpy(span).to(setting.device) for span in spans]
    speech, _ = setting.model.speech_embeddings(setting.item_frames[key])
    table = setting.model.get_input_embeddings()
    start_token = table(torch.tensor([setting.model.config.start_token_id], device=setting.device))
    return torch.cat([start_token, speech.to(table.weight.dtype)])


def load_figures(run: Run) -> dict[str, Any]:
    """What this stage measured."""
    return read_json(run.folder("evaluate") / "figures.json")
