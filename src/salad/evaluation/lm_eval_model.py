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

__all__ = ["SaladLM"]

Tokens = tuple[Any, list[int], list[int]]  # what was asked, context, continuation


@register_model("salad")
class SaladLM(HFLM):
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
