"""`salad doctor`: the faults that users report most, planted, are found in the part where they were planted."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from salad.cli import app
from salad.data.inspect.inspection import inspect_data
from salad.data.manifest import read_utterances, write_utterances
from salad.evaluation import doctor
from salad.evaluation.doctor import PARTS, _whole, examine, verdict
from salad.files import read_jsonl, write_jsonl
from salad.model import SaladForConditionalGeneration
from salad.model.encoders.log_mel import LogMel
from salad.testing.listeners import save_corpus, save_listener
from salad.types import Example, SaladError, Span, Utterance


@pytest.fixture
def listener(tmp_path):
    """A model whose LLM moved, its text base, and a corpus."""
    return *save_listener(tmp_path), save_corpus(tmp_path / "corpus", documents=4)


def checks_of(listener, **options):
    model, llm, corpus = listener
    return {(c.part, c.what): c for c in examine(model, corpus, teacher=str(llm), **options)}


def changed(folder, change):
    model = SaladForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)


def test_every_part_is_looked_at_with_a_figure_and_a_cure(listener):
    checks = list(checks_of(listener).values())
    assert {c.part for c in checks} == set(PARTS) - {"upper part"}  # these ears are one part
    assert [PARTS.index(c.part) for c in checks] == sorted(PARTS.index(c.part) for c in checks)
    assert all(c.figure and c.expected and c.cure for c in checks)
    fine = {(c.part, c.what) for c in checks if c.ok}
    for part in ("encoder", "lower part"):
        assert (part, "batch = single") in fine
    assert ("recordings", "can be heard") in fine and ("LLM", "packed = alone") in fine
    assert ("lower part", "depends on what is heard") in fine and ("encoder", "tells recordings apart") in fine


def test_it_trains_but_hears_nothing(listener):
    """The last matrices of the adapter never left zero: the LLM reads the same for any sound."""

    def deafen(model):
        for parameter in model.adapter.parameters():
            parameter.zero_()

    changed(listener[0], deafen)
    checks = checks_of(listener)
    failed = checks["lower part", "depends on what is heard"]
    assert not failed.ok and "0" in failed.figure and "was it trained at all" in failed.cure
    assert not checks["the whole", "M against silence"].ok
    assert "hears nothing" in checks["the whole", "M against silence"].cure
    assert not checks["the whole", "M against another's recording"].ok
    assert verdict(list(checks.values())).startswith("The first that fails: lower part, depends on what is heard")


def test_m_falls_and_accuracy_is_at_chance(listener, monkeypatch):
    """It has learned that somebody speaks, and not what: another's recording does as well."""
    hear = SaladForConditionalGeneration.hear

    def somebody(self, frames, **how):
        heard = hear(self, frames, **how)
        return replace(heard, embeddings=torch.ones_like(heard.embeddings))

    monkeypatch.setattr(SaladForConditionalGeneration, "hear", somebody)
    failed = checks_of(listener)["the whole", "M against another's recording"]
    one, other = re.findall(r"\d\.\d\d", failed.figure)
    assert not failed.ok and one == other and "M falls, but any recording does as well" in failed.cure
    deaf, silent, others = _whole({"heard": 0.5, "deaf": 1.2, "silence": 1.1, "another's recording": 0.52})
    assert deaf.ok and silent.ok and not others.ok and others.figure == "0.50 nats heard, 0.52 another's recording"


def test_a_batch_is_not_single_in_the_encoder(listener, monkeypatch):
    encode = LogMel.encode

    def leaky(self, waveforms):
        frames = encode(self, waveforms)
        return [f + 0.1 * (len(frames) - 1) for f in frames]

    monkeypatch.setattr(LogMel, "encode", leaky)
    checks = checks_of(listener)
    assert (
        not checks["encoder", "batch = single"].ok and "encode one by one" in checks["encoder", "batch = single"].cure
    )
    assert checks["lower part", "batch = single"].ok


def test_a_batch_is_not_single_in_the_ears(listener, monkeypatch):
    hear = SaladForConditionalGeneration.speech_embeddings

    def leaky(self, frames):
        embeddings, lengths = hear(self, frames)
        return embeddings + 0.1 * (len(lengths) - 1), lengths

    monkeypatch.setattr(SaladForConditionalGeneration, "speech_embeddings", leaky)
    checks = checks_of(listener)
    assert checks["encoder", "batch = single"].ok and not checks["lower part", "batch = single"].ok
    assert "depends on what is heard beside it" in checks["lower part", "batch = single"].cure


def test_the_true_symbols_are_those_that_the_ears_learn_from(monkeypatch):
    read = []
    monkeypatch.setattr(doctor, "symbol_ears", lambda model, said, size: read.append(said))
    monkeypatch.setattr(doctor, "divergence", lambda *given: [])
    monkeypatch.setattr(doctor, "_mean", lambda rows: 0.0)
    alphabet = {"kind": "letters", "names": list("#abcd"), "language": "en-us"}
    model = SimpleNamespace(config=SimpleNamespace(symbols=alphabet), hear_symbols=len)
    frames = (np.zeros((3, 1), np.float32),)
    example = Example("u", (Span("speech", 0, 2),), np.array([1, 1]), ((0, 2),), 0, frames)
    doctor._upper(SimpleNamespace(model=model), None, [example], [Utterance("u", "ab cd", "u.wav", 16_000, 1)], 1.0)
    assert read[0](example) == [[1, 2, 0, 3, 4]]  # a boundary between two words, none behind them


def test_recordings_and_alignment_alone(listener, tmp_path):
    corpus = listener[2]
    rows = read_utterances(corpus)
    soundfile.write(rows[0].audio, np.zeros(16_000), 16_000)
    words = [replace(w, end_s=w.start_s + 0.02) if n % 2 else w for n, w in enumerate(rows[1].words)]
    write_utterances(corpus, [rows[0], replace(rows[1], words=tuple(words)), *rows[2:]])
    checks = {(c.part, c.what): c for c in examine(corpus)}
    heard = checks["recordings", "can be heard"]
    assert not heard.ok and "1 of 4 spoilt" in heard.figure
    assert "u0: -200 dB" in heard.cure
    assert checks["alignment", "words that last no time"].figure == "12.5 %"
    assert not checks["alignment", "words that last no time"].ok
    with pytest.raises(SaladError, match="does not exist"):
        examine(tmp_path / "nowhere")
    with pytest.raises(SaladError, match="name aligned speech with --corpus"):
        examine(listener[0])


def test_what_the_doctor_calls_spoilt_is_what_inspect_names(listener):
    corpus = listener[2]
    rows = read_utterances(corpus)
    for u, level in zip(rows, (0.5, 0.0014, 0.1, 0.1), strict=True):  # one is faint, -57 dB, and not silent
        soundfile.write(u.audio, np.tile([level, -level], 16_000), 16_000)
    clipped = np.tile([0.5, -0.5], 16_000)
    clipped[:100] = 1.0
    soundfile.write(rows[0].audio, clipped, 16_000, subtype="FLOAT")
    heard = next(c for c in examine(corpus) if c.what == "can be heard")
    faults = inspect_data(corpus).faults
    assert "1 of 4 spoilt" in heard.figure and "u0: 0.31 % of samples at full scale" in heard.cure
    assert [item.id.split()[0] for item in faults["clipped"].worst] == ["u0"] and not faults["silent"].count


def test_words_laid_where_nothing_is_said(listener):
    corpus = listener[2]
    rows = []
    for u in read_utterances(corpus):
        samples, rate = soundfile.read(u.audio)
        soundfile.write(u.audio, np.concatenate([samples, np.zeros(len(samples))]), rate)
        moved = tuple(replace(w, start_s=w.start_s + u.duration_s, end_s=w.end_s + u.duration_s) for w in u.words)
        rows.append(replace(u, num_samples=2 * u.num_samples, words=moved))
    write_utterances(corpus, rows)
    [check] = [c for c in examine(corpus) if c.what.startswith("words louder")]
    assert not check.ok and "align again" in check.cure


@pytest.mark.parametrize("factor", [1000, 2])  # milliseconds; recordings cut to half
def test_words_beyond_the_recordings(listener, factor):
    corpus = listener[2]
    rows = []
    for u in read_utterances(corpus):
        late = tuple(replace(w, start_s=factor * w.start_s, end_s=factor * w.end_s) for w in u.words)
        rows.append(replace(u, words=late, num_samples=factor * u.num_samples))
    named = "alignment", "words inside the recordings"
    assert {(c.part, c.what): c for c in examine(corpus)}[named].ok
    write_utterances(corpus, rows)
    checks = examine(corpus)
    failed = {(c.part, c.what): c for c in checks}[named]
    assert not failed.ok and failed.expected == "0 %" and "times in seconds" in failed.cure
    assert float(failed.figure.split()[0]) > 40 and "words inside the recordings" in verdict(checks)


def cut_to(corpus, number, rows):
    """The first `number` words of these rows alone."""
    own = []
    for n, u in enumerate(read_utterances(corpus)):
        words = u.words[:number] if n in rows else u.words
        own.append(replace(u, words=words, text=" ".join(w.text for w in words)))
    write_utterances(corpus, own)


def test_what_is_too_short_to_be_interleaved_is_told_and_left_out(listener):
    corpus = listener[2]
    cut_to(corpus, 3, [0, 2])
    checks = checks_of(listener)
    told = checks["recordings", "can be used"]
    assert told.ok and told.figure.startswith("2 of 4 set aside, the most too short to be interleaved")
    assert "1 of 2 spoilt" not in checks["recordings", "can be heard"].figure and ("LLM", "packed = alone") in checks
    cut_to(corpus, 3, range(4))
    with pytest.raises(SaladError, match="none of 4 utterances can be measured .*too short to be interleaved"):
        checks_of(listener)
    assert ("recordings", "can be used") not in {(c.part, c.what) for c in examine(corpus)}  # no model hears them


def test_the_command_prints_the_table_and_says_what_fails(listener):
    model, llm, corpus = listener
    done = CliRunner().invoke(app, ["doctor", str(model), "--corpus", str(corpus), "--teacher", str(llm)])
    assert done.exit_code == 1, done.output  # a model of random weights hears nothing
    assert "The first that fails: " in done.output and "encoder\tbatch = single" in done.output
    write_jsonl(corpus, [])
    done = CliRunner().invoke(app, ["doctor", str(model), "--corpus", str(corpus)])
    assert done.exit_code == 2 and not read_jsonl(corpus)
