"""Text and audio in, `input_ids` and `frames` out; the LLM's own chat template, whose messages may hold audio."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

from salad.audio import read_audio, split_at_quiet
from salad.files import read_json, write_json
from salad.model.encoders.load import Encoder, load_encoder
from salad.sequence.tokens import OPEN, marked, prompt_ids, token_ids, unmarked
from salad.types import SaladError

__all__ = ["AUDIO", "ChatPrompt", "SaladProcessor"]

AUDIO = "<|audio|>"
HEARD = re.compile(f"(?<!{OPEN}){re.escape(AUDIO)}")  # one that no user wrote
MAX_SPAN_S = 6.0
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ChatPrompt(str):
    """A prompt as a chat template wrote it, whose control tokens count; `marked` tells them from those of the user."""

    marked: str

    def __new__(cls, marked_text: str) -> ChatPrompt:
        made = super().__new__(cls, unmarked(marked_text))
        made.marked = marked_text
        return made


class SaladProcessor(ProcessorMixin):
    """Runs the frozen encoder and the tokenizer. Audio: a path, or float32 samples at `sample_rate_hz`."""

    def __init__(self, tokenizer: Any, encoder: Encoder | str, audio_token_id: int, start_token_id: int) -> None:
        self.tokenizer = tokenizer
        self.encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
        self.audio_token_id = audio_token_id
        self.start_token_id = start_token_id
        self.chat_template = tokenizer.chat_template or CHAT_TEMPLATE

    def __call__(
        self,
        text: str | Sequence[str],
        audio: Sequence[str | Path | np.ndarray] = (),
        *,
        add_start: bool = True,
        **kwargs: Any,
    ) -> BatchFeature:
        """`<|audio|>` in `text` stands for one recording each, in order. Padding is on the left.

        A recording longer than a training span (6 s) becomes several spans, cut at its quietest moments. Other control
        tokens in `text` are characters, unless `apply_chat_template` wrote them (its prompt opens the document itself:
        give it with add_start=False).

        Returns input_ids, attention_mask int64 [batch, longest] and frames, a list of [num_frames, frame_dim].
        """
        texts = [text] if isinstance(text, str) else list(text)
        wanted = sum(len(HEARD.findall(_marked(t))) for t in texts)
        if wanted != len(audio):
            raise SaladError(f"audio: {len(audio)} recordings for {wanted} {AUDIO} in text")
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
        """A spoken span owns the space before its words, so text before it loses its last spaces, as in training."""
        encode = prompt_ids if isinstance(text, ChatPrompt) else token_ids
        ids = [self.start_token_id] if add_start else []
        *before, last = HEARD.split(_marked(text))
        for i, piece in enumerate(before):
            ids += encode(self.tokenizer, piece.rstrip(" "), after=i > 0)
            ids += [self.audio_token_id] * spans_left.pop(0)
        return ids + encode(self.tokenizer, last, after=bool(before))

    def _samples(self, audio: str | Path | np.ndarray) -> np.ndarray:
        if isinstance(audio, np.ndarray):
            return audio.astype(np.float32, copy=False)
        return read_audio(audio, self.encoder.sample_rate_hz)[0]

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return self.tokenizer.decode(ids, **{"skip_special_tokens": True, **kwargs})

    def batch_decode(self, ids: Any, **kwargs: Any) -> list[str]:
        return [self.decode(row, **kwargs) for row in ids]

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True) -> ChatPrompt:
        """One prompt for `__call__(..., add_start=False)`; audio parts are {"type": "audio"}, in order.

        The LLM's own template, which sees each message's parts as one string; ChatML where the LLM has none. Control
        tokens that a message's text holds stay characters. Raises SaladError where the template refuses the messages.
        """
        flat = [{**message, "content": self._content(message)} for message in messages]
        try:
            prompt = self.tokenizer.apply_chat_template(
                flat,
                chat_template=None if self.tokenizer.chat_template else CHAT_TEMPLATE,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except TemplateError as error:
            raise SaladError(f"messages: the LLM's chat template refuses them ({error}); change their roles") from error
        return ChatPrompt(prompt)

    def _content(self, message: dict[str, Any]) -> str:
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, (list, tuple)) or not all(isinstance(part, dict) for part in parts):
            raise SaladError(
                f"messages: got content {content!r:.80}, expected a string, or a list of text and audio parts"
            )
        said = []
        for part in parts:
            if part.get("type") == "audio":
                said.append(AUDIO)
            elif isinstance(part.get("text"), str):
                said.append(marked(self.tokenizer, part["text"], (AUDIO,)))
            else:
                raise SaladError(
                    f'messages: got a part {part!r:.80}, expected {{"type": "text", "text": ...}} or audio'
                )
        return "".join(said)

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


def _marked(text: str) -> str:
    return text.marked if isinstance(text, ChatPrompt) else text
