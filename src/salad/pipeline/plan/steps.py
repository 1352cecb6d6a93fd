"""What the model's own work takes: steps of training, readings of documents, loading, from a card's figures."""

from __future__ import annotations

import random
import statistics

from salad.config import Recipe
from salad.config import Stage as Training
from salad.model.encoders.load import shape_of
from salad.pipeline.plan.card import Card, Figure, total
from salad.sequence.interleave import cut, interleave
from salad.training.estimate import SECONDS_PER_WORD, TOKENS_PER_WORD, TrainingEstimate

MILLION = 1e6
# Parameters beside the table, and width, of embedders that are known.
EMBEDDERS = {"all-minilm-l6-v2": (10.6e6, 384), "bge-large": (303e6, 1024), "bge-base": (85e6, 768)}
OTHER_EMBEDDER = (303e6, 1024)
PIECE_WORDS, PIECE_DOCUMENTS = 80, 64  # words of a document, and how many, of which pieces are cut to know their length
FORWARD = 1 / 3  # of a training step's arithmetic
SPELLED_WORD_S = 5e-5  # to spell a word and to place its tokens, on one core


def embedder(name: str) -> tuple[float, int]:
    """Parameters that a token passes, and the width of a vector."""
    return next((own for key, own in EMBEDDERS.items() if key in name.lower()), OTHER_EMBEDDER)


def word_positions(recipe: Recipe, pace: float = SECONDS_PER_WORD) -> float:
    """Positions of the student's sequence that a word takes, heard or read, where a word lasts `pace` seconds."""
    spans = recipe.sequence
    heard = sum(spans.speech_words) / sum((*spans.speech_words, *spans.text_words))
    spoken = pace * shape_of(recipe.assets.encoder).frame_rate_hz / recipe.model.stride
    return (1 - heard) * TOKENS_PER_WORD + heard * (spoken if recipe.model.rate == "fixed" else TOKENS_PER_WORD)


def piece_words(recipe: Recipe) -> list[int]:
    """Words of each piece that ears are trained on: documents as the recipe interleaves them, text spans cut up too."""
    sizes, spans = list[int](), recipe.sequence
    for number in range(PIECE_DOCUMENTS):
        rng = random.Random(f"{recipe.seed}/pieces of document {number}")
        for span in interleave(
            PIECE_WORDS, text_words=spans.text_words, speech_words=spans.speech_words, first=spans.first, rng=rng
        ):
            own = [(span.start_word, span.end_word)]
            if span.modality == "text":
                own = cut(span.start_word, span.end_word, spans.speech_words, rng)
            sizes += [end - start for start, end in own]
    return sizes


class Steps:
    """Figures of one recipe on `devices` of a card's machines. `plan`: the recipe laid out for as many."""

    def __init__(self, recipe: Recipe, card: Card, devices: int, plan: TrainingEstimate) -> None:
        self.recipe, self.card, self.devices, self.plan = recipe, card, devices, plan
        parts = {name: number for name, (number, _) in plan.parameters.items()}
        self.layers, self.tables = parts["llm layers"], parts["llm embeddings and head"]
        self.adapter = parts["adapter"]
        self.everything = sum(parts.values())
        self.pace = card.get("speak pace").value
        self.word_positions = word_positions(recipe, self.pace)
        self.piece_s = self.pace * statistics.fmean(piece_words(recipe))

    def tokens(self, words: float) -> float:
        return words * TOKENS_PER_WORD

    def loaded(self, models: float) -> Figure:
        """Libraries and so many models from the disk."""
        each, start = self.card.get("load"), self.card.get("start")
        return total([each.times(models * self.everything), start.times(0.25)])

    def start_memory(self) -> Figure:
        """Memory of the host that reads the weights: one copy in float32, and a process a device."""
        here = min(self.devices, 8) if self.card.gpu else 1
        copy = Figure(4.0 * self.everything, "assumed", "one copy of the weights in float32 on the host, at the start")
        return total([self.card.get("process").times(here), copy])

    # --- training ---------------------------------------------------------------------------------------

    def trained(self, settings: Training, number: int) -> list[Figure]:
        """Stage `number` of the plan: its steps, what it trains beside them, and what its processes tell each other."""
        stage, symbols = self.plan.stages[number], self.recipe.model.ears == "symbols"
        moved = stage.positions * (1.0 if settings.llm != "frozen" else 1 - settings.text_share)
        parts = [self._distilled(settings, moved, stage.flops), *self._communication(settings, moved)]
        if settings.ctc_weight and symbols:
            parts.append(self.lower(settings.steps * settings.ctc_batch))
        if symbols:
            parts.append(self.lower(settings.ctc_steps * self.recipe.warm_start.batch))
        if settings.spell_weight:
            runs = settings.steps * settings.spell_batch
            parts += [self.spelled(2 * runs), self.lower_forward(runs * self.piece_s)]
        return parts

    def _distilled(self, settings: Training, positions: float, flops: float) -> Figure:
        own, rest = (f"step {settings.llm} {what}" for what in ("layer", "rest"))
        if self.card.knows(own):
            each = self.measured(own, rest)
            return each.times(positions / self.devices)
        again = 8 / 6 if settings.checkpoint_activations and settings.llm != "frozen" else 1.0
        rate = self.card.get("layer_train")
        source = f"{flops:.1e} operations{' and activations again' * (again > 1)}: {rate.source}"
        return Figure(flops * again / rate.value / self.devices, rate.mark, source)

    def measured(self, layer: str, rest: str) -> Figure:
        """Seconds of one position, of the layers and of everything else, scaled from the model that was measured."""
        of_layers = self.card.get(layer).times(self.layers / MILLION)
        own = (self.adapter + self.tables) / MILLION
        of_rest = self.card.get(rest).times(own)
        return total([of_layers, of_rest])

    def _communication(self, settings: Training, positions: float) -> list[Figure]:
        """What processes send each other: weights and gradients, none of it hidden behind arithmetic."""
        if self.devices == 1:
            return []
        trained = sum(t for _, t in self.plan.parameters.values())
        pack = max(self.recipe.sequence.context, settings.pack_positions)
        packs = max(1.0, positions / settings.steps / pack / self.devices)
        if settings.shard:
            gathers = 2 * packs if settings.reshard else 1.0
            sent = self.layers * (2 * gathers + 4 * (1.0 if settings.reduce_once else packs))
            sent += 8 * max(0, trained - self.layers)
        else:
            sent = 8.0 * trained
        if settings.shard_teacher:
            sent += 2.0 * self.layers * packs
        rate = self.card.get("collective")
        spent = settings.steps * sent * (self.devices - 1) / self.devices / rate.value
        return [Figure(spent, rate.mark, f"collectives, none hidden: {rate.source}")]

    # --- ears in two parts --------------------------------------------------------------------------------

    def lower(self, pieces: float) -> Figure:
        """CTC of the lower part on so many pieces."""
        if self.card.knows("lower piece"):
            return self.card.get("lower piece").times(pieces)
        return self._ears("lower", pieces * self.piece_s, 6.0)

    def lower_forward(self, seconds: float) -> Figure:
        return self.lower(seconds / self.piece_s * FORWARD)

    def spelled(self, runs: float) -> Figure:
        return self._ears("spell", runs * sum(self.recipe.sequence.speech_words) / 2 * SECONDS_PER_WORD, 6.0)

    def _ears(self, name: str, seconds: float, each: float) -> Figure:
        """Measured by the second of what is said, or counted as operations of the whole adapter at 50 positions."""
        if self.card.knows(name):
            return self.card.get(name).times(seconds)
        rate = self.card.get("layer_train")
        return Figure(each * self.adapter * 50 * seconds / rate.value, rate.mark, f"ears: {rate.source}")

    def spelling(self, words: float) -> Figure:
        return Figure(words * SPELLED_WORD_S, "assumed", "words are spelled at 20 thousand a second")

    # --- reading and writing ------------------------------------------------------------------------------

    def read(self, words: float) -> Figure:
        """So many words of text, read once without gradients by one process: M, or a score."""
        return self._looked("read", self.tokens(words))

    def hears(self, words: float) -> Figure:
        """Documents of so many words, interleaved, heard and read once without gradients by one process."""
        return self._looked("hear", words * self.word_positions)

    def _looked(self, how: str, positions: float) -> Figure:
        if self.card.knows(f"{how} layer"):
            return self.measured(f"{how} layer", f"{how} rest").times(positions)
        rate = self.card.get("layer_forward")
        operations = positions * (2.0 * (self.layers + self.adapter) + 2.0 * self.tables)
        return Figure(operations / rate.value, rate.mark, f"{operations:.1e} operations: {rate.source}")

    def written(self, words: float, together: int = 16) -> Figure:
        """Words that a model writes, one position at a time, `together` texts in a batch."""
        if self.card.knows("write layer") and together == 1:
            return self.measured("write layer", "write rest").times(self.tokens(words))
        rate = self.card.get("layer_forward")
        operations = 2.0 * self.tokens(words) * (self.layers + self.tables)
        return Figure(operations / (0.25 * rate.value), "assumed", f"written at a quarter of {rate.source}")
