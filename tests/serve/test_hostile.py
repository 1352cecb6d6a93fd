"""Bodies that no client means well with: each is refused by name, in OpenAI's shape, and the server lives on."""

from __future__ import annotations

import base64
import json
import struct

import httpx2
import numpy as np
import pytest

from salad.testing.sounds import audio_part, noise_file
from salad.types import SaladError

WAV = noise_file(0.3)
DATA, URL = "messages[0].content[0].input_audio.data", "messages[0].content[0].audio_url.url"
USER = {"role": "user", "content": "w1"}


def chat(**more):
    return {"model": "salad", "max_tokens": 1, "messages": [USER], **more}


def part(one):
    return chat(messages=[{"role": "user", "content": [one]}])


def wav_that_says(rate_hz=16_000, num_bytes=10**9, channels=1):
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", num_bytes + 36 & 0xFFFFFFFF, b"WAVE", b"fmt ", 16, 1, channels,
                       rate_hz, rate_hz * 2 * channels & 0xFFFFFFFF, 2 * channels, 16, b"data", num_bytes)  # fmt: skip
    return head + bytes(2000)


def url(address):
    return part({"type": "audio_url", "audio_url": {"url": address}})


BODIES = {
    "nothing": (b"", None),
    "no json": (b"{", None),
    "bytes": (b"\xff\xfe\x00", None),
    "a list": (b"[]", None),
    "null": (b"null", None),
    "deep": (b"[" * 200_000, None),
    "a number with many digits": (b'{"model": ' + b"9" * 6000 + b"}", None),
    "no model": ({"messages": [USER]}, "model"),
    "another model": (chat(model="gpt-4o"), "model"),
    "model is a path": (chat(model="../../etc/passwd"), "model"),
    "no messages": ({"model": "salad"}, "messages"),
    "empty messages": (chat(messages=[]), "messages"),
    "messages of a string": (chat(messages="w1"), "messages"),
    "unknown field": (chat(temperature_=0), "temperature_"),
    "unknown field of a message": (chat(messages=[{**USER, "colour": "red"}]), "messages[0].colour"),
    "role": (chat(messages=[{"role": "root", "content": "w1"}]), "messages[0].role"),
    "tool role": (chat(messages=[{"role": "tool", "content": "w1"}]), "messages[0].role"),
    "content null": (chat(messages=[{"role": "user", "content": None}]), "messages[0].content"),
    "content without parts": (chat(messages=[{"role": "user", "content": []}]), "messages[0].content"),
    "half a surrogate": (
        b'{"model": "salad", "messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content"
    ),
    "half a surrogate as a name": (b'{"model": "salad", "\\ud800": 1, "messages": []}', None),
    "half a surrogate in a stop": (
        b'{"model": "salad", "stop": ["\\udfff"], "messages": [{"role": "user", "content": "w1"}]}', "stop[0]"
    ),
    "an image": (part({"type": "image_url", "image_url": {"url": "x"}}), "messages[0].content[0]"),
    "a part that is a number": (part(3), "messages[0].content[0]"),
    "max_tokens 0": (chat(max_tokens=0), "max_tokens"),
    "max_tokens true": (chat(max_tokens=True), "max_tokens"),
    "max_tokens beyond the context": (chat(max_tokens=10**9), "max_tokens"),
    "temperature nan": (
        b'{"model": "salad", "temperature": NaN, "messages": [{"role": "user", "content": "w1"}]}', "temperature"
    ),
    "temperature a string": (chat(temperature="0"), "temperature"),
    "top_p 0": (chat(top_p=0), "top_p"),
    "stop empty": (chat(stop=""), "stop"),
    "five stops": (chat(stop=list("abcde")), "stop"),
    "seed beyond 64 bits": (chat(seed=2**70), "seed"),
    "two answers": (chat(n=2), "n"),
    "a tool": (chat(tools=[{"type": "function"}]), "tools"),
    "top_logprobs alone": (chat(top_logprobs=2), "top_logprobs"),
    "stream_options alone": (chat(stream_options={"include_usage": True}), "stream_options"),
    "no base64": (part({"type": "input_audio", "input_audio": {"data": "§", "format": "wav"}}), DATA),
    "data that are no ASCII": (url("data:audio/wav,§"), URL),
    "a format that is none": (part(audio_part(WAV, "exe")), "messages[0].content[0].input_audio.format"),
    "half a file": (part(audio_part(WAV[: len(WAV) // 2])), DATA),
    "text as sound": (part(audio_part(b"#!/bin/sh\n" * 50)), DATA),
    "a header that lies": (part(audio_part(wav_that_says())), DATA),
    "a rate of 1 Hz": (part(audio_part(wav_that_says(1, 2000))), DATA),
    "a playlist": (part(audio_part(b"#EXTM3U\nfile:///etc/passwd\n")), DATA),
    "too long": (part(audio_part(noise_file(130.0, "FLAC"))), DATA),
    "a file's address": (url("file:///etc/passwd"), URL),
    "an address of this machine": (url("http://127.0.0.1:1/x"), URL),
    "a page as data": (url("data:text/html;base64," + base64.b64encode(WAV).decode()), URL),
    "more text than any prompt": (chat(messages=[{"role": "user", "content": "w1 " * 50_000}]), "messages"),
    "more text in parts": (part({"type": "text", "text": "x" * (64 * 2048 + 1)}), "messages"),
    "more messages than positions": (chat(messages=[{"role": "user", "content": ""}] * 2049), "messages"),
    "more recordings than are heard": (
        chat(messages=[{"role": "user", "content": [audio_part(b"RIFF")] * 65}]), "messages"
    ),
    "data without a comma": (url("data:audio/wav;base64"), URL),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_refused_by_name(name, post):
    body, param = BODIES[name]
    answer = post(body)
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] and len(error["message"]) < 600
    assert error["param"] == param and (param is None or param.split(".")[0].split("[")[0] in error["message"])


def test_it_lives_after_all_that(post):
    assert post(chat()).status_code == 200 and len(BODIES) >= 40


def test_what_is_too_long_is_not_tokenised_or_heard(tiny, monkeypatch):
    """Not even embedded, where it is short enough to be tokenised."""
    monkeypatch.setattr("salad.serve.served_model.splice", lambda *given: pytest.fail("embedded"))
    with pytest.raises(SaladError, match="positions, expected less than the 2048"):
        tiny.prompt([{"role": "user", "content": "w1 " * 3000}], [])
    monkeypatch.setattr(tiny, "_features", lambda samples: pytest.fail("heard"))
    with pytest.raises(SaladError, match="65 recordings, expected at most 64"):
        tiny.prompt([{"role": "user", "content": [{"type": "audio"}] * 65}], [np.zeros(1600, np.float32)] * 65)


def test_a_method_that_a_route_does_not_take(url):
    told = httpx2.get(f"{url}/v1/chat/completions")
    assert told.status_code == 405 and told.headers["allow"] == "POST"


def test_half_a_stream_of_errors_is_told(post):
    """What is wrong is known before the first byte of a stream: its status says so."""
    answer = post({**chat(max_tokens=10**9), "stream": True})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "max_tokens"


@pytest.mark.parametrize("path, code", [("/v1/nothing", 404), ("/v1/chat/completions/", 404), ("/docs", 404)])
def test_no_route(path, code, post):
    answer = post({}, path)
    assert answer.status_code == code and answer.json()["error"]["type"] == "not_found_error"


def test_sound_and_text_stay_out_of_the_logs(post, capfd, caplog):
    caplog.set_level(0)
    secret = "w7 w9 w11 w13"
    post(chat(messages=[{"role": "user", "content": [{"type": "text", "text": secret}, audio_part(WAV)]}]))
    post(chat(messages=[{"role": "user", "content": secret}], temperature_=secret))
    post(json.dumps(chat(stop=[secret])).encode()[:-2])
    said = "".join([*capfd.readouterr(), caplog.text])
    assert secret not in said and base64.b64encode(WAV)[:40].decode() not in said


def test_a_bug_is_told_without_what_was_said(post, monkeypatch, capfd, caplog):
    caplog.set_level(0)
    monkeypatch.setattr("salad.serve.chat.parse_chat", lambda body: {}[body["messages"][0]["content"]])
    answer = post(chat(messages=[{"role": "user", "content": "a secret"}]))
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
    said = "".join([*capfd.readouterr(), caplog.text])
    assert "secret" not in said and "KeyError" in said
