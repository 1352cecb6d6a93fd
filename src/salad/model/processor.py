"""Text and audio in, `input_ids` and `frames` out; a chat template whose messages may hold audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

from salad.audio import read_audio, split_at_quiet
from salad.files import read_json, write_json
from salad.model.encoders.load import Encoder, load_encoder
from salad.types import SaladError

__all__ = ["AUDIO", "SaladProcessor"]

AUDIO = "<|audio|>"
MAX_SPAN_S = 6.0
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    + AUDIO
    + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class SaladProcessor(ProcessorMixin):
    """Runs the frozen encoder and the tokenizer. Audio: a path, or float32 samples at `sample_rate_hz`."""

    def __init__(self, tokenizer: Any, encoder: Encoder | str, audio_token_id: int, start_token_id: int) -> None:
        self.tokenizer = tokenizer
        self.encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
        self.audio_token_id = audio_token_id
        self.start_token_id = start_token_id
        self.chat_template = tokenizer.chat_template and CHAT_TEMPLATE

    def __call__(
        self,
        text: str | Sequence[str],
        audio: Sequence[str | Path | np.ndarray] = (),
        *,
        add_start: bool = True,
        **kwargs: Any,
    ) -> BatchFeature:
        """`<|audio|>` in `text` stands for one recording each, in order. Padding is on the left.

        A recording longer than a training span (6 s) becomes several spans, cut at its quietest moments.

        Returns input_ids, attention_mask int64 [batch, longest] and frames, a list of [num_frames, frame_dim].
        """
        texts = [text] if isinstance(text, str) else list(text)
        if sum(t.count(AUDIO) for t in texts) != len(audio):
            raise SaladError(f"audio: {len(audio)} recordings for {sum(t.count(AUDIO) for t in texts)} {AUDIO} in text")
        parts = [split_at_quiet(self._samples(a), self.encoder.sample_rate_hz, MAX_SPAN_S) for a in audio]
        spans_left = [len(part) for part in parts]
        rows = [self._ids(t, add_start, spans_left) for t in texts]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.start_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = 1
        frames = [torch.from_numpy(f) for f in self.encoder.encode([span for part in parts for span in part])]
        return BatchFeature({"input_ids": ids, "attention_mask": mask, "frames": frames})

    def _ids(self, text: str, add_start: bool, spans_left: list[int]) -> list[int]:
        ids = [self.start_token_id] if add_start else []
        for i, piece in enumerate(text.split(AUDIO)):
            if i:
                ids += [self.audio_token_id] * spans_left.pop(0)
            ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return ids

    def _samples(self, audio: str | Path | np.ndarray) -> np.ndarray:
        if isinstance(audio, np.ndarray):
            return audio.astype(np.float32, copy=False)
        return read_audio(audio, self.encoder.sample_rate_hz)[0]

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return self.tokenizer.decode(ids, **{"skip_special_tokens": True, **kwargs})

    def batch_decode(self, ids: Any, **kwargs: Any) -> list[str]:
        return [self.decode(row, **kwargs) for row in ids]

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """One prompt for `__call__(..., add_start=False)`; audio parts are {"type": "audio"}."""
        return self.tokenizer.apply_chat_template(
            list(messages), chat_template=CHAT_TEMPLATE, add_generation_prompt=add_generation_prompt, tokenize=False
        )

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        self.tokenizer.save_pretrained(folder)
        settings = {
            "processor_class": "SaladProcessor",
            "encoder": self.encoder.name,
            "audio_token_id": self.audio_token_id,
            "start_token_id": self.start_token_id,
        }
        write_json(Path(folder) / "processor_config.json", settings)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> SaladProcessor:
        settings = read_json(Path(folder) / "processor_config.json")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(tokenizer, settings["encoder"], settings["audio_token_id"], settings["start_token_id"])
