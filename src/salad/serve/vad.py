"""Who speaks when: Silero's voice activity, chunk by chunk, and the turns that it makes."""

from __future__ import annotations

import functools
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

RATE_HZ, CHUNK, CONTEXT = 16_000, 512, 64  # what the network was trained on, in Hz and samples
CHUNK_MS = 1000 * CHUNK // RATE_HZ
PAUSE_MS = 200  # of silence: a turn may have ended
HYSTERESIS = 0.15  # below the threshold by so much is silence; Silero's own
Change = Literal["start", "pause", "resume", "stop"]


def installed() -> bool:
    """Whether the network (a file of faster-whisper) and what runs it are here."""
    return find_spec("faster_whisper") is not None and find_spec("onnxruntime") is not None


@functools.cache
def _network() -> Any:
    import onnxruntime

    package = find_spec("faster_whisper")  # its file alone is wanted: importing it takes seconds
    assert package is not None and package.origin is not None
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 4
    path = Path(package.origin).parent / "assets" / "silero_vad_v6.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Vad:
    """Silero VAD v6 (github.com/snakers4/silero-vad); what it heard before stays in its state."""

    def __init__(self) -> None:
        self._h = self._c = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(CONTEXT, np.float32)

    def __call__(self, chunks: np.ndarray) -> np.ndarray:
        """float32 [num_chunks, CHUNK] at RATE_HZ, the next ones of a stream -> probability [num_chunks] of speech."""
        if not len(chunks):
            return np.zeros(0, np.float32)
        before = np.concatenate([self._context[None], chunks[:-1, -CONTEXT:]])
        rows = np.concatenate([before, chunks], axis=1).astype(np.float32)
        found, self._h, self._c = _network().run(None, {"input": rows, "h": self._h, "c": self._c})
        self._context = chunks[-1, -CONTEXT:]
        return np.asarray(found)


class Turns:
    """Probabilities to turns: `start` at the first chunk of speech; after PAUSE_MS of silence `pause`, which speech
    undoes (`resume`); after `silence_ms` of it `stop`."""

    def __init__(self) -> None:
        self.speaking, self._quiet = False, 0

    def step(self, probability: float, threshold: float, silence_ms: int) -> Change | None:
        """What the next chunk changes."""
        pause, stop = (math.ceil(ms / CHUNK_MS) for ms in (PAUSE_MS, silence_ms))
        if not self.speaking:
            if probability < threshold:
                return None
            self.speaking, self._quiet = True, 0
            return "start"
        if probability >= threshold:
            paused, self._quiet = self._quiet >= pause, 0
            return "resume" if paused else None
        if not self._quiet and probability >= max(threshold - HYSTERESIS, 0.01):
            return None
        self._quiet += 1
        if self._quiet >= stop:
            self.speaking = False
            return "stop"
        return "pause" if self._quiet == pause else None
