"""What the ears heard, over real HTTP, in every form."""

from __future__ import annotations

import itertools
import json
import re
import time

import httpx2
import openai
import pytest

from salad.audio import read_audio
from salad.serve.served_model import ServedModel
from salad.serve.settings import Settings
from salad.serve.transcript import Segment, srt, verbose, vtt, words_of
from salad.testing.listeners import save_listener
from salad.testing.sounds import noise_file
from salad.types import Word

LONG = noise_file(9.0, "FLAC", seed=3)


def client_of(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0).audio.transcriptions


@pytest.fixture(scope="module")
def spans(tiny):
    """The two spans of LONG as the model hears them outside the server."""
    samples = read_audio(LONG, 16_000)[0]
    read = tiny.processor("<|audio|>", audio=[samples])
    heard = tiny.model.hear(list(read["frames"]))
    ids = heard.token_ids.split(heard.lengths)
    return [tiny.decode([i for i in span.tolist() if i >= 0]) for span in ids]


def test_json_is_what_the_llm_is_given(url, spans):
    told = client_of(url).create(model="salad", file=("a.flac", LONG))
    assert told.text == " ".join(spans) and len(spans) == 2 and len(told.text.split()) > 5
    assert told.usage.type == "duration" and told.usage.seconds == 9.0


def test_words_have_times_within_the_recording(url, spans):
    told = client_of(url).create(
        model="salad",
        file=("a.flac", LONG),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert [w.word for w in told.words] == " ".join(spans).split() and told.duration == 9.0
    times = [t for w in told.words for t in (w.start, w.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 9.0 and len(set(times)) > len(told.words)
    assert [s.text for s in told.segments] == spans
    assert told.segments[0].start == 0 and told.segments[0].end == told.segments[1].start > 3
    assert all(0 < w.model_extra["probability"] <= 1 for w in told.words)


def test_the_other_forms(url, spans):
    ask = client_of(url).create
    assert ask(model="salad", file=("a.flac", LONG), response_format="text") == " ".join(spans) + "\n"
    cues = ask(model="salad", file=("a.flac", LONG), response_format="srt").split("\n\n")
    assert cues[1].splitlines()[0] == "2" and cues[1].splitlines()[2] == spans[1]
    assert re.fullmatch(r"00:00:0\d,\d{3} --> 00:00:09,000", cues[1].splitlines()[1])
    assert ask(model="salad", file=("a.flac", LONG), response_format="vtt").startswith("WEBVTT\n\n00:00:00.000 --> ")


def test_a_stream_tells_each_span_as_it_is_heard(url, spans):
    events = list(client_of(url).create(model="salad", file=("a.flac", LONG), stream=True))
    assert [e.type for e in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(e.delta for e in events[:2]) == events[2].text == " ".join(spans)
    assert events[2].usage.seconds == 9.0


def test_nothing_comes_behind_the_last_event(post, monkeypatch):
    """But what ends an error, as in a chat."""
    path, form = "/v1/audio/transcriptions", {"model": "salad", "stream": "true"}
    whole = post(None, path, files={"file": LONG}, data=form).text.split("\n\n")
    assert json.loads(whole[-2][6:])["type"] == "transcript.text.done" and whole[-1] == ""
    monkeypatch.setattr(ServedModel, "hear", lambda *given: 1 / 0)
    broken = post(None, path, files={"file": LONG}, data=form).text.split("\n\n")
    assert json.loads(broken[0][6:])["error"]["code"] == "internal_error" and broken[1:] == ["data: [DONE]", ""]


def test_the_time_is_that_of_the_request_not_of_a_span(tiny, served, monkeypatch):
    """Spans that each take less than --timeout-s, and together more."""
    hear = ServedModel.hear
    monkeypatch.setattr(ServedModel, "hear", lambda *given: time.sleep(0.4) or hear(*given))
    with served(tiny, Settings(timeout_s=0.7)) as url:
        told = httpx2.post(f"{url}/v1/audio/transcriptions", files={"file": LONG}, data={"model": "salad"}, timeout=60)
    assert told.status_code == 408 and told.json()["error"]["type"] == "timeout_error"


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"model": "gpt"}, "model"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": "0.5"}, "temperature"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refused_by_name(post, fields, param):
    answer = post(None, "/v1/audio/transcriptions", files={"file": LONG}, data={"model": "salad", **fields})
    assert answer.status_code in (400, 404) and answer.json()["error"]["param"] == param


def test_no_file_no_form_no_sound(post):
    path = "/v1/audio/transcriptions"
    assert post({"model": "salad"}, path).json()["error"]["param"] == "file"
    broken = post(b"--x\r\nbroken", path, headers={"content-type": "multipart/form-data; boundary=x"})
    assert broken.status_code == 400 and set(broken.json()["error"]) == {"message", "type", "param", "code"}
    answer = post(None, path, files={"file": b"no sound"}, data={"model": "salad"})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_audio"


def test_ears_that_score_no_tokens_have_no_transcript(tmp_path):
    assert not ServedModel.load(str(save_listener(tmp_path)[0])).tells


def test_ears_of_a_fixed_rate_tell_each_run_once(tmp_path):
    model = ServedModel.load(str(save_listener(tmp_path, ctc=40)[0]))
    words = [w.text for w in model.hear(read_audio(LONG, 16_000)[0][:80_000], 0.0).words]
    assert words and all(a != b for a, b in itertools.pairwise(words))


def test_tokens_to_words(tokenizer):
    text = " the water, of 12 boats"
    ids = tokenizer(text)["input_ids"]
    times = [(0.1 * i, 0.1 * (i + 1)) for i in range(len(ids))]
    words = words_of(tokenizer.decode, [-1, *ids], [(0, 0), *times], [0.1, *(1 - 0.01 * i for i in range(len(ids)))])
    assert [w.text for w in words] == text.split()
    assert words[0].start_s == 0 and words[-1].end_s == times[-1][1]
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(words))
    assert words[-1].score == round(1 - 0.01 * (len(ids) - 1), 4)


def test_cues():
    segments = [
        Segment(0, 1, (Word("a<b", 0, 1, 0.5),)),
        Segment(1, 2, ()),
        Segment(3661.5, 3662, (Word("c", 0, 1, 1.0),)),
    ]
    assert srt(segments).split("\n\n")[1] == "2\n01:01:01,500 --> 01:01:02,000\nc"
    assert "a&lt;b" in vtt(segments) and vtt(segments).count("-->") == 2
    assert verbose(segments, 2, words=False, spans=True)["segments"][1]["avg_logprob"] is None
