"""Measures the cells of a grid, each with the controls that a run's `evaluate` has, and what all are held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from salad.evaluation.benchmark import BenchmarkOptions, prepare, task_request
from salad.evaluation.next_sentence import NextSentenceItem, build_items
from salad.evaluation.prompt import Request, Segment, segments
from salad.evaluation.score import per_token, score
from salad.evaluation.scorer_model import Reader
from salad.measure.accuracy import accuracy, chance, margin, margin_over
from salad.measure.controls import Silence
from salad.measure.divergence import (
    DocumentKL,
    deaf_ears,
    divergence,
    forgetting,
    heard,
    speech_ears,
    summary,
    transcript_ears,
)
from salad.measure.hearing import (
    HeardSpan,
    exposure_of,
    heard_of_utterances,
    pooled_errors,
    spoken_words,
    voice_errors,
    word_recall,
)
from salad.measure.results import Interval, Share
from salad.measure.voice_label import is_seen
from salad.model import load_encoder
from salad.model.teacher import Teacher
from salad.pipeline.hearing import listen, read_words
from salad.pipeline.heldout import HeldoutEvaluator
from salad.pipeline.multiple_choice import answer, next_sentence
from salad.pipeline.speech_jobs import transcribe
from salad.pipeline.speechlm import speech_examples, transcript_tokens
from salad.pipeline.stages.align import load_aligned
from salad.study.cell_data import CellData
from salad.study.cell_figures import BaseFigures, Measured, Sums, rows_of, sums
from salad.study.cell_training import run_of
from salad.study.cells import Cell
from salad.training.checkpoint import load_weights
from salad.types import Result, Utterance

CONTROLLED = 16  # documents of which M is measured on another's recording, and on silence
UNSEEN_EVERY = 2  # of the unseen voices' recordings, one in so many
READ_ITEMS = 3  # times the next sentences that are heard are read, where tasks are read as well
CONTROL_ITEMS = 0.5  # of those that are heard, so many are answered on silence and on another's recording


class Measuring:
    """The kind of ears of a cell over one held-out set; what its cells share is loaded once."""

    def __init__(self, data: CellData, cell: Cell) -> None:
        self.setting = setting = run_of(data, cell)
        self.settings = setting.recipe.evaluate
        self.people, frames = data.natural(cell.ears)
        self.evaluator = HeldoutEvaluator(setting)
        own = self.evaluator
        seen = [e for e in own.examples if is_seen(e.speaker)]
        unseen = sorted((e for e in own.examples if not is_seen(e.speaker)), key=lambda e: (e.speaker, e.id))
        self.seen, self.unseen = seen, unseen[::UNSEEN_EVERY]
        self.natural = speech_examples(setting, own.tokenizer, self.people, frames)
        others, frames_of = own.another()
        self.controlled = [e for e in others if is_seen(e.speaker)][:: max(1, len(seen) // CONTROLLED)][:CONTROLLED]
        self.other_frames = frames_of
        self.silence = Silence(load_encoder(setting.recipe.assets.encoder, setting.recipe.threads))
        settings = self.settings
        number = settings.items * (READ_ITEMS if settings.tasks else 1)
        items = build_items(own.documents, number, settings.options, settings.context_words, setting.recipe.seed)
        self.items, self.heard_items = items, items[: settings.items]
        self.control_items = self.heard_items[: max(1, round(CONTROL_ITEMS * settings.items))]
        self.read = read_words(setting)

    def base_figures(self, key: str, narrow: Sequence[Utterance], spell_seconds: float) -> BaseFigures:
        """What every cell is held against."""
        own, run = self.evaluator, self.setting
        measured = [*self.seen, *self.unseen, *self.natural]
        speech = [*load_aligned(run, "heldout"), *self.people]
        wanted = {e.id for e in measured} | {own.by_document[i.document_id].id for i in self.heard_items}
        speech = [u for u in speech if u.id in wanted]
        precision = self.settings.asr_precision
        written = transcribe(run, run.dir / "transcripts", speech, "transcribe held-out", precision=precision)
        with own.reading():
            deaf = divergence(own.base, own.teacher, measured, deaf_ears(own.base))
            tokens = transcript_tokens(own.tokenizer, speech, measured, written)
            ears = transcript_ears(own.base, lambda e: tokens[e.id])
            cascade = divergence(own.base, own.teacher, measured, ears)
            read, names = self._read(own.base, everything=True)
            asked = answer(own, self.heard_items, written, ("cascade",))["cascade"]
        groups = (*(item.document_id for item in self.items), *names)
        right = "".join(str(int(r.correct)) for r in read)
        return BaseFigures(
            key=key,
            text_right=right,
            groups=groups,
            heard_items=len(self.heard_items),
            text_accuracy=_interval(read[: len(self.heard_items)], self.heard_items),
            cascade_accuracy=_interval(asked, self.heard_items),
            chance=float(np.mean([chance(item.options, item.answer) for item in self.heard_items])),
            deaf=sums(deaf),
            cascade=sums(cascade),
            narrow_domains=tuple(sorted({u.domain for u in narrow})),
            narrow_hours=sum(u.duration_s for u in narrow) / 3600,
            spell_seconds=spell_seconds,
            items_of=("next_sentence", *self.settings.tasks),
        )

    def before(self, weights: Path) -> Sums:
        """M of a warm start, document by document, in the trained voice."""
        own = self.evaluator
        load_weights(weights, own.base)  # not the student, whose LLM may hold another cell's LoRA
        with own.reading():
            return sums(divergence(own.base, own.teacher, self.seen, speech_ears(own.base)))

    def cell(self, checkpoint: Path, trained_on: Sequence[Utterance], base: BaseFigures, everything: bool) -> Measured:
        """Figures of a trained cell; trained_on: its speech; everything: all items are read, not only our own."""
        own = self.evaluator
        seed, resamples = self.setting.recipe.seed, self.settings.bootstrap
        with own.reading():
            model = own.load(checkpoint)
            reader = Teacher(model, cache=True)  # P on text is the adapted model's: eq. 2
            ears, still = speech_ears(model), speech_ears(model, lambda e: self.silence.like(e.speech_frames))
            m, unseen, natural = (divergence(model, reader, e, ears) for e in (self.seen, self.unseen, self.natural))
            other = divergence(model, reader, self.controlled, speech_ears(model, lambda e: self.other_frames[e.id]))
            blind = divergence(model, reader, self.controlled, still)
            f = forgetting(model, own.teacher, own.texts)
            answers = answer(own, self.heard_items, {}, ("speech_adapted",))
            answers |= answer(own, self.control_items, {}, ("blind", "other"), self.silence)
            read, _ = self._read(model, everything)
            spans = listen(own, model, [*self.seen, *self.unseen])
            decode = own.tokenizer.decode
            spoken = heard_of_utterances(model, decode, self.natural, self.people)
        labels = [item.document_id for item in self.heard_items]
        ours, silent, labels_few = answers["speech_adapted"], answers["blind"], labels[: len(self.control_items)]
        few = ours[: len(silent)]
        mean, forgot = summary(m), summary(f)
        counts = Counter(word for u in trained_on for word in spoken_words(u.text))
        first = [s for s in spans if is_seen(s.speaker)]
        errors = voice_errors(first, resamples, seed)
        return Measured(
            misalignment=mean.all,
            misalignment_se=mean.se,
            documents=sums(m),
            unseen=sums(unseen),
            natural=sums(natural),
            other=sums(other),
            blind=sums(blind),
            heard=self.heard(m, blind, base, resamples, seed),
            forgetting=forgot.all,
            forgetting_se=forgot.se,
            speech_accuracy=_interval(ours, self.heard_items),
            silence_accuracy=_interval(silent, self.control_items),
            other_accuracy=_interval(answers.get("other", silent), self.control_items),
            text_accuracy=_interval(read[: len(self.heard_items)], self.heard_items),
            margin=Interval.of(margin(ours, resamples, seed, groups=labels)),
            margin_over_silence=Interval.of(margin_over(few, silent, resamples, seed, groups=labels_few)),
            speech_right="".join(str(int(r.correct)) for r in ours),
            text_right="".join(str(int(r.correct)) for r in read),
            items=len(self.heard_items),
            wer=Interval.of(errors[0].wer) if errors else None,
            wer_unseen=self._wer([s for s in spans if not is_seen(s.speaker)]),
            wer_natural=self._wer(spoken),
            phone_error=Interval.of(errors[0].phone_error) if errors and errors[0].phone_error else None,
            recall=tuple(word_recall(first, lambda word: exposure_of(word, counts, self.read))),
        )

    def heard(
        self, m: Sequence[DocumentKL], blind: Sequence[DocumentKL], base: BaseFigures, resamples: int, seed: int
    ) -> Share | None:
        """`heard` of the controlled documents, between the lower of deaf and silence, and the cascade."""
        own = {row.id for row in blind}
        deaf, cascade = ([r for r in rows_of(rows) if r.id in own] for rows in (base.deaf, base.cascade))
        rows = [row for row in m if row.id in own]
        return heard(rows, {"deaf": deaf, "blind": blind}, cascade, resamples=resamples, seed=seed)

    def _wer(self, spans: Sequence[HeardSpan]) -> Interval | None:
        """Over all voices together, each document once."""
        return Interval.of(pooled_errors(spans, self.settings.bootstrap, 0).wer) if spans else None

    def _read(self, model: PreTrainedModel, everything: bool) -> tuple[list[Result], list[str]]:
        """Our next sentences, and with `everything` the recipe's tasks, as a model reads them; ids of the latter.

        Without examples, and by nats a token, as the next sentences are: one protocol for all items of a cell.
        """
        own, run = self.evaluator, self.setting
        requests, results = list[Request](), list[tuple[str, int, tuple[str, ...]]]()
        for item in self.items if everything else self.heard_items:
            requests.append(next_sentence(own.tokenizer, item, Segment("text", item.context)))
            results.append((item.id, item.answer, item.options))
        if everything:
            options = BenchmarkOptions(seed=run.recipe.seed)
            for task in prepare(self.settings.tasks, options, self.settings.task_data, self.settings.task_hub):
                for asked in task.items:
                    prompt = segments(task.task, asked, "text")
                    requests.append(task_request(own.tokenizer, task.task, asked, prompt, "document"))
                    results.append((f"{task.task.task}/{asked.id}", asked.answer, asked.choices))
        reader = Reader(model, own.tokenizer, start="document", bf16=run.uses_bf16("score", own.device))
        scores = score(reader, requests)
        found = [per_token(name, right, own) for (name, right, _), own in zip(results, scores, strict=True)]
        return found, [name for name, *_ in results[len(self.items) :]]  # of the tasks


def _interval(results: Sequence[Result], items: Sequence[NextSentenceItem]) -> Interval:
    found = accuracy(results, [item.document_id for item in items])
    return Interval(found.value, found.low, found.high, len(items))
