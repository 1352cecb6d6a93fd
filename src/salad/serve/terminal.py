"""A conversation without a server: turns that are heard or read, each answered as it is written."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from salad.audio import read_audio
from salad.files import JsonObject
from salad.serve.engine import Engine, Event, Finished, Token, TokenSampling
from salad.serve.served_model import ServedModel
from salad.serve.text_stream import TextStream
from salad.types import SaladError


class Conversation:
    """What was said and answered so far stays in the prompt. `close` it when done."""

    def __init__(self, served: ServedModel, *, system: str = "", max_tokens: int = 256) -> None:
        self._served, self._max_tokens = served, max_tokens
        self._engine = Engine(served.model, 1, bf16=served.bf16)
        self._messages: list[JsonObject] = [{"role": "system", "content": system}] if system else []
        self._audio: list[np.ndarray] = []
        self.rate_hz = served.rate_hz

    def ask(self, text: str, recordings: Sequence[Path | np.ndarray] = ()) -> Iterator[str]:
        """Pieces of the answer to the recordings (files, or samples at `rate_hz`) in order and to the text behind them.

        Raises SaladError where a recording cannot be read, or the conversation has outgrown the LLM; that turn is then
        as if it had not been.
        """
        heard = [r if isinstance(r, np.ndarray) else read_audio(r, self.rate_hz)[0] for r in recordings]
        content: list[dict[str, str]] = [{"type": "audio"} for _ in heard]
        if text:
            content.append({"type": "text", "text": f" {text}" if heard else text})
        messages, audio = [*self._messages, {"role": "user", "content": content}], [*self._audio, *heard]

        def prepare() -> tuple[torch.Tensor, int]:
            prompt = self._served.prompt(messages, audio)
            return prompt, min(self._max_tokens, self._served.context - len(prompt))

        events: queue.Queue[Event] = queue.Queue()
        generation = self._engine.submit(prepare, TokenSampling(self._served.ends), events.put)
        written, stream = "", TextStream(self._served.decode)
        try:
            while not isinstance(event := events.get(), Finished):
                if isinstance(event, Token) and (piece := stream.push(event.id)):
                    written += piece
                    yield piece
        finally:
            generation.cancel()
        if event.error is not None:
            raise event.error
        if rest := stream.end():
            written += rest
            yield rest
        self._messages, self._audio = [*messages, {"role": "assistant", "content": written}], audio

    def close(self) -> None:
        self._engine.close()


def record(rate_hz: int, wait: Callable[[], object]) -> np.ndarray:
    """float32 [num_samples] of the microphone, from now until `wait` returns.

    Raises SaladError where sounddevice is not installed, or there is no microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: it finds no PortAudio
        raise SaladError(
            f"--microphone: sounddevice cannot be loaded ({error}); pip install sounddevice, and PortAudio with your "
            "system's packages, or name a file"
        ) from None
    blocks: list[np.ndarray] = []

    def keep_block(block: np.ndarray, *_: object) -> None:
        blocks.append(block[:, 0].copy())

    try:
        with sounddevice.InputStream(samplerate=rate_hz, channels=1, dtype="float32", callback=keep_block):
            wait()
    except sounddevice.PortAudioError as error:
        raise SaladError(f"--microphone: it cannot be opened ({error}); plug one in, or name a file") from None
    if not blocks:
        raise SaladError("--microphone: it gave nothing; speak before you press Enter again")
    return np.concatenate(blocks)
