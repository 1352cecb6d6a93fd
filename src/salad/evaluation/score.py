"""Log-probabilities of options after a prefix of text and speech; what prefixes share is read once.

Options are branches of their prefix in one packed forward pass, so a prefix is read once for all its options; what all
requests begin with (few-shot examples) is read once for all of them, and kept as keys and values that are only read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from salad.evaluation.prompt import Request, Unit
from salad.evaluation.scorer_model import Reader
from salad.model.attention import Head, read_head
from salad.model.llm import decoder_of, hidden_states, packs, rope_limit
from salad.sequence import best_fit
from salad.types import Result

POSITIONS = 4096  # in one forward pass
MIN_HEAD = 16  # a shorter common beginning is not worth keeping
WINDOW = 1024  # requests whose prefixes are held embedded at a time
ROWS = 128  # of logits at a time: 128 x 49,152 floats stay under what a C library maps anew
Branches = tuple[torch.Tensor, Sequence[Sequence[int]]]  # a prefix [L, width], and token ids of its options


@dataclass(frozen=True)
class OptionScore:
    """logprob: summed over the option's tokens, in nats. greedy: whether each token was the likeliest one."""

    logprob: float
    num_tokens: int
    greedy: bool


def per_token(name: str, answer: int, options: Sequence[OptionScore]) -> Result:
    """An item's Result by nats per token of each option, `acc_token` of `salad eval`; answer: the right one's index."""
    return Result(name, answer, tuple(option.logprob / option.num_tokens for option in options))


def score(
    reader: Reader,
    requests: Sequence[Request],
    *,
    positions: int = POSITIONS,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[OptionScore, ...]]:
    """Scores of each request's options. `positions`: budget of one forward pass; `advance` is told of requests done."""
    tell = advance or (lambda _: None)
    if not packs(reader.llm):  # packed documents do not give what this LLM gives alone
        return score_one_by_one(reader, requests, advance=tell)
    out: list[tuple[OptionScore, ...]] = []
    with reader.reading():
        same_angles = rope_limit(reader.llm) is None  # else those of what all begin with depend on what follows
        common = _common([request.prefix for request in requests]) if same_angles else ()
        head = None
        if common:
            [shared] = reader.embed([common])
            head = read_head(decoder_of(reader.llm), shared)
        for start in range(0, len(requests), WINDOW):
            window = requests[start : start + WINDOW]
            prefixes = reader.embed([request.prefix[len(common) :] for request in window])
            sizes = [
                len(prefix) + sum(len(option) - 1 for option in request.options)
                for prefix, request in zip(prefixes, window, strict=True)
            ]
            found: dict[int, tuple[OptionScore, ...]] = {}
            for pack in best_fit(sizes, max([positions, *sizes])):
                scores = _score_pack(reader, [(prefixes[i], window[i].options) for i in pack], head)
                found |= dict(zip(pack, scores, strict=True))
                tell(len(pack))
            out += [found[i] for i in range(len(window))]
    return out


def score_one_by_one(
    reader: Reader, requests: Sequence[Request], *, advance: Callable[[int], None] | None = None
) -> list[tuple[OptionScore, ...]]:
    """The reference: one plain forward pass over prefix and option for every option.

    Not by log_softmax: on a CPU its float32 sum over 49,152 tokens is off by 1e-5 nats a token, always to one side.
    """
    out = []
    with reader.reading():
        for request in requests:
            [prefix] = reader.embed([request.prefix])
            scores = []
            for option in request.options:
                logits = reader.plain_logits(torch.cat([prefix, reader.embed_ids(option[:-1])]))[len(prefix) - 1 :]
                ids = torch.tensor(option, device=logits.device)
                chosen = (logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1)).double()
                scores.append(OptionScore(float(chosen.sum()), len(option), bool((logits.argmax(-1) == ids).all())))
            out.append(tuple(scores))
            if advance:
                advance(1)
    return out


def _common(prefixes: Sequence[Sequence[Unit]]) -> tuple[Unit, ...]:
    """What all prefixes begin with, where that is worth keeping; each keeps a unit of its own behind it."""
    if len(prefixes) < 2:
        return ()
    first, last = min(prefixes, key=_order), max(prefixes, key=_order)  # in order, the two that differ earliest
    most = min(map(len, prefixes)) - 1
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    number = min(same, most)
    return tuple(first[:number]) if number >= MIN_HEAD else ()


def _order(prefix: Sequence[Unit]) -> list[tuple[bool, str | int]]:
    return [(False, unit) if isinstance(unit, int) else (True, unit.key) for unit in prefix]


def _score_pack(reader: Reader, items: Sequence[Branches], head: Head | None = None) -> list[tuple[OptionScore, ...]]:
    """One packed forward pass: each prefix once, behind it its options, which see the prefix and themselves.

    An option's last token predicts nothing that is asked for, so it is not read: an option of one token costs nothing.
    """
    parts: list[torch.Tensor] = []
    starts, prefixes = [0], []
    rows: list[int] = []  # where each option token is predicted, over all options
    for prefix, options in items:
        at = (starts[-1], starts[-1] + len(prefix))
        parts.append(prefix)
        starts.append(at[1])
        prefixes.append((0, 0))
        for option in options:
            rows += [at[1] - 1, *range(starts[-1], starts[-1] + len(option) - 1)]
            if len(option) > 1:
                parts.append(reader.embed_ids(option[:-1]).to(prefix.dtype))
                starts.append(starts[-1] + len(option) - 1)
                prefixes.append(at)
    targets = torch.tensor([i for _, options in items for option in options for i in option])
    hidden = hidden_states(reader.llm, torch.cat(parts), starts, prefixes, head)
    chosen, likeliest = _predictions(reader, hidden, torch.tensor(rows), targets)
    out, done = [], 0
    for _, options in items:
        scores = []
        for option in options:
            own = slice(done, done + len(option))
            scores.append(
                OptionScore(float(chosen[own].sum()), len(option), bool((likeliest[own] == targets[own]).all()))
            )
            done += len(option)
        out.append(tuple(scores))
    return out


def _predictions(
    reader: Reader, hidden: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target at its row of `hidden`, float64, and the likeliest token there; on the CPU.

    A prefix's last position predicts the first token of all its options: its logits are formed once.
    """
    unique, index = rows.unique(return_inverse=True)
    chosen = torch.empty(len(rows), dtype=torch.float64)
    likeliest = torch.empty(len(rows), dtype=torch.long)
    for start in range(0, len(unique), ROWS):
        logits = reader.head.logits(hidden[unique[start : start + ROWS].to(hidden.device)])
        own = ((index >= start) & (index < start + ROWS)).nonzero()[:, 0]
        local = (index[own] - start).to(logits.device)
        picked = logits[local, targets[own].to(logits.device)] - logits.logsumexp(-1)[local]
        chosen[own] = picked.double().cpu()
        likeliest[own] = logits.argmax(-1)[local].cpu()
    return chosen, likeliest
