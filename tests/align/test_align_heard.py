"""What the real aligner finds: in human recordings, against times read off their spectrograms; in voices, against
silences put there.

The recordings' times were found by eye, in spectrograms (3 ms hops) and short-time energy of 16 kHz samples, at events
that show: after a pause the rise of the first word's energy ("it", "we", "that", "Ever", "No"); the onset of a
fricative's noise ("foolishness", "far", "short"; "season" and "spring" where a weaker consonant ends and /s/ begins);
the fall into a nasal, or a dip between two glides ("matter", "nothing", "was", "we", "worst", "winter"); the closure of
a plosive after a vowel ("before", "going", "direct", "period", "tried", "better"), its release where it ends the word
before ("of" after "age", "everything"). Words whose edges do not show ("the", "of" after a vowel) are left out. Good to
about 20 ms; 40 ms for closures.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from salad.align.utterances import align_utterance, align_utterances
from salad.align.whisper import load_aligner
from salad.assets import get
from salad.audio import read_audio, to_samples, write_flac
from salad.data.manifest import read_utterances, utterance_to_dict
from salad.engine import Shard
from salad.files import read_jsonl
from salad.synthesize.speak import speech_bounds
from salad.synthesize.voices import load_voice
from salad.types import Utterance

pytestmark = pytest.mark.slow

ASR = "whisper-tiny.en"
BECKETT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
DICKENS = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing "
    "before us, we were all going direct to Heaven, we were all going direct the other way— in short, the period was "
    "so far like the present period, that some of its noisiest authorities insisted on its being received, for good or "
    "for evil, in the superlative degree of comparison only."
)
# recording -> text, and (word, which of its kind from 0, seconds)
HAND_CHECKED = {
    "beckett": (
        BECKETT,
        "ever 0 .31, tried 0 .545, ever 1 1.84, failed 0 2.06, no 0 3.53, matter 0 3.70, try 0 4.87, fail 1 8.05, "
        "better 0 8.43",
    ),
    "two_cities": (
        DICKENS,
        "it 0 1.20, was 0 1.34, it 1 2.985, was 1 3.12, worst 0 3.40, of 1 3.76, it 2 5.025, was 2 5.14, of 2 5.61, "
        "wisdom 0 5.74, it 3 6.66, of 3 7.25, foolishness 0 7.32, it 4 8.82, it 5 10.765, was 5 10.86, it 6 13.465, "
        "season 0 13.805, light 0 14.30, it 7 15.15, was 7 15.24, season 1 15.475, it 8 17.575, was 8 17.69, "
        "spring 0 17.90, it 9 18.98, was 9 19.10, winter 0 19.40, we 0 21.25, everything 0 21.557, before 0 21.96, "
        "we 1 22.73, nothing 0 22.95, before 1 23.34, we 2 24.65, going 0 24.94, direct 0 25.22, we 3 26.575, "
        "direct 1 27.25, in 0 29.10, short 0 29.22, the 11 29.93, period 0 30.01, far 0 30.78, that 0 32.78, "
        "some 0 32.85, noisiest 0 33.36",
    ),
}


@pytest.mark.parametrize("name", HAND_CHECKED)
def test_a_humans_words_start_where_they_are_seen(name: str, tmp_path: Path) -> None:
    """Mean absolute error of the starts at most 80 ms; the Dickens, 44 s without sentence times, takes windows."""
    text, checked = HAND_CHECKED[name]
    path = get("human-speech") / f"{name}.wav"
    utterance = Utterance(name, text, str(path), 16_000, 1)
    [aligned], reasons = align_utterance(load_aligner(ASR), utterance, None, tmp_path, asset=ASR, min_score=0.3)
    assert [word.text for word in aligned.words] == text.split() and not reasons
    assert all(0 < word.score <= 1 for word in aligned.words) and 0.8 < aligned.score < 1
    bare = [word.text.lower().strip(",.—") for word in aligned.words]
    errors = {}
    for row in checked.split(", "):
        word, which, at_s = row.split()
        place = [n for n, other in enumerate(bare) if other == word][int(which)]
        errors[row] = aligned.words[place].start_s - float(at_s)
    size = np.abs(list(errors.values()))
    print(
        f"{name}: {len(size)} words, mean {size.mean():.3f}, median {np.median(size):.3f}, largest {size.max():.3f} s"
    )
    assert size.mean() <= 0.08 and np.median(size) <= 0.05, errors


SENTENCES = (
    "Bread needs flour, water, salt and time before the morning bakers come home.",
    "Some people walk twelve miles each day along quiet rivers under bright stars.",
)


def spell(voice_name: str, text: str, pause_s: float, seed: int) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Words spoken one at a time and joined with silences around `pause_s`; samples at 16 kHz and each word's times."""
    from salad.audio import resample

    voice, generator = load_voice(voice_name), np.random.default_rng(seed)
    pieces, times_s, at = [np.zeros(4000, np.float32)], [], 4000
    for word in text.split():
        spoken = voice.speak(word)
        said = spoken[slice(*speech_bounds(spoken, voice.sample_rate_hz))]
        said = resample(said, voice.sample_rate_hz, 16_000)
        pieces += [said, np.zeros(to_samples(pause_s * generator.uniform(0.8, 1.5), 16_000), np.float32)]
        times_s.append((at / 16_000, (at + len(said)) / 16_000))
        at += len(said) + len(pieces[-1])
    return np.concatenate(pieces), times_s


@pytest.mark.parametrize("voice", ["piper-joe", "kokoro:jf_alpha", "kokoro:af_heart"])
def test_words_between_known_silences_are_found(voice: str) -> None:
    """Median error of starts at most 60 ms, of ends at most 80 ms."""
    starts, ends = [], []
    for seed, text in enumerate(SENTENCES):
        samples, times_s = spell(voice, text, 0.12, seed)
        words, _ = load_aligner(ASR).align(samples, text.split(), None)
        starts += [abs(word.start_s - at[0]) for word, at in zip(words, times_s, strict=True)]
        ends += [abs(word.end_s - at[1]) for word, at in zip(words, times_s, strict=True)]
    figures = (
        f"starts {np.median(starts):.3f} (mean {np.mean(starts):.3f}), ends {np.median(ends):.3f} ({np.mean(ends):.3f})"
    )
    print(voice, len(starts), "words:", figures)
    assert np.median(starts) <= 0.06 and np.median(ends) <= 0.08, figures


def test_words_that_are_not_written_are_heard(tmp_path: Path) -> None:
    """Of three recordings of one sentence, one says more than its text; one has the text of another utterance."""
    voice = load_voice("piper-joe")
    said = voice.speak(SENTENCES[0])
    more = np.concatenate([said, voice.speak("Please subscribe to our channel and leave a comment."), said])
    items = []
    for name, text, samples in (
        ("right", SENTENCES[0], said),
        ("more", f"{SENTENCES[0]} {SENTENCES[0]}", more),
        ("another", SENTENCES[1], said),
    ):
        write_flac(tmp_path / f"{name}.flac", samples, voice.sample_rate_hz)
        items.append(Utterance(name, text, str(tmp_path / f"{name}.flac"), voice.sample_rate_hz, len(samples)))
    shard = Shard(0, tuple((utterance_to_dict(item), None) for item in items))
    align_utterances(shard, tmp_path / "heard", asset=ASR, min_score=0.3, listen=True)
    assert [u.id for u in read_utterances(tmp_path / "heard" / "utterances.jsonl")] == ["right"]
    reasons = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "heard" / "quarantine.jsonl")}
    assert "spoken but not written" in reasons["more"] and "subscribe" in reasons["more"]
    assert "another" in reasons
    align_utterances(Shard(0, shard.items[2:]), tmp_path / "score", asset=ASR, min_score=0.3)
    [row] = read_jsonl(tmp_path / "score" / "quarantine.jsonl")
    assert "min_score 0.3" in row["reason"]


def test_long_recording_keeps_what_is_written(tmp_path: Path) -> None:
    """The Dickens with a passage cut out of its text: the window that says it goes, the others stay."""
    words = DICKENS.split()
    samples, _ = read_audio(get("human-speech") / "two_cities.wav", 16_000)
    start, end = words.index("we"), len(words) - 1 - words[::-1].index("we")
    text = " ".join(words[:start] + words[end:])
    write_flac(tmp_path / "cut.flac", samples, 16_000)
    utterance = replace(Utterance("cut", text, str(tmp_path / "cut.flac"), 16_000, len(samples)), speaker="reader")
    parts, reasons = align_utterance(load_aligner(ASR), utterance, None, tmp_path, asset=ASR, min_score=0.3)
    assert any("spoken but not written" in reason and "nothing" in reason for reason in reasons)
    kept = " ".join(part.text for part in parts)
    assert parts and "everything" not in kept and len(kept.split()) > 30
