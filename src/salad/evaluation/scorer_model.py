"""One language model as the scorer sees it: a plain text LLM, or the LLM of a SpeechLM with its ears."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, PreTrainedModel

from salad import assets
from salad.evaluation.prompt import Sound, Start, Unit
from salad.files import read_json
from salad.model.check import load_llm
from salad.model.llm import head_of, use_packed_attention, window_of
from salad.model.modeling import SaladForConditionalGeneration
from salad.model.splice import splice
from salad.objective.head import Head
from salad.types import SaladError


class Reader:
    """Embeds prefixes of tokens and sounds for its LLM; `head` makes logits of that.

    `start`: what opens a prompt (see `prompt.request`); None takes "document" for a SpeechLM, which never read a
    document without its start token, and "tokenizer" for a text LLM, which is what lm-eval does. `bf16` multiplies in
    bfloat16; logits are always formed in float32.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        start: Start | None = None,
        bf16: bool = False,
        name: str = "",
        together: int = 1,
    ) -> None:
        self.model = model.eval()
        self.hears = isinstance(model, SaladForConditionalGeneration)
        self.llm: PreTrainedModel = model.llm if isinstance(model, SaladForConditionalGeneration) else model
        use_packed_attention(self.llm)
        self.tokenizer, self.bf16, self.name = tokenizer, bf16, name
        self.start: Start = start or ("document" if self.hears else "tokenizer")
        self.together = together  # sounds heard in one pass; above 1 their last bits depend on what is beside them
        self.window = window_of(self.llm)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.table.weight.device
        return device

    @property
    def table(self) -> Any:
        return self.llm.get_input_embeddings()

    @cached_property
    def head(self) -> Head:
        """The head in float32: logits in less would blur the scores."""
        return head_of(self.llm).detach().float()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """No gradients, and the precision that was asked for."""
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def embed(self, prefixes: Sequence[Sequence[Unit]]) -> list[torch.Tensor]:
        """[positions, width] of each prefix; a sound that stands in several is heard once."""
        sounds = {unit: None for prefix in prefixes for unit in prefix if isinstance(unit, Sound)}
        heard = dict(zip(sounds, self._hear(list(sounds)), strict=True))
        out = []
        for prefix in prefixes:
            parts: list[Any] = []
            for _, group in itertools.groupby(prefix, lambda unit: isinstance(unit, Sound)):
                units = list(group)
                parts += [heard[unit] for unit in units if isinstance(unit, Sound)] or [units]
            out.append(splice(self.table, parts))
        return out

    def embed_ids(self, ids: Sequence[int]) -> torch.Tensor:
        return splice(self.table, [list(ids)])

    def _hear(self, sounds: Sequence[Sound]) -> list[torch.Tensor]:
        if not sounds:
            return []
        if not self.hears:
            raise SaladError(
                f"model: {self.name or 'this one'} is a text LLM and cannot hear; give a SALAD model's folder"
            )
        out = []
        for at in range(0, len(sounds), self.together):
            some = sounds[at : at + self.together]
            spans = [torch.from_numpy(span).float().to(self.device) for sound in some for span in sound.spans]
            embeddings, lengths = self.model.speech_embeddings(spans)
            parts = iter(embeddings.split(lengths))
            out += [torch.cat(list(itertools.islice(parts, len(sound.spans)))) for sound in some]
        return out

    def plain_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """[L, vocabulary] of one sequence by the model's own forward pass: the reference, and what any LLM can do."""
        logits: torch.Tensor = self.llm(inputs_embeds=embeddings[None], use_cache=False).logits[0]
        return logits.float()


def load_reader(name: str | Path, *, start: Start | None = None, bf16: bool = False, device: str = "cpu") -> Reader:
    """A SALAD model's folder, a text LLM's folder or GGUF, or the name of ears or of an LLM in `salad assets list`."""
    path = assets.model_folder(name)
    if (path / "config.json").is_file() and read_json(path / "config.json").get("model_type") == "salad":
        model: PreTrainedModel = SaladForConditionalGeneration.from_pretrained(path)
        folder = path
    else:
        folder = assets.llm_folder(name)
        model = load_llm(folder)
    cast(Any, model).to(device)  # in place; transformers' wrapper has lost its type
    return Reader(model, AutoTokenizer.from_pretrained(folder), start=start, bf16=bf16, name=str(name))
