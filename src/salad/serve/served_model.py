"""A saved model with its processor, as the server asks it: chat messages to the positions that its LLM reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from salad import assets
from salad.evaluation.saved_model import load_saved, model_place
from salad.files import JsonObject
from salad.measure.hearing import heard_tokens
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.model.cache_check import require_going_on
from salad.model.ends import ends_of
from salad.model.freeze import freeze
from salad.model.llm import window_of
from salad.model.splice import splice
from salad.serve.transcript import Segment, words_of
from salad.types import SaladError

DEFAULT_MODEL = "salad-smollm2-135m-ears"
ALIAS = "salad"
CHARACTERS = 64  # a position of the LLM: text of more is refused before it is tokenised
RECORDINGS = 64  # of one request: the ears take as long for a moment of sound as for seconds


@dataclass(frozen=True)
class SpanEmbeddings:
    """A span as the LLM reads it [positions, width], and in words; None where the ears score no tokens."""

    embeddings: torch.Tensor
    segment: Segment | None


class ServedModel:
    """`names`: what a request may call it, the first one listed. `ends`: tokens that end an answer."""

    def __init__(
        self, model: SaladForConditionalGeneration, processor: SaladProcessor, name: str, *, bf16: bool = False
    ) -> None:
        self.model, self.processor, self.names, self.bf16 = model, processor, (name, ALIAS), bf16
        self.ends = frozenset(ends_of(model, processor))
        self.context = window_of(model.llm)

    @classmethod
    def load(cls, place: str, *, device: str = "cpu", bf16: bool = False) -> ServedModel:
        """An asset of kind "ears", a run directory, a model's folder, or OWNER/NAME on the hub. Raises SaladError where
        it is none of them, or its LLM writes from more than keys and values."""
        named = place in assets.ASSETS or assets.is_hub_name(place)
        name = place if named else Path(place).expanduser().resolve().name
        folder = assets.model_folder(model_place(place))
        model = load_saved(folder).to(device)
        require_going_on(model.llm, name)
        freeze(model, "frozen", bf16=bf16)
        processor = SaladProcessor.from_pretrained(folder)
        processor.ears = None  # the model expands its prompts itself; counting would have the ears hear twice
        return cls(model, processor, name, bf16=bf16)

    @property
    def rate_hz(self) -> int:
        return self.processor.encoder.sample_rate_hz

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.processor.decode(ids))

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def prompt(
        self,
        messages: Sequence[JsonObject],
        audio: Sequence[np.ndarray | list[torch.Tensor]],
        *,
        goes_on: bool = False,
    ) -> torch.Tensor:
        """Embeddings [positions, width] of a chat, as `SaladProcessor.turns` writes it; audio: float32 [num_samples]
        each, or the embeddings of its spans where it was heard before. goes_on: only up to where further spans of the
        last recording will stand, which may have none yet.

        Raises SaladError where the template refuses the messages, and for more than the LLM reads.
        """
        if (fresh := sum(not isinstance(a, list) for a in audio)) > RECORDINGS:
            raise SaladError(f"messages: {fresh} recordings, expected at most {RECORDINGS}; send fewer")
        written, add_start = self.processor.turns(messages)
        table = self.model.get_input_embeddings()
        heard = [a if isinstance(a, list) else self._features(a) for a in audio]
        if goes_on:
            heard[-1] = [*heard[-1], table.weight.new_zeros(0, table.weight.shape[1])]
        ids = self.processor(written, audio=heard, add_start=add_start)["input_ids"][0]
        at = (ids == self.processor.audio_token_id).nonzero().flatten().tolist()
        first, *rest = ids.to(self.device).tensor_split(at)
        spans = [span for recording in heard for span in recording]
        positions = len(ids) - len(at) + sum(map(len, spans))
        if positions >= self.context:
            raise SaladError(
                f"messages: {positions} positions, expected less than the {self.context} of the LLM; send less"
            )
        parts = [part for span, text in zip(spans, rest, strict=True) for part in (span, text[1:])]
        return splice(table, [first, *(parts[:-1] if goes_on else parts)])

    def _features(self, samples: np.ndarray) -> list[torch.Tensor]:
        return self.model.get_audio_features([f.float().to(self.device) for f in self.processor.frames_of(samples)])

    def frames(self, spans: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """The encoder's frames of spans of samples, on the model's device."""
        return [torch.from_numpy(f).float().to(self.device) for f in self.processor.encoder.encode(spans)]

    @property
    def tells(self) -> bool:
        """Whether the ears score tokens, so that there is a transcript."""
        return self.model.ctc is not None or self.model.config.ears == "symbols"

    def hear(self, samples: np.ndarray, start_s: float) -> Segment:
        """What `listen` gives in words, of ears that tell."""
        segment = self.listen(samples, start_s).segment
        assert segment is not None
        return segment

    def listen(self, samples: np.ndarray, start_s: float) -> SpanEmbeddings:
        """One span (float32 [num_samples], at most `MAX_SPAN_S`) that begins at `start_s`."""
        duration_s = len(samples) / self.rate_hz
        heard = self.model.hear(self.frames([samples]))
        if heard.token_ids is None or heard.sure is None or heard.places is None:
            return SpanEmbeddings(heard.embeddings, None)
        ids, scale = heard_tokens(self.model, heard.token_ids.tolist()), duration_s / max(1, heard.all_lengths[0])
        times = [(start_s + a * scale, start_s + b * scale) for a, b in heard.places.tolist()]
        words = words_of(self.decode, ids, times, heard.sure.tolist())
        return SpanEmbeddings(heard.embeddings, Segment(start_s, start_s + duration_s, words))
