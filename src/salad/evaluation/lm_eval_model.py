"""Our model for lm-eval (`pip install 'salad-speech[lm-eval]'`): its text tasks run unchanged, on our scorer.

import salad.evaluation.lm_eval_model
lm_eval.simple_evaluate(model="salad", model_args="pretrained=runs/demo/stage2/model", tasks=["arc_easy"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from salad.evaluation.prompt import Request
from salad.evaluation.score import POSITIONS, score
from salad.evaluation.scorer_model import load_reader
from salad.progress import progress
from salad.sequence.tokens import CLOSE, OPEN, marked, prompt_ids, token_ids
from salad.text.chat import as_it_takes

TEMPLATED = OPEN + CLOSE  # nothing, marked: what a prompt that a chat template wrote begins with
Tokens = tuple[Any, list[int], list[int]]  # what was asked, context, continuation


@register_model("salad")
class SaladLM(HFLM):  # type: ignore[misc]  # lm-eval has no types, and is not there where nobody asks for it
    """A SALAD model's LLM, or any text LLM that `salad eval` takes; log-likelihoods share what contexts share.

    `pretrained`: folder or name. Generation and rolling log-likelihoods are lm-eval's own. As with lm-eval's models,
    no start token stands before a prompt unless the tokenizer puts one there: compare with `salad eval --start
    tokenizer`.
    """

    def __init__(
        self, pretrained: str, *, device: str = "cpu", bf16: bool = False, positions: int = POSITIONS, **kwargs: Any
    ) -> None:
        self.reader = load_reader(pretrained, start="tokenizer", bf16=bf16, device=device or "cpu")
        self.positions = int(positions)
        super().__init__(pretrained=self.reader.llm, tokenizer=self.reader.tokenizer, device=device, **kwargs)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a prompt; control tokens count where a chat template wrote them, else they are characters."""
        asked = self.add_bos_token if add_special_tokens is None else add_special_tokens
        special = asked is None or bool(asked)
        if string.startswith(TEMPLATED):
            ids = prompt_ids(self.tokenizer, string)
            before = token_ids(self.tokenizer, "", special=special)[:1]
            ids = ids if ids[:1] == before or before != [self.tokenizer.bos_token_id] else before + ids
        else:
            ids = token_ids(self.tokenizer, string, special=special)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Any, Any]:
        """`input_ids` and `attention_mask`, int64 [strings, longest], of prompts encoded by `tok_encode`."""
        rows = [self.tok_encode(string, left_truncate_len=left_truncate_len) for string in strings]
        if truncation:
            rows = [row[: self.tokenizer.model_max_length] for row in rows]
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side=padding_side, return_tensors="pt")
        return padded["input_ids"], padded["attention_mask"]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The template's prompt with marks (private-use characters) that tell its control tokens from the data's."""
        said = [{**message, "content": marked(self.tokenizer, message["content"])} for message in chat_history]
        told = as_it_takes(self.tokenizer, said)
        return TEMPLATED + str(super().apply_chat_template(told, add_generation_prompt))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        templated = context.startswith(TEMPLATED)
        told = marked(self.tokenizer, continuation) if templated else continuation
        own, following = super()._encode_pair(context, told)
        return own, following

    def _loglikelihood_tokens(
        self, requests: Sequence[Tokens], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy) of each continuation, in order; requests of one context are one request."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            too_long = len(context) + len(continuation) - self.max_length - 1
            groups.setdefault(tuple(context[max(0, too_long) :]), []).append(index)
        out: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        asked = [Request(prefix, tuple(tuple(requests[i][2]) for i in own)) for prefix, own in groups.items()]
        with progress("log-likelihoods", len(asked), "contexts") as bar:
            scores = score(self.reader, asked, positions=self.positions, advance=bar.advance)
        for own, options in zip(groups.values(), scores, strict=True):
            for index, option in zip(own, options, strict=True):
                out[index] = (option.logprob, option.greedy)
                if requests[index][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], out[index])
        return out
