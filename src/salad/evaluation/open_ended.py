"""Open-ended answers from speech against answers from text: overlap with a reference, or with each other, and the
divergence of the two answer distributions where there is no reference."""

from __future__ import annotations

import inspect
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from salad.model.cache_check import goes_on
from salad.model.llm import require_positions
from salad.model.modeling import SaladForConditionalGeneration
from salad.objective.distill import kl_per_position


def normalise_answer(text: str) -> str:
    """SQuAD's: lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016, evaluate-v1.1)."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer equals a reference after `normalise_answer`, else 0."""
    return float(any(normalise_answer(answer) == normalise_answer(reference) for reference in references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """The best F1 of the answer's words against a reference's; two empty ones agree."""
    own = normalise_answer(answer).split()
    return max((_f1(own, normalise_answer(reference).split()) for reference in references), default=0.0)


def _f1(one: list[str], other: list[str]) -> float:
    if not one or not other:
        return float(one == other)
    same = sum((Counter(one) & Counter(other)).values())
    return 2 * same / (len(one) + len(other))


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. top_k 0: greedy. The paper's appendix samples with top-k 250 and temperature 0.7."""

    max_new_tokens: int = 64
    top_k: int = 0
    temperature: float = 0.7
    seed: int = 0


class _Draw(LogitsProcessor):
    """Leaves one token per row: the draw among the top k, by Gumbel's trick with a generator of the row's own.

    torch's own sampling would draw all rows from one stream, so an answer would depend on what it was batched with.
    """

    def __init__(self, sampling: Sampling, indices: Sequence[int]) -> None:
        self.sampling = sampling
        self.generators = [torch.Generator().manual_seed(sampling.seed * 1_000_003 + i) for i in indices]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        top, ids = scores.float().topk(min(self.sampling.top_k, scores.shape[-1]), dim=-1)
        noise = torch.stack([torch.rand(top.shape[-1], generator=g, dtype=torch.float64) for g in self.generators])
        gumbel = -(-noise.clamp(1e-300, 1 - 1e-16).log()).log()
        chosen = (top.double().cpu() / self.sampling.temperature + gumbel).argmax(-1, keepdim=True)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, ids.gather(1, chosen.to(ids.device)), 0.0)


@torch.no_grad()
def answer(
    model: SaladForConditionalGeneration,
    prompts: Sequence[torch.Tensor],
    sampling: Sampling,
    end_ids: Sequence[int],
    indices: Sequence[int] | None = None,
) -> list[list[int]]:
    """Token ids of the answer to each prompt (embeddings [length, width]), without the token that ended it.

    `indices` number the prompts for the draw (default: 0, 1, ...): the same number and seed draw alike in any batch.
    An LLM with states of its own, into which padding might run, writes them one by one.
    """
    if len(prompts) > 1 and not goes_on(model.llm):
        each = zip(prompts, indices or range(len(prompts)), strict=True)
        return [answer(model, [prompt], sampling, end_ids, [index])[0] for prompt, index in each]
    longest = max(len(prompt) for prompt in prompts)
    _require_room(model, longest, sampling.max_new_tokens)
    device = prompts[0].device
    embeds = torch.stack([torch.nn.functional.pad(p, (0, 0, longest - len(p), 0)) for p in prompts])
    mask = torch.stack([(torch.arange(longest, device=device) >= longest - len(p)).long() for p in prompts])
    draw = [_Draw(sampling, indices or range(len(prompts)))] if sampling.top_k else []
    out = cast(Any, model.llm).generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_k=None,
        top_p=None,
        eos_token_id=list(end_ids) or None,
        pad_token_id=end_ids[0] if end_ids else 0,
        suppress_tokens=model.silent_ids or None,
        logits_processor=LogitsProcessorList(draw),
    )
    answers = []
    for row in out.tolist():
        stop = next((i for i, token in enumerate(row) if token in end_ids), len(row))
        answers.append(row[:stop])
    return answers


@torch.no_grad()
def answer_alike(
    model: SaladForConditionalGeneration, prompts: Sequence[torch.Tensor], max_new_tokens: int, end_ids: Sequence[int]
) -> list[list[int]]:
    """The greedy answers of `answer`; what all prompts begin with is read once for all of them, where the LLM can."""
    if not goes_on(model.llm):
        return answer(model, prompts, Sampling(max_new_tokens), end_ids)
    _require_room(model, max(map(len, prompts)), max_new_tokens)
    decoder, device = model.decoder(), prompts[0].device
    takes_positions = "position_ids" in inspect.signature(decoder.forward).parameters
    least = min(map(len, prompts))
    same = torch.stack([(prompt[:least] == prompts[0][:least]).all(-1) for prompt in prompts]).all(0)
    begun = min(int(same.long().cumprod(0).sum()), least - 1)
    shared, cache = DynamicCache(), DynamicCache()
    if begun:
        decoder(inputs_embeds=prompts[0][None, :begun], past_key_values=shared, use_cache=True)
        every: Any = shared.layers  # each has keys and values
        for i, layer in enumerate(every):
            cache.update(*(part.repeat(len(prompts), 1, 1, 1) for part in (layer.keys, layer.values)), i)
    rest = [prompt[begun:] for prompt in prompts]
    longest = max(map(len, rest))
    pads = torch.tensor([longest - len(own) for own in rest], device=device)
    embeds = torch.stack([torch.nn.functional.pad(own, (0, 0, longest - len(own), 0)) for own in rest])
    places = torch.arange(begun + longest, device=device)
    mask = ((places < begun) | (places >= begun + pads[:, None])).long()
    positions = (places[begun:] - pads[:, None]).clamp(min=0)
    answers: list[list[int]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    for _ in range(max_new_tokens):
        out = decoder(
            inputs_embeds=embeds,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **({"position_ids": positions} if takes_positions else {}),
        )
        logits = model.head.logits(out.last_hidden_state[:, -1])
        logits[:, model.silent_ids] = -torch.inf
        ids = logits.argmax(-1)
        going -= {i for i in going if int(ids[i]) in end_ids}
        for i in going:
            answers[i].append(int(ids[i]))
        if not going:
            break
        embeds = model.get_input_embeddings()(ids[:, None])
        mask, positions = torch.nn.functional.pad(mask, (0, 1), value=1), positions[:, -1:] + 1
    return answers


def _require_room(model: SaladForConditionalGeneration, prompt: int, max_new_tokens: int) -> None:
    """The last token of an answer is written, and not read."""
    what, cure = f"a prompt of {prompt} and max_new_tokens={max_new_tokens}", "ask for fewer tokens, or send less"
    require_positions(model.llm, prompt + max_new_tokens - 1, what, cure)


@torch.no_grad()
def answer_divergence(
    model: SaladForConditionalGeneration,
    reference: Sequence[torch.Tensor],
    other: Sequence[torch.Tensor],
    answers: Sequence[Sequence[int]],
    end_id: int | None = None,
) -> list[tuple[float, int]]:
    """(summed KL in nats, tokens) of each answer: KL(model after `reference` || model after `other`) at its tokens.

    reference, other: two prompts of each item as embeddings [length, width], its answer behind each of them. With
    `end_id` the choice to end there counts too, so that an empty answer has one token. Documents are packed.
    """
    table, head = model.get_input_embeddings(), model.head.float()
    out = []
    for first, second, ids in zip(reference, other, answers, strict=True):
        count = len(ids) + (end_id is not None)
        if not count:
            out.append((0.0, 0))
            continue
        tokens = table(torch.tensor(list(ids), dtype=torch.long, device=first.device)).to(first.dtype)
        packed, starts = torch.cat([first, tokens, second, tokens]), [0, len(first) + len(ids)]
        hidden = model.hidden_states(packed, [*starts, starts[1] + len(second) + len(ids)])
        at = [torch.arange(count, device=first.device) + begin + len(prompt) - 1
              for begin, prompt in zip(starts, (first, second), strict=True)]  # fmt: skip
        logits = [head.logits(hidden[rows]) for rows in at]
        out.append((float(kl_per_position(*logits).sum()), count))
    return out
