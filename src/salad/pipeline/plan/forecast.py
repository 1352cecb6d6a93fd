"""The forecast of every stage of a recipe on a machine: time, memory and disk, each with its mark and its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from salad.config import Recipe
from salad.config import Stage as Training
from salad.evaluation.clips import CONTINUATION_TOKENS, NUM_CLIPS
from salad.files import size_of
from salad.model.encoders.load import shape_of
from salad.pipeline.plan.card import MARKS, Card, Figure, total
from salad.pipeline.plan.steps import Steps, embedder
from salad.pipeline.plan.workload import Amount, Workload, task_words, workload
from salad.pipeline.run import STAGES
from salad.synthesize.voices import engine_of, library_of
from salad.training.estimate import TOKENS_PER_WORD, make_plan

FLAC, OPUS = 17_600.0, 2_500.0  # bytes a second of recordings at 16 kHz, and of voices by Opus
COPIES = 2  # of the frames of a shard in the worker that encodes it: one by one, and as they are written
HELD = 100.0  # bytes that align and encode hold of a document: where its lines and frames lie, and hashes
HELD_TEXT = 300.0  # bytes of a document of D_web: where it lies, and the hashes that tell near-duplicates, docs/log.md
ALIGNED_WORD, TEXT_WORD = 78.0, 6.0  # bytes of a word with its times, as was measured, and of a word of text
READ_SYSTEMS, HEARD_SYSTEMS = 2, 3  # that answer each item: text, cascade; own speech, silence, another's speech
READING, HEARING = 3.0, 3.5  # passes of held-out documents: Q, cascade, deaf; the model, its words, another's, silence
ORACLES, OPTION_WORDS = 3, 15  # rows of true symbols; words of an option that is a next sentence
LISTED_WORDS = 120_000  # of lists in no order, which `spell` makes of the vocabulary
COUNTED, WEB_HELD = "counted from the recipe", "hashes of D_web"


@dataclass
class StageForecast:
    """seconds, memory (bytes of the host, and where there is a GPU of each device) and disk of a stage."""

    name: str
    memory: Figure
    parts: list[Figure] = field(default_factory=list)
    device_memory: Figure | None = None
    kept: list[Figure] = field(default_factory=list)

    @property
    def seconds(self) -> Figure:
        return total(self.parts)

    @property
    def disk(self) -> Figure:
        return total(self.kept)


class Forecast:
    """What each stage of `recipe` takes on `devices` of the card's machines or GPUs; `stages` in their order.

    speech_hours: of the recipe's own recordings; see `workload`.
    """

    def __init__(self, recipe: Recipe, card: Card, devices: int = 1, speech_hours: float | None = None) -> None:
        self.recipe, self.card, self.devices = recipe, card, devices
        self.pace = card.get("speak pace").value
        self.load: Workload = workload(recipe, speech_hours, self.pace)
        self.plan = make_plan(recipe, devices)
        self.steps = Steps(recipe, card, devices, self.plan)
        self.shape = shape_of(recipe.assets.encoder)
        each = self.load.heldout.words / max(1.0, self.load.heldout.documents)
        share = sum(recipe.sequence.speech_words) / sum((*recipe.sequence.speech_words, *recipe.sequence.text_words))
        self.heard, self.heldout_words = share, each
        makers: dict[str, Callable[[StageForecast], None]] = {name: getattr(self, f"_{name}") for name in STAGES}
        self.stages = []
        for name in STAGES:
            stage = StageForecast(name, self._figure("process"))
            makers[name](stage)
            self.stages.append(stage)

    # --- figures of the card --------------------------------------------------------------------------

    def _figure(self, name: str, factor: float = 1.0) -> Figure:
        return self.card.get(name).times(factor)

    def _figure_of_job(self, job: str, kind: str, what: str) -> Figure:
        """A figure of the job as this recipe runs it, of the job in general, or of any job."""
        names = (f"{job} {kind} {what}", f"{job} {what}", what)
        return self.card.get(next(name for name in names if self.card.knows(name)))

    def job(
        self,
        stage: StageForecast,
        job: str,
        kind: str,
        amount: float,
        *,
        on_gpu: bool,
        starts: float = 1.0,
        held: float = 0.0,
        spread: bool = True,
    ) -> None:
        """A data job over `amount` (seconds of sound, bytes, operations), begun so many times; its workers' memory.

        held: bytes of a shard that a worker holds besides. spread: over the workers, or in the first process alone.
        """
        if not amount:
            return
        gpu = on_gpu and self.card.gpu and self.recipe.engine.device != "cpu"
        workers = self.devices if gpu else self.recipe.engine.workers * (1 if self.card.gpu else self.devices)
        workers = workers if spread else 1
        busy = workers if self.card.cores is None or gpu else min(workers, self.card.cores * self.devices)
        rate = self._figure_of_job(job, kind, "rate")
        spent = Figure(amount / rate.value / busy, rate.mark, f"{job} {kind}".strip() + f": {rate.source}")
        stage.parts += [spent, self._figure_of_job(job, kind, "start").times(starts)]
        shards = [Figure(held * workers, "assumed", "a shard in each worker")] if held else []
        memory = total([self._figure_of_job(job, kind, "worker").times(workers), *shards])
        if memory.value > stage.memory.value:
            stage.memory = memory

    def speak(self, stage: StageForecast, amount: Amount, shares: dict[str, float], starts: float = 1.0) -> None:
        for voice, share in shares.items():
            part = amount.seconds * share / sum(shares.values())
            gpu = library_of([voice]) is not None
            self.job(stage, "speak", engine_of(voice).name, part, on_gpu=gpu, starts=starts / len(shares))

    def align(
        self, stage: StageForecast, seconds: float, shares: Mapping[str, float] | None = None, starts: float = 1.0
    ) -> None:
        """shares: of the voices that say it, some of which tell when; None: recordings of people."""
        told = (
            sum(s for voice, s in shares.items() if engine_of(voice).tells_words) / sum(shares.values())
            if shares
            else 0.0
        )
        method = "whisper" if shares and self.recipe.align.method == "given" else self.recipe.align.method
        for kind, share in (("told", told), (method, 1 - told)):
            self.job(stage, "align", kind, seconds * share, on_gpu=kind != "told", starts=starts * share)

    def encode(
        self,
        stage: StageForecast,
        amount: Amount,
        layouts: int,
        whole: bool,
        starts: float = 1.0,
        way: Literal["spans", "recordings"] | None = None,
    ) -> None:
        """way: None: the recipe's `sequence.encode`. Recordings are encoded once, spans once for each layout."""
        each = (way or self.recipe.sequence.encode) == "spans"
        share = layouts * self.heard + (1 - self.heard) * whole if each else 1.0
        encoder = self.recipe.assets.encoder
        per_s = self.shape.frame_rate_hz * self.shape.frame_dim * 2
        _, _, codes = self.recipe.assets.encoder.partition(":codes")
        if codes and self.recipe.sequence.stored == "auto":
            per_s = self.shape.frame_rate_hz * int(codes) * 2
        shard = min(self.recipe.engine.shard_items, amount.documents) * amount.seconds / max(1.0, amount.documents)
        held = COPIES * shard * share * per_s
        self.job(stage, "encode", encoder, amount.seconds * share, on_gpu=True, starts=starts, held=held)
        if self.recipe.sequence.features == "cache":
            stage.kept.append(Figure(amount.seconds * share * per_s, "assumed", f"frames: {COUNTED}"))

    def encoded_otherwise(self) -> Iterable[tuple[str, ...]]:
        """Rows of what the frames of D_speech would take encoded the other way, for the paper's encoder alone: others
        hear what follows a span."""
        recipe, narrow = self.recipe, self.load.narrow
        if "mimi" not in recipe.assets.encoder or not narrow.seconds:
            return
        passes = max(1.0, self.plan.stages[0].speech_hours * 3600 / (self.heard * narrow.seconds))
        ways: list[tuple[str, Literal["spans", "recordings"], int]] = [
            (f"as spans, a layout each pass: {math.ceil(passes)}", "spans", math.ceil(passes)),
            ("as recordings, of any layout", "recordings", 1),
        ]
        for what, way, number in ways:
            one = StageForecast("align", self._figure("process"))
            self.encode(one, narrow, number, recipe.warm_start.enabled, way=way)
            told = f"{told_time(one.seconds.value)}, {size_of(round(one.disk.value))}"
            source = f"stage1 hears D_speech {passes:.1f} times; sequence.encode: {way}"
            yield "align", f"frames {what}", told, max(one.seconds.mark, one.disk.mark, key=MARKS.index), source

    def sound(self, stage: StageForecast, seconds: float, *, opus: bool = False, spoken: bool = True) -> None:
        """Files of sound: of voices as they were measured, of recordings as they are assumed."""
        per_s = Figure(OPUS if opus else FLAC, "assumed", "bytes of a second of sound")
        if spoken and not opus and self.card.knows("speak bytes"):
            per_s = self.card.get("speak bytes")
        stage.kept.append(per_s.times(seconds))

    def held(self, stage: StageForecast, each: float, number: float, what: str) -> None:
        """What the first process holds, where that is more than what the workers do."""
        own = total([self._figure("process"), Figure(each * number, "assumed", what)])
        if own.value > stage.memory.value:
            stage.memory = own

    def words(self, stage: StageForecast, words: float, each: float, what: str) -> None:
        stage.kept.append(Figure(words * each, "assumed", f"{what}: {each:g} bytes a word"))

    def _heldout_voices(self) -> list[str]:
        return [self.recipe.corpus.heldout_voice, *self.recipe.corpus.unseen_voices]

    # --- the stages -----------------------------------------------------------------------------------

    def _assets(self, stage: StageForecast) -> None:
        weights = 4.0 * sum(n for n, _ in self.plan.parameters.values())
        spent = weights / self.card.get("hash").value
        stage.parts += [Figure(spent, "assumed", "hashes of weights; no download"), self._figure("start", 0.25)]
        stage.kept.append(Figure(weights, "assumed", f"weights in float32, in the cache: {COUNTED}"))

    def _corpus(self, stage: StageForecast) -> None:
        load, settings = self.load, self.recipe.corpus
        self.job(stage, "ingest", "", load.own.seconds, on_gpu=False)
        for amount, entries in ((load.web, settings.text), (load.plain, settings.plain_text)):
            if entries:  # all of it is read, by the first process, to keep one in `every`
                read = amount.words * TEXT_WORD * max(text.every for text in entries)
                self.job(stage, "texts", "", read, on_gpu=False, spread=False)
        if not settings.prepared and settings.speech_documents:
            words = load.told.words + (load.web.words if settings.web_documents_per_topic else 0.0)
            stage.parts.append(self.steps.written(words))
        self.speak(stage, load.told, settings.voices.shares)
        self.speak(stage, load.spoken, {voice: 1.0 for voice in self._heldout_voices()})
        self.sound(stage, load.own.seconds, spoken=False)
        self.sound(stage, load.told.seconds + load.heldout.seconds)
        self.held(stage, HELD_TEXT, load.web.documents, WEB_HELD)
        self.words(stage, load.web.words + load.plain.words + load.narrow.words, TEXT_WORD, "text")

    def _align(self, stage: StageForecast) -> None:
        load, recipe = self.load, self.recipe
        recorded = load.heldout.seconds - load.spoken.seconds  # with word times
        self.align(stage, load.own.seconds)
        self.align(stage, load.told.seconds, recipe.corpus.voices.shares)
        self.align(stage, load.spoken.seconds, {voice: 1.0 for voice in self._heldout_voices()})
        self.job(stage, "align", "told", recorded if recipe.corpus.prepared else 0.0, on_gpu=False, starts=0.0)
        if not recipe.corpus.prepared:
            self.align(stage, recorded)
        whole = recipe.warm_start.enabled
        self.encode(stage, load.narrow, recipe.sequence.layouts, whole)
        self.encode(stage, load.heldout, 1, False)
        self.words(stage, load.narrow.words + load.heldout.words, 2 * ALIGNED_WORD, "word times")
        self.held(stage, HELD, load.narrow.documents, "references to documents")

    def _warm_start(self, stage: StageForecast) -> None:
        settings = self.recipe.warm_start
        if settings.enabled:
            stage.parts += [self.steps.loaded(2), self.steps.lower(settings.steps * settings.batch)]
            stage.parts.append(self.steps.lower_forward(self.load.heldout.seconds * self.heard))
            self._trained(stage, settings.steps, settings.checkpoint_every, 2)

    def _spell(self, stage: StageForecast) -> None:
        settings = self.recipe.spell
        if self.recipe.model.ears == "symbols":
            stage.parts += [self.steps.loaded(2), self.steps.spelled(settings.steps * settings.batch)]
            stage.parts.append(self.steps.spelling(LISTED_WORDS + self.load.web.words + self.load.narrow.words))
            self._trained(stage, settings.steps, settings.checkpoint_every, 2)

    def _stage1(self, stage: StageForecast) -> None:
        self._training(stage, self.recipe.stage1, 0)

    def _stage2(self, stage: StageForecast) -> None:
        self._training(stage, self.recipe.stage2, 1)
        stage.parts.append(self.steps.loaded(1))
        model = 4.0 * sum(n for n, _ in self.plan.parameters.values())
        stage.kept.append(Figure(model, "assumed", f"the model in float32: {COUNTED}"))

    def _training(self, stage: StageForecast, settings: Training, number: int) -> None:
        stage.parts += [self.steps.loaded(1 if settings.llm == "frozen" else 2), *self.steps.trained(settings, number)]
        looks = 1 + settings.steps // settings.probe_every
        documents = min(settings.probe_documents, self.load.heldout.documents)
        stage.parts.append(self.steps.hears(looks * documents * self.heldout_words))
        stage.parts.append(self.steps.read(documents * self.heldout_words))
        self._trained(stage, settings.steps, settings.checkpoint_every, settings.keep + 1)
        stage.device_memory = Figure(sum(self.plan.memory.values()), "assumed", f"weights, moments, a pack: {COUNTED}")
        stage.memory = self.steps.start_memory()
        if not self.card.gpu:
            stage.memory = total([self._figure("process"), stage.device_memory])
            stage.device_memory = None

    def _trained(self, stage: StageForecast, steps: int, every: int, keep: int) -> None:
        trained = sum(t for _, t in self.plan.parameters.values())
        number = min(keep, -(-steps // every))
        each = trained * (12 + 4 * (self.recipe.stage1.ema > 0))
        stage.kept.append(Figure(number * each, "assumed", f"{number} checkpoints: {COUNTED}"))

    def _cluster(self, stage: StageForecast) -> None:
        load, k = self.load, self.recipe.cluster.k
        parameters, width = embedder(self.recipe.assets.embedder)
        operations = 2.0 * parameters * self.steps.tokens(load.web.words)
        self.job(stage, "embed", self.recipe.assets.embedder, operations, on_gpu=True)
        stage.parts.append(self._figure("kmeans", load.web.documents * k * width))
        stage.kept.append(Figure(2 * load.web.documents * width * 2, "assumed", f"embeddings: {COUNTED}"))
        self.held(stage, HELD_TEXT, load.web.documents, WEB_HELD)

    def _probe(self, stage: StageForecast) -> None:
        own, settings = self.load.probe.times(self.recipe.rounds.number), self.recipe.probe
        more = self.load.probe.documents / self.recipe.cluster.k - settings.documents
        looks = (1 + math.floor(max(0.0, more) / settings.look_documents)) * self.recipe.rounds.number
        self.speak(stage, own, {settings.voice: 1.0}, looks)
        self.align(stage, own.seconds, {settings.voice: 1.0}, looks)
        self.encode(stage, own, 1, False, looks)
        self.job(stage, "transcribe", self.recipe.assets.asr, own.seconds, on_gpu=True, starts=looks)
        stage.parts += [
            self.steps.loaded(1 if self.recipe.stage1.llm == "frozen" else 2),
            self.steps.hears(own.words),
            self.steps.read(3 * own.words),  # the text, the transcript, and what is written of it alone
        ]
        self.sound(stage, own.seconds)

    def _select(self, stage: StageForecast) -> None:
        words = self.load.web.words
        stage.parts.append(Figure(words * 2e-6, "assumed", "1.2 ms a text of 560 words, docs/log.md"))
        stage.parts.append(self._figure("start", 0.2))
        self.held(stage, HELD_TEXT, self.load.web.documents, WEB_HELD)
        self.words(stage, self.load.bought.words, TEXT_WORD, "text")

    def _synthesize(self, stage: StageForecast) -> None:
        recipe, load = self.recipe, self.load
        known = load.probe.seconds * recipe.select.keep_probed
        new = load.bought.times(max(0.0, 1 - known / max(1.0, load.bought.seconds)))
        self.speak(stage, new, recipe.synthesize.voices.shares)
        self.align(stage, new.seconds, recipe.synthesize.voices.shares)
        if recipe.synthesize.max_cer is not None:
            self.job(stage, "transcribe", recipe.assets.asr, load.bought.seconds, on_gpu=True)
        self.encode(stage, load.bought, recipe.sequence.layouts, recipe.warm_start.enabled)
        self.sound(stage, new.seconds, opus=recipe.synthesize.audio == "opus")
        self.words(stage, new.words, 2 * ALIGNED_WORD, "word times")

    def _rounds(self, stage: StageForecast) -> None:
        if (number := self.recipe.rounds.number) > 1:
            stage.parts.append(Figure(0.0, "assumed", f"{number} rounds are in the stages above"))

    def _evaluate(self, stage: StageForecast) -> None:
        recipe, load = self.recipe, self.load
        settings, heldout = recipe.evaluate, load.heldout
        self.job(stage, "transcribe", recipe.assets.asr, heldout.seconds, on_gpu=True)
        few, words = load.domains * settings.stage_documents * self.heldout_words, heldout.words
        oracle = load.domains * settings.oracle_documents * self.heldout_words * (recipe.model.ears == "symbols")
        models = 1 if recipe.stage1.llm == "frozen" else 2
        stage.parts.append(self.steps.loaded(models * (1 + bool(settings.tasks))))
        stage.parts.append(self.steps.hears(HEARING * words + len(settings.stages) * few + oracle))
        stage.parts.append(self.steps.read(READING * words + ORACLES * oracle))
        asked, options = settings.items * settings.context_words, settings.items * settings.options * OPTION_WORDS
        questions, answers, number = task_words(recipe)
        tasks = Amount(number, questions, questions * self.pace)
        stage.parts.append(self.steps.hears(HEARD_SYSTEMS * (asked + questions)))
        stage.parts.append(
            self.steps.read(READ_SYSTEMS * (asked + questions) + (READ_SYSTEMS + HEARD_SYSTEMS) * (options + answers))
        )
        self.speak(stage, tasks, {recipe.corpus.heldout_voice: 1.0})
        self.job(stage, "transcribe", recipe.assets.asr, tasks.seconds, on_gpu=True)
        if asked + questions:
            self.job(stage, "encode", recipe.assets.encoder, (asked + questions) * self.pace, on_gpu=True)
        self.sound(stage, tasks.seconds)

    def _report(self, stage: StageForecast) -> None:
        clips = 2 * NUM_CLIPS * CONTINUATION_TOKENS / TOKENS_PER_WORD  # words, of the model and of the text LLM
        stage.parts += [self.steps.loaded(2), self.steps.written(clips, together=1), self._figure("start")]
        stage.kept.append(Figure(2e6, "assumed", "a page with its clips"))

    # --- for people to read -----------------------------------------------------------------------------

    def rows(self) -> Iterable[tuple[str, ...]]:
        """(stage, what, figure, mark, source) for a table; then the sums."""
        for stage in self.stages:
            yield stage.name, "time", told_time(stage.seconds.value), stage.seconds.mark, stage.seconds.source
            yield stage.name, "memory", size_of(round(stage.memory.value)), stage.memory.mark, stage.memory.source
            if (own := stage.device_memory) is not None:
                yield stage.name, "memory of a device", size_of(round(own.value)), own.mark, own.source
            yield stage.name, "disk", size_of(round(stage.disk.value)), stage.disk.mark, stage.disk.source
            if stage.name == "align":
                yield from self.encoded_otherwise()
        seconds, disk = total(s.seconds for s in self.stages), total(s.disk for s in self.stages)
        longest, largest = (max(self.stages, key=key) for key in (lambda s: s.seconds.value, lambda s: s.disk.value))
        yield "all", "time", told_time(seconds.value), seconds.mark, f"most of it is {longest.name}"
        yield "all", "disk", size_of(round(disk.value)), disk.mark, f"most of it is {largest.name}"


def told_time(seconds: float) -> str:
    """Hours, with seconds beside them where they are few."""
    hours = seconds / 3600
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours:.3f} h ({seconds:,.0f} s)"
