"""Voices and spoken documents: every word is said once, the same way each time, and failures are kept."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import itertools
import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from salad.align import transcribe
from salad.assets import get
from salad.audio import read_audio, write_opus
from salad.cli import app
from salad.config import Variation
from salad.data.manifest import load_spoken, read_utterances, utterance_to_dict
from salad.engine import Shard, run_shards, using
from salad.files import read_jsonl, write_jsonl
from salad.synthesize import speak, voices
from salad.synthesize.asr_filter import split_by_cer
from salad.synthesize.delivery import NEUTRAL, Delivery, delivery_of, pitch_of, speed_of
from salad.synthesize.endpoint import EndpointDown, EndpointVoice
from salad.synthesize.job import synthesize_texts
from salad.synthesize.piper import PackageMissing, PiperVoice, open_piper, patch_piper
from salad.synthesize.speak import (
    speak_all,
    speak_document,
    speak_documents,
    speech_bounds,
    utterance_id,
)
from salad.synthesize.voices import (
    MAX_TOKENS,
    assets_of_voice,
    load_voice,
    token_parts,
    torch_network,
    word_spans,
)
from salad.synthesize.word_times import align_spoken
from salad.text.sentences import MAX_CHARS, MAX_WORDS, split_sentences
from salad.types import Document, SaladError, Utterance

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
        assert end - start <= MAX_WORDS
        assert len(" ".join(words[start:end])) <= MAX_CHARS


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
    first, last = speech_bounds(voice.speak("abcd"), voice.sample_rate_hz)
    assert 0.2 < (last - first) / voice.sample_rate_hz < 0.2 + 2 * speak.MARGIN_S + 0.02
    for bad in (np.zeros(0), np.zeros(1000), np.array([0.5, np.nan])):
        with pytest.raises(SaladError, match="the voice returned"):
            speech_bounds(bad.astype(np.float32), 16_000)


def test_sentence_times_frame_the_sound() -> None:
    document = Document("d1", TEXT, "test")
    said = speak_document(document, Tone(), seed=1)
    samples, sentences = said.samples, said.sentences
    assert np.array_equal(samples, speak_document(document, Tone(), seed=1).samples) and said.words == ()
    assert not np.array_equal(samples[:100_000], speak_document(document, Tone(), seed=2).samples[:100_000])
    assert [(start, end) for start, end, _, _ in sentences] == split_sentences(TEXT)
    assert np.abs(samples).max() <= speak.PEAK + 1e-6
    for (*_, before_s), (_, _, after_s, _) in itertools.pairwise(sentences):
        assert speak.PAUSE_S[0] - 1e-3 <= after_s - before_s <= speak.PAUSE_S[1] + 1e-3
        assert np.abs(samples[round(before_s * 16_000) : round(after_s * 16_000)]).max() < 1e-3
    for _, _, start_s, end_s in sentences:
        assert np.abs(samples[round(start_s * 16_000) : round(end_s * 16_000)]).max() > 0.5


def items_of(*documents: Document, voice: str = "test:tone") -> list[dict[str, object]]:
    return [{"document": asdict(d), "voice": voice, "licence": "CC0", "simulated": True} for d in documents]


@pytest.mark.parametrize("voice", ["openai:m:v@http://{}/v1", "kokoro-torch:af_heart@{}"])
def test_one_voice_of_two_places_speaks_two_utterances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voice: str
) -> None:
    monkeypatch.setattr(speak, "load_voice", lambda name: Tone())
    document, found = Document("d", TEXT, "web"), []
    for place in ("here", "there"):
        items = items_of(document, voice=voice.format(place))
        job = functools.partial(speak_documents, seed=0)
        folders = run_shards(job, items, tmp_path / place, shard_items=1, workers=1, title="speak")
        found += [utterance.id for utterance, _ in load_spoken(folders)]
    assert found == [utterance_id("d", voice.format(place)) for place in ("here", "there")]
    plain = voice.partition("@")[0].replace(":", "-")
    assert len(set(found)) == 2 and all(re.fullmatch(f"d--{plain}-[0-9a-f]{{6}}", name) for name in found)


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


def test_an_id_longer_than_the_name_of_a_file_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speak, "load_voice", lambda name: Tone())
    long = "https://example.org/" + "a" * 350
    items = items_of(*(Document(f"{long}{n}", "A text.", "web") for n in range(2)))
    [folder] = run_shards(
        functools.partial(speak_documents, seed=0), items, tmp_path, shard_items=2, workers=1, title="speak"
    )
    spoken = read_utterances(folder / "utterances.jsonl")
    assert [utterance.document_id for utterance in spoken] == [f"{long}0", f"{long}1"]
    assert all(Path(utterance.audio).is_file() for utterance in spoken) and spoken[0].audio != spoken[1].audio
    assert read_jsonl(folder / "quarantine.jsonl") == []


def test_what_a_killed_attempt_said_is_not_said_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mortal(Tone):
        said: ClassVar[list[str]] = []
        dies = True

        def speak(self, text: str) -> np.ndarray:
            if Mortal.dies and text.startswith("Second"):
                raise KeyboardInterrupt  # as a SIGKILL: nothing after it runs
            Mortal.said.append(text)
            return super().speak(text)

    monkeypatch.setattr(speak, "load_voice", lambda name: Mortal())
    texts = ("First of three.", "Second in 1848.", "Third and last.")
    items = items_of(*(Document(f"d{n}", text, "web") for n, text in enumerate(texts)))
    job = functools.partial(speak_documents, seed=0)

    def spoken(folder: Path) -> dict[str, bytes]:
        [shard] = run_shards(job, items, folder, shard_items=3, workers=1, title="speak")
        return {path.name: path.read_bytes().replace(str(folder).encode(), b"") for path in shard.rglob("*.*")}

    with pytest.raises(KeyboardInterrupt):
        spoken(tmp_path / "killed")
    Mortal.dies = False
    resumed = spoken(tmp_path / "killed")
    assert [text.split()[0] for text in Mortal.said] == ["First", "Second", "Third"]
    assert not list((tmp_path / "killed").glob(".*"))
    assert resumed == spoken(tmp_path / "calm") and len(resumed) == 6
    with pytest.raises(KeyboardInterrupt):  # other items: what was kept is not theirs
        Mortal.dies, items = True, items[1:]
        spoken(tmp_path / "killed")
    assert len(list((tmp_path / "killed").rglob("*.flac"))) == 0


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


def test_the_spoken_form_is_said_and_kept_beside_the_written_one(tmp_path: Path) -> None:
    class Listener(Tone):
        heard: list[str] = []

        def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
            self.heard.append(text)
            return super().speak(text)

    document = Document("n", "It rose 5 km. In 1848, too.", "web")
    sentences = speak_document(document, Listener(), seed=0).sentences
    assert Listener.heard == ["It rose five kilometers.", "In eighteen forty-eight, too."]
    assert [s[:2] for s in sentences] == [(0, 4), (4, 7)]


class Endpoint(BaseHTTPRequestHandler):
    """Speaks the OpenAI speech protocol: 50 ms of a tone for each character, over the speed."""

    asked: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked["key"] = self.headers["Authorization"]
        self.asked.append(asked)
        if self.path != "/v1/audio/speech" or asked["model"] == "gone":
            return self.send_error(404)
        if len(self.asked) == 1:
            return self.send_error(503)
        if "refuse" in asked["input"]:
            return self.send_error(400)
        num = int(0.05 * len(asked["input"]) * 16_000 / asked["speed"])
        file = io.BytesIO()
        soundfile.write(file, 0.5 * np.sin(np.arange(num) * 0.1), 16_000, format="WAV")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(file.getvalue())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("salad.synthesize.endpoint.WAIT_S", 0.01)
    Endpoint.asked = []
    load_voice.cache_clear()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_texts_become_speech_through_an_endpoint(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALAD_SPEECH_KEY", "k1")
    texts = tmp_path / "texts.jsonl"
    write_jsonl(
        texts, [{"id": "a", "text": "It rose 5 km."}, {"id": "b", "text": "Please refuse."}, {"text": "Plain."}]
    )
    texts.write_text("\ufeff" + texts.read_text() + '{oops\n{"id": "c", "text": 3}\n')  # as Windows writes it
    command = ["synthesize", "--texts", str(texts), "--out", str(tmp_path / "out"), "--workers", "1"]
    command += ["--voice", f"openai:tts-1:alloy@{endpoint}", "--speed-jitter", "0.2", "--opus"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    one, two = read_utterances(tmp_path / "out" / "utterances.jsonl")
    assert (one.text, one.speaker) == ("It rose 5 km.", f"openai:tts-1:alloy@{endpoint}")
    assert Path(one.audio).suffix == ".opus" and read_audio(one.audio)[1] == 16_000
    assert len(read_audio(one.audio)[0]) == one.num_samples
    assert read_jsonl(tmp_path / "out" / "spoken.jsonl") == [
        {"id": one.id, "spoken": ["It", "rose", "five", "kilometers."]}
    ]
    aside = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert [(row["id"], row["stage"]) for row in aside] == [(n, "synthesize") for n in ("texts-000004", "c", "b")]
    assert (
        "texts.jsonl line 4: expected one JSON object" in aside[0]["reason"] and "3 lines or documents" in done.output
    )
    said = {row["input"]: row for row in Endpoint.asked}
    assert set(said) == {"It rose five kilometers.", "Please refuse.", "Plain."}
    assert all(0.8 <= row["speed"] <= 1.2 and row["key"] == "Bearer k1" for row in said.values())
    assert len({row["speed"] for row in said.values()}) == 3 and len(Endpoint.asked) == 4  # one 503, asked again
    seconds = 0.05 * len("Plain.") / said["Plain."]["speed"] + 2 * speak.EDGE_S
    assert two.num_samples / 16_000 == pytest.approx(seconds, abs=0.01)
    assert CliRunner().invoke(app, command).exit_code == 0 and len(Endpoint.asked) == 4  # resumed: nothing said twice
    other = CliRunner().invoke(app, [*command, "--seed", "1"])
    assert other.exit_code == 2 and "holds speech made with" in other.output


def test_what_one_asr_heard_is_not_taken_for_another_s(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hear(shard: Shard, folder: Path, *, asset: str, precision: str) -> None:
        said = (Path(asset) / "says.txt").read_text()
        write_jsonl(folder / "transcripts.jsonl", [{"id": row["id"], "text": said} for row in shard.items])
        write_jsonl(folder / "quarantine.jsonl", [])

    monkeypatch.setattr(transcribe, "transcribe_utterances", hear)
    write_jsonl(tmp_path / "texts.jsonl", [{"text": "Say nothing at all."}, {"text": "Plain."}])
    voice, kept = {f"openai:tts-1:alloy@{endpoint}": 1.0}, []
    for asr in ("one", "two", "one"):
        (tmp_path / asr).mkdir(exist_ok=True)
        (tmp_path / asr / "says.txt").write_text("plain" if asr == "two" else "say nothing at all")
        how = {"workers": 1, "max_cer": 0.1, "asr": str(tmp_path / asr)}
        synthesize_texts([tmp_path / "texts.jsonl"], tmp_path / "out", voice, **how)
        kept.append([u.text for u in read_utterances(tmp_path / "out" / "utterances.jsonl")])
    assert kept == [["Say nothing at all."], ["Plain."], ["Say nothing at all."]]


def test_an_endpoint_that_is_down_stops_the_job_and_loses_no_document(tmp_path: Path, endpoint: str) -> None:
    for name in (f"openai:gone:alloy@{endpoint}", "openai:tts-1:alloy@http://127.0.0.1:9/v1"):
        job = functools.partial(speak_documents, seed=0)
        items = items_of(Document("d", "A text.", "web"), voice=name)
        with pytest.raises(SaladError, match="answered 404|failed 5 times"):
            run_shards(job, items, tmp_path / "out", shard_items=1, workers=1, title="speak")
        assert not list((tmp_path / "out").glob("shard-*"))
    with pytest.raises(SaladError, match="openai:MODEL:VOICE@URL"):
        load_voice("openai:tts-1:alloy@localhost")


class Elsewhere(BaseHTTPRequestHandler):
    """Another host: notes what it was sent."""

    seen: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"RIFF")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Odd(Elsewhere):
    """An endpoint that redirects (/CODE/...), or whose answer does not end (/long/...)."""

    seen: ClassVar[list[str | None]] = []
    to = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.path.split("/")[1]
        if kind == "long":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))
        self.send_response(int(kind))
        self.send_header("Location", self.to)
        self.end_headers()


@contextlib.contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_key_does_not_follow_a_redirect(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setenv("SALAD_SPEECH_KEY", "secret")
    Elsewhere.seen.clear()
    with served(Elsewhere) as other, served(Odd) as url:
        Odd.to = f"{other}/v1/audio/speech"
        with pytest.raises(
            EndpointDown, match=rf"redirects \({code}\) to {other}/v1/audio/speech, which is not followed"
        ):
            EndpointVoice(f"openai:m:v@{url}/{code}").speak("A text.")
    assert Elsewhere.seen == []


def sounding(kind: str, seconds: float) -> bytes:
    file = io.BytesIO()
    sound = 0.3 * np.sin(np.arange(int(24_000 * seconds)) * 0.1)
    soundfile.write(file, sound, 24_000, format=kind, subtype="VORBIS" if kind == "OGG" else "PCM_16")
    return file.getvalue()


def test_an_answer_is_read_whole_whatever_its_header_says(monkeypatch: pytest.MonkeyPatch) -> None:
    voice = EndpointVoice("openai:m:v@http://localhost/v1")
    flac, stale = bytearray(sounding("FLAC", 0.5)), bytearray(sounding("WAV", 0.5))
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])  # the number of its samples, not known
    stale[40:44] = (4_800).to_bytes(4, "little")  # as after the first 0.1 s
    for answer, seconds in [(bytes(flac), 0.5), (sounding("OGG", 0.5) * 2, 1.0), (bytes(stale), 0.5)]:
        monkeypatch.setattr(voice, "_post", lambda body, answer=answer: answer)
        assert len(voice.speak("A text.")) == pytest.approx(24_000 * seconds, rel=0.02)
    monkeypatch.setattr(voice, "_post", lambda body: b"<html>")
    with pytest.raises(EndpointDown, match="answered b'<html>', expected WAV"):
        voice.speak("A text.")
    monkeypatch.setattr(voice, "_post", lambda body: sounding("WAV", 0))
    with pytest.raises(SaladError, match="the answer of http://localhost/v1 holds no samples") as caught:
        voice.speak("...")
    assert not isinstance(caught.value, EndpointDown)  # another text may pass


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salad.synthesize.endpoint.MAX_ANSWER_BYTES", 1 << 20)
    with served(Odd) as url, pytest.raises(EndpointDown, match="and goes on, expected at most 1048576"):
        EndpointVoice(f"openai:m:v@{url}/long").speak("A text.")


def test_a_key_goes_to_its_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALAD_SPEECH_KEY", "secret")
    for name in (
        "openai:m:v@http://example.com/v1",
        "openai:m:v@http://localhost.example.com",
        "openai:m:v@http://10.0.0.1",
    ):
        with pytest.raises(EndpointDown, match="is plain http to another machine"):
            EndpointVoice(name)._headers()
    for name in ("http://localhost:1/v1", "http://127.0.0.1:1", "http://[::1]:1", "https://example.com/v1"):
        assert EndpointVoice(f"openai:m:v@{name}")._headers()["Authorization"] == "Bearer secret"
    monkeypatch.setenv("SALAD_SPEECH_KEY", "secret\nHost: evil")
    with pytest.raises(EndpointDown, match="holds line breaks"):
        EndpointVoice("openai:m:v@https://example.com/v1")._headers()
    monkeypatch.setenv("SALAD_SPEECH_KEY", "secret\n")
    monkeypatch.setenv("SALAD_SPEECH_HOST", "api.example.com")
    assert "Authorization" in EndpointVoice("openai:m:v@https://API.example.com/v1")._headers()
    with pytest.raises(EndpointDown, match="is not SALAD_SPEECH_HOST .api.example.com., the one host"):
        EndpointVoice("openai:m:v@https://example.org/v1")._headers()
    monkeypatch.delenv("SALAD_SPEECH_KEY")
    assert "Authorization" not in EndpointVoice("openai:m:v@http://example.com/v1")._headers()
    for url in ("https://key@example.com/v1", "https://example.com/v1?key=1"):
        with pytest.raises(SaladError, match="without user, query or fragment"):
            EndpointVoice(f"openai:m:v@{url}")


@pytest.mark.parametrize("url", ["http://[::1/v1", "http://localhost:9/vé1", "http://a..b/v1", "http://localhost:abc/v1",
                                 "http://localhost:99999", "http://é.example/v1", "http://localhost/\x01"])  # fmt: skip
def test_a_url_that_cannot_be_asked_is_told_at_once(url: str) -> None:
    with pytest.raises(SaladError, match=r"voice: got the URL '.*' \(.*\); correct host, port and path"):
        EndpointVoice(f"openai:m:v@{url}")


@pytest.mark.slow
def test_double_brackets_are_text_to_every_voice() -> None:
    piper, kokoro = load_voice("piper-joe"), load_voice("kokoro:af_heart")
    marked, plain = "The [[river]] runs past [[Old Town]].", "The river runs past Old Town."
    for text in (marked, "The [[[river]]] runs past [[Old Town]].", "The [[river runs past Old]] Town."):
        assert [re.sub(r"[^\w\s]", "", s) for s in piper._sentences(text)] == [
            re.sub(r"[^\w\s]", "", s) for s in piper._sentences(plain)
        ]
        assert re.sub(r"[^\w\s]", "", kokoro._phonemes(text)) == re.sub(r"[^\w\s]", "", kokoro._phonemes(plain))


def test_a_full_disk_loses_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(speak, "load_voice", lambda name: Tone())
    monkeypatch.setitem(speak.WRITERS, "flac", full)
    items = items_of(Document("d", "A text.", "web"))
    with pytest.raises(SaladError, match="no space left"):
        run_shards(functools.partial(speak_documents, seed=0), items, tmp_path, shard_items=1, workers=1, title="speak")
    assert not list(tmp_path.glob("shard-*"))


def test_speeds_differ_between_documents_and_stay_the_same() -> None:
    speeds = [speed_of(f"d{n}", "v", 3, 0.1) for n in range(200)]
    assert speeds == [speed_of(f"d{n}", "v", 3, 0.1) for n in range(200)]
    assert 0.9 <= min(speeds) < 0.92 and 1.08 < max(speeds) <= 1.1
    assert speed_of("d0", "v", 4, 0.1) != speeds[0] and speed_of("d0", "v", 3, 0.0) == 1.0


def test_a_delivery_is_drawn_from_document_voice_and_seed() -> None:
    vary = Variation(speed_jitter=0.1, pitch_jitter=0.25, noise=1.0)
    drawn = [delivery_of(f"d{n}", "v", 3, vary) for n in range(200)]
    assert drawn == [delivery_of(f"d{n}", "v", 3, vary) for n in range(200)]
    assert [delivery.speed for delivery in drawn] == [speed_of(f"d{n}", "v", 3, 0.1) for n in range(200)]
    pitches = sorted(delivery.pitch for delivery in drawn)
    assert 0.8 <= pitches[0] < 0.82 and 1.22 < pitches[-1] <= 1.25 and pitches[100] == pytest.approx(1, abs=0.04)
    assert len({delivery.seed for delivery in drawn}) == 200 and {delivery.noise for delivery in drawn} == {1.0}
    assert abs(np.corrcoef([d.speed for d in drawn], [d.pitch for d in drawn])[0, 1]) < 0.2
    assert delivery_of("d", "v", 3, Variation()) == NEUTRAL and NEUTRAL.changes() == {}
    for wrong in ({"speed": 0.0}, {"pitch": 9.0}, {"noise": 1.5}):
        with pytest.raises(SaladError, match=f"{next(iter(wrong))}: got"):
            Delivery(**wrong)


@given(
    st.floats(0.7, 1.4),
    st.floats(0.7, 1.4),
    st.sampled_from([16_000, 22_050, 24_000]),
    st.lists(st.floats(0, 30), min_size=2, max_size=40).map(sorted),
)
def test_times_follow_the_samples_to_another_rate(speed: float, pitch: float, hz: int, bounds: list[float]) -> None:
    delivery, told = Delivery(speed, pitch, 0.5, 7), list(itertools.pairwise(bounds))
    assert Delivery.of({**delivery.changes(), "voice": "v"}) == delivery
    moved = delivery.retimed(told, hz)
    read_hz = delivery.rate_hz(hz)
    for (start_s, end_s), (new_start_s, new_end_s) in zip(told, moved, strict=True):
        assert new_start_s <= new_end_s
        assert new_start_s * read_hz == pytest.approx(start_s * hz)  # the same sample
        assert new_end_s * read_hz == pytest.approx(end_s * hz)
    assert delivery.voice_speed * read_hz / hz == pytest.approx(speed, rel=1e-3)
    assert pitch_of("d", "v", 0, 0.0) == 1.0


def test_opus_of_the_same_samples_is_the_same_file(tmp_path: Path) -> None:
    samples = (0.3 * np.sin(np.arange(40_000) * 0.1)).astype(np.float32)
    for name in ("a", "b"):
        write_opus(tmp_path / f"{name}.opus", samples, 16_000)
    assert (tmp_path / "a.opus").read_bytes() == (tmp_path / "b.opus").read_bytes()
    read, rate_hz = read_audio(tmp_path / "a.opus")
    assert (len(read), rate_hz) == (40_000, 16_000)
    assert np.abs(read[1000:-1000] - samples[1000:-1000]).max() < 0.1
    assert (tmp_path / "a.opus").stat().st_size < 40_000


class Clock(Tone):
    """Tone, with the time of each word: its letters' share of the sound."""

    def speak_timed(self, text: str, speed: float = 1.0) -> tuple[np.ndarray, list[tuple[float, float]]]:
        samples, edge_s = self.speak(text), 3000 / self.sample_rate_hz
        starts = [edge_s + 0.05 * match.start() for match in re.finditer(r"\S+", text)]
        return samples, [(s, s + 0.05 * len(word)) for s, word in zip(starts, text.split(), strict=True)]


def test_words_that_the_voice_times_need_no_aligner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speak, "load_voice", lambda name: Clock())
    text = "It rained in 1848. The river rose."
    items = items_of(Document("d", text, "web"))
    job = functools.partial(speak_documents, seed=0)
    folders = run_shards(job, items, tmp_path / "speech", shard_items=1, workers=1, title="speak")
    [(utterance, sentences)] = load_spoken(folders)
    assert [word.text for word in utterance.words] == text.split() and utterance.score == 1.0
    said = "It rained in eighteen forty-eight."
    lasts_s = [word.end_s - word.start_s for word in utterance.words]
    assert lasts_s[3] == pytest.approx(0.05 * len("eighteen forty-eight."), abs=1e-6)
    for word, (start, _, start_s, end_s) in zip(utterance.words, [sentences[0]] * 4 + [sentences[1]] * 3, strict=True):
        assert start_s - 1e-9 <= word.start_s < word.end_s <= end_s + 1e-9 and start in (0, 4)
    assert utterance.words[0].start_s == pytest.approx(sentences[0][2] + speak.MARGIN_S, abs=0.011)
    assert utterance.words[3].end_s - utterance.words[0].start_s == pytest.approx(0.05 * len(said), abs=1e-6)
    rows = [(utterance_to_dict(utterance), sentences)]
    align_spoken(Shard(0, tuple(rows)), tmp_path, asset="no such ASR", min_score=0.5)  # nobody listens
    assert read_utterances(tmp_path / "utterances.jsonl")[0].words == utterance.words


def test_a_higher_pitch_is_the_same_sound_read_faster() -> None:
    document = Document("d", "It rained in 1848. The river rose.", "web")
    low = speak_document(document, Clock(), seed=0)
    high = speak_document(document, Clock(), seed=0, delivery=Delivery(speed=1.1, pitch=1.1))
    assert [word.text for word in high.words] == document.words
    for (*_, start_s, end_s), (*_, high_start_s, high_end_s) in zip(low.sentences, high.sentences, strict=True):
        assert (high_end_s - high_start_s) * 1.1 == pytest.approx(end_s - start_s, abs=0.03)
        spectrum = np.abs(np.fft.rfft(high.samples[round(high_start_s * 16_000) : round(high_end_s * 16_000)]))
        assert spectrum.argmax() / (high_end_s - high_start_s) == pytest.approx(330, abs=5)
    for (first, last, start_s, _), (*_, high_start_s, _) in zip(low.sentences, high.sentences, strict=True):
        margin_s = low.words[first].start_s - start_s
        for word, own in zip(low.words[first:last], high.words[first:last], strict=True):
            lasts_s = own.end_s - own.start_s
            assert lasts_s * 1.1 == pytest.approx(word.end_s - word.start_s, abs=1e-6)
            at_s = (word.start_s - start_s - margin_s) / 1.1
            assert own.start_s - high.words[first].start_s == pytest.approx(at_s, abs=1e-6)
            assert own.start_s >= high_start_s


def test_only_what_varies_is_varied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A voice that keeps to the speed it is asked for: pitch alone leaves the length, speed changes it."""

    class Paced(Tone):
        def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
            return super().speak("x" * round(len(text) / speed))

    monkeypatch.setattr(speak, "load_voice", lambda name: Paced())
    spoken = [(Document(f"d{n}", "A sentence of some length is said here, and then another part.", "t"), "v")
              for n in range(4)]  # fmt: skip

    def lengths(name: str, **vary: float) -> list[int]:
        folders = speak_all(spoken, tmp_path / name, seed=0, workers=1, title="speak", variation=Variation(**vary))
        return [utterance.num_samples for utterance, _ in load_spoken(folders)]

    plain = lengths("plain")
    assert len(set(plain)) == 1 and lengths("noise", noise=1.0) == plain  # it has none that could be seeded
    assert lengths("pitch", pitch_jitter=0.2) == pytest.approx(plain, rel=0.04)
    assert len(set(lengths("speed", speed_jitter=0.2))) == 4


def test_one_document_more_speaks_one_shard_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last result, as it would be spoken fresh; by another voice's files all is spoken again."""
    asked: list[str] = []

    class Noted(Tone):
        def speak(self, text: str, speed: float = 1.0) -> np.ndarray:
            asked.append(text)
            return super().speak(text)

    monkeypatch.setattr(speak, "load_voice", lambda name: Noted())
    spoken = [(Document(f"d{n}", f"It is said by somebody, number {n}.", "t"), "v") for n in range(9)]
    sums = {}
    steps = [("last", spoken[:4] + spoken[5:], "a", 8), ("new", spoken, "a", 3), ("other", spoken, "b", 9)]
    for name, own, made_from, wanted in steps:
        asked.clear()
        with using(spare=(tmp_path / name, tmp_path / "last")):
            folders = speak_all(own, tmp_path / name / "s", seed=0, workers=1, title="t", made_from=made_from)
        said = [path for folder in folders for path in sorted((folder / "audio").iterdir())]
        sums[name] = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in said]
        assert len(asked) == wanted, name
    assert sums["new"] == sums["other"] and len(sums["new"]) == 9


def test_words_are_found_in_a_sentences_phonemes() -> None:
    assert word_spans("hɛlˈoʊ, wˈɜːld!", ["hɛlˈoʊ,", "wˈɜːld!"]) == [(0, 6), (8, 14)]
    spans = word_spans("lˈæst ʌvðə dˈeɪ", ["lˈæst", "ˈʌv", "ðˈə", "dˈeɪ"])  # "of the" is said as one
    assert spans is not None and spans[0] == (0, 5) and spans[3] == (11, 15)
    assert [spans[1][0], spans[2][1]] == [6, 10] and spans[1][1] <= spans[2][0] + 1
    spans = word_spans("ɛt sˈɛtɹə ʌvðə dˈeɪ", ["ɛt sˈɛtɹə", "ˈʌv", "ðˈə", "dˈeɪ"])  # one more part, one less
    assert spans is not None and (spans[0], spans[3]) == ((0, 9), (15, 19))
    assert word_spans("lˈæst dˈeɪ", ["lˈæst", "—", "dˈeɪ"]) is None  # a dash has no sound
    assert word_spans("lˈæst", ["lˈæst", ""]) is None


@given(st.lists(st.text("abcdefg", min_size=1, max_size=6), min_size=1, max_size=8), st.data())
def test_word_spans_are_in_order_and_inside(singles: list[str], data: st.DataObject) -> None:
    joints = data.draw(st.lists(st.sampled_from([" ", ""]), min_size=len(singles), max_size=len(singles)))
    phonemes = "".join(a + b for a, b in zip(singles, joints, strict=True)).strip()
    spans = word_spans(phonemes, singles)
    if spans is not None:
        assert len(spans) == len(singles)
        assert all(0 <= start < end <= len(phonemes) for start, end in spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        assert [phonemes[start:end].replace(" ", "") for start, end in spans] == singles


def test_kokoro_in_torch_says_when_each_word_is_said(tmp_path: Path) -> None:
    """Kokoro's own classes with small random weights: times add up, and the same text gives the same samples."""
    kokoro = pytest.importorskip("kokoro.model")
    symbols = ' ;:,.!?—…"()“”abcdefghijklmnopqrstuvwxyzˈˌːəɛɪɔɹʃʊʌæðŋɑɜɾᵻɡɚoʊ'
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    config = {
        "vocab": {symbol: n for n, symbol in enumerate(dict.fromkeys(symbols), 1)}, "n_token": 100, "hidden_dim": 512,
        "style_dim": 128, "n_layer": 1, "max_dur": 50, "dropout": 0.2, "text_encoder_kernel_size": 5, "n_mels": 80,
        "plbert": {**small, "max_position_embeddings": 512, "dropout": 0.1},
        "istftnet": {
            "upsample_kernel_sizes": [20, 12], "upsample_rates": [10, 6], "gen_istft_hop_size": 5,
            "gen_istft_n_fft": 20, "resblock_dilation_sizes": [[1, 3, 5]] * 3, "resblock_kernel_sizes": [3, 7, 11],
            "upsample_initial_channel": 512,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    torch.save({}, tmp_path / "none.pth")
    made = kokoro.KModel("hexgrad/Kokoro-82M", config=config, model=str(tmp_path / "none.pth"))
    parts = ("bert", "bert_encoder", "predictor", "text_encoder", "decoder")
    weights = {part: getattr(made, part).state_dict() for part in parts}
    (tmp_path / "none.pth").unlink()
    torch.save(weights, tmp_path / "kokoro.pth")
    (tmp_path / "config.json").write_text(json.dumps(config))
    voice = load_voice(f"kokoro-torch:af_heart@{tmp_path}")
    assert voice.name == "kokoro-torch:af_heart"
    samples, times = voice.speak_timed("The last of the rain fell.")
    assert np.array_equal(samples, voice.speak("The last of the rain fell.")) and np.isfinite(samples).all()
    assert times is not None and len(times) == 6
    assert all(start < end for start, end in times) and times[0][0] > 0 and times[-1][1] < len(samples) / 24_000
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(times))
    assert len(voice.speak("The last of the rain fell.", 2.0)) < len(samples)
    (tmp_path / "kokoro.pth").unlink()
    torch_network.cache_clear()
    with pytest.raises(SaladError, match="holds 0 .pth files"):
        torch_network(tmp_path)


def test_garbled_speech_is_set_aside_with_its_cer() -> None:
    spoken = [Utterance(name, "In 1848 it rained.", "a.flac", 16_000, 16_000) for name in "abc"]
    heard = {"a": "In eighteen forty-eight, it rained.", "b": "Something else was said."}
    kept, rows = split_by_cer(spoken, heard, 0.2)
    assert [u.id for u in kept] == ["a"] and [row["id"] for row in rows] == ["b"]
    assert rows[0]["cer"] > 0.5 and "at most 0.2" in rows[0]["reason"]


def test_pitch_and_noise_of_the_command(tmp_path: Path, endpoint: str) -> None:
    write_jsonl(tmp_path / "texts.jsonl", [{"id": "a", "text": "Some plain text."}, {"id": "b", "text": "More of it."}])
    command = ["synthesize", "--texts", str(tmp_path / "texts.jsonl"), "--out", str(tmp_path / "out"), "--workers", "1"]
    command += ["--voice", f"openai:tts-1:alloy@{endpoint}", "--pitch-jitter", "0.2", "--noise", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    speeds = {row["input"]: row["speed"] for row in Endpoint.asked}
    assert all(1 / 1.2 <= speed <= 1.2 and speed != 1 for speed in speeds.values())
    for utterance in read_utterances(tmp_path / "out" / "utterances.jsonl"):
        seconds = 0.05 * len(utterance.text) + 2 * speak.EDGE_S
        assert utterance.num_samples / 16_000 == pytest.approx(seconds, abs=0.03)
    assert CliRunner().invoke(app, [*command, "--noise", "0.5"]).exit_code == 2


def test_a_patched_graph_takes_noise_and_stretch_and_tells_durations() -> None:
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    value = [helper.make_tensor_value_info("input", kind, ["n", "t"])]
    nodes = [
        helper.make_node("RandomNormalLike", ["input"], ["drawn"]),
        helper.make_node("Add", ["input", "drawn"], ["sum"]),
        helper.make_node("Ceil", ["sum"], ["durations"]),
        helper.make_node("RandomNormalLike", ["durations"], ["more"]),
        helper.make_node("Add", ["durations", "more"], ["output"]),
    ]
    output = [helper.make_tensor_value_info("output", kind, ["n", "t"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", value, output), opset_imports=[helper.make_opsetid("", 15)], ir_version=8
    )
    patch_piper(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    noise_w, noise = np.array([0.25, 1.25], np.float32), np.arange(10, dtype=np.float32)
    inputs = {"input": np.zeros((2, 3), np.float32), "noise_w": noise_w, "noise": noise}
    got, durations = session.run(None, {**inputs, "stretch": np.array(1, np.float32)})
    assert durations.tolist() == [[1, 2, 1], [2, 1, 2]]  # laid along it, again from the start
    assert got.tolist() == [[1, 3, 3], [5, 5, 7]]
    _, durations = session.run(None, {**inputs, "stretch": np.array(1.5, np.float32)})
    assert durations.tolist() == [[2, 2, 2], [3, 1, 4]]  # ends 1.5, 4.5, 6 and 3, 4.5, 7.5, rounded to even
    with pytest.raises(SaladError, match="no graph of Piper"):
        patch_piper(model)


@pytest.mark.slow
def test_piper_says_when_each_word_and_phone_is_said() -> None:
    voice = load_voice("piper-joe")
    assert isinstance(voice, PiperVoice)
    text = "The last of the rain fell, on the roof of a house. It was over."
    samples, times = voice.speak_timed(text)
    assert np.array_equal(samples, voice.speak(text)) and times is not None and len(times) == len(text.split())
    assert all(start < end for start, end in times) and times[0][0] > 0 and times[-1][1] < len(samples) / 22_050
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(times))
    again, said, bounds_s = voice._speak(text, 1.0, 0.0, 0)
    assert np.array_equal(again, samples)
    assert all(joined in said for joined in ("ʌvðə", "ɔnðə", "əvə"))  # yet each of two joined words has its own time
    assert times[0][0] == bounds_s[0] and len(bounds_s) == len(said) + 1 and (np.diff(bounds_s) >= 0).all()
    loud = np.abs(samples) > 0.05
    for start_s, end_s in times:
        assert loud[round(start_s * 22_050) : round(end_s * 22_050)].any()
    assert voice.speak_timed("Salt - and bread.")[1] is None  # a dash has no sound
    said = speak_document(Document("d", text, "t"), voice, seed=0)
    assert [word.text for word in said.words] == text.split()


@pytest.mark.slow
def test_pipers_noise_is_seeded_by_text_and_seed() -> None:
    voice = load_voice("piper-joe")
    assert isinstance(voice, PiperVoice)
    texts = ("The cat sat down.", "It purred for an hour.")
    one = {(text, seed): voice.speak(text, noise=1.0, seed=seed) for text in texts for seed in (0, 1)}
    load_voice.cache_clear()
    other = load_voice("piper-joe")
    assert isinstance(other, PiperVoice) and other is not voice
    for (text, seed), samples in reversed(one.items()):
        assert np.array_equal(other.speak(text, noise=1.0, seed=seed), samples)
    for text in texts:
        lengths = {len(one[text, 0]), len(one[text, 1]), len(voice.speak(text)), len(voice.speak(text, noise=0.5))}
        assert len(lengths) > 1 and not np.array_equal(*(one[text, seed][:20_000] for seed in (0, 1)))
        assert np.array_equal(voice.speak(text, seed=1), voice.speak(text))
    text = "A longer sentence is said here, and it has some small words in it."
    for speed in (0.75, 1.2):
        assert len(voice.speak(text)) / len(voice.speak(text, speed)) == pytest.approx(speed, rel=0.01)
    document = Document("d", " ".join(texts), "t")
    varied = Delivery(speed=0.9, pitch=1.15, noise=1.0, seed=5)
    first, second = (speak_document(document, who, seed=0, delivery=varied) for who in (voice, other))
    assert np.array_equal(first.samples, second.samples) and first.words == second.words and len(first.words) == 9


@pytest.mark.slow
def test_without_onnx_piper_speaks_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from piper.config import SynthesisConfig

    told = load_voice("piper-joe")
    monkeypatch.setitem(sys.modules, "onnx", None)
    path = get("piper-joe") / "en_US-joe-medium.onnx"
    plain = PiperVoice("piper-joe", path)
    assert open_piper(path)[1] is False
    for text in ("The cat sat down. It purred.", "To dry wet shoes, stuff them with newspaper."):
        for speed in (1.0, 1.1):
            config = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, length_scale=1 / speed)
            own = np.concatenate([chunk.audio_float_array for chunk in plain._engine.synthesize(text, config)])
            samples, times = plain.speak_timed(text, speed)
            assert times is None and np.array_equal(samples, own)
            assert speed != 1.0 or np.array_equal(told.speak(text), own)
    with pytest.raises(PackageMissing, match="needs the package onnx"):
        plain.speak("The cat.", noise=1.0)
    monkeypatch.setattr(speak, "load_voice", lambda name: plain)
    items = [{**item, "noise": 1.0} for item in items_of(Document("d", "A text.", "web"), voice="piper-joe")]
    with pytest.raises(SaladError, match="needs the package onnx"):  # no document is lost to it
        run_shards(functools.partial(speak_documents, seed=0), items, tmp_path, shard_items=1, workers=1, title="speak")
    assert not list(tmp_path.glob("shard-*"))


@pytest.mark.slow
def test_a_doubled_full_stop_is_not_said_before_the_next_sentence() -> None:
    voice = load_voice("piper-joe")
    before = voice.speak("The cat sat down.")
    voice.speak("The dog ran..")
    assert np.array_equal(voice.speak("The cat sat down."), before)


@pytest.mark.slow
def test_word_times_are_those_of_what_is_said(tmp_path: Path) -> None:
    """Piper says a year and a distance; each written word gets the time of its whole spoken form."""
    text = "In 1848, the river rose 5 km and it flooded the town."
    write_jsonl(
        tmp_path / "texts.jsonl",
        [{"id": "a", "text": text}, {"id": "b", "text": "The baker sold bread in the market."}],
    )
    done = synthesize_texts(
        [tmp_path / "texts.jsonl"], tmp_path / "out", {"piper-joe": 1.0}, workers=1, word_times=True, max_cer=0.3
    )
    assert done.utterances == 2 and done.quarantined == 0
    one, two = read_utterances(tmp_path / "out" / "utterances.jsonl")
    assert [word.text for word in one.words] == text.split()
    assert (one.text, len(two.words)) == (text, 7)
    lasts_s = {word.text: word.end_s - word.start_s for word in one.words}
    assert lasts_s["1848,"] > 0.6 > lasts_s["the"] and lasts_s["1848,"] > 2 * lasts_s["and"]
    starts_s = [word.start_s for word in one.words]
    assert starts_s == sorted(starts_s) and one.words[-1].end_s <= one.duration_s


@pytest.mark.slow
@pytest.mark.parametrize("name", ["piper-joe", "kokoro:jf_alpha"])
def test_a_faster_voice_is_shorter(name: str) -> None:
    voice = load_voice(name)
    slow, same, fast = (len(voice.speak("A longer sentence is said here.", speed)) for speed in (0.8, 1.0, 1.25))
    assert 1.1 < slow / same < 1.4 and 1.1 < same / fast < 1.4
    assert same == len(voice.speak("A longer sentence is said here."))


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
    voices._kokoro_session.cache_clear()
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
