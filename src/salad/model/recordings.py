"""What a recording may be given as: files, bytes, samples of any kind, the parts of a message; and their samples."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from urllib.request import urlopen

import numpy as np
import torch

from salad.audio import read_audio, resample
from salad.audio.containers import check_rate
from salad.audio.decode import check_mix, check_range
from salad.files import size_of
from salad.types import SaladError

MAX_BYTES = 500_000_000  # of a recording behind a URL
MOST_CHANNELS = 8
NAME = "the array"  # of samples, in errors
AUDIO_PARTS = ("audio", "input_audio", "audio_url")


class SoundRow(TypedDict, total=False):
    """A recording as `datasets` keeps it: samples at a rate, a file's bytes, or its path."""

    array: np.ndarray | Sequence[float]
    sampling_rate: int
    bytes: bytes | None
    path: str | None


Recording = str | Path | bytes | np.ndarray | torch.Tensor | SoundRow  # or the frames of its spans


class Part(TypedDict, total=False):
    """A part of a message: text, or a recording as transformers has it, or as OpenAI does."""

    type: str
    text: str
    audio: Any
    path: str
    url: str
    input_audio: dict[str, str]
    audio_url: dict[str, str] | str


class Message(TypedDict, total=False):
    """What someone says. Chat templates may ask for more than this."""

    role: str
    content: str | Sequence[Part] | None
    tool_calls: list[Any]


def listed(audio: Any) -> list[Any]:
    """One recording, several, or a list for each text, as a flat list of recordings; frames of spans stay together."""
    if audio is None:
        return []
    if _is_one(audio):
        return [audio]
    return [one for given in audio for one in ([given] if _is_one(given) or is_frames(given) else given)]


def is_frames(given: Any) -> bool:
    """Whether a recording is given as what its spans were made, a list of [num_frames, frame_dim]."""
    spans = given if isinstance(given, list) else []
    return bool(spans) and all(isinstance(span, torch.Tensor) and span.dim() == 2 for span in spans)


def _is_one(given: Any) -> bool:
    numbers = isinstance(given, list | tuple) and len(given) > 0 and isinstance(given[0], int | float | np.number)
    whole = isinstance(given, str | Path | bytes | np.ndarray | torch.Tensor | Mapping)
    return whole or numbers or hasattr(given, "get_all_samples")


def samples_of(recording: Any, rate_hz: int, own_hz: int | None = None) -> np.ndarray:
    """Samples float32 [num_samples] at `rate_hz` of one recording.

    recording: a path, a file's bytes, or samples at `own_hz` (by default `rate_hz`): an array, a tensor or a list, of
    floats in [-1, 1] or of integers, channels (up to 8, which are averaged) on either side; or a row of `datasets`,
    {"array", "sampling_rate"}, {"bytes"}, {"path"} or an AudioDecoder. Raises SaladError for anything else.
    """
    if isinstance(recording, Mapping):
        if recording.get("array") is not None:
            told = recording.get("sampling_rate")
            return samples_of(recording["array"], rate_hz, own_hz if told is None else told)
        found = [recording[name] for name in ("bytes", "path") if recording.get(name) is not None]
        if not found:
            raise SaladError(f'audio: got a recording with {", ".join(recording)}; expected "array", "bytes" or "path"')
        recording = found[0]
    if hasattr(recording, "get_all_samples"):  # an AudioDecoder: what `datasets` gives, and torchcodec
        decoded = recording.get_all_samples()
        return samples_of(decoded.data, rate_hz, decoded.sample_rate)
    if isinstance(recording, str | Path | bytes):
        return read_audio(recording, rate_hz)[0]
    samples = recording.detach().cpu().float().numpy() if _is_float(recording) else np.asarray(recording)
    if samples.dtype.kind == "i" and samples.dtype.itemsize < 8:
        samples = samples.astype(np.float64) / (np.iinfo(samples.dtype).max + 1)
    if samples.dtype.kind != "f":
        raise SaladError(f"audio: got samples of {samples.dtype}, expected floats in [-1, 1], int16 or int32")
    if samples.ndim == 2 and 0 < min(samples.shape) <= MOST_CHANNELS:
        channels = samples if samples.shape[1] <= samples.shape[0] else samples.T
    elif samples.ndim == 1:
        channels = samples[:, None]
    else:
        raise SaladError(f"audio: got samples of shape {list(samples.shape)}, expected [num_samples] of one recording")
    if not np.isfinite(channels).all():
        raise SaladError(f"audio: {NAME} holds NaN or infinite samples; give it without")
    check_range(channels, NAME)
    mono = channels[:, 0]
    if channels.shape[1] > 1:
        mono = channels.mean(axis=1, dtype=np.float64)
        check_mix(channels.astype(np.float64), mono, NAME)
    return resample(mono.astype(np.float32), _rate(own_hz, rate_hz), rate_hz)


def _rate(given: Any, rate_hz: int) -> int:
    """The rate in Hz that samples are given at; `rate_hz` where nobody says. Raises SaladError where it is none."""
    if given is None:
        return rate_hz
    if isinstance(given, bool) or not isinstance(given, int | float | np.number) or not math.isfinite(given):
        raise SaladError(f"sampling_rate: got {given!r:.40}, expected a number of Hz")
    check_rate(NAME, round(float(given)))
    return round(float(given))


def _is_float(recording: Any) -> bool:
    return isinstance(recording, torch.Tensor) and recording.is_floating_point()


def audio_parts(messages: Sequence[Message]) -> list[Part]:
    """The parts of messages that hold audio, in order."""
    contents = [message.get("content") for message in messages]
    parts = (part for content in contents if content and not isinstance(content, str) for part in content)
    return [part for part in parts if part.get("type") in AUDIO_PARTS]


def recording_of(part: Part) -> Any:
    """What an audio part of a message holds: transformers' form, or OpenAI's input_audio and audio_url.

    Raises SaladError where it holds none, or one that cannot be fetched.
    """
    given: Any = part.get("input_audio", part.get("audio_url", part))
    held = given if isinstance(given, dict) else {"url": given}
    if held.get("data") is not None:
        return of_base64(held["data"], "messages: the data of an audio part")
    found = [held[name] for name in ("audio", "path", "url") if held.get(name) is not None]
    if len(found) != 1:
        raise SaladError(
            f'messages: got an audio part with {", ".join(part)}; expected "path", "url" or "audio" beside "type"'
        )
    where = str(found[0]) if isinstance(found[0], str) else ""
    if where.startswith("data:"):
        return of_data_url(where, "messages: a data: URL")
    if where.startswith("file:"):
        return unquote(urlsplit(where).path)
    if where.startswith(("http:", "https:")):
        try:
            with urlopen(where, timeout=60) as answer:
                data: bytes = answer.read(MAX_BYTES + 1)
        except OSError as error:
            raise SaladError(f"messages: the recording {where} cannot be fetched ({error}); give its path") from error
        if len(data) > MAX_BYTES:
            raise SaladError(f"messages: the recording {where} has over {size_of(MAX_BYTES)}; give its path, or a part")
        return data
    return found[0]


def of_base64(data: str, where: str) -> bytes:
    """The bytes. Raises SaladError, which begins with `where`, where they are no base64, or none."""
    try:
        found = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SaladError(f"{where}: is no base64 ({error}); encode the file's bytes") from None
    if not found:
        raise SaladError(f"{where}: is empty, expected a recording")
    return found


def of_data_url(url: str, where: str) -> bytes:
    """The bytes of data:audio/...[;base64],...: percent-encoded where it does not say base64 (RFC 2397)."""
    head, comma, data = url.partition(",")
    if not comma:
        raise SaladError(f"{where}: expected data:audio/...;base64,..., got {head!r:.60}")
    if head.lower().endswith(";base64"):
        return of_base64(data, where)
    if not data.isascii():
        raise SaladError(f"{where}: its data are not ASCII; send data:audio/...;base64,...")
    return unquote_to_bytes(data)
