"""Multiple-choice items from held-out documents: the true next sentence against sentences from elsewhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from salad.text.sentences import ENDS
from salad.types import Document

MIN_OPTION_WORDS, MAX_OPTION_WORDS, MIN_CONTEXT_WORDS = 4, 40, 8


@dataclass(frozen=True)
class NextSentenceItem:
    """`context_words`: first and last + 1 word of the context in document `document_id`."""

    id: str
    document_id: str
    domain: str
    context_words: tuple[int, int]
    context: str
    options: tuple[str, ...]
    answer: int


def build_items(
    documents: Sequence[Document], num_items: int, num_options: int, context_words: int, seed: int
) -> list[NextSentenceItem]:
    """At most `num_items` items, spread over the documents; distractors come from other documents."""
    rng = random.Random(f"{seed}/items")
    nexts: list[tuple[Document, int, int]] = []  # document, first and last + 1 word of a possible answer
    for document in documents:
        for start, end in _sentences(document.words)[1:]:
            if MIN_OPTION_WORDS <= end - start <= MAX_OPTION_WORDS and start >= MIN_CONTEXT_WORDS:
                nexts.append((document, start, end))
    rng.shuffle(nexts)
    seen: dict[str, int] = {}
    spread = []
    for entry in nexts:  # second items of a document come after the first items of all
        spread.append((seen.setdefault(entry[0].id, 0), entry))
        seen[entry[0].id] += 1
    chosen = [entry for _, entry in sorted(spread, key=lambda pair: pair[0])][:num_items]
    items = []
    for document, start, end in chosen:
        others = [o for o in nexts if o[0].id != document.id]
        options = [(document, start, end), *rng.sample(others, min(num_options - 1, len(others)))]
        order = rng.sample(range(len(options)), len(options))
        first = max(0, start - context_words)
        items.append(
            NextSentenceItem(
                id=f"{document.id}:{start}",
                document_id=document.id,
                domain=document.domain,
                context_words=(first, start),
                context=" ".join(document.words[first:start]),
                options=tuple(" ".join(options[i][0].words[options[i][1] : options[i][2]]) for i in order),
                answer=order.index(0),
            )
        )
    return items


def _sentences(words: Sequence[str]) -> list[tuple[int, int]]:
    ends = [i + 1 for i, word in enumerate(words) if ENDS.search(word)]
    if not ends or ends[-1] != len(words):
        ends.append(len(words))
    return list(zip([0, *ends[:-1]], ends, strict=True))
