"""Text and audio in, `input_ids` and `frames` out; the LLM's own chat template, whose messages may hold audio."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from tokenizers import AddedToken
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.utils.hub import cached_file, hf_api

from salad.audio import split_at_quiet
from salad.files import read_json, write_json
from salad.model.encoders.base import Encoder
from salad.model.encoders.inside import FOLDER, EncoderInside, copy_encoder, copy_file, encoder_inside
from salad.model.encoders.load import load_encoder
from salad.model.recordings import (
    AUDIO_PARTS,
    Message,
    Part,
    Recording,
    audio_parts,
    is_frames,
    listed,
    recording_of,
    samples_of,
)
from salad.model.span_lengths import SpanCounter
from salad.sequence.tokens import OPEN, marked, prompt_ids, token_ids, unmarked
from salad.text.chat import as_it_takes
from salad.types import SaladError

AUDIO = "<|audio|>"
HEARD = re.compile(f"(?<!{OPEN}){re.escape(AUDIO)}")  # one that no user wrote
MAX_SPAN_S = 6.0
HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
CODE = ("modeling_salad.py", "processing_salad.py")  # of an exported folder
GROUPS = ("text_kwargs", "audio_kwargs", "common_kwargs")
CALL = (*GROUPS, "padding_side", "sampling_rate", "return_tensors", "padding", "truncation", "max_length")
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
    """Runs the frozen encoder and the tokenizer. Audio: whatever `salad.model.recordings.samples_of` takes.

    ears: what tells how many embeddings a span becomes: the model itself, or a `SpanCounter` of its folder, which
    `from_pretrained` finds there. A prompt has as many placeholders; without ears it has one for each span.

    The tokenizer knows `<|audio|>` as a token of id `audio_token_id`, where its vocabulary ends there: the LLM's table
    has no row for it, so that it is never generated. Written in data it is characters, as any control token is.
    """

    attributes = ["tokenizer"]
    audio_token = AUDIO
    inside: EncoderInside | None = None  # of an exported folder, with the files of its code and where they are named
    code: tuple[Path, ...] = ()
    auto_map: dict[str, str] | None = None

    def __init__(
        self, tokenizer: Any, encoder: Encoder | str, audio_token_id: int, start_token_id: int, ears: Any = None
    ) -> None:
        self.tokenizer = tokenizer
        self.ears = ears
        self.encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
        self.audio_token_id = audio_token_id
        self.start_token_id = start_token_id
        if placeholder_id(tokenizer) == audio_token_id == len(tokenizer):
            tokenizer.add_tokens([AddedToken(AUDIO, special=True, normalized=False)])

    def __call__(
        self,
        text: str | Sequence[str],
        audio: Recording | Sequence[Any] | None = (),
        *,
        add_start: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """`<|audio|>` in `text` stands for one recording each, in order; `audio` may hold a list for each of several
        texts. A recording may be given as the frames of its spans, as `frames_of` gives them, and is then not encoded
        again.

        kwargs, as they are or in text_kwargs, audio_kwargs and common_kwargs: sampling_rate of samples, in Hz (the
        encoder's own); padding_side (left), where what pads the shorter texts has mask 0; padding="max_length" and
        max_length. No text is cut, tensors are torch's, and other settings of tokenizers are passed over.

        add_start: whether each text opens a document; by default one that `apply_chat_template` wrote does not, for the
        template opens it.

        A recording longer than a training span (6 s) becomes several spans, cut at its quietest moments. Other control
        tokens in `text` are characters, unless `apply_chat_template` wrote them.

        Returns input_ids, attention_mask int64 [batch, longest]; frames, a list of [num_frames, frame_dim] for each
        span; and span_lengths int64 [num_spans], how many placeholders stand for each.
        """
        call = _Call.of(**kwargs)
        texts = [text] if isinstance(text, str) else list(text)
        given = listed(audio)
        wanted = sum(len(HEARD.findall(_marked(t))) for t in texts)
        if wanted != len(given):
            raise SaladError(
                f"audio: got {len(given)} recordings for {wanted} {AUDIO} in text, expected one recording for each"
            )
        parts = [one if is_frames(one) else self._spans(one, call.sampling_rate) for one in given]
        encoded = iter(self._frames([span for part in parts for span in part if isinstance(span, np.ndarray)]))
        frames = [span if isinstance(span, torch.Tensor) else next(encoded) for part in parts for span in part]
        lengths = [1] * len(frames) if self.ears is None else self.ears.span_lengths(frames)
        each = iter(lengths)
        places_left = [sum(next(each) for _ in part) for part in parts]
        rows = [self._ids(t, add_start, places_left) for t in texts]
        longest = call.longest(rows)
        ids = torch.full((len(rows), longest), self.start_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            at = longest - len(row) if call.padding_side == "left" else 0
            ids[i, at : at + len(row)] = torch.tensor(row)
            mask[i, at : at + len(row)] = 1
        counted = torch.tensor(lengths, dtype=torch.long)
        return BatchFeature({"input_ids": ids, "attention_mask": mask, "frames": frames, "span_lengths": counted})

    def _ids(self, text: str, add_start: bool | None, places_left: list[int]) -> list[int]:
        """A spoken span owns the space before its words, so text before it loses its last spaces, as in training."""
        written = isinstance(text, ChatPrompt)
        encode = prompt_ids if written else token_ids
        ids = [self.start_token_id] if (not written if add_start is None else add_start) else []
        *before, last = HEARD.split(_marked(text))
        for i, piece in enumerate(before):
            ids += encode(self.tokenizer, piece.rstrip(" "), after=i > 0)
            ids += [self.audio_token_id] * places_left.pop(0)
        return ids + encode(self.tokenizer, last, after=bool(before))

    def frames_of(self, audio: Recording) -> list[torch.Tensor]:
        """Frames [num_frames, frame_dim] of each span of one recording."""
        return self._frames(self._spans(audio))

    def _frames(self, spans: Sequence[np.ndarray]) -> list[torch.Tensor]:
        return [torch.from_numpy(f) for f in self.encoder.encode(spans)]

    def _spans(self, audio: Any, rate_hz: int | None = None) -> list[np.ndarray]:
        own_hz = self.encoder.sample_rate_hz
        return split_at_quiet(samples_of(audio, own_hz, rate_hz), own_hz, MAX_SPAN_S)

    def decode(self, ids: Any, **kwargs: Any) -> Any:
        """What the tokenizer makes of ids: a string, or a list of them for several rows; without control tokens."""
        return self.tokenizer.decode(ids, **{"skip_special_tokens": True, **kwargs})

    def batch_decode(self, ids: Any, **kwargs: Any) -> list[str]:
        return list(self.tokenizer.batch_decode(ids, **{"skip_special_tokens": True, **kwargs}))

    @property
    def chat_template(self) -> Any:
        """The tokenizer's own, where it is written to; ChatML where it has none."""
        return self.tokenizer.chat_template or CHAT_TEMPLATE

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        self.tokenizer.chat_template = template

    def apply_chat_template(  # type: ignore[override]  # keywords of transformers' own that are not taken come in kwargs
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Messages, or a list of conversations, as `chat_template` writes them: one that is given, or the LLM's own
        (ChatML where it has none). add_generation_prompt: with what opens the answer, for a model that is to write it.

        tokenize: what `model.generate` takes, recordings and all, which the audio parts then hold: {"type": "audio",
        "path" | "url" | "audio": a path, http(s) or data: URL, bytes or samples}; return_dict=False gives input_ids
        alone. Else a prompt for `__call__`, to which the recordings are given in order.
        kwargs: those of `__call__` (or in processor_kwargs), and what the template asks for (tools,
        continue_final_message). The template sees each message's parts as one string; control tokens that a message's
        text holds stay characters. Raises SaladError where it refuses the messages.
        """
        if kwargs.pop("return_assistant_tokens_mask", False):
            raise SaladError("return_assistant_tokens_mask: got True, but no piece of a prompt tells whose it is")
        batched = bool(conversation) and not isinstance(conversation[0], dict)
        several = conversation if batched else [conversation]
        called = {**{name: kwargs.pop(name) for name in CALL if name in kwargs}, **(processor_kwargs or {})}
        kwargs |= {"chat_template": chat_template, "add_generation_prompt": add_generation_prompt}
        prompts = [self._prompt(messages, **kwargs) for messages in several]
        if not tokenize:
            return prompts if batched else prompts[0]
        audio = [recording_of(part) for messages in several for part in audio_parts(messages)]
        made = self(prompts, audio, **called)
        return made if return_dict else made["input_ids"]

    def turns(self, messages: Sequence[Any]) -> tuple[ChatPrompt, bool]:
        """Messages for the LLM to answer, and `add_start` of `__call__` for them: in its own chat template, which opens
        the document itself; plain text behind the start token where a base LLM has none, for it has seen no ChatML.
        """
        if self.tokenizer.chat_template:
            return self._prompt(messages, None, add_generation_prompt=True), False
        return ChatPrompt("\n\n".join(filter(None, (self._content(message) for message in messages)))), True

    def _prompt(self, messages: Sequence[Message], chat_template: str | None, **kwargs: Any) -> ChatPrompt:
        flat = [{**message, "content": self._content(message)} for message in messages]
        if chat_template is None and not self.tokenizer.chat_template:
            chat_template = CHAT_TEMPLATE
        taken = as_it_takes(self.tokenizer, flat, chat_template)
        try:
            prompt = self.tokenizer.apply_chat_template(taken, chat_template=chat_template, tokenize=False, **kwargs)
        except TemplateError as error:
            raise SaladError(f"messages: the LLM's chat template refuses them ({error}); change their roles") from error
        return ChatPrompt(prompt)

    def _content(self, message: Message) -> str:
        content = message.get("content")
        if content is None and "tool_calls" in message:  # what an assistant says that calls a tool and nothing else
            content = ""
        parts: Any = [Part(type="text", text=content)] if isinstance(content, str) else content
        if not isinstance(parts, (list, tuple)) or not all(isinstance(part, dict) for part in parts):
            raise SaladError(
                f"messages: got content {content!r:.80}, expected a string, or a list of text and audio parts"
            )
        said: list[str] = []
        for heard, run in groupby(parts, lambda part: part.get("type") in AUDIO_PARTS):
            if heard:
                said += [AUDIO for _ in run]
            else:  # as one: parts side by side could make up a control token
                said.append(marked(self.tokenizer, "".join(map(_text_of, run)), (AUDIO,)))
        return "".join(said)

    def to_dict(self) -> dict[str, object]:
        """What processor_config.json holds."""
        exported = {"encoder_inside": self.inside} if self.inside else {}
        return {
            **({"auto_map": self.auto_map} if self.code and self.auto_map else {}),
            **exported,
            "processor_class": "SaladProcessor",
            "encoder": self.encoder.name,
            "audio_token_id": self.audio_token_id,
            "start_token_id": self.start_token_id,
        }

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "frames", "span_lengths"]

    def save_pretrained(  # type: ignore[override]  # likewise
        self, folder: str | Path, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """The tokenizer's files, and processor_config.json, which names the encoder; of an exported folder the encoder
        and the code as well. Returns the files.

        push_to_hub: uploads them too, as transformers does: to `repo_id` (by default the folder's name), with
        `commit_message`, `token` and what else makes a repository.
        """
        folder, message = Path(folder), kwargs.pop("commit_message", None)
        folder.mkdir(parents=True, exist_ok=True)
        if push_to_hub:
            repo = hf_api().create_repo(kwargs.pop("repo_id", folder.name), exist_ok=True, **kwargs).repo_id
            before = self._get_files_timestamps(folder)
        files = [*self.tokenizer.save_pretrained(folder), str(folder / "processor_config.json")]
        if self.inside is not None:
            copy_encoder(self.encoder, folder)
        for path in self.code:
            copy_file(path, folder / path.name)
        files += [str(folder / FOLDER / name) for name in (self.inside or {"files": []})["files"]]
        files += [str(folder / path.name) for path in self.code]
        write_json(folder / "processor_config.json", self.to_dict())
        if push_to_hub:
            self._upload_modified_files(folder, repo, before, commit_message=message, token=kwargs.get("token"))
        return files

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> SaladProcessor:  # type: ignore[override]  # likewise
        """Load the processor of a folder, or of OWNER/NAME on the hub (`revision`, `token` ... as in transformers)."""
        hub = {name: kwargs[name] for name in HUB if kwargs.get(name) is not None}
        settings = read_json(Path(str(cached_file(str(folder), "processor_config.json", **hub))))
        inside: EncoderInside | None = settings.get("encoder_inside")
        encoder = settings["encoder"] if inside is None else _encoder_in(folder, inside, settings["encoder"], hub)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=kwargs.get("trust_remote_code"), **hub)
        ears = SpanCounter.beside(folder, **hub)
        made = cls(tokenizer, encoder, settings["audio_token_id"], settings["start_token_id"], ears)
        if inside is not None:
            optional = {"_raise_exceptions_for_missing_entries": False, **hub}
            code = [cached_file(str(folder), name, **optional) for name in CODE]
            made.inside, made.auto_map = inside, settings.get("auto_map")
            made.code = tuple(Path(path) for path in code if path is not None)
        if kwargs.get("chat_template") is not None:
            made.chat_template = kwargs["chat_template"]
        return made


def _encoder_in(folder: str | Path, held: EncoderInside, name: str, hub: dict[str, Any]) -> Encoder:
    places = [Path(str(cached_file(str(folder), f"{FOLDER}/{file}", **hub))) for file in held["files"]]
    return encoder_inside(held, places[0].parent if places else Path(folder), name)


@dataclass(frozen=True)
class _Call:
    """Settings of a call that mean something here; those of transformers' tokenizers that do not are passed over."""

    sampling_rate: int | None = None
    padding_side: str = "left"
    padding: bool | str | None = None
    max_length: int | None = None
    truncation: bool | str | None = None
    return_tensors: str | None = None

    @classmethod
    def of(cls, **kwargs: Any) -> _Call:
        """Whichever group they were given in; raises SaladError for one that is given twice, or cannot be."""
        found = {name: value for name, value in kwargs.items() if name not in GROUPS}
        for group in GROUPS:
            for name, value in (kwargs.get(group) or {}).items():
                if name in found:
                    raise SaladError(f"{name}: got it by itself or in another group, and in {group}; give it once")
                found[name] = value
        if found.get("truncation"):
            raise SaladError(
                "truncation: got True, but a prompt is not cut, as its recordings would be; give less of it"
            )
        if found.get("return_tensors") not in (None, "pt"):
            raise SaladError(f"return_tensors: got {found['return_tensors']!r}, expected 'pt'; call .numpy() on it")
        if found.get("padding") == "max_length" and found.get("max_length") is None:
            raise SaladError('max_length: got none, expected a number of tokens with padding="max_length"')
        return cls(**{own.name: found[own.name] for own in fields(cls) if own.name in found})

    def longest(self, rows: Sequence[list[int]]) -> int:
        return max(*map(len, rows), (self.max_length or 0) if self.padding == "max_length" else 0)


def _text_of(part: Part) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise SaladError(f'messages: got a part {part!r:.80}, expected {{"type": "text", "text": ...}} or audio')
    return text


def _marked(text: str) -> str:
    return text.marked if isinstance(text, ChatPrompt) else text


def placeholder_id(tokenizer: Any) -> int:
    """Id of `<|audio|>`: the tokenizer's own token of that name, else the first above all ids, which may have gaps."""
    known = tokenizer.get_vocab().get(AUDIO)
    return max(tokenizer.get_vocab().values(), default=-1) + 1 if known is None else int(known)
