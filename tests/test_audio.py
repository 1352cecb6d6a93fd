import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from salad.audio import num_frames, read_audio, resample, split_at_quiet, to_samples, to_seconds, write_flac
from salad.types import SaladError

RATES = st.sampled_from([8000, 16_000, 22_050, 24_000, 44_100])


@given(st.integers(0, 10**9), RATES)
def test_samples_to_seconds_and_back(num_samples, rate):
    assert to_samples(to_seconds(num_samples, rate), rate) == num_samples


@given(st.integers(1, 10**7), RATES, st.sampled_from([12.5, 50.0, 100.0]))
def test_frames_cover_the_samples_and_no_more(num_samples, rate, frame_rate):
    frames = num_frames(num_samples, rate, frame_rate)
    assert frames * rate / frame_rate >= num_samples - 1e-6
    assert frames == 1 or (frames - 1) * rate / frame_rate < num_samples


def test_negative_time_is_refused():
    with pytest.raises(SaladError, match="seconds: got -1"):
        to_samples(-1, 16_000)


@given(st.integers(0, 5 * 1600), st.floats(0.5, 3.0), st.integers(0, 9))
def test_split_parts_join_to_the_whole_and_keep_the_limit(num_samples, max_s, seed):
    x = np.random.default_rng(seed).normal(size=num_samples).astype(np.float32)
    parts = split_at_quiet(x, 1600, max_s)
    assert np.array_equal(np.concatenate(parts), x)
    assert all(len(p) <= to_samples(max_s, 1600) for p in parts)


def test_split_cuts_in_the_pause():
    x = np.random.default_rng(0).normal(size=10 * 16_000).astype(np.float32)
    x[4 * 16_000 : int(4.5 * 16_000)] = 0
    first = split_at_quiet(x, 16_000, 6.0)[0]
    assert 4.0 <= len(first) / 16_000 <= 4.5


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_read_mixes_to_mono_at_the_rate(tmp_path, suffix):
    t = np.arange(44_100) / 44_100
    tone = np.sin(2 * np.pi * 440 * t) * 0.5
    soundfile.write(tmp_path / f"x{suffix}", np.stack([tone, tone], 1), 44_100)
    x, rate = read_audio(tmp_path / f"x{suffix}", 16_000)
    assert rate == 16_000 and x.dtype == np.float32 and abs(len(x) - 16_000) <= 1
    assert abs(np.abs(np.fft.rfft(x)).argmax() * 16_000 / len(x) - 440) < 2


def test_resample_keeps_the_same_rate_untouched():
    x = np.ones(8, np.float32)
    assert resample(x, 16_000, 16_000) is x


@pytest.mark.parametrize("fault", ["missing", "empty file", "not audio", "no samples", "nan", "truncated"])
def test_unusable_audio_is_named(tmp_path, fault):
    path = tmp_path / "x.wav"
    if fault == "empty file":
        path.write_bytes(b"")
    elif fault == "not audio":
        path.write_text("hello")
    elif fault == "no samples":
        soundfile.write(path, np.zeros(0), 16_000)
    elif fault == "nan":
        soundfile.write(path, np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    elif fault == "truncated":
        soundfile.write(path, np.zeros(16_000), 16_000)
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(SaladError, match="x.wav"):
        read_audio(path)


def test_flac_is_written_whole(tmp_path):
    x = np.linspace(-0.9, 0.9, 1000, dtype=np.float32)
    write_flac(tmp_path / "a" / "x.flac", x, 16_000)
    got, rate = read_audio(tmp_path / "a" / "x.flac")
    assert rate == 16_000 and np.abs(got - x).max() < 1e-4
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.flac"]
