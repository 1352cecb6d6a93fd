"""What comes in pieces is heard as the whole is: the same spans, and all but the last one before it ends."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from salad.audio import resample, split_at_quiet
from salad.audio.decode import Resampler
from salad.serve.errors import ApiError
from salad.serve.listening import Buffer, Listener, TurnBegan, TurnEnded
from salad.serve.realtime_events import ServerVad

RATE_HZ = 16_000


class Ears:
    """Who is asked to hear spans, and what came to nothing."""

    def __init__(self):
        self.heard = []

    def __call__(self, span, start_s):
        future = Future()
        self.heard.append((span, start_s, future))
        return future

    def spans(self, sound):
        """The samples of the spans that `sound` is made of."""
        return [next(span for span, _, future in self.heard if future is wanted) for wanted in sound.spans]


def noise(seconds, seed=0):
    draws = np.random.default_rng(seed)
    return (draws.normal(size=int(seconds * RATE_HZ)) * draws.uniform(0.01, 0.2)).astype(np.float32)


def same(some, others):
    return len(some) == len(others) and all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("step", [320, 5000, 100_000])
def test_spans_are_those_of_the_whole(step):
    whole, ears = noise(14.3), Ears()
    buffer = Buffer(RATE_HZ, ears)
    for at in range(0, len(whole), step):
        buffer.append(whole[at : at + step])
    wanted = split_at_quiet(whole, RATE_HZ, 6.0)
    assert len(ears.heard) == len(wanted) - 1 > 1  # before the end
    sound = buffer.take()
    assert same(ears.spans(sound), wanted) and sound.seconds == pytest.approx(14.3)
    starts = np.cumsum([0, *map(len, wanted)])[:-1] / RATE_HZ
    assert [start_s for _, start_s, _ in ears.heard] == pytest.approx(starts)
    assert len(buffer) == 0


def test_a_pause_that_was_none_changes_nothing():
    whole, ears = noise(16.0, 1), Ears()
    buffer = Buffer(RATE_HZ, ears)
    for i, piece in enumerate(np.split(whole, 20)):
        buffer.append(piece)
        if i % 3 == 0:
            buffer.mark()
            buffer.append(whole[:0])
        elif i % 3 == 1:
            buffer.unmark()
    buffer.unmark()
    assert same(ears.spans(buffer.take()), split_at_quiet(whole, RATE_HZ, 6.0))
    assert sum(future.cancelled() for _, _, future in ears.heard) == 7


def test_what_is_behind_the_mark_begins_the_next():
    one, two, ears = noise(3.0), noise(7.0, 1), Ears()
    buffer = Buffer(RATE_HZ, ears)
    buffer.append(one)
    buffer.mark()
    buffer.append(two)
    assert same(ears.spans(buffer.take()), [one])
    assert len(ears.heard) == 1  # it was heard at the mark, not again
    buffer.append(one[:0])
    assert same(ears.spans(buffer.take()), split_at_quiet(two, RATE_HZ, 6.0))


def pcm(samples):
    return (samples * 32768).astype("<i2").tobytes()


def listener(ears, vad=None, rate_hz=RATE_HZ, max_s=120.0):
    made = Listener(RATE_HZ, ears, max_s)
    made.configure(rate_hz, vad)
    return made


@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
def test_another_rate_in_pieces(rate_hz):
    sent = resample(noise(1.7), RATE_HZ, rate_hz)
    data, ears = pcm(sent), Ears()
    made = listener(ears, rate_hz=rate_hz)
    for at in range(0, len(data), 1000):
        assert made.append(data[at : at + 1000]) == []
    (heard,) = ears.spans(made.commit())
    assert np.array_equal(heard, resample(np.frombuffer(data, "<i2").astype(np.float32) / 32768, rate_hz, RATE_HZ))


def test_a_stream_at_another_rate_is_the_whole_at_another_rate():
    whole, stream = noise(2.0), Resampler(24_000, 16_000)
    for _ in range(2):  # a new stream begins behind the last
        pieces = [stream(p) for p in np.split(whole, [7, 900, 20_000])] + [stream(whole[:0], last=True)]
        assert np.allclose(np.concatenate(pieces), resample(whole, 24_000, 16_000), atol=1e-6)


def turn_of(monkeypatch, probabilities, vad, max_s=120.0, step=1000):
    """What a listener finds in noise that the VAD finds so likely to be speech, chunk by chunk."""
    left = iter(probabilities)
    ears = Ears()
    made = listener(ears, vad, max_s=max_s)
    monkeypatch.setattr(made, "_vad", lambda chunks: np.array([next(left) for _ in chunks]))
    samples = noise(len(probabilities) * 0.032)
    data = pcm(samples)
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    found = []
    for at in range(0, len(data), step):
        found += made.append(data[at : at + step])
    return found, ears, samples, made


@pytest.mark.parametrize("step", [640, 10**6])
def test_a_turn_has_its_lead_and_ends_in_its_pause(monkeypatch, step):
    shares = 40 * [0.0] + 220 * [1.0] + 40 * [0.0] + 3 * [1.0]
    found, ears, samples, _ = turn_of(monkeypatch, shares, ServerVad(), step=step)
    first, stop, second = found
    assert first == TurnBegan(40 * 32 - 300) and isinstance(stop, TurnEnded) and stop.at_ms == 267 * 32
    spoken = samples[first.at_ms * 16 : stop.at_ms * 16]
    assert same(ears.spans(stop.sound), split_at_quiet(spoken, RATE_HZ, 6.0)) and len(stop.sound.spans) == 2
    assert second == TurnBegan(300 * 32 - 300)


def test_a_turn_ends_where_it_may_grow_no_longer(monkeypatch):
    found, ears, samples, _ = turn_of(monkeypatch, 100 * [1.0], ServerVad(), max_s=1.0)
    turns = [(a, b) for a, b in zip(found[::2], found[1::2], strict=False)]
    assert len(turns) == 3 and all(isinstance(a, TurnBegan) and isinstance(b, TurnEnded) for a, b in turns)
    assert all(b.sound.seconds <= 1.0 for _, b in turns)
    assert turns[0][1].at_ms == turns[1][0].at_ms and turns[1][1].at_ms == turns[2][0].at_ms  # nothing is lost
    assert same([np.concatenate(ears.spans(b.sound)) for _, b in turns], np.split(samples[: 3 * 31 * 512], 3))


def test_silence_is_forgotten(monkeypatch):
    _, ears, _, made = turn_of(monkeypatch, 400 * [0.0], ServerVad())
    assert len(made._buffer) <= 4800 + 512 and not ears.heard


def test_a_client_ends_a_turn_that_the_vad_has_not(monkeypatch):
    found, ears, samples, made = turn_of(monkeypatch, 20 * [1.0] + 8 * [0.0], ServerVad(), step=999_999)
    assert found == [TurnBegan(0)] and len(ears.heard) == 1
    assert same(ears.spans(made.commit()), [samples])  # the pause was none, and its hearing was for nothing
    made.append(pcm(noise(0.01)))
    with pytest.raises(ApiError, match="10 ms, expected 100"):
        made.commit()


def test_a_vad_finds_no_turn_in_what_came_before_it(monkeypatch):
    """Neither closed spans nor what was pending of push to talk; a change of the VAD's own settings loses nothing."""
    ears = Ears()
    made = listener(ears)
    made.append(pcm(noise(13.0)))
    assert len(ears.heard) >= 2
    made.configure(RATE_HZ, ServerVad())
    assert all(future.cancelled() for _, _, future in ears.heard) and made.seconds == 0
    shares = iter(10 * [0.0] + 20 * [1.0] + 20 * [0.0])
    monkeypatch.setattr(made, "_vad", lambda chunks: np.array([next(shares) for _ in chunks]))
    data = pcm(noise(50 * 0.032, 1))
    found = made.append(data[: 20 * 1024])
    made.configure(RATE_HZ, ServerVad(silence_duration_ms=300))
    found += made.append(data[20 * 1024 :])
    assert [type(change) for change in found] == [TurnBegan, TurnEnded] and found[0].at_ms == 13_000 + 320 - 300
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    heard = np.concatenate(ears.spans(found[1].sound))
    assert len(heard) == round(found[1].sound.seconds * RATE_HZ)
    assert np.array_equal(heard, samples[20 * 16 :][: len(heard)])


def test_limits(monkeypatch):
    made = listener(Ears(), max_s=1.0)
    made.append(pcm(noise(0.9)))
    with pytest.raises(ApiError, match=r"1\.1 s.*at most 1 s.*commit") as refused:
        made.append(pcm(noise(0.2)))
    assert refused.value.param == "audio"
    assert made.commit().seconds == pytest.approx(0.9)
    made.append(pcm(noise(0.9)))
    made.clear()
    with pytest.raises(ApiError, match="holds 0 ms"):
        made.commit()
    with pytest.raises(ApiError, match="3 bytes, expected 2 a sample"):
        made.append(b"abc")
