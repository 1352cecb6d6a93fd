"""What an ingest does once for many documents, or not at all: questions to the plan, encoding what is encoded."""

import io

import numpy as np
import pytest
import soundfile

from salad.audio import copy_flac, read_audio, write_flac
from salad.config import Speech
from salad.data.ingest import ingest_documents
from salad.data.ingest_plan import IngestLimits, PlannedRows, make_plan, read_plan
from salad.data.manifest import utterances_in
from salad.data.plan_stamps import open_plan
from salad.data.readers.rows import Row

LIMITS = IngestLimits(min_s=0.1, max_s=60.0, context=1000, rate_hz=12.5, speech_share=0.6)


def planned(folder, rows):
    make_plan(folder / "plan.sqlite", [(Speech(path=folder, format="folder"), "made-up", iter(rows))], LIMITS)
    return read_plan(folder / "plan.sqlite")[0]


def sound(seconds=1.0, seed=0):
    return np.random.default_rng(seed).normal(scale=0.3, size=int(16_000 * seconds)).astype(np.float32)


def test_samples_become_16_bits_as_libsndfile_makes_them(tmp_path):
    half = np.arange(-70_000, 70_000, dtype=np.float32) / np.float32(65_536)  # every half step, and beyond full scale
    for samples in (sound(), half, half * np.float32(1 + 2**-20)):
        write_flac(tmp_path / "a.flac", samples, 16_000)
        theirs = io.BytesIO()
        soundfile.write(theirs, np.clip(samples, -1.0, 1.0), 16_000, format="FLAC", subtype="PCM_16")
        assert (tmp_path / "a.flac").read_bytes() == theirs.getvalue()


def test_a_flac_of_the_very_samples_is_not_encoded_again(tmp_path):
    source, copy = tmp_path / "source.flac", tmp_path / "copy.flac"
    with soundfile.SoundFile(source, "w", 16_000, 1, "PCM_16", format="FLAC", compression_level=0.0) as file:
        file.title = "not taken"
        file.write(sound())
    samples, _ = read_audio(source)
    assert copy_flac(source, copy, samples, 16_000)
    kept, told = copy.read_bytes(), source.read_bytes()
    assert told.endswith(kept[42:]) and kept[8:42] == told[8:42] and b"not taken" in told and b"not taken" not in kept
    assert np.array_equal(read_audio(copy)[0], samples)


@pytest.mark.parametrize("fault", ["rate", "channels", "bits", "part", "hash", "format"])
def test_what_is_another_file_is_not_copied(tmp_path, fault):
    source, samples = tmp_path / "source.flac", sound()
    channels = np.stack([samples, samples], axis=1) if fault == "channels" else samples
    subtype = "PCM_24" if fault == "bits" else "PCM_16"
    kind = "WAV" if fault == "format" else "FLAC"
    soundfile.write(source, channels, 8_000 if fault == "rate" else 16_000, format=kind, subtype=subtype)
    if fault == "hash":
        data = source.read_bytes()
        source.write_bytes(data[:26] + bytes(16) + data[42:])
    read = read_audio(source)[0]
    assert not copy_flac(source, tmp_path / "copy.flac", read[:-1] if fault == "part" else read, 16_000)
    assert not (tmp_path / "copy.flac").exists()


def test_ingest_keeps_the_frames_of_a_flac_and_encodes_a_part_of_one(tmp_path):
    source = tmp_path / "source.flac"
    write_flac(source, sound(2.0), 16_000)
    own = [Row("whole", str(source), "two words"), Row("part", str(source), "one word", duration_s=1.0)]
    documents = planned(tmp_path, own)
    how = {"workers": 1, "title": "ingest"}
    shards = ingest_documents(
        documents, tmp_path / "plan.sqlite", {tmp_path.name: ("", "")}, LIMITS, tmp_path / "out", **how
    )
    whole, part = utterances_in(shard / "utterances.jsonl" for shard in shards)
    assert source.read_bytes().endswith(open(whole.audio, "rb").read()[42:]) and part.num_samples == 16_000
    assert np.array_equal(read_audio(part.audio)[0], read_audio(source)[0][:16_000])


def test_rows_of_many_documents_are_asked_for_together_and_come_as_they_were(tmp_path):
    words = (("two", 0.0, 0.5), ("words", 0.5, 1.0, 0.9))
    odd = Row("odd", "/a\udcff.flac", "two words", ("bytes", 5, 7), 0.5, 1.0, channel=1, speaker="Å", words=words)
    plain = [Row(f"{n:04d}", f"/{n}.flac", "two words", duration_s=1.0) for n in range(300)]
    documents = planned(tmp_path, [odd, *plain])
    asked = list[str]()
    with open_plan(tmp_path / "plan.sqlite") as plan:
        plan.set_trace_callback(asked.append)
        opened = PlannedRows(plan)
        assert [row for one in documents for row in opened.rows(one.number)] == [odd, *plain]
        assert len([one for one in asked if "FROM rows" in one]) <= 3
        assert opened.rows(17) == [plain[16]] and opened.rows(10_000) == []


def test_the_plan_of_a_short_document_is_small(tmp_path):
    """Fields as they are by default, and an index that nothing reads, once were more than half of it."""
    times = tuple(("word", n * 0.2, n * 0.2 + 0.2) for n in range(20))
    rows = [Row(f"{n:08d}", "/tone.flac", " ".join(["word"] * 20), duration_s=4.0, words=times) for n in range(640)]
    planned(tmp_path, rows)
    text = len(rows[0].text) + sum(len(f'["word",{start!r},{end!r}],') for _, start, end in times)
    assert (tmp_path / "plan.sqlite").stat().st_size / 640 < text + 300
