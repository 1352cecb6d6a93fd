"""A saved model with its processor, as the server asks it: chat messages to the positions that its LLM reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from salad import assets
from salad.evaluation.saved_model import load_saved
from salad.files import JsonObject
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.model.freeze import freeze
from salad.serve.transcript import Segment, words_of
from salad.types import SaladError

DEFAULT_MODEL = "salad-smollm2-135m-ears"
ALIAS = "salad"


class ServedModel:
    """`names`: what a request may call it, the first one listed. `ends`: tokens that end an answer."""

    def __init__(
        self, model: SaladForConditionalGeneration, processor: SaladProcessor, name: str, *, bf16: bool = False
    ) -> None:
        self.model, self.processor, self.names, self.bf16 = model, processor, (name, ALIAS), bf16
        told = model.llm.generation_config.eos_token_id
        ends = [*(told if isinstance(told, list) else [told]), processor.tokenizer.eos_token_id]
        self.ends = frozenset(i for i in [*ends, processor.start_token_id] if i is not None)
        self.context = int(getattr(model.config.llm_config, "max_position_embeddings", None) or 2048)

    @classmethod
    def load(cls, place: str, *, device: str = "cpu", bf16: bool = False) -> ServedModel:
        """An asset of kind "ears", a run directory, or a model's folder. Raises SaladError where it is none of them."""
        folder = Path(place).expanduser()
        if (folder / "stage2" / "model").is_dir():
            folder, name = folder / "stage2" / "model", folder.resolve().name
        elif place in assets.ASSETS:
            folder, name = assets.model_folder(place), place
        else:
            folder, name = assets.model_folder(folder), folder.resolve().name
        model = load_saved(folder).to(device)
        freeze(model, "frozen", bf16=bf16)
        return cls(model, SaladProcessor.from_pretrained(folder), name, bf16=bf16)

    @property
    def rate_hz(self) -> int:
        return self.processor.encoder.sample_rate_hz

    def decode(self, ids: Sequence[int]) -> str:
        return self.processor.decode(ids)

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def prompt(self, messages: Sequence[JsonObject], audio: Sequence[np.ndarray]) -> torch.Tensor:
        """Embeddings [positions, width] of a chat, by the LLM's own template; audio: float32 [num_samples] each.

        Raises SaladError where the template refuses the messages.
        """
        written = self.processor.apply_chat_template(messages)
        read = self.processor(written, audio=audio, add_start=False)
        frames = [f.float().to(self.device) for f in read["frames"]]
        rows = self.model.expand(read["input_ids"].to(self.device), read["attention_mask"].to(self.device), frames)
        if len(rows[0]) >= self.context:
            raise SaladError(
                f"messages: {len(rows[0])} positions, expected less than the {self.context} of the LLM; send less"
            )
        return rows[0]

    def frames(self, spans: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """The encoder's frames of spans of samples, on the model's device."""
        return [torch.from_numpy(f).float().to(self.device) for f in self.processor.encoder.encode(spans)]

    @property
    def tells(self) -> bool:
        """Whether the ears score tokens, so that there is a transcript."""
        return self.model.ctc is not None or self.model.config.ears == "symbols"

    def hear(self, samples: np.ndarray, start_s: float) -> Segment:
        """What the ears hear in one span (float32 [num_samples], at most `MAX_SPAN_S`) that begins at `start_s`."""
        duration_s = len(samples) / self.rate_hz
        heard = self.model.hear(self.frames([samples]))
        assert heard.token_ids is not None and heard.sure is not None and heard.places is not None
        ids, scale = heard.token_ids.tolist(), duration_s / heard.all_lengths[0]
        if self.model.config.rate == "fixed" and self.model.config.ears == "single":  # nothing was dropped yet
            ids = [-1 if i and ids[i - 1] == token else token for i, token in enumerate(ids)]
        times = [(start_s + a * scale, start_s + b * scale) for a, b in heard.places.tolist()]
        words = words_of(self.decode, ids, times, heard.sure.tolist())
        return Segment(start_s, start_s + duration_s, words)
