"""Sections of a recipe about word times, and about interleaving text with speech."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from salad.config.base import Section


class Align(Section):
    method: Literal["whisper", "ctc", "given"] = Field(
        "whisper",
        description="Who finds word times: Whisper, the letters of a CTC checkpoint, or nobody, since they came with "
        "the recordings. What our own voices speak is then left to Whisper.",
    )
    model: str | None = Field(
        None,
        description="For whisper: an asset or a folder in place of assets.asr. For ctc, which needs it: the folder of "
        "a Wav2Vec2ForCTC checkpoint with safetensors.",
    )
    times: Path | None = Field(
        None,
        description="For given: a folder with NAME.TextGrid (as MFA writes them) or NAME.words.json for each audio "
        "file. Null: the times that the data itself holds.",
    )
    listen: bool = Field(
        False,
        description="Transcribes short recordings too, to find words that the text lacks. Recordings over 29.5 s are "
        "always transcribed with whisper.",
    )
    min_score: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Mean probability of the words' tokens under which a recording, or the part of it, is "
        "quarantined. Clean speech has about 0.9.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Align:
        if self.method == "ctc" and self.model is None:
            raise ValueError("method: ctc needs model, the folder of a Wav2Vec2ForCTC checkpoint with safetensors")
        if self.method != "given" and self.times is not None:
            raise ValueError(f"times: only method: given reads it, not {self.method}")
        return self


class Sequence(Section):
    text_words: tuple[int, int] = Field(
        (10, 30),
        description="Fewest and most words of a text span; lengths are drawn evenly. The default is the paper's.",
    )
    speech_words: tuple[int, int] = Field(
        (5, 15),
        description="Fewest and most words of a speech span; lengths are drawn evenly. The default is the paper's.",
    )
    first: Literal["text", "speech", "random"] = Field(
        "random", description="What a document begins with. `random` draws it for each layout."
    )
    layouts: int = Field(2, ge=1, description="How many different interleavings are drawn of each document.")
    context: int = Field(
        2048, ge=64, description="Positions in one pack: no document may take more. The default is the paper's."
    )
    encode: Literal["spans", "recordings"] = Field(
        "spans",
        description="`spans` encodes each speech span alone. `recordings` encodes a recording once and whole, so that "
        "a stream draws new layouts each pass; it needs a causal encoder such as Mimi.",
    )
    features: Literal["cache", "fly"] = Field(
        "cache",
        description="`cache` writes encoded speech to disk once. `fly` encodes it each time it is heard: slower.",
    )
    stored: Literal["auto", "frames"] = Field(
        "auto",
        description="What lies on disk: `auto` keeps an encoder's codes where it has them (Mimi), else float16 "
        "frames; `frames` keeps frames always.",
    )
    stream: bool = Field(
        False, description="Lets stage1 and stage2 read shards as they go, for corpora that do not fit in memory."
    )
    lanes: int = Field(
        1, ge=1, description="Streams that fill each batch together. It must be a multiple of the number of processes."
    )
    buffer_shards: int = Field(
        16,
        ge=1,
        description="Shards whose documents a stream shuffles together. More shuffle better and take more memory.",
    )

    @model_validator(mode="after")
    def _ranges(self) -> Sequence:
        for name in ("text_words", "speech_words"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be [low, high] with 1 <= low <= high, got [{low}, {high}]")
        return self
