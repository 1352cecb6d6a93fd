import io
import os
import shutil

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


def noise(seconds, rate_hz=16_000, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate_hz)).astype(np.float32)


def packed(samples, kind, rate_hz=16_000, subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "AIFF", "AU"])
def test_a_file_cut_in_the_middle_is_not_taken_for_a_short_one(tmp_path, kind):
    """libsndfile mends the header of such a file in silence."""
    data = packed(noise(3.0), kind, subtype="PCM_16")
    path = tmp_path / "x.bin"
    path.write_bytes(data[: len(data) // 3])
    for source in (path, path.read_bytes()):
        with pytest.raises(SaladError, match=r"is cut off: (0\.9|1\.0)\d s of 3.00 s can be read"):
            read_audio(source)
    assert len(read_audio(path, duration_s=0.5)[0]) == 8000  # what is there can be read
    path.write_bytes(data)
    assert len(read_audio(path)[0]) == 48_000


def test_a_wav_written_to_a_pipe_tells_no_length(tmp_path):
    data = bytearray(packed(noise(1.0), "WAV", subtype="PCM_16"))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert len(read_audio(bytes(data))[0]) == 16_000


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_cut_ogg_is_found_by_its_last_page(tmp_path, subtype):
    data = packed(noise(8.0), "OGG", subtype=subtype)
    path = tmp_path / "x.ogg"
    for part in (0.3, 0.5, 0.99):
        path.write_bytes(data[: int(part * len(data))])
        for source in (path, path.read_bytes()):
            with pytest.raises(SaladError, match="cut off in the middle of a page"):
                read_audio(source)
    path.write_bytes(data)
    assert abs(len(read_audio(path)[0]) - 8 * 16_000) < 1000


def test_channels_that_cancel_each_other_out_are_named(tmp_path):
    left, right = noise(1.0), noise(1.0, seed=1)
    soundfile.write(tmp_path / "x.wav", np.stack([left, 0.01 * right - left], 1), 16_000)
    with pytest.raises(SaladError, match="2 channels that cancel each other out"):
        read_audio(tmp_path / "x.wav")
    assert np.abs(read_audio(tmp_path / "x.wav", channel=0)[0] - left).max() < 1e-3
    for others in ([np.zeros_like(left)] * 7, [noise(1.0, seed=n) for n in range(1, 8)], [left]):
        soundfile.write(tmp_path / "y.wav", np.stack([left, *others], 1), 16_000)
        assert len(read_audio(tmp_path / "y.wav")[0]) == 16_000


def test_a_rate_that_no_speech_has_is_a_damaged_header(tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(0.01), 7)
    with pytest.raises(SaladError, match="rate of 7 Hz, expected at least 4000"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize(("suffix", "codec"), [(".wma", "wmav2"), (".aac", "aac"), (".webm", "libopus")])
def test_kinds_that_pyav_reads(tmp_path, suffix, codec):
    av = pytest.importorskip("av")
    path = tmp_path / f"x{suffix}"
    with av.open(str(path), "w", format={".wma": "asf", ".aac": "adts"}.get(suffix)) as file:
        stream = file.add_stream(codec, rate=48_000, layout="mono")
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(noise(2.0, 48_000)[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    shutil.move(path, tmp_path / "x.wav")  # the bytes decide
    x, rate = read_audio(tmp_path / "x.wav", 16_000)
    assert rate == 16_000 and abs(len(x) - 32_000) < 3200 and 0.03 < x.std() < 0.2


def test_a_name_that_is_not_utf8_is_read_and_can_be_written_down(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
    with open(path, "wb") as file:
        file.write(packed(noise(1.0), "WAV"))
    assert len(read_audio(path)[0]) == 16_000
    with pytest.raises(SaladError) as error:
        read_audio(path, max_s=0.5)
    assert b"udcff.wav" in str(error.value).encode()
