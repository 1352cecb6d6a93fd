"""Voices and spoken documents: every word is said once, the same way each time, and failures are kept."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.audio import read_audio
from salad.corpus.manifest import load_spoken
from salad.engine import Shard, run_shards
from salad.files import read_jsonl
from salad.synthesize import speak, voices
from salad.synthesize.speak import speak_document, speak_documents, split_sentences, trim_silence, utterance_id
from salad.synthesize.voices import MAX_TOKENS, PiperVoice, assets_of_voice, load_voice, token_parts
from salad.types import Document, SaladError

TEXT = "Dr. Smith saw 3.5 miles of lava. Is it hot? Yes!\n\nBread needs salt - and time, as J. B. Cook said."


class Tone:
    """A voice for the logic around voices: each character is 50 ms of tone, with silence before and after."""

    name, sample_rate_hz = "test:tone", 22_050

    def speak(self, text: str) -> np.ndarray:
        if "NaN" in text:
            return np.full(100, np.nan, dtype=np.float32)
        time_s = np.arange(int(0.05 * len(text) * self.sample_rate_hz)) / self.sample_rate_hz
        silence = np.zeros(3000, dtype=np.float32)
        return np.concatenate([silence, np.sin(2 * np.pi * 300 * time_s).astype(np.float32), silence])


def sentences_of(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[start:end]) for start, end in split_sentences(text)]


def test_sentences_end_where_a_reader_stops() -> None:
    assert sentences_of(TEXT) == [
        "Dr. Smith saw 3.5 miles of lava.",
        "Is it hot?",
        "Yes!",
        "Bread needs salt - and time, as J. B. Cook said.",
    ]
    assert sentences_of('He said "Stop." Then he left... and came back.') == [
        'He said "Stop."',
        "Then he left... and came back.",
    ]
    assert sentences_of("A title\n\nThe first line\nof a paragraph") == ["A title", "The first line of a paragraph"]
    assert split_sentences("") == []


@given(st.text(alphabet="ab1.?!,- \n\"')", max_size=400))
def test_sentences_hold_every_word_once(text: str) -> None:
    runs = split_sentences(text)
    words = text.split()
    assert [word for start, end in runs for word in words[start:end]] == words
    assert all(start < end for start, end in runs)
    if len(runs) > 1:
        assert all(any(c.isalnum() for word in words[start:end] for c in word) for start, end in runs)


@given(st.lists(st.sampled_from(["word", "comma,", "a" * 30]), min_size=1, max_size=200))
def test_long_sentences_are_cut(words: list[str]) -> None:
    for start, end in split_sentences(" ".join(words)):
        assert end - start <= speak.MAX_WORDS
        assert len(" ".join(words[start:end])) <= speak.MAX_CHARS


def test_long_sentence_is_cut_at_a_comma() -> None:
    words = ["word"] * 29 + ["comma,"] + ["word"] * 30
    assert split_sentences(" ".join(words)) == [(0, 30), (30, 60)]


@given(st.lists(st.integers(0, 700), max_size=8))
def test_token_parts_are_short_and_complete(counts: list[int]) -> None:
    text = " ".join(f"{n}" for n in counts)
    parts = list(token_parts(text, lambda part: [n for n in map(int, part.split()) for _ in range(n)]))
    assert all(0 < len(part) <= MAX_TOKENS for part in parts)
    assert [token for part in parts for token in part] == [n for n in counts for _ in range(n)]


def test_trim_keeps_the_speech_and_a_margin() -> None:
    voice = Tone()
    trimmed = trim_silence(voice.speak("abcd"), voice.sample_rate_hz)
    assert 0.2 < len(trimmed) / voice.sample_rate_hz < 0.2 + 2 * speak.MARGIN_S + 0.02
    for bad in (np.zeros(0), np.zeros(1000), np.array([0.5, np.nan])):
        with pytest.raises(SaladError, match="the voice returned"):
            trim_silence(bad.astype(np.float32), 16_000)


def test_sentence_times_frame_the_sound() -> None:
    document = Document("d1", TEXT, "test")
    samples, sentences = speak_document(document, Tone(), seed=1)
    again, _ = speak_document(document, Tone(), seed=1)
    assert np.array_equal(samples, again)
    assert not np.array_equal(samples[:100_000], speak_document(document, Tone(), seed=2)[0][:100_000])
    assert [(start, end) for start, end, _, _ in sentences] == split_sentences(TEXT)
    assert np.abs(samples).max() <= speak.PEAK + 1e-6
    for (*_, before_s), (_, _, after_s, _) in zip(sentences, sentences[1:], strict=False):
        assert speak.PAUSE_S[0] - 1e-3 <= after_s - before_s <= speak.PAUSE_S[1] + 1e-3
        assert np.abs(samples[round(before_s * 16_000) : round(after_s * 16_000)]).max() < 1e-3
    for _, _, start_s, end_s in sentences:
        assert np.abs(samples[round(start_s * 16_000) : round(end_s * 16_000)]).max() > 0.5


def items_of(*documents: Document, voice: str = "test:tone") -> list[dict[str, object]]:
    return [{"document": asdict(d), "voice": voice, "licence": "CC0", "simulated": True} for d in documents]


def test_job_writes_what_loads_and_quarantines_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speak, "load_voice", lambda name: Tone())
    good = Document("topic/1", TEXT, "web", "rocks")
    bad = [Document("nan", "This is NaN. And more.", "web"), Document("mute", "*** -", "web")]
    job = functools.partial(speak_documents, seed=0)
    folders = run_shards(job, items_of(good, *bad), tmp_path, shard_items=3, workers=1, title="speak")
    [(utterance, sentences)] = load_spoken(folders)
    assert utterance.id == "topic/1--test-tone" == utterance_id("topic/1", "test:tone")
    assert (utterance.text, utterance.domain, utterance.licence) == (TEXT, "rocks", "CC0")
    assert sentences is not None and sentences[-1][1] == len(good.words)
    samples, rate_hz = read_audio(utterance.audio)
    assert (len(samples), rate_hz) == (utterance.num_samples, 16_000)
    rows = read_jsonl(folders[0] / "quarantine.jsonl")
    assert [row["id"] for row in rows] == ["nan", "mute"]
    assert "NaN" in rows[0]["reason"] and "no word" in rows[1]["reason"]


def test_unknown_voice_names_those_that_exist() -> None:
    for name in ("piper-jo", "kokoro:af_hart", "kokoro", ""):
        with pytest.raises(SaladError, match="piper-joe, kokoro:af_alloy"):
            load_voice(name)
    assert assets_of_voice("kokoro:jf_alpha") == ("kokoro",)
    assert assets_of_voice("kokoro:bf_emma") == ("kokoro", "kokoro-voices")


def test_numbers_stay_whole_when_punctuation_is_kept() -> None:
    pytest.importorskip("phonemizer")
    phonemes = voices._espeak("en-us")("It rose 3.5 percent, to 1,200.")
    assert "pɔɪnt" in phonemes and "θˈaʊzənd" in phonemes and phonemes.endswith(".") and "," in phonemes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["piper-joe", "kokoro:jf_alpha"])
def test_same_text_same_samples_in_any_order(name: str) -> None:
    """A fresh session that has just said something else gives the same bytes."""
    voice = load_voice(name)
    text = "The cat sat down."
    first = voice.speak(text)
    voice.speak("Something else.")
    assert hashlib.sha256(voice.speak(text).tobytes()).digest() == hashlib.sha256(first.tobytes()).digest()
    load_voice.cache_clear()
    voices._session.cache_clear()
    fresh = load_voice(name)
    fresh.speak("Another thing.")
    assert np.array_equal(fresh.speak(text), first)
    assert first.dtype == np.float32 and 0.5 < len(first) / voice.sample_rate_hz < 4
    with pytest.raises(SaladError, match="no phonemes"):
        voice.speak("  ")


@pytest.mark.slow
def test_piper_reads_every_part_of_a_text() -> None:
    voice = load_voice("piper-joe")
    assert isinstance(voice, PiperVoice)
    one, two = len(voice.speak("The first part.")), len(voice.speak("The first part. The second part."))
    assert two > 1.5 * one


@pytest.mark.slow
def test_real_documents_are_spoken_alike_by_any_number_of_workers(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", f"Number {n} is here. It stays.", "test") for n in range(4)]
    job = functools.partial(speak_documents, seed=5)
    sums = []
    for workers in (1, 2):
        run_shards(
            job,
            items_of(*documents, voice="piper-joe"),
            tmp_path / str(workers),
            shard_items=2,
            workers=workers,
            title="speak",
        )
        files = sorted(path for path in (tmp_path / str(workers)).glob("shard-*/**/*") if path.is_file())
        sums.append([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert sums[0] == sums[1] and len(sums[0]) == 10


def test_shard_without_items_writes_empty_files(tmp_path: Path) -> None:
    speak_documents(Shard(0, ()), tmp_path, seed=0)
    assert load_spoken([tmp_path]) == []
