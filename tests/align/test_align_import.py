"""Word times from elsewhere are tied to the text's own words; long recordings are cut where text and sound agree."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salad.align import utterances as module
from salad.align.anchors import match_windows, windows_of
from salad.align.imported_times import read_textgrid, tie_words
from salad.align.utterances import align_utterances
from salad.audio import write_flac
from salad.data.manifest import (
    read_utterances,
    utterance_from_dict,
    utterance_to_dict,
    write_lhotse,
)
from salad.engine import Shard
from salad.files import read_jsonl
from salad.testing.corpora import read_lhotse
from salad.text.aligner_forms import spoken_pieces
from salad.types import SaladError, Utterance, Word

TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3.0
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 3.0
        intervals: size = {num}
{intervals}
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 3.0
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 3.0
            text = "AH0"
"""
TEXT = "Well-known bakers — “Ben’s,” say — sold 42 loaves!"
MFA = "well known bakers ben's say sold forty two loaves".split()


def spread(words: list[str], length_s: float = 0.2, gap_s: float = 0.1) -> list[Word]:
    period_s = length_s + gap_s
    return [Word(word, n * period_s + 0.1, n * period_s + 0.1 + length_s) for n, word in enumerate(words)]


def write_textgrid(path: Path, words: list[Word]) -> Path:
    rows, at = [], 0.0
    for word in [*words, Word("", 3.0, 3.0)]:
        if word.start_s > at:
            rows.append((at, word.start_s, ""))
        if word.text:
            rows.append((word.start_s, word.end_s, word.text))
        at = word.end_s
    intervals = "\n".join(
        f'        intervals [{n}]:\n            xmin = {a}\n            xmax = {b}\n            text = "{text}"'
        for n, (a, b, text) in enumerate(rows, 1)
    )
    path.write_text(TEXTGRID.format(num=len(rows), intervals=intervals))
    return path


# Spoken forms


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Well-known,", "well known"),
        ("“It’s", "it's"),
        ("—", ""),
        ("&", "and"),
        ("42", "forty two"),
        ("1,200", "one thousand two hundred"),
        ("1984.", "nineteen eighty four"),
        ("1990s", "nineteen nineties"),
        ("21st", "twenty first"),
        ("$3.50", "three dollars and fifty cents"),
        ("$1", "one dollar"),
        ("50%", "fifty percent"),
        ("3.14", "three point one four"),
        ("7:05", "seven oh five"),
        ("B2B", "b two b"),
        ("2019", "twenty nineteen"),
        ("5km", "five kilometers"),
        ("Zürich1", "zürich one"),
        ("٤٢", "forty two"),
        ("x⁵", "x"),
        ("Ωμέγα", "ωμέγα"),
        ("α", "alpha"),
        ("naïve", "naïve"),
    ],
)
def test_words_are_said(written: str, said: str) -> None:
    assert " ".join(spoken_pieces(written)) == said


@given(st.text(max_size=20))
def test_anything_can_be_said_or_is_silent(text: str) -> None:
    for word in text.split():
        assert all(piece and not set(piece) & set(" -,.") for piece in spoken_pieces(word))


# Given times


def test_textgrid_words_go_to_the_texts_own_words(tmp_path: Path) -> None:
    found = read_textgrid(write_textgrid(tmp_path / "a.TextGrid", spread(MFA)))
    assert [word.text for word in found] == MFA
    words = tie_words(TEXT, found, 3.0)
    assert [word.text for word in words] == TEXT.split()
    at = dict(zip(TEXT.split(), words, strict=True))
    assert (at["Well-known"].start_s, at["Well-known"].end_s) == pytest.approx((0.1, 0.6))
    assert (at["42"].start_s, at["42"].end_s) == pytest.approx((1.9, 2.4))
    assert at["“Ben’s,”"].start_s == pytest.approx(1.0)
    assert all(word.end_s > word.start_s for word in words)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(words))


def test_an_unknown_word_is_the_one_that_is_left_and_a_joined_one_is_parted() -> None:
    found = [Word("<unk>", 0.1, 0.4), Word("likes", 0.5, 0.8), Word("newyork", 0.9, 1.6)]
    words = tie_words("Xzy likes New York.", found, 2.0)
    assert (words[0].start_s, words[0].end_s) == (0.1, 0.4)
    assert words[2].end_s == words[3].start_s == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("text", "found", "reason"),
    [
        ("one two three", spread(["one", "three"]), "1 of 3 have no time: two"),
        ("one two", spread(["one", "and", "yes", "two"]), "2 are spoken but not in the text: and, yes"),
        ("one two", spread(["one", "two"])[::-1], "not in order"),
        ("one two", spread(["one", "two"], length_s=9), "not in order within the 3.00 s"),
        ("completely different", spread(["vaccine", "much"]), "have no time"),
    ],
)
def test_times_that_do_not_fit_the_text_are_refused(text: str, found: list[Word], reason: str) -> None:
    with pytest.raises(SaladError, match=reason):
        tie_words(text, found, 3.0)


@given(st.lists(st.sampled_from(["Yes,", "no", "—", "well-known", "it’s", "a"]), min_size=1, max_size=12))
def test_every_word_of_any_text_gets_its_time(words: list[str]) -> None:
    said = [piece for word in words for piece in spoken_pieces(word)]
    if not said:
        return
    tied = tie_words(" ".join(words), spread(said), 20.0)
    assert [word.text for word in tied] == words
    at = iter(spread(said))
    for word in tied:
        if own := [next(at) for _ in spoken_pieces(word.text)]:
            assert word.start_s == pytest.approx(own[0].start_s, abs=0.011)
            assert word.end_s == pytest.approx(own[-1].end_s, abs=0.021)


def item(folder: Path, name: str, text: str = TEXT, **more: object) -> Utterance:
    path = folder / "in" / f"{name}.flac"
    write_flac(path, np.zeros(48_000, dtype=np.float32), 16_000)
    return Utterance(name, text, str(path), 16_000, 48_000, **more)  # type: ignore[arg-type]


def test_given_times_are_found_by_name_and_the_rest_is_kept_aside(tmp_path: Path) -> None:
    beside, elsewhere, own = item(tmp_path, "beside"), item(tmp_path, "elsewhere"), item(tmp_path, "own", "a b")
    own = replace(own, words=(Word("A", 0.1, 0.3, 0.5), Word("B", 0.4, 0.6, 0.7)))
    write_textgrid(tmp_path / "in" / "beside.TextGrid", spread(MFA))
    times = tmp_path / "mfa"
    times.mkdir()
    rows = [[word.text, word.start_s, word.end_s] for word in spread(MFA)]
    (times / "elsewhere.words.json").write_text(json.dumps(rows))
    broken = item(tmp_path, "broken")
    (tmp_path / "in" / "broken.TextGrid").write_text("no grid")
    items = [beside, elsewhere, own, broken, item(tmp_path, "absent")]
    shard = Shard(0, tuple((utterance_to_dict(u), None) for u in items))
    align_utterances(shard, tmp_path / "out", asset="none", min_score=0.3, method="given", times=times)
    kept = {u.id: u for u in read_utterances(tmp_path / "out" / "utterances.jsonl")}
    assert list(kept) == ["beside", "elsewhere", "own"]
    assert kept["beside"].words == kept["elsewhere"].words and math.isnan(kept["beside"].score)
    assert kept["own"].words == (Word("a", 0.1, 0.3, 0.5), Word("b", 0.4, 0.6, 0.7))
    assert kept["own"].score == pytest.approx(0.6)
    reasons = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "quarantine.jsonl")}
    assert "not a TextGrid" in reasons["broken"] and "expected absent.TextGrid" in reasons["absent"]


def test_scores_of_words_survive_manifests(tmp_path: Path) -> None:
    words = (Word("a", 0.0, 0.5, 0.25), Word("b", 0.5, 1.0))
    utterance = item(tmp_path, "u", "a b").aligned(words, 0.5)
    assert utterance_from_dict(json.loads(json.dumps(utterance_to_dict(utterance)))).words == words
    write_lhotse([utterance], tmp_path / "cuts.jsonl.gz")
    assert [w.score for w in read_lhotse(tmp_path / "cuts.jsonl.gz")[0].words[:1]] == [0.25]
    assert math.isnan(read_lhotse(tmp_path / "cuts.jsonl.gz")[0].words[1].score)


# Long recordings

STORY = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "re", "so", "ti", "va", "we", "zu") for b in "bdfgklmnprstvxz"]
PAUSES = np.array([[n * 3.0 - 0.1, n * 3.0 + 0.1] for n in range(1, 40)])


def heard(words: list[str], from_s: float = 0.0) -> list[Word]:
    return [Word(word, from_s + n * 0.5, from_s + n * 0.5 + 0.4, 0.9) for n, word in enumerate(words)]


def test_windows_hold_every_word_once_and_are_cut_in_pauses() -> None:
    misheard = [word if n % 7 else "hmm" for n, word in enumerate(STORY)]
    windows = match_windows(STORY, heard(misheard), PAUSES, 75.0)
    assert [w.start_word for w in windows] == [0, *(w.end_word for w in windows[:-1])]
    assert windows[-1].end_word == len(STORY) and not any(w.problem for w in windows)
    assert windows[0].start_s == 0 and windows[-1].end_s == 75.0 and max(w.end_s - w.start_s for w in windows) <= 25
    for window in windows[1:]:
        assert min(abs(PAUSES.mean(axis=1) - window.start_s)) < 1e-9
        assert abs(window.start_s - window.start_word * 0.5) < 0.5


def test_speech_that_is_not_written_spoils_its_window_alone() -> None:
    extra = "this part was never in any text".split()
    told = heard(STORY[:70]) + heard(extra, 35.0) + heard(STORY[70:], 38.5)
    windows = match_windows(STORY, told, PAUSES, 78.5)
    bad = [w for w in windows if w.problem]
    assert len(bad) == 1 and "never in any text" in bad[0].problem and bad[0].start_word <= 70 <= bad[0].end_word
    told = heard(STORY[:60]) + heard(STORY[70:], 30.0)
    bad = [w for w in match_windows(STORY, told, PAUSES, 70.0) if w.problem]
    assert len(bad) == 1 and "not heard" in bad[0].problem and STORY[60] in bad[0].problem
    with pytest.raises(SaladError, match="none of its 150 words"):
        match_windows(STORY, heard(extra), PAUSES, 75.0)


def test_windows_of_known_words() -> None:
    windows = windows_of(heard(STORY), 75.0)
    assert windows[-1].end_word == len(STORY) and max(w.end_s - w.start_s for w in windows) <= 25


class Known:
    """An aligner whose times are exact: what is tested is what becomes of them."""

    any_length = True

    def __init__(self, words: list[Word]) -> None:
        self.words = words

    def align(self, samples: object, words: object, sentences: object) -> tuple[tuple[Word, ...], float]:
        return tuple(self.words), 0.9


def test_usable_parts_of_a_long_recording_are_kept_with_their_audio(tmp_path: Path) -> None:
    """Words 60 to 69 score low; sound that no word can fill follows word 119."""
    words = [replace(w, score=0.05 if 60 <= n < 70 else 0.9) for n, w in enumerate(heard(STORY))]
    words = [replace(w, start_s=w.start_s + 5, end_s=w.end_s + 5) if n >= 120 else w for n, w in enumerate(words)]
    words[119] = replace(words[119], end_s=words[120].start_s)
    samples = np.random.default_rng(0).normal(0, 0.1, 80 * 16_000).astype(np.float32)
    write_flac(tmp_path / "long.flac", samples, 16_000)
    long = Utterance("a/b", " ".join(STORY), str(tmp_path / "long.flac"), 16_000, len(samples), speaker="s")
    parts, reasons = module.align_utterance(Known(words), long, None, tmp_path, asset="none", min_score=0.7)
    assert len(reasons) == 2 and "min_score 0.7" in reasons[0] and "spoken but not written" in reasons[1]
    assert [p.id for p in parts] == ["a/b-part-000", "a/b-part-001", "a/b-part-002"][: len(parts)]
    told = [word for part in parts for word in part.text.split()]
    assert len(parts) >= 2 and told == [w for w in STORY if w in told] and not {*STORY[60:70], STORY[119]} & set(told)
    for part in parts:
        assert part.document_id == "a/b" and part.speaker == "s" and Path(part.audio).parent == tmp_path / "audio"
        assert [w.text for w in part.words] == part.text.split()
        original = words[STORY.index(part.words[0].text)]
        start = round((original.start_s - part.words[0].start_s) * 16_000)
        import soundfile

        np.testing.assert_allclose(soundfile.read(part.audio)[0], samples[start : start + part.num_samples], atol=1e-4)


def test_given_times_that_are_squeezed_are_kept_aside(tmp_path: Path) -> None:
    spoken = "we went over the bridge and down to the sea".split()
    good = [Word(word, 0.3 * n, 0.3 * n + 0.25) for n, word in enumerate(spoken)]
    squeezed = [*good[:4], *(Word(w, 1.2 + 0.02 * n, 1.22 + 0.02 * n) for n, w in enumerate(spoken[4:]))]
    rows = []
    for name, words in (("good", good), ("squeezed", squeezed)):
        utterance = Utterance(name, " ".join(spoken), "x.flac", 16_000, 64_000, tuple(words))
        rows.append((utterance_to_dict(utterance), None))
    align_utterances(Shard(0, rows), tmp_path, asset="none", min_score=0.3, method="given")
    assert [u.id for u in read_utterances(tmp_path / "utterances.jsonl")] == ["good"]
    [row] = read_jsonl(tmp_path / "quarantine.jsonl")
    assert row["id"] == "squeezed" and "words written but not spoken: 6 of 10 words last 20 ms" in row["reason"]


def test_words_of_unknown_letters_that_last_no_time_are_unheard() -> None:
    heard = [Word("one", 0.0, 0.3, 0.9), Word("два", 0.3, 0.6), Word("три", 0.6, 0.9), Word("дом", 0.9, 1.2)]
    module._check_heard(heard)  # no score, and time enough
    short = [Word(text, 1.2 + 0.06 * n, 1.26 + 0.06 * n) for n, text in enumerate(("два", "три", "дом"))]
    with pytest.raises(SaladError, match="words written but not spoken: 3 in a row from 1.2 s"):
        module._check_heard([*heard, *short])
    module._check_heard([*heard, *short[:2]])
    module._check_heard([*heard, *short], given=True)  # who imports times need not have scores
