"""Word times agree with the audio, manifests round-trip, bad items are kept aside."""

from __future__ import annotations

import gzip
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from salad.align import whisper
from salad.align.anchors import Window
from salad.align.silence import MIN_WORD_S, clamp, find_silences, match_silences, place_words
from salad.align.transcribe import transcribe_utterances
from salad.align.utterances import RATE_HZ, _cut, align_utterance, align_utterances
from salad.align.whisper import check_sentences, group_sentences, load_aligner, load_whisper
from salad.audio import write_flac
from salad.data.manifest import (
    load_spoken,
    read_utterances,
    utterance_from_dict,
    utterance_to_dict,
    write_lhotse,
    write_utterances,
)
from salad.engine import Shard
from salad.files import read_jsonl, write_jsonl
from salad.synthesize.speak import speak_document
from salad.synthesize.voices import load_voice
from salad.testing.corpora import read_lhotse
from salad.text.error_rates import cer
from salad.types import Document, SaladError, Utterance, Word

ASR = "whisper-tiny.en"
NO_SILENCE = np.zeros((0, 2))
TIMES = st.lists(st.floats(0, 30), min_size=2, max_size=12)


def utterance(folder: Path, name: str = "u1", text: str = "hello big world") -> Utterance:
    return Utterance(
        name, text, str(folder / "audio" / f"{name}.flac"), 16_000, 48_001, speaker="piper-joe", source="web",
        licence="CC0", document_id="d1", domain="rocks",
    )  # fmt: skip


def test_the_name_of_a_control_token_is_aligned_as_characters() -> None:
    aligner = load_aligner(ASR)
    end = aligner._tokenizer.eot
    for word in ("<|endoftext|>", "so<|endoftext|>,<|endoftext|>"):
        tokens = aligner._tokens_of(word)
        assert (
            end not in tokens and aligner._tokenizer.tokenizer.decode(tokens, skip_special_tokens=False) == f" {word}"
        )
    assert aligner._tokens_of("hello") == aligner._tokenizer.encode(" hello")


# Manifests


def test_utterances_survive_disk_and_a_move(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    words = (Word("hello", 0.1, 0.30000000000000004), Word("big", 1 / 3, 0.5), Word("world", 0.5, 2.9999))
    plain, aligned = utterance(old), utterance(old, "ü 2").aligned(words, 0.1 + 0.2)
    write_utterances(old / "utterances.jsonl", [plain, aligned])
    assert "old" not in (old / "utterances.jsonl").read_text()
    old.rename(new)
    back = read_utterances(new / "utterances.jsonl")
    assert back[1] == replace(aligned, audio=str(new / "audio" / "ü 2.flac"))
    assert math.isnan(back[0].score) and replace(back[0], score=0.0) == replace(utterance(new), score=0.0)
    assert utterance_from_dict(utterance_to_dict(aligned)) == aligned
    with pytest.raises(SaladError, match="u1.*colour"):
        utterance_from_dict({**utterance_to_dict(plain), "colour": 1})


def test_sentences_may_be_missing(tmp_path: Path) -> None:
    write_utterances(tmp_path / "utterances.jsonl", [utterance(tmp_path)])
    (tmp_path / "sentences.jsonl").write_text("")
    [(_, sentences)] = load_spoken([tmp_path])
    assert sentences is None


@given(times=TIMES)
def test_lhotse_round_trip_is_exact(times: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("lhotse")
    ordered = sorted(times)
    words = tuple(Word(f"w{n}", a, b) for n, (a, b) in enumerate(itertools.pairwise(ordered)))
    before = utterance(folder, text=" ".join(word.text for word in words)).aligned(words, 0.87)
    write_lhotse([before], folder / "cuts.jsonl.gz")
    [after] = read_lhotse(folder / "cuts.jsonl.gz")
    assert replace(after, words=()) == replace(before, words=())
    for a, b in zip(after.words, before.words, strict=True):
        assert a.text == b.text and abs(a.start_s - b.start_s) < 1e-9 and abs(a.end_s - b.end_s) < 1e-9


def test_lhotse_manifest_is_lhotses_own(tmp_path: Path) -> None:
    from lhotse import CutSet

    write_flac(tmp_path / "audio" / "u1.flac", np.zeros(48_001, dtype=np.float32), 16_000)
    write_lhotse([utterance(tmp_path)], tmp_path / "a.jsonl.gz")
    write_lhotse([utterance(tmp_path)], tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert str(tmp_path) not in gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode()
    [cut] = CutSet.from_file(tmp_path / "a.jsonl.gz").with_recording_path_prefix(tmp_path)
    assert cut.load_audio().shape == (1, 48_001)
    assert (cut.supervisions[0].text, cut.supervisions[0].custom["licence"]) == ("hello big world", "CC0")
    assert math.isnan(read_lhotse(tmp_path / "a.jsonl.gz")[0].score)


def test_lhotse_cut_inside_a_recording_is_refused(tmp_path: Path) -> None:
    write_lhotse([utterance(tmp_path)], tmp_path / "whole.jsonl.gz")
    [cut] = read_jsonl(tmp_path / "whole.jsonl.gz")
    cut["supervisions"][0] |= {"start": 1.0, "duration": 1.0}
    write_jsonl(tmp_path / "part.jsonl.gz", [cut])
    with pytest.raises(SaladError, match="whole recording"):
        read_lhotse(tmp_path / "part.jsonl.gz")


# Boundaries and pauses


@given(bounds=TIMES, low=st.floats(0, 20), length=st.floats(0.01, 10))
def test_clamped_words_are_in_order_inside_and_last(bounds: list[float], low: float, length: float) -> None:
    starts, ends = clamp(np.array(bounds), low, low + length)
    least = min(MIN_WORD_S, length / len(starts))
    assert starts[0] >= low and ends[-1] <= low + length
    assert (ends - starts >= least - 1e-9).all() and (starts[1:] >= ends[:-1] - 1e-9).all()


@given(bounds=TIMES, quiet=st.lists(st.floats(0, 30), max_size=8), low=st.floats(0, 5), length=st.floats(0.5, 25))
def test_placed_words_keep_out_of_their_pauses(
    bounds: list[float], quiet: list[float], low: float, length: float
) -> None:
    edges = sorted(set(quiet))[: len(set(quiet)) // 2 * 2]
    silences = np.array(edges).reshape(-1, 2)
    names = ["word,"] * (len(bounds) - 1)
    words = place_words(names, np.sort(bounds), silences, low, low + length)
    assert [word.text for word in words] == names
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(times))
    assert all(word.end_s > word.start_s for word in words)
    assert low <= times[0] and times[-1] <= low + length


def test_without_silence_words_stay_where_they_are() -> None:
    words = place_words(["a", "b"], np.array([0.2, 0.5, 0.9]), NO_SILENCE, 0.0, 2.0)
    assert words == [Word("a", 0.2, 0.5), Word("b", 0.5, 0.9)]


def test_pause_goes_to_the_comma_and_a_closure_stays_in_its_word() -> None:
    names, bounds = ["the", "sea,", "steam"], np.array([0.0, 0.2, 0.8, 1.1])
    pause = np.array([[0.4, 0.7]])
    assert match_silences(names, bounds[1:-1], pause) == [(2, 0.4, 0.7)]
    closure = np.array([[0.4, 0.48]])
    assert match_silences(["the", "sea", "steam"], bounds[1:-1], closure) == []
    words = place_words(names, bounds, pause, 0.0, 1.1)
    assert words[1] == Word("sea,", 0.2, 0.4) and words[2].start_s == 0.7


def test_pause_inside_a_compound_parts_no_words() -> None:
    bounds, pause = np.array([0.0, 0.3, 1.5, 2.0]), np.array([[0.8, 1.0]])
    assert place_words(["in", "well—no", "then"], bounds, pause, 0.0, 2.0)[1] == Word("well—no", 0.3, 1.5)


def test_silences_are_found_relative_to_the_speech_level() -> None:
    generator = np.random.default_rng(0)
    speech = generator.normal(0, 0.1, 16_000).astype(np.float32)
    samples = np.concatenate([speech, speech[:1600] * 1e-3, speech, speech[:480] * 0, speech])
    np.testing.assert_allclose(find_silences(samples), [[1.0, 1.1]], atol=0.011)
    noisy = samples + generator.normal(0, 0.02, len(samples)).astype(np.float32)
    assert len(find_silences(noisy)) == 0
    assert len(find_silences(np.zeros(16_000, dtype=np.float32))) == 0


def test_windows_hold_as_many_sentences_as_fit() -> None:
    sentences = [(n, n + 1, 10.0 * n, 10.0 * n + 9) for n in range(5)]
    assert [len(window) for window in group_sentences(sentences, [1] * 5)] == [3, 2]
    assert [len(window) for window in group_sentences(sentences, [150] * 5)] == [2, 2, 1]
    with pytest.raises(SaladError, match="words 0 to 1 last 31.0 s"):
        group_sentences([(0, 1, 0.0, 31.0)], [1])


@pytest.mark.parametrize(
    "sentences",
    [
        [],
        [(0, 2, 0.0, 1.0)],
        [(0, 1, 0.0, 1.0), (2, 3, 1.0, 2.0)],
        [(0, 1, 1.0, 2.0), (1, 3, 0.0, 0.5)],
        [(0, 3, 0, 9)],
    ],
)
def test_sentences_that_do_not_fit_are_refused(sentences: list[tuple[int, int, float, float]]) -> None:
    with pytest.raises(SaladError, match="do not cover 3 words in 2.00 s"):
        check_sentences(sentences, 3, 2.0)


# Bad items


def test_bad_recordings_are_quarantined_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper, "load_aligner", lambda asset: None)  # none of these items may reach the model
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "corrupt.flac").write_bytes(b"RIFF\x00\x00 this is no sound")
    soundfile.write(tmp_path / "audio" / "short.flac", np.zeros(1600), 16_000)
    soundfile.write(tmp_path / "audio" / "long.flac", np.zeros(160_000), 16_000)
    items = [utterance(tmp_path, name) for name in ("corrupt", "absent", "short")]
    items += [utterance(tmp_path, "long", "two words"), utterance(tmp_path, "empty", " ")]
    rows = [(utterance_to_dict(item), None) for item in items]
    align_utterances(Shard(0, tuple(rows)), tmp_path / "out", asset=ASR, min_score=0.3)
    assert read_utterances(tmp_path / "out" / "utterances.jsonl") == []
    reasons = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "quarantine.jsonl")}
    assert list(reasons) == ["corrupt", "absent", "short", "long", "empty"]
    assert "cannot be decoded" in reasons["corrupt"] and "cannot be opened" in reasons["absent"]
    assert "30.00 a second" in reasons["short"] and "0.20 a second" in reasons["long"]
    assert "text is empty" in reasons["empty"]


class Timed:
    """An aligner that gives words the times it was told: what aligners do with words that nobody says."""

    any_length = True

    def __init__(self, lengths_s: list[float]) -> None:
        self.lengths_s = lengths_s

    def align(self, samples: np.ndarray, words: list[str], sentences: object) -> tuple[tuple[Word, ...], float]:
        ends = np.cumsum(self.lengths_s).tolist()
        starts = [0.0, *ends[:-1]]
        return tuple(map(Word, words, starts, ends)), 0.9


def timed(tmp_path: Path, lengths_s: list[float], text: str | None = None) -> tuple[list[Utterance], list[str]]:
    rng = np.random.default_rng(0)
    text = text or " ".join(f"word{chr(97 + n % 26)}" for n in range(len(lengths_s)))
    write_flac(tmp_path / "audio" / "u1.flac", rng.normal(0, 0.1, int(sum(lengths_s) * 16_000)), 16_000)
    return align_utterance(Timed(lengths_s), utterance(tmp_path, text=text), None, tmp_path, asset=ASR, min_score=0.3)


@pytest.mark.parametrize(
    ("lengths_s", "found"),
    [
        ([0.3] * 10 + [0.02] * 9 + [0.3] * 8, "9 of 27 words last 20 ms, as do 9 in a row from 3.0 s ('wordk"),
        ([0.3] * 19 + [0.0200001] * 22, "22 of 41 words last 20 ms"),  # half of the recording is missing
        ([0.3] * 60 + [0.02] * 4 + [0.3] * 10, "as do 4 in a row from 18.0 s"),  # a clause in a long text
        ([0.3] * 20 + [0.02] * 3 + [0.3] * 10, "3 of 33 words last 20 ms, as do 3 in a row"),  # "Not at all."
        ([0.3, 0.02, 0.3] * 9, "9 of 27 words last 20 ms, as do 1 in a row"),
    ],
)
def test_a_text_that_is_not_all_said_is_set_aside(tmp_path: Path, lengths_s: list[float], found: str) -> None:
    with pytest.raises(SaladError, match="words written but not spoken: ") as error:
        timed(tmp_path, lengths_s)
    assert found in str(error.value)


def test_words_that_nothing_is_heard_of_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence that nobody says, at the start of a text, lasts as long as others: it lies on their sound."""
    align = Timed.align

    def unsure(self: Timed, samples: np.ndarray, words: list[str], sentences: object) -> tuple[tuple[Word, ...], float]:
        found, score = align(self, samples, words, sentences)
        return tuple(replace(w, score=0.04 if n < unheard else 0.9) for n, w in enumerate(found)), score

    monkeypatch.setattr(Timed, "align", unsure)
    unheard = 2
    assert timed(tmp_path, [0.3] * 20)[0]
    unheard = 3
    with pytest.raises(SaladError, match="words written but not spoken: 3 in a row from 0.0 s score below 0.1"):
        timed(tmp_path, [0.3] * 20)
    unheard = 1  # "Of course." that nobody says: its first word lies on other sound, what follows has none
    assert timed(tmp_path, [0.3, 0.02, *[0.3] * 20])[0]
    with pytest.raises(
        SaladError, match=r"3 in a row from 0.0 s score below 0.1 or last 20 ms \('worda wordb wordc'\)"
    ):
        timed(tmp_path, [0.3, 0.02, 0.02, *[0.3] * 20])


def test_parts_of_two_recordings_have_files_of_their_own(tmp_path: Path) -> None:
    run = [(Window(0, 1, 0.0, 1.0), (Word("hello", 0.1, 0.9, 0.9),), 0.9)]
    names = [f"lesson{sign}1" for sign in ".-_ /"]
    parts = [_cut(utterance(tmp_path, name), np.zeros(RATE_HZ, np.float32), run, 0, tmp_path) for name in names]
    assert len({part.audio for part in parts}) == len(names) == len({part.id for part in parts})


def test_short_words_here_and_there_are_speech(tmp_path: Path) -> None:
    """In 562 utterances of the demo's voices the share is 0.04 at most, and no two stand in a row."""
    for lengths_s in ([0.3] * 40 + [0.02, 0.3, 0.02, 0.3, 0.02] + [0.3] * 10, [0.2, 0.02, 0.02, 0.5, 0.4]):
        [kept], reasons = timed(tmp_path, lengths_s)
        assert len(kept.words) == len(lengths_s) and not reasons
    dashes = "one — two — three — four — five - six — seven — eight — nine — ten"  # signs that nobody says
    assert timed(tmp_path, [0.3, 0.02] * 9 + [0.3], dashes)[0]


# The real models

SENTENCES = (
    "Bread needs flour, water, salt and time.",
    "Some bakers wait two days before they bake.",
    "If you press the dough with a finger, it must spring back slowly.",
)


@pytest.fixture(scope="session")
def spoken() -> tuple[str, np.ndarray, list[tuple[int, int, float, float]]]:
    text = " ".join(SENTENCES)
    said = speak_document(Document("bread", text, "test"), load_voice("piper-joe"), seed=0)
    samples, sentences = said.samples, said.sentences
    return text, samples, sentences


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_words_are_found_between_known_silences(
    spoken: tuple[str, np.ndarray, list[tuple[int, int, float, float]]], known: bool
) -> None:
    text, samples, sentences = spoken
    aligned, score = load_aligner(ASR).align(samples, text.split(), sentences if known else None)
    assert [word.text for word in aligned] == text.split()
    assert 0.6 < score <= 1
    for start, end, start_s, end_s in sentences:
        assert abs(aligned[start].start_s - start_s) < 0.1 and abs(aligned[end - 1].end_s - end_s) < 0.12
    assert all(word.end_s > word.start_s for word in aligned)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(aligned))
    again, _ = load_aligner(ASR).align(samples, text.split(), sentences if known else None)
    assert again == aligned


@pytest.mark.slow
def test_wrong_text_scores_low_and_is_quarantined(
    spoken: tuple[str, np.ndarray, list[tuple[int, int, float, float]]], tmp_path: Path
) -> None:
    text, samples, sentences = spoken
    write_flac(tmp_path / "audio" / "u1.flac", samples, 16_000)
    right = utterance(tmp_path, "u1", text)
    wrong = replace(right, id="wrong", text="Vaccines teach the body to recognise a virus, so that it answers fast.")
    rows = ((utterance_to_dict(right), sentences), (utterance_to_dict(wrong), None))
    align_utterances(Shard(0, rows), tmp_path / "out", asset=ASR, min_score=0.3)
    [kept] = read_utterances(tmp_path / "out" / "utterances.jsonl")
    assert kept.id == "u1" and len(kept.words) == len(text.split()) and kept.audio == right.audio
    [row] = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert row["id"] == "wrong" and "min_score 0.3" in row["reason"]


@pytest.mark.slow
def test_long_audio_is_transcribed_but_needs_sentence_times_to_align(
    spoken: tuple[str, np.ndarray, list[tuple[int, int, float, float]]], tmp_path: Path
) -> None:
    text, samples, sentences = spoken
    num_words, period_s = len(text.split()), len(samples) / 16_000
    long_text, long_samples = " ".join([text] * 5), np.tile(samples, 5)
    long_sentences = [
        (a + n * num_words, b + n * num_words, start_s + n * period_s, end_s + n * period_s)
        for n in range(5)
        for a, b, start_s, end_s in sentences
    ]
    assert len(long_samples) / 16_000 > 40
    with pytest.raises(SaladError, match="without sentence times"):
        load_aligner(ASR).align(long_samples, long_text.split(), None)
    aligned, score = load_aligner(ASR).align(long_samples, long_text.split(), long_sentences)
    assert len(aligned) == 5 * num_words and score > 0.6
    write_flac(tmp_path / "audio" / "long.flac", long_samples, 16_000)
    rows = (utterance_to_dict(utterance(tmp_path, "long", long_text)), utterance_to_dict(utterance(tmp_path, "absent")))
    transcribe_utterances(Shard(0, rows), tmp_path, asset=ASR)
    [row] = read_jsonl(tmp_path / "transcripts.jsonl")
    assert cer(row["text"], long_text) < 0.1
    [failed] = read_jsonl(tmp_path / "quarantine.jsonl")
    assert failed["id"] == "absent"


def test_whoever_asks_for_a_whisper_gets_the_one_of_the_process(monkeypatch, tmp_path):
    """However the arguments are spelled: the aligner and the transcriber hold one copy of the weights."""
    loaded = []
    monkeypatch.setattr("faster_whisper.WhisperModel", lambda *given, **more: loaded.append(given) or object())
    first = load_whisper(tmp_path)
    assert first is load_whisper(tmp_path, 1) is load_whisper(tmp_path, 1, "float32") and len(loaded) == 1
    assert load_whisper(tmp_path, 2) is not first
