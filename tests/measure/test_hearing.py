"""What was heard: shares of M, words and phones, exposure, another's recording, oracles. All rows are made up."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salad.data.manifest import write_utterances
from salad.files import write_json, write_jsonl
from salad.measure.accuracy import margin, margin_over
from salad.measure.controls import Silence, Spoken, others_frames
from salad.measure.divergence import BETWEEN, WITHOUT_CASCADE, DocumentKL, difference, heard, speech_ears, summary
from salad.measure.hearing import (
    EXPOSURES,
    HeardSpan,
    exposure_of,
    exposure_parts,
    heard_of_utterances,
    heard_tokens,
    marked,
    phone_errors,
    pooled_errors,
    spoken_words,
    spread,
    voice_errors,
    word_errors,
    word_recall,
)
from salad.measure.oracle import disturbed_symbols, oracle_rows, symbol_ears, symbols_of_model
from salad.measure.statistics import ratio
from salad.measure.voice_label import is_seen, voice_label
from salad.pipeline.hearing import heard_counts, read_words, transcript_errors
from salad.types import Example, Result, SaladError, Span, Utterance


def rows_of(mean: float, documents: int = 20, seed: int = 0) -> list[DocumentKL]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(20, 60, documents)
    kl = counts * mean * rng.uniform(0.7, 1.3, documents)
    return [DocumentKL(f"d{i}", "x", "v", float(k), int(c)) for i, (k, c) in enumerate(zip(kl, counts, strict=True))]


def span(said: str, heard_: str, document: str = "d0", speaker: str = "v") -> HeardSpan:
    return HeardSpan(document, "x", speaker, tuple(said.split()), heard_)


# heard


def test_heard_is_none_of_it_at_the_reference_and_all_at_the_cascade():
    deaf, blind, cascade = rows_of(1.3), rows_of(1.1, seed=0), rows_of(0.1)
    at_reference = heard(blind, {"deaf": deaf, "blind": blind}, cascade)
    assert at_reference.value == pytest.approx(0) and at_reference.reference == "blind"
    assert (at_reference.low, at_reference.high) == pytest.approx((0, 0))  # paired: each draw is its own reference
    assert heard(cascade, {"deaf": deaf, "blind": blind}, cascade).value == pytest.approx(1)
    below = heard(rows_of(1.2), {"deaf": deaf, "blind": blind}, cascade)
    assert below.value < 0 and below.formula == BETWEEN and below.n == 20


def test_heard_lies_between_and_in_its_interval():
    share = heard(rows_of(0.6, seed=1), {"deaf": rows_of(1.3), "twin": rows_of(0.9, seed=2)}, rows_of(0.1, seed=3))
    assert share.reference == "twin" and share.low < share.value < share.high
    assert share.value == pytest.approx(0.375, abs=0.12)


def test_without_a_cascade_the_share_says_what_it_is():
    share = heard(rows_of(0.5), {"deaf": rows_of(1.0)}, None)
    assert share.formula == WITHOUT_CASCADE and share.value == pytest.approx(0.5)


def test_heard_is_none_where_it_means_nothing():
    assert heard(rows_of(0.5), {"deaf": rows_of(0.1)}, rows_of(0.2)) is None
    assert heard(rows_of(0.5), {}, rows_of(0.2)) is None
    silent = [DocumentKL("short", "d", "v", 0.0, 0)]  # spoken as a whole: no token of text is scored
    assert heard(silent, {"deaf": silent}, None) is None and np.isnan(summary(silent * 2).se)
    other = [DocumentKL("elsewhere", "x", "v", 1.0, 2)]
    assert heard(rows_of(0.5), {"deaf": other}, None) is None
    with pytest.raises(SaladError, match="no document in common"):
        difference(rows_of(0.5), other)


def test_voices_that_read_one_document_are_drawn_with_it():
    twice = [*rows_of(0.5, 10), *(DocumentKL(f"{r.id}-again", "x", "w", r.kl, r.count) for r in rows_of(0.5, 10))]
    deaf = [DocumentKL(r.id, r.domain, r.speaker, 2 * r.kl, r.count) for r in twice]
    names = {r.id: r.id.removesuffix("-again") for r in twice}
    assert heard(twice, {"deaf": deaf}, None, documents=names).n == 10
    more = difference(deaf, twice, documents=names)
    assert more.n == 10 and more.low < more.value < more.high and more.low > 0


def test_a_document_that_three_voices_read_counts_once():
    easy = [DocumentKL(f"d{i}", "x", "v", 10.0, 10) for i in range(4)]
    hard = [DocumentKL(f"hard-{voice}", "y", voice, 50.0, 10) for voice in ("v", "w (unseen)", "u (unseen)")]
    names = {r.id: r.id.split("-")[0] for r in (*easy, *hard)}
    found = summary([*easy, *hard], names)
    assert (found.all, found.n_documents, found.n_tokens) == (pytest.approx((4 + 5) / 5), 5, 70)
    assert found.by_domain == {"x": 1.0, "y": 5.0} and found.by_voice["u (unseen)"] == 5.0
    assert found.se == pytest.approx(summary([*easy, hard[0]]).se)  # five documents, not seven
    silent = [DocumentKL(r.id, r.domain, r.speaker, 0.0, r.count) for r in (*easy, *hard)]
    assert difference([*easy, *hard], silent, documents=names).value == pytest.approx(found.all)
    assert heard(silent, {"deaf": [*easy, *hard]}, None, documents=names).n == 5


def test_the_ratio_and_its_interval():
    flat = ratio([1, 2, 3], [10, 20, 30], ["a", "b", "c"], 200, 0)
    assert (flat.value, flat.low, flat.high, flat.n) == pytest.approx((0.1, 0.1, 0.1, 60))
    assert np.isnan(ratio([], [], [], 200, 0).value)


def test_a_margin_is_of_the_right_option_over_the_best_other():
    sure, unsure = [Result("a", 0, (-1.0, -2.0, -3.0))] * 4, [Result("a", 0, (-1.0, -0.5, -3.0))] * 4
    assert margin(sure, 200, 0).value == 1.0 and margin(unsure, 200, 0).value == -0.5
    assert margin_over(sure, unsure, 200, 0).value == 1.5


# words


def test_identical_text_has_no_errors():
    assert word_errors(span("The Cell, well-known.", "The Cell, well-known.")) == ((0, 4), (0, 3))
    assert word_errors(span("The Cell, well-known.", "the cell well known")) == ((0, 4), (4, 3))
    assert word_errors(span("the cell divides", "the sell"))[0] == (2, 3)


def test_voices_have_rows_of_their_own():
    heard_by = {"joe": "a b", "eve": "a"}
    spans = [span("a b", text, f"d{i}", speaker) for speaker, text in heard_by.items() for i in range(4)]
    eve, joe = voice_errors(spans, 200, 0)
    assert (eve.voice, eve.wer.value, joe.wer.value, joe.spans, joe.phone_error) == ("eve", 0.5, 0, 4, None)


def test_over_all_voices_a_document_counts_once():
    often = [span("a b c d", "a b", "hard", voice) for voice in ("joe", "eve", "sam")]
    found = pooled_errors([*often, span("a b c d", "a b c d", "easy", "joe")], 200, 0)
    assert (found.voice, found.spans, found.wer.value, found.wer.n) == ("all", 4, pytest.approx(0.25), 8)  # not 0.375


def test_phone_errors_leave_the_boundary_out():
    assert phone_errors([1, 2, 0, 3], [0, 1, 2, 3, 0]) == (0, 3)
    assert phone_errors([1, 2, 0, 3], [1, 4]) == (2, 3)
    sounds = HeardSpan("d", "x", "joe", ("a",), "a", (1, 0, 2), (1, 3))
    [row] = voice_errors([sounds], 200, 0)
    assert row.phone_error.value == 0.5 and row.phone_error.n == 2


@given(
    st.lists(st.sampled_from("cat dog sun moon it's well-known Été".split()), min_size=1, max_size=12),
    st.lists(st.sampled_from("cat dog sun moon its known".split()), max_size=12),
    st.dictionaries(st.sampled_from("cat dog sun moon its".split()), st.integers(0, 12)),
)
def test_classes_of_exposure_partition_the_words(said, got, counts):
    one = span(" ".join(said), " ".join(got))
    found = word_recall([one], lambda word: exposure_of(word, counts, {"ete"}))
    assert sum(row.n for row in found) == len(spoken_words(" ".join(said)))
    assert [row.exposure for row in found] == [name for name in EXPOSURES if name in {r.exposure for r in found}]
    assert all(0 <= row.low <= row.value <= row.high <= 1 for row in found)


def test_exposure():
    counts, read = {"often": 10, "some": 9, "few": 3, "once": 1}, {"once", "seen"}
    names = [exposure_of(word, counts, read) for word in ("often", "some", "few", "once", "seen", "never")]
    assert names == ["heard_10", "heard_3", "heard_3", "heard_1", "read", "neither"]


def test_recall_finds_words_in_order():
    rows = word_recall([span("the red cell of the plant", "a red sell of plant")], lambda word: "read")
    assert rows[0].n == 6 and rows[0].value == pytest.approx(3 / 6)


def test_a_class_of_which_nothing_was_found_has_an_interval():
    [row] = word_recall([span("a b c d e f g h i j", "", f"d{n}") for n in range(6)], lambda word: "neither")
    assert (row.value, row.low, row.n) == (0, 0, 60) and row.high == pytest.approx(0.3903, abs=1e-4)  # Wilson, 0 of 6


def test_words_of_a_document_are_not_drawn_one_by_one():
    """Six documents of ten words: in three all are found, in three none; a word alone would be worth ten times less."""
    words = "a b c d e f g h i j"
    [together] = word_recall([span(words, words * (n % 2), f"d{n}") for n in range(6)], lambda word: "read")
    [apart] = word_recall([span("a b", "a", f"d{n}") for n in range(30)], lambda word: "read")
    assert together.value == apart.value == 0.5 and together.n == apart.n == 60
    assert together.high - together.low > 0.6 > 0.3 > apart.high - apart.low


def test_tokens_are_parted_by_whether_the_words_before_them_were_heard_in_training():
    spans = [Span("text", 0, 1), Span("speech", 1, 3), Span("text", 3, 4), Span("speech", 4, 5), Span("text", 5, 6)]
    bounds = ((0, 2), (2, 4), (4, 5), (5, 6), (6, 8))
    one = Example("u", tuple(spans), np.arange(8), bounds, 0)
    parts = exposure_parts(one, "One The, sun. shines 12 well-known".split(), {"the", "sun"})
    assert {name: mask.tolist() for name, mask in parts.items()} == {
        "seen": [False, False, True, False, False],  # after "The, sun."
        "unseen": [False, False, False, True, True],  # after "12"
    }


def test_marks_stand_on_words_as_written():
    found = marked(span("A well-known, Cell —", "a known sell"))
    assert found.said == (("A", True), ("well-known,", False), ("Cell", False), ("—", True))
    assert found.heard == (("a", True), ("known", True), ("sell", False))
    assert marked(span("a", "")).heard == ()


def test_spans_to_look_at_come_from_all_voices():
    spans = [span("a", "a", f"d{i % 3}", speaker) for speaker in ("x", "y", "z") for i in range(9)]
    shown = spread(spans, 6, 0)
    assert [s.speaker for s in shown] == ["x", "x", "y", "y", "z", "z"] and shown == spread(spans, 6, 0)
    assert len({(s.speaker, s.document) for s in shown}) == 6


def test_text_of_the_likeliest_tokens():
    fixed, kept = (SimpleNamespace(config=SimpleNamespace(rate=rate), ctc=object()) for rate in ("fixed", "text"))
    assert heard_tokens(fixed, [0, 0, -1, 0, 1]) == [0, -1, -1, 0, 1]
    assert heard_tokens(kept, [0, 0, 1, -1]) == [0, 0, 1, -1]


# Another's recording


KINDS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xy"), st.sampled_from("jk")), max_size=12)


@given(KINDS, st.data())
def test_another_recording_is_never_of_the_same_document(kinds, data):
    spoken = []
    for document, domain, speaker in kinds:
        lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
        own = ord(document) * np.ones((1, 1), np.float32)
        spoken.append(Spoken(document, domain, speaker, tuple(np.repeat(own, n, axis=0) for n in lengths)))
    for own, frames in zip(spoken, others_frames(spoken), strict=True):
        others = [o for o in spoken if o.document != own.document]
        assert (frames is None) == (not others)
        if frames is None:
            continue
        assert [len(f) for f in frames] == [len(s) for s in own.spans]
        heard_of = {chr(int(v)) for f in frames for v in np.unique(f)}
        assert own.document not in heard_of and len(heard_of) == 1
        same_voice = [o for o in others if o.speaker == own.speaker]
        elsewhere = [o for o in same_voice or others if o.domain != own.domain]
        assert heard_of <= {o.document for o in elsewhere or same_voice or others}


def test_another_recording_goes_on_where_it_is_too_short():
    short = Spoken("a", "x", "v", (np.array([[1.0], [2.0]]), np.array([[3.0]])))
    long_ = Spoken("b", "y", "v", (np.zeros((5, 1)), np.zeros((2, 1))))
    first, second = others_frames([long_, short])[0]
    assert first[:, 0].tolist() == [1, 2, 3, 1, 2] and second[:, 0].tolist() == [3, 1]


class Counting:
    """An encoder of 50 frames a second, each of which tells how long the whole waveform was, in seconds."""

    sample_rate_hz, frame_rate_hz, max_samples = 100, 50, 3000

    def encode(self, waveforms):
        return [np.full((len(w) // 2, 1), len(w) / self.sample_rate_hz) for w in waveforms]


def test_silence_is_as_long_as_each_span_and_depends_on_no_other():
    spans = [np.ones((n, 1)) for n in (3, 1200, 0, 1500, 1600)]
    found = Silence(Counting()).like(spans)
    assert [len(f) for f in found] == [3, 1200, 0, 1500, 1600]
    assert [f.max(initial=0.0) for f in found] == [20, 25, 0, 30, 30]  # seconds


# Oracles, by a model that stands in for the two parts


class Ears:
    """Symbols 1 to 4 are tokens of the same number; hears what the first feature of each frame says."""

    config = SimpleNamespace(rate="text", symbols={"kind": "letters", "names": list("#abcd"), "language": "en-us"})

    def __init__(self) -> None:
        self.table = torch.nn.Embedding(5, 3)
        self.read_out: list[str] = []

    def get_input_embeddings(self):
        return self.table

    def hear(self, frames, readout="mixed"):
        self.read_out.append(readout)
        return self.hear_symbols([torch.nn.functional.one_hot(f[:, 0].long(), 5).float() for f in frames])

    def hear_symbols(self, posteriors):
        ids = torch.cat([p.argmax(-1) for p in posteriors])
        own, lengths = [p.argmax(-1).tolist() for p in posteriors], [len(p) for p in posteriors]
        return SimpleNamespace(embeddings=self.table(ids), lengths=lengths, token_ids=ids, symbols=own)


@pytest.fixture
def example():
    spans = (Span("text", 0, 1), Span("speech", 1, 3))
    frames = np.array([[1.0], [0.0], [2.0]], np.float32)
    return Example("u1", spans, np.array([1, 1, 2]), ((0, 1), (1, 3)), 0, (frames,), "x", "v")


UTTERANCE = Utterance("u1", "x a b", "u1.wav", 16_000, 1, document_id="d1")


def test_spans_are_heard_with_their_symbols(example, monkeypatch):
    alphabet = SimpleNamespace(of_text=lambda forms: [[2], [1], [1]])
    monkeypatch.setattr("salad.measure.hearing.symbols_of_model", lambda model: alphabet)
    decode = lambda ids: "".join("#abcd"[i] for i in ids)  # noqa: E731
    [found] = heard_of_utterances(Ears(), decode, [example], [UTTERANCE])
    assert (found.document, found.said, found.heard) == ("d1", ("a", "b"), "a#b")
    assert (found.said_symbols, found.heard_symbols) == ((1, 1), (1, 0, 2))


def test_ears_without_tokens_are_not_read(example):
    silent = Ears()
    silent.hear = lambda frames: SimpleNamespace(token_ids=None)
    assert heard_of_utterances(silent, str, [example], [UTTERANCE]) == []


def test_true_symbols_are_read_in_place_of_heard_ones(example):
    model = Ears()
    embeddings, lengths = symbol_ears(model, lambda e: [[3, 4]], 5)([example])
    assert lengths == [2] and torch.equal(embeddings, model.table(torch.tensor([3, 4])))
    speech_ears(model, readout="argmax")([example])
    assert model.read_out == ["argmax"]


def test_errors_among_symbols_are_as_many_as_asked_for():
    ids = [1, 2, 3, 4] * 500
    assert disturbed_symbols(ids, 0.0, 5, random.Random(0)) == ids
    for rate in (0.05, 0.2):
        errors, n = phone_errors(ids, disturbed_symbols(ids, rate, 5, random.Random(0)))
        assert 0.7 * rate < errors / n < 1.15 * rate
    assert disturbed_symbols([1], 1.0, 5, random.Random(1))


def test_a_model_of_one_part_has_no_oracles(example):
    assert symbols_of_model(SimpleNamespace(config=SimpleNamespace())) is None
    assert oracle_rows(SimpleNamespace(config=SimpleNamespace()), None, [example], None) == {}


# Exposure, from what a run leaves


def test_a_cascades_errors_count_a_document_once():
    said = [Utterance(f"u{i}", "old men", "a.flac", 16_000, 1, document_id=d) for i, d in enumerate("abbb")]
    written = {"u0": "old men", "u1": "old", "u2": "old", "u3": "old"}
    assert transcript_errors(said, written).wer == pytest.approx(0.25)  # not 0.375, which is that of four recordings


def test_words_are_counted_over_all_speech_that_was_trained_on(tmp_path):
    def folder(stage, number=1):
        return tmp_path / ("" if number == 1 or stage != "synthesize" else "rounds/02") / stage

    def said(name, *texts):
        return [Utterance(f"{name}{i}", text, "a.flac", 16_000, 1) for i, text in enumerate(texts)]

    rounds = [SimpleNamespace(folder=lambda stage, n=n: folder(stage, n)) for n in (1, 2)]
    run = SimpleNamespace(folder=folder, latest=SimpleNamespace(rounds=rounds))
    write_utterances(folder("align") / "speech.jsonl", said("s", "The sun, the moon."))
    write_utterances(folder("synthesize") / "bought.jsonl", said("b", "The cell"))
    write_utterances(folder("synthesize", 2) / "bought.jsonl", said("c", "A CELL"))
    for name, text in (("web", "A membrane"), ("speech", "The sun, the moon.")):
        write_jsonl(folder("corpus") / f"{name}.jsonl", [{"id": "d", "text": text, "source": "here"}])
    assert heard_counts(run) == {"the": 3, "sun": 1, "moon": 1, "cell": 2, "a": 1}
    assert read_words(run) == {"a", "membrane", "the", "sun", "moon"}
    write_json(folder("spell") / "words.json", ["Quark", "well-known"])
    assert read_words(run) >= {"quark", "well", "known"}


def test_a_label_tells_whether_its_voice_was_trained_on():
    assert voice_label("af_heart", unseen=False) == "af_heart" and is_seen("af_heart")
    label = voice_label("af_heart", unseen=True)
    assert label == "af_heart (unseen)" and not is_seen(label)  # as divergence.jsonl and figures.json hold it
