"""The gap, word by word: what the LLM expects behind a word that it heard, against behind the same word read (M)."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer
import numpy as np
import torch

from salad.audio import split_at_quiet
from salad.files import JsonObject
from salad.measure.hearing import heard_tokens
from salad.model.processor import AUDIO, MAX_SPAN_S
from salad.model.splice import splice
from salad.objective.distill import kl_per_position
from salad.sequence import token_ids
from salad.sequence.tokens import prompt_ids
from salad.serve.errors import ApiError
from salad.serve.served_model import ServedModel
from salad.serve.transcript import grouped
from salad.text.normalise import normalise


def cost_of_words(served: ServedModel, samples: np.ndarray, said: str) -> list[JsonObject]:
    """For each word of `said`: the word that was heard in its place (None: none was), and KL(read || heard) in nats of
    the next token behind the two, both in the prompt of a chat (eq. 2, at the spoken words themselves).

    samples: float32 [num_samples]; said: one word at least. Raises ApiError where one of the two is more than the LLM
    reads.
    """
    model, processor = served.model, served.processor
    written, add_start = processor.turns([{"role": "user", "content": [{"type": "audio"}]}])
    before, after = written.marked.split(AUDIO, 1)
    before_ids, after_ids = prompt_ids(processor.tokenizer, before), prompt_ids(processor.tokenizer, after, after=True)
    before_ids = [processor.start_token_id] * add_start + before_ids
    around = len(before_ids) + len(after_ids)
    said_ids = token_ids(processor.tokenizer, said)
    _check(served, around + len(said_ids), "said")
    heard = model.hear(served.frames(split_at_quiet(samples, served.rate_hz, MAX_SPAN_S)))
    _check(served, around + len(heard.embeddings), "audio.data")
    assert heard.token_ids is not None
    table = model.get_input_embeddings()
    rows = [splice(table, [before_ids, part, after_ids]) for part in (heard.embeddings, said_ids)]
    hidden = model.hidden_states(torch.cat(rows), [0, len(rows[0]), len(rows[0]) + len(rows[1])])
    heard_words, at = [], 0
    for span in heard.token_ids.split(heard.lengths):
        ids = heard_tokens(model, span.tolist())
        heard_words += [(text, at + _sounded(served, ids, own)) for text, own in grouped(served.decode, ids)]
        at += len(span)
    said_words = [(text, _sounded(served, said_ids, own)) for text, own in grouped(served.decode, said_ids)]
    pairs = pair_words([text for text, _ in said_words], [text for text, _ in heard_words])
    both = [(i, j) for i, j in enumerate(pairs) if j is not None]
    costs: dict[int, float] = {}
    if both:
        ears = torch.tensor([len(before_ids) + heard_words[j][1] for _, j in both])
        eyes = torch.tensor([len(rows[0]) + len(before_ids) + said_words[i][1] for i, _ in both])
        nats = kl_per_position(model.head.logits(hidden[eyes]), model.head.logits(hidden[ears])).tolist()
        costs = {i: round(value, 4) for (i, _), value in zip(both, nats, strict=True)}
    return [
        {"word": text, "heard": None if (j := pairs[i]) is None else heard_words[j][0], "m": costs.get(i)}
        for i, (text, _) in enumerate(said_words)
    ]


def _check(served: ServedModel, positions: int, param: str) -> None:
    if positions >= served.context:
        message = f"{param}: {positions} positions in its prompt, expected less than the {served.context} of the LLM"
        raise ApiError(400, f"{message}; send less", param, "context_length_exceeded")


def _sounded(served: ServedModel, ids: Sequence[int], own: Sequence[int]) -> int:
    """The last place of a word that is no punctuation, which nobody hears."""
    return next((i for i in reversed(own) if any(c.isalnum() for c in served.decode([ids[i]]))), own[-1])


def pair_words(said: Sequence[str], heard: Sequence[str]) -> list[int | None]:
    """For each word that was said the place of the one heard for it, by the fewest edits; None where it was missed."""
    pairs: list[int | None] = [None] * len(said)
    if not said or not heard:
        return pairs
    plain = [" ".join(normalise(word).replace(" ", "") or "-" for word in words) for words in (said, heard)]
    for chunk in jiwer.process_words(plain[0], plain[1]).alignments[0]:
        if chunk.type in ("equal", "substitute"):
            for n, place in enumerate(range(chunk.ref_start_idx, chunk.ref_end_idx)):
                pairs[place] = chunk.hyp_start_idx + n
    return pairs
