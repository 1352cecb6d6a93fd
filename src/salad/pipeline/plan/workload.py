"""How much work a recipe is, before any of it is done: documents, words, seconds of speech of every stage."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from salad.assets import ASSETS, is_cached
from salad.config import Recipe
from salad.data.prepared import chosen_documents, read_prepared
from salad.evaluation.benchmark_task import find_task, load_items
from salad.pipeline.corpus_needs import heldout_voices
from salad.training.estimate import SECONDS_PER_WORD, TOKENS_PER_WORD

PAPER_HOURS = 141_612.0  # of narrow speech, arXiv 2510.13632
OWN_DOCUMENT_S = 215.0  # what the ingest joins recordings to (context 2048 at 12.5 Hz)
WEB_WORDS = 380.0  # of a broad document: 512 tokens
WRITTEN = 0.85  # of corpus.max_new_tokens
DOMAINS = 16  # that the teacher writes of
DOCUMENTS = 1_000_000  # of broad text where `max_documents` does not say


@dataclass(frozen=True)
class Amount:
    """Documents, their words, and seconds of speech."""

    documents: float = 0.0
    words: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of_words(cls, documents: float, words: float, pace: float) -> Amount:
        """So many documents of `words` words each, said aloud at `pace` seconds a word."""
        return cls(documents, documents * words, documents * words * pace)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.documents + other.documents, self.words + other.words, self.seconds + other.seconds)

    def times(self, share: float) -> Amount:
        return Amount(self.documents * share, self.words * share, self.seconds * share)


@dataclass(frozen=True)
class Workload:
    """own: recordings that are read; told: D_speech that voices say; spoken: of `heldout`, what voices must say.

    narrow: all of D_speech. heldout: all recordings that are measured on. plain: text against forgetting.
    source: where the hours come from, in words.
    """

    own: Amount
    told: Amount
    heldout: Amount
    spoken: Amount
    web: Amount
    plain: Amount
    probe: Amount
    bought: Amount
    domains: float
    source: str

    @property
    def narrow(self) -> Amount:
        return self.own + self.told


def workload(recipe: Recipe, speech_hours: float | None = None, pace: float = SECONDS_PER_WORD) -> Workload:
    """speech_hours: of the recipe's own recordings; None: their `max_hours`, or the paper's hours. pace: seconds that
    its voices take for a word."""
    corpus, counted = recipe.corpus, "counts of the recipe"
    of_words = functools.partial(Amount.of_words, pace=pace)
    words = WRITTEN * corpus.max_new_tokens / TOKENS_PER_WORD
    told = of_words(corpus.speech_documents, words)
    heldout = of_words(corpus.heldout_per_domain * DOMAINS, words)
    web, domains = Amount(), float(DOMAINS)
    voices = len(corpus.unseen_voices)
    heldout += of_words(corpus.unseen_documents * voices, words)
    spoken = heldout
    if corpus.prepared and (corpus.prepared not in ASSETS or is_cached(corpus.prepared)):
        told, web, heldout, spoken, domains = _prepared(recipe, pace)
        counted = "counted in the prepared corpus"
    elif corpus.web_documents_per_topic:
        web = of_words(corpus.web_documents_per_topic * 40 * DOMAINS, words)
    for text in corpus.text:
        web += of_words(text.max_documents or DOCUMENTS, WEB_WORDS)
    said = of_words(corpus.heldout_text, WEB_WORDS)
    said += of_words(min(corpus.unseen_documents, corpus.heldout_text) * voices, WEB_WORDS)
    heldout, spoken = heldout + said, spoken + said
    own = Amount()
    if corpus.own_speech:
        limits = [data.max_hours for data in corpus.own_speech]
        hours = speech_hours or (sum(filter(None, limits)) if all(limits) else PAPER_HOURS)
        if not speech_hours:
            told_by = "max_hours of the recipe" if all(limits) else "the paper's 141,612 h: give --speech-hours"
            counted = f"{counted}; {told_by}"
        own = Amount(hours * 3600 / OWN_DOCUMENT_S, hours * 3600 / SECONDS_PER_WORD, hours * 3600)  # of people's pace
        back = min(corpus.heldout_documents * len(corpus.own_speech), corpus.heldout_share * own.documents)
        heldout += Amount.of_words(back, OWN_DOCUMENT_S / SECONDS_PER_WORD, SECONDS_PER_WORD)
    each = web.words / max(1.0, web.documents)
    first = of_words(recipe.cluster.k * recipe.probe.documents, each)
    probe = first.times(max(1.0, recipe.probe.max_seconds / max(1.0, first.seconds)))  # looks go on to the cap
    narrow_s = own.seconds + told.seconds
    seconds = recipe.select.budget_share * narrow_s
    bought = Amount(seconds / max(1.0, each * pace), seconds / pace, seconds)
    return Workload(own, told, heldout, spoken, web, _plain_text(recipe), probe, bought, domains, counted)


def _prepared(recipe: Recipe, pace: float) -> tuple[Amount, Amount, Amount, Amount, float]:
    """(D_speech, D_web, held-out recordings, those of them that must be spoken, domains) of a prepared corpus; what is
    recorded lasts as long as it does."""
    corpus, prepared = recipe.corpus, read_prepared(recipe.corpus.prepared)
    groups = chosen_documents(prepared, corpus, recipe.seed)
    sizes = {name: [len(d.words) for d in own] for name, own in groups.items()}
    told, web = (
        Amount.of_words(len(own), sum(own) / max(1, len(own)), pace) for own in (sizes["speech"], sizes["web"])
    )
    heldout, ready = (
        groups["heldout"],
        {one.reading: one.utterance.duration_s for one in prepared.recordings},
    )
    wanted = heldout_voices(corpus, heldout)
    every, missing = (
        Amount(
            len(own),
            float(sum(len(d.words) for d, _ in own)),
            sum(ready.get((d.id, voice), len(d.words) * pace) for d, voice in own),
        )
        for own in (wanted, [(d, voice) for d, voice in wanted if (d.id, voice) not in ready])
    )
    return told, web, every, missing, float(len({d.domain for d in heldout}))


def _plain_text(recipe: Recipe) -> Amount:
    """Text against forgetting that is kept on the disk: what both stages read of it."""
    if not recipe.corpus.plain_text:
        return Amount()
    tokens = sum(stage.steps * stage.positions * stage.text_share for stage in (recipe.stage1, recipe.stage2))
    return Amount(tokens / TOKENS_PER_WORD / WEB_WORDS, tokens / TOKENS_PER_WORD)


def task_words(recipe: Recipe) -> tuple[float, float, float]:
    """(words of the questions, of all their choices, number) of the items of `evaluate.tasks`: counted where the items
    are part of the package, else assumed."""
    questions, choices, number = 0.0, 0.0, 0.0
    for task, path in map(find_task, recipe.evaluate.tasks):
        place = path or (task.folder / task.source.path if task.source.path else None)
        loaded = load_items(task, path) if place and place.is_file() else None
        if loaded is None:
            questions, choices, number = questions + 1000 * 25.0, choices + 1000 * 30.0, number + 1000
            continue
        questions += sum(len(item.context.split()) for item in loaded.items)
        choices += sum(len(choice.split()) for item in loaded.items for choice in item.choices)
        number += len(loaded.items)
    return questions, choices, number
