import io
import os
import shutil

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from salad.audio import decode, read_audio, resample, split_at_quiet, to_samples, to_seconds, write_flac
from salad.audio.decode import tells_its_length
from salad.audio.encode import _with_serial_zero
from salad.audio.units import num_frames
from salad.data.inspect.audio_stats import measure_audio
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


# How long a file is, its frames and pages tell, not its header


def speechlike(seconds, rate_hz=16_000):
    """Loud and quiet by turns, so that a variable bit rate varies."""
    x = noise(seconds, rate_hz, seed=3)
    return x * np.where(np.arange(len(x)) // rate_hz % 2, 1.0, 0.003).astype(np.float32)


def both_ways(tmp_path, data, name="x.bin"):
    """Read from a path, and from bytes."""
    (tmp_path / name).write_bytes(data)
    return [read_audio(source)[0] for source in (tmp_path / name, data)]


@pytest.mark.parametrize("told", [0, 16_000])
def test_a_flac_that_does_not_know_its_length_is_read_whole(tmp_path, told):
    pytest.importorskip("av")
    x = noise(3.0)
    data = bytearray(packed(x, "FLAC", subtype="PCM_16"))
    data[21:26] = (int.from_bytes(data[21:26], "big") & ~0xFFFFFFFFF | told).to_bytes(5, "big")
    for got in both_ways(tmp_path, bytes(data)):
        assert len(got) == 48_000 and np.abs(got - x).max() < 1e-4
    part, _ = read_audio(bytes(data), offset_s=1.5, duration_s=1.0)
    assert np.abs(part - x[24_000:40_000]).max() < 1e-4
    with pytest.raises(SaladError, match="lasts more than 2 s"):
        read_audio(bytes(data), max_s=2.0)
    assert not tells_its_length(tmp_path / "x.bin")
    assert measure_audio(tmp_path / "x.bin").duration_s == 3.0


def test_a_flac_that_knows_its_length_is_left_to_soundfile(tmp_path):
    for seconds in (0.01, 1.0, 9.0):
        write_flac(tmp_path / "x.flac", noise(seconds), 16_000)
        assert tells_its_length(tmp_path / "x.flac")


@pytest.mark.parametrize("told", [0, 16_000, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_of_a_pipe_or_of_a_killed_recorder_is_read_whole(tmp_path, told):
    x = noise(2.0)
    data = bytearray(packed(x, "WAV", subtype="PCM_16"))
    data[4:8], data[40:44] = min(told + 36, 0xFFFFFFFF).to_bytes(4, "little"), told.to_bytes(4, "little")
    for got in both_ways(tmp_path, bytes(data)):
        assert len(got) == 32_000 and np.abs(got - x).max() < 1e-4
    assert measure_audio(tmp_path / "x.bin").duration_s == 2.0


@pytest.mark.parametrize("behind", [b"LIST" + (6000).to_bytes(4, "little") + bytes(range(1, 251)) * 24,
                                    b"ID3\x04" + b"\x07" * 6000, bytes(6000)])  # fmt: skip
def test_what_stands_behind_the_samples_of_a_wav_is_no_sound(behind):
    assert len(read_audio(packed(noise(1.0), "WAV", subtype="PCM_16") + behind)[0]) == 16_000


def test_an_mp3_of_variable_rate_without_its_first_frame_is_read_whole(tmp_path):
    pytest.importorskip("av")
    x = speechlike(14.5, 44_100)
    file = io.BytesIO()
    soundfile.write(file, x, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.2)
    whole = file.getvalue()
    at = whole.index(b"\xff\xfb")
    without = whole[next(i for i in range(at + 100, len(whole)) if whole[i : i + 2] == whole[at : at + 2]) :]
    assert b"Xing" in whole[:200] and b"Xing" not in without[:200]
    for got in both_ways(tmp_path, without):
        assert abs(len(got) / 44_100 - 14.5) < 0.15
    for got in both_ways(tmp_path, whole + whole):  # the first one tells of itself alone
        assert abs(len(got) / 44_100 - 29.0) < 0.3
    (tmp_path / "x.mp3").write_bytes(whole)
    assert tells_its_length(tmp_path / "x.mp3") and abs(len(read_audio(whole)[0]) / 44_100 - 14.5) < 0.1


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_files_one_behind_the_other_are_read_as_one(tmp_path, subtype):
    x = [noise(2.0), noise(1.5, 48_000 if subtype == "OPUS" else 24_000, seed=1)]
    rates = [16_000, 48_000 if subtype == "OPUS" else 24_000]
    one, two = (packed(a, "OGG", rate, subtype) for a, rate in zip(x, rates, strict=True))
    alone = [read_audio(data)[0] for data in (one, two)]
    for got in both_ways(tmp_path, one + two):
        assert abs(len(got) - 3.5 * 16_000) < 400
        assert np.array_equal(got[: len(alone[0])], alone[0])
    part = read_audio(tmp_path / "x.bin", offset_s=2.5, duration_s=0.5)[0]
    assert np.array_equal(part, read_audio(tmp_path / "x.bin")[0][40_000:48_000])
    with pytest.raises(SaladError, match=r"lasts 3.5 s, expected at most 3 s"):
        read_audio(tmp_path / "x.bin", max_s=3.0)
    stereo = packed(np.stack([x[0], x[0]], 1), "OGG", 16_000, subtype)
    with pytest.raises(SaladError, match="streams of 1 and of 2 channels"):
        read_audio(one + stereo)
    with pytest.raises(SaladError, match="cut off in the middle of a page"):
        read_audio(one + two[:-50])


def test_ogg_streams_beyond_the_limit_are_not_decoded(monkeypatch):
    """Nothing but the header of a stream that is too long by itself, or with those before it, is read."""
    read, blocks = [], decode._read_blocks
    monkeypatch.setattr(decode, "_read_blocks", lambda *given: read.append(given[1]) or blocks(*given))
    short, long = (packed(noise(seconds), "OGG", subtype="VORBIS") for seconds in (0.5, 4.0))
    with pytest.raises(SaladError, match=r"stream 2 of 3\) lasts 4.5 s, expected at most 3 s"):
        read_audio(short + long + short, max_s=3.0)
    assert read == [8000]
    assert abs(len(read_audio(long + short, max_s=3.0, offset_s=1.6)[0]) / 16_000 - 2.9) < 0.05
    assert len(read_audio(long + short, max_s=1.0, offset_s=3.9, duration_s=0.2)[0]) == 3200


def test_more_samples_than_speech_has_are_refused_before_they_are_read():
    """A second of silence packs to nothing; at this rate and in so many channels it takes 21 MB."""
    data = packed(np.zeros((655_350, 8), np.int16), "FLAC", 655_350)
    with pytest.raises(SaladError, match=r"x holds 5242800 samples in all its channels, expected at most 1536000"):
        read_audio(data, 16_000, max_s=4.0, name="x")
    assert len(read_audio(packed(np.zeros((96_000, 4), np.int16), "FLAC", 96_000), 16_000, max_s=1.0)[0]) == 16_000


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_a_flac_that_does_not_tell_its_length_is_read_in_all_its_channels(channels):
    """Of eight planes PyAV's own arrays read beyond the last, which ends the process."""
    pytest.importorskip("av")
    x = np.random.default_rng(0).normal(0, 0.1, (8000, channels))
    data = bytearray(packed(x, "FLAC"))
    wanted = read_audio(bytes(data))[0]
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])  # no number of samples
    assert np.array_equal(read_audio(bytes(data))[0], wanted)


def test_more_samples_than_speech_has_are_refused_where_no_header_tells():
    pytest.importorskip("av")
    data = bytearray(packed(np.zeros((655_350, 8), np.int16), "FLAC", 655_350))
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])  # no number of samples
    with pytest.raises(SaladError, match="samples in all its channels, expected at most 384000 within 1 s"):
        read_audio(bytes(data), 16_000, max_s=1.0)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_whose_last_page_tells_no_position_keeps_its_tail(tmp_path, subtype):
    pytest.importorskip("av")
    data = bytearray(packed(noise(6.0), "OGG", subtype=subtype))
    data[data.rfind(b"OggS") + 6 : data.rfind(b"OggS") + 14] = b"\xff" * 8
    with_sums = _with_serial_zero(bytes(data))
    for got in both_ways(tmp_path, with_sums):
        assert abs(len(got) / read_audio(with_sums)[1] - 6.0) < 0.1


@pytest.mark.parametrize(("scale", "bits"), [(32_768.0, 16), (127.0, 8), (2.0**31, 32)])
def test_integers_written_as_floats_are_named(tmp_path, scale, bits):
    x = np.clip(noise(1.0), -0.9, 0.9) * scale
    soundfile.write(tmp_path / "x.wav", x, 16_000, subtype="FLOAT")
    for reader in (read_audio, measure_audio):
        with pytest.raises(SaladError, match=f"x.wav has samples of up to .* integers of {bits} bits"):
            reader(tmp_path / "x.wav")


def test_a_float_file_a_little_over_full_scale_is_read(tmp_path):
    x = noise(1.0)
    x[:100] = 1.4
    soundfile.write(tmp_path / "x.wav", x, 16_000, subtype="FLOAT")
    assert read_audio(tmp_path / "x.wav")[0].max() == np.float32(1.4)


# Lengths and headers that are false in other ways


def with_int(data, mark, behind, value, num_bytes, order):
    """The file with a number `behind` bytes after a mark."""
    at = data.find(mark) + behind
    return data[:at] + value.to_bytes(num_bytes, order) + data[at + num_bytes :]


@pytest.mark.parametrize("told", [0, 16_000])
def test_the_cousins_of_a_wav_of_a_killed_recorder_are_read_whole(tmp_path, told):
    x = noise(2.0)
    au = packed(x, "AU", subtype="PCM_16")
    aiff = packed(x, "AIFF", subtype="PCM_16")
    stopped = with_int(with_int(aiff, b"SSND", 4, told + 8 * bool(told), 4, "big"), b"COMM", 10, told // 2, 4, "big")
    long = packed(x, "RF64", subtype="PCM_16")
    for data in (
        with_int(au, b".snd", 8, told, 4, "big"),
        stopped,
        with_int(aiff, b"COMM", 10, told // 2, 4, "big"),
        with_int(long, b"ds64", 16, told, 8, "little"),
    ):
        for got in both_ways(tmp_path, data):
            assert len(got) == 32_000 and np.abs(got - x).max() < 1e-4


def test_a_wav_that_contradicts_itself_is_refused():
    data = packed(noise(1.0), "WAV", subtype="PCM_16")
    with pytest.raises(SaladError, match="a sample of 2 channels of 16 bits takes 2 bytes"):
        read_audio(with_int(data, b"fmt ", 10, 2, 2, "little"))
    with pytest.raises(SaladError, match="a sample of 1 channels of 8 bits takes 2 bytes"):
        read_audio(with_int(data, b"fmt ", 22, 8, 2, "little"))
    with pytest.raises(SaladError, match="holds 2 chunks of samples, where one is expected"):
        read_audio(data + data[data.find(b"data") :])
    assert len(read_audio(with_int(data, b"fmt ", 16, 1, 4, "little"))[0]) == 16_000  # bytes a second: nobody's loss
    three = packed(noise(1.0), "WAV", subtype="PCM_24")
    with pytest.raises(SaladError, match="a sample of 1 channels of 24 bits takes 4 bytes"):  # 3 by its bytes a second
        read_audio(with_int(three, b"fmt ", 20, 4, 2, "little"))
    four = with_int(with_int(three, b"fmt ", 20, 4, 2, "little"), b"fmt ", 16, 64_000, 4, "little")
    assert len(read_audio(four)[0]) == 12_000  # it says twice that each sample takes 4 bytes


@pytest.mark.parametrize("told", [0, 16_000, 3 * 16_000])
def test_a_flac_behind_a_tag_is_looked_at_like_any_other(told):
    pytest.importorskip("av")
    data = bytearray(packed(noise(3.0), "FLAC", subtype="PCM_16"))
    data[21:26] = (int.from_bytes(data[21:26], "big") & ~0xFFFFFFFFF | told).to_bytes(5, "big")
    assert len(read_audio(b"ID3\4\0\0\0\0\1\0" + bytes(128) + data)[0]) == 48_000


def test_a_flac_that_tells_of_more_than_there_is_takes_no_memory_for_it():
    data = bytearray(packed(noise(3.0), "FLAC", subtype="PCM_16"))
    data[21:26] = (int.from_bytes(data[21:26], "big") | 0xFFFFFFFFF).to_bytes(5, "big")
    with pytest.raises(SaladError, match="cannot be decoded|is cut off"):
        read_audio(bytes(data))


def test_a_few_hundredths_that_are_missing_at_the_end_of_a_long_file_are_a_cut(tmp_path):
    data = packed(noise(12.0), "FLAC", subtype="PCM_16")
    with pytest.raises(SaladError, match="cut off|cannot be decoded"):
        read_audio(data[: int(0.97 * len(data))])


def test_an_ogg_that_lost_a_page_is_refused():
    data = packed(noise(20.0), "OGG", subtype="VORBIS")
    places = [n for n in range(len(data)) if data[n : n + 4] == b"OggS"]
    lost = data[: places[4]] + data[places[5] :]
    with pytest.raises(SaladError, match="has lost some of its pages"):
        read_audio(lost)
    renumbered = data[: places[4] + 14] + b"\1\2\3\4" + data[places[4] + 18 :]
    with pytest.raises(SaladError, match="has a damaged page"):
        read_audio(renumbered)


def m4a(tmp_path, seconds, **metadata):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "x.m4a"), "w", format="mp4", options={"movflags": "faststart"}) as container:
        container.metadata.update(metadata)
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise(seconds)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return (tmp_path / "x.m4a").read_bytes()


def test_an_m4a_whose_index_comes_first_and_whose_sound_is_cut_off_is_refused(tmp_path):
    data = m4a(tmp_path, 6.0)
    assert abs(len(read_audio(data)[0]) / 16_000 - 6.0) < 0.1
    with pytest.raises(SaladError, match="is cut off|cannot be decoded"):
        read_audio(data[: int(0.6 * len(data))])


def test_tags_that_are_not_utf8_do_not_keep_sound_from_being_read(tmp_path):
    data = m4a(tmp_path, 1.0, title="MARK").replace(b"MARK", b"\xe9\xff\xfe\xe8")
    assert abs(len(read_audio(data)[0]) / 16_000 - 1.0) < 0.1


def test_other_files_joined_with_cat_are_refused_or_read_whole(tmp_path):
    flac = packed(noise(1.0), "FLAC", subtype="PCM_16")
    for data in (flac + flac, m4a(tmp_path, 1.0) * 2):
        with pytest.raises(SaladError, match="holds several files one behind the other"):
            read_audio(data)
        assert not tells_its_length(data)


def test_a_file_of_another_kind_behind_the_first_is_no_sound_of_it():
    kinds = {kind: packed(noise(1.0), kind) for kind in ("WAV", "AU", "FLAC", "OGG", "MP3")}
    for first in kinds:
        for second in ("WAV", "FLAC", "OGG"):
            if first != second:
                with pytest.raises(SaladError, match="behind"):
                    read_audio(kinds[first] + kinds[second])
    with pytest.raises(SaladError, match="holds several files one behind the other"):  # of another rate
        read_audio(kinds["MP3"] + packed(speechlike(1.0, 22_050), "MP3", 22_050))


def test_the_head_of_a_wav_in_the_notes_of_a_flac_is_no_second_file():
    data, note = packed(noise(1.0), "FLAC"), b"riffRIFF\x99\0\0\0WAVE"
    data = data[:42] + b"\2" + len(note).to_bytes(3, "big") + note + data[42:]
    assert len(read_audio(data)[0]) == 16_000
    with pytest.raises(SaladError, match="holds several files one behind the other"):
        read_audio(data + packed(noise(1.0), "FLAC"))


def test_an_mp3_that_changes_its_channels_is_refused():
    pytest.importorskip("av")
    one, two = packed(noise(1.0), "MP3"), packed(np.stack([noise(1.0)] * 2, axis=1), "MP3")
    with pytest.raises(SaladError, match="changes from 1 to 2 channels at .* s; give each part as a file of its own"):
        read_audio(one + two)


def test_an_mp3_of_small_frames_keeps_its_last_tenths():
    """libsndfile reads 2.6 of 3 s; frames of 576 samples make less slack than those of 1152."""
    pytest.importorskip("av")
    data = packed(np.random.default_rng(0).normal(0, 0.2, (24_000, 2)).astype(np.float32), "MP3", 8000)
    first = data.rfind(b"\xff", 0, max(data.find(b"Xing"), data.find(b"Info")))
    data = data[data.find(data[first : first + 2], first + 4) :]
    assert len(read_audio(data)[0]) / 8000 > 2.95


@pytest.mark.parametrize("kind", ["RF64", "W64", "NIST"])
def test_other_kinds_of_wav_that_are_cut_off_are_named(kind):
    data = packed(noise(3.0), kind, subtype="PCM_16")
    assert len(read_audio(data)[0]) == 48_000
    with pytest.raises(SaladError, match="is cut off"):
        read_audio(data[: len(data) // 2])


@pytest.mark.parametrize("told", [4, 32_004, 2**64 - 1])
def test_a_caf_of_a_killed_recorder_is_read_whole(told):
    data = packed(noise(2.0), "CAF", subtype="PCM_16")
    assert len(read_audio(with_int(data, b"data", 4, told, 8, "big"))[0]) == 32_000


def test_an_mp3_whose_first_frame_tells_of_no_frames_is_read_whole():
    pytest.importorskip("av")
    data = packed(speechlike(6.0, 44_100), "MP3", 44_100)
    at = max(data.find(b"Xing"), data.find(b"Info"))
    assert abs(len(read_audio(data[: at + 8] + bytes(4) + data[at + 12 :])[0]) / 44_100 - 6.0) < 0.15


def test_what_stands_behind_samples_of_no_length_is_no_sound():
    data = with_int(packed(noise(1.0), "WAV", subtype="PCM_16"), b"data", 4, 0, 4, "little")
    tags = b"LIST" + (4).to_bytes(4, "little") + b"INFO" + b"bext" + (6000).to_bytes(4, "little") + bytes(6000)
    assert len(read_audio(data + tags)[0]) == 16_000


def test_why_a_file_cannot_be_decoded_is_the_same_every_time():
    said = set()
    for _ in range(2):
        with pytest.raises(SaladError, match="cannot be decoded") as error:
            read_audio(bytes(range(64)), name="x")
        said.add(str(error.value))
    assert len(said) == 1 and "0x" not in said.pop()


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_with_one_byte_flipped_is_refused_and_not_cut_short(tmp_path, subtype):
    """A decoder leaves the page out, and what follows with it, without a word."""
    data = bytearray(packed(noise(9.0), "OGG", subtype=subtype))
    data[len(data) // 2] ^= 1
    with pytest.raises(SaladError, match="has a damaged page"):
        read_audio(bytes(data))


ID3 = b"ID3\x03\x00\x00\x00\x00\x00\x0a" + bytes(10)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "OGG", "FLAC", "MP3"])
def test_one_good_file_behind_a_tag_is_read_whole(tmp_path, kind):
    data = packed(noise(1.0), kind)
    wanted = read_audio(data)[0]
    for read in both_ways(tmp_path, ID3 + data):
        assert np.array_equal(read, wanted)
    with pytest.raises(SaladError, match="behind"):
        read_audio(ID3 + data + packed(noise(1.0), "FLAC" if kind == "WAV" else "WAV"))
    with pytest.raises(SaladError, match="cannot be decoded"):
        read_audio(ID3 + bytes(range(256)) * 8)


@pytest.mark.parametrize("fault", ["damaged", "lost"])
def test_a_part_of_an_ogg_with_a_page_less_is_not_read_shifted(fault):
    """Decoders leave the page out, so that what lies behind it is found too early."""
    data = packed(noise(20.0), "OGG", subtype="VORBIS")
    places = [n for n in range(len(data)) if data[n : n + 4] == b"OggS"]
    bad = data[: places[4]] + data[places[5] :]
    if fault == "damaged":
        bad = data[: places[4] + 60] + bytes([data[places[4] + 60] ^ 1]) + data[places[4] + 61 :]
    with pytest.raises(SaladError, match="has a damaged page|has lost some of its pages"):
        read_audio(bad, offset_s=1.0, duration_s=17.0)
    cut = data[: places[-1] + 40]  # what stands before a cut is where it was
    part, wanted = (read_audio(each, offset_s=1.0, duration_s=2.0)[0] for each in (cut, data))
    assert np.array_equal(part, wanted)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "GSM610"), ("AU", "G721_32"), ("AIFF", "GSM610")])
def test_what_has_no_places_to_go_to_is_read_from_its_beginning(kind, subtype):
    tone = (0.3 * np.sin(np.arange(24000) / 5)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, tone, 8000, format=kind, subtype=subtype)
    samples, rate = read_audio(file.getvalue())
    assert rate == 8000 and len(samples) >= 24000 and np.abs(samples[:24000] - tone).mean() < 0.05
    part, _ = read_audio(file.getvalue(), offset_s=1.0, duration_s=0.5)
    assert np.array_equal(part, samples[8000:12000])


def test_a_start_behind_the_end_of_an_m4a_is_the_offset_s_fault(tmp_path):
    with pytest.raises(SaladError, match=r"ends at 3\.\d\d s, before 3\.50 s where it is to be read from"):
        read_audio(m4a(tmp_path, 3.0), offset_s=3.5, duration_s=1.0)


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("name", ["offset_s", "duration_s"])
def test_a_time_that_is_none_is_named(tmp_path, name, time):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000, np.float32), 8000, format="WAV")
    with pytest.raises(SaladError, match=f"seconds: got {time}, expected a time of 0 or more"):
        read_audio(file.getvalue(), **{name: time})


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html></html>", "it is a web page"),
        (b"<HTML></HTML>" * 9, "it is a web page"),
        (b"\x1f\x8b\x08" + bytes(99), "it is gzipped; gunzip it"),
        (b'{"message": "not found"}', "it is JSON"),
        (b"RIFF", "is it cut off"),
    ],
)
def test_what_lies_in_the_place_of_a_recording_is_named(data, told):
    with pytest.raises(SaladError, match=f"cannot be decoded .*{told}"):
        read_audio(data)
