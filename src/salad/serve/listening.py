"""Sound as it comes: resampled, cut as a whole recording is cut, and heard span by span while more comes in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from salad.audio import resample, split_at_quiet, to_samples, to_seconds
from salad.audio.decode import Resampler
from salad.model.processor import MAX_SPAN_S
from salad.serve.errors import ApiError
from salad.serve.realtime_events import ServerVad
from salad.serve.served_model import SpanEmbeddings
from salad.serve.vad import CHUNK, CHUNK_MS, Turns, Vad
from salad.serve.vad import RATE_HZ as VAD_HZ

LEAST_S = 0.1  # of sound that is committed
NOTHING = np.zeros(0, np.float32)
Hear = Callable[[np.ndarray, float], "Future[SpanEmbeddings]"]  # a span, where it begins (s); in the engine's thread


@dataclass(frozen=True)
class TurnSound:
    """A recording that is being heard: its spans in order, and how long it is."""

    spans: Sequence[Future[SpanEmbeddings]]
    seconds: float

    def cancel(self) -> None:
        """Nobody will ask for it: what was not heard yet need not be."""
        for span in self.spans:
            span.cancel()


@dataclass(frozen=True)
class TurnBegan:
    """Somebody speaks; the sound of the turn begins there."""

    at_ms: int


@dataclass(frozen=True)
class TurnEnded:
    """A turn, and where its sound ends."""

    at_ms: int
    sound: TurnSound


class Buffer:
    """Samples that are not committed yet. A span is heard as soon as it is closed; `split_at_quiet` looks at no more
    than the MAX_SPAN_S behind its last cut, so that the spans are those of the whole recording, to the sample."""

    def __init__(self, rate_hz: int, hear: Hear) -> None:
        self._rate_hz, self._hear = rate_hz, hear
        self._behind = NOTHING  # behind the mark
        self._tail: Future[SpanEmbeddings] | None = None  # the last span, where a mark is set
        self._begin(NOTHING)

    def _begin(self, pending: np.ndarray) -> None:
        self._spans: list[Future[SpanEmbeddings]] = []
        self._closed, self._pending = 0, pending

    def __len__(self) -> int:
        return self._closed + len(self._pending) + len(self._behind)

    @property
    def seconds(self) -> float:
        return to_seconds(len(self), self._rate_hz)

    @property
    def marked(self) -> bool:
        return self._tail is not None

    @property
    def spans(self) -> list[Future[SpanEmbeddings]]:
        """What is heard of it so far: closed spans, and where a mark is set its last one."""
        return [*self._spans, *([] if self._tail is None else [self._tail])]

    def append(self, samples: np.ndarray) -> None:
        if self._tail is not None:
            self._behind = np.concatenate([self._behind, samples])
            return
        *closed, self._pending = split_at_quiet(np.concatenate([self._pending, samples]), self._rate_hz, MAX_SPAN_S)
        for span in closed:
            self._spans.append(self._hear_now(span))
            self._closed += len(span)

    def _hear_now(self, span: np.ndarray) -> Future[SpanEmbeddings]:
        return self._hear(span, to_seconds(self._closed, self._rate_hz))

    def keep(self, num_samples: int) -> None:
        """Forget all but the last ones, none of which is in a closed span."""
        self._pending = self._pending[len(self._pending) - min(num_samples, len(self._pending)) :]

    def mark(self) -> None:
        """It may end here: its last span is heard at once, and what comes next waits."""
        self._tail = self._hear_now(self._pending)

    def unmark(self) -> None:
        """It did not."""
        if self._tail is not None:
            self._tail.cancel()
            self._tail, behind, self._behind = None, self._behind, NOTHING
            self.append(behind)

    def take(self) -> TurnSound:
        """All up to the mark, or to the end where there is none; what is behind the mark stays."""
        last = self._hear_now(self._pending) if self._tail is None else self._tail
        seconds = to_seconds(self._closed + len(self._pending), self._rate_hz)
        sound = TurnSound([*self._spans, last], seconds)
        self._tail, behind, self._behind = None, self._behind, NOTHING
        self._begin(behind)
        return sound

    def clear(self) -> None:
        for span in self.spans:
            span.cancel()
        self._tail, self._behind = None, NOTHING
        self._begin(NOTHING)


def of_pcm(data: bytes, param: str) -> np.ndarray:
    """float32 [num_samples] of 16-bit little-endian PCM. Raises ApiError where it holds half a sample."""
    if len(data) % 2:
        message = f"{param}: {len(data)} bytes, expected 2 a sample (16-bit PCM, mono, little-endian)"
        raise ApiError(400, message, param, "invalid_audio")
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def heard_whole(samples: np.ndarray, rate_hz: int, hear: Hear) -> TurnSound:
    """A recording that came in one piece."""
    buffer = Buffer(rate_hz, hear)
    buffer.append(samples)
    return buffer.take()


class Listener:
    """The input buffer of a session. `rate_hz`: of the encoder; `max_s`: the most that may wait in it."""

    def __init__(self, rate_hz: int, hear: Hear, max_s: float) -> None:
        self._rate_hz, self._max_s = rate_hz, max_s
        self._buffer = Buffer(rate_hz, hear)
        self._chunk = rate_hz * CHUNK_MS // 1000
        self._most = to_samples(max_s, rate_hz)
        self._at = 0  # samples of the session that went into the buffer
        self._unseen = NOTHING  # less than a chunk, which the VAD waits for
        self._turns, self._vad = Turns(), Vad()
        self._resampler: Resampler | None = None
        self._settings: ServerVad | None = None

    def configure(self, rate_hz: int, vad: ServerVad | None) -> None:
        """rate_hz: of what comes in; vad: None where the client says when a turn ends. Where a VAD says so from now on,
        what came before is forgotten: no turn that it finds may hold it."""
        if self._resampler is None or self._resampler.from_hz != rate_hz:
            self._flush()
            self._resampler = Resampler(rate_hz, self._rate_hz)
        if vad is None:
            self._end_turn()
        elif self._settings is None:
            self.clear()
        self._settings = vad

    def append(self, data: bytes) -> list[TurnBegan | TurnEnded]:
        """What a VAD finds in the next bytes; [] without one. Raises ApiError for too many, and for half a sample."""
        assert self._resampler is not None
        samples = of_pcm(data, "audio")
        if self._settings is None:
            seconds = self._buffer.seconds + to_seconds(len(samples), self._resampler.from_hz)
            if seconds > self._max_s:
                message = f"audio: the buffer would hold {seconds:.1f} s, expected at most {self._max_s:g} s; commit it"
                raise ApiError(400, message, "audio", "audio_too_long")
            self._put(self._resampler(samples))
            return []
        samples = np.concatenate([self._unseen, self._resampler(samples)])
        whole = len(samples) // self._chunk * self._chunk
        chunks, self._unseen = samples[:whole].reshape(-1, self._chunk), samples[whole:]
        heard = resample(chunks.reshape(-1), self._rate_hz, VAD_HZ).reshape(-1, CHUNK)
        found = [self._step(c, float(p), self._settings) for c, p in zip(chunks, self._vad(heard), strict=True)]
        return [change for change in found if change is not None]

    def _step(self, chunk: np.ndarray, probability: float, vad: ServerVad) -> TurnBegan | TurnEnded | None:
        speaking = self._turns.speaking
        change = self._turns.step(probability, vad.threshold, vad.silence_duration_ms)
        if not speaking:
            lead = to_samples(vad.prefix_padding_ms / 1000, self._rate_hz)
            self._buffer.keep(max(0, min(lead, self._most - len(chunk))))
        if change == "resume":
            self._buffer.unmark()
        self._put(chunk)
        if change == "start":
            return TurnBegan(self._ms(self._at - len(self._buffer)))
        if change == "pause":
            self._buffer.mark()
        if self._turns.speaking and len(self._buffer) + len(chunk) > self._most:
            self._turns, change = Turns(), "stop"
        if change != "stop":
            return None
        sound = self._buffer.take()
        return TurnEnded(self._ms(self._at - len(self._buffer)), sound)

    @property
    def seconds(self) -> float:
        """Seconds of what `commit` would take."""
        return self._buffer.seconds + to_seconds(len(self._unseen), self._rate_hz)

    @property
    def spans(self) -> tuple[list[Future[SpanEmbeddings]], bool]:
        """What is heard of the buffer so far, and whether it may end there."""
        return self._buffer.spans, self._buffer.marked

    def commit(self) -> TurnSound:
        """All that is there. Raises ApiError where that is next to nothing."""
        self._flush()
        self._end_turn()
        if self._buffer.seconds < LEAST_S:
            message = f"input_audio_buffer: holds {1000 * self._buffer.seconds:.0f} ms, expected {1000 * LEAST_S:g} at"
            raise ApiError(400, f"{message} least; append sound first", None, "input_audio_buffer_commit_empty")
        return self._buffer.take()

    def clear(self) -> None:
        self._flush()
        self._end_turn()
        self._buffer.clear()

    def _flush(self) -> None:
        """What the resampler still holds; the next sound begins anew."""
        if self._resampler is not None:
            rest = self._resampler(NOTHING, last=True)
            self._unseen = np.concatenate([self._unseen, rest])

    def _end_turn(self) -> None:
        self._buffer.unmark()
        self._put(self._unseen)
        self._unseen, self._turns = NOTHING, Turns()

    def _put(self, samples: np.ndarray) -> None:
        self._buffer.append(samples)
        self._at += len(samples)

    def _ms(self, num_samples: int) -> int:
        return math.floor(1000 * num_samples / self._rate_hz)
