"""Chat over real HTTP: what is answered, streamed and counted, through OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import threading
import time

import httpx2
import numpy as np
import openai
import pytest

from salad.audio import read_audio
from salad.serve.chat import Streamed
from salad.serve.engine import Engine
from salad.serve.settings import Settings
from salad.testing.sounds import audio_part, noise_file


def client_of(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def question(*parts):
    return [{"role": "system", "content": "w3 w4"}, {"role": "user", "content": list(parts)}]


def body(**more):
    return {"model": "salad", "max_tokens": 6, "messages": [{"role": "user", "content": "w1 w2"}], **more}


def test_alive_and_named(url, tiny):
    client = client_of(url)
    assert [m.id for m in client.models.list()] == [tiny.names[0]]
    assert httpx2.get(f"{url}/health").json() == {"status": "ok"}
    ready = httpx2.get(f"{url}/ready")
    assert ready.status_code == 200 and ready.json() == {"status": "ready", "room": 80}


def test_without_its_engine_it_is_not_well(url, monkeypatch):
    monkeypatch.setattr(Engine, "alive", property(lambda engine: False))
    told = httpx2.get(f"{url}/health")
    assert told.status_code == 503 and told.json() == {"status": "dead"}


def test_two_recordings_answer_as_generate_does(url, alone):
    one, two = noise_file(1.2), noise_file(0.8, "FLAC", seed=1)
    parts = [audio_part(one), {"type": "text", "text": " w5 "}, audio_part(two, "flac"), {"type": "text", "text": "w6"}]
    told = client_of(url).chat.completions.create(model="salad", messages=question(*parts), max_tokens=12)
    plain = [{"type": "audio"}, parts[1], {"type": "audio"}, parts[3]]
    messages = [{"role": "system", "content": "w3 w4"}, {"role": "user", "content": plain}]
    wanted = alone(messages, [read_audio(data, 16_000)[0] for data in (one, two)], 12)
    assert told.choices[0].message.content == wanted and len(wanted.split()) > 3
    usage = told.usage
    assert usage.completion_tokens == 12 and usage.total_tokens == usage.prompt_tokens + 12
    assert told.choices[0].finish_reason == "length"


def m4a():
    """A second of noise as AAC in an MP4."""
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        noise = 0.1 * np.random.default_rng(0).normal(size=(1, 16_384)).astype(np.float32)
        for start in range(0, 16_384, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(noise[:, start : start + 1024]), "fltp", "mono")
            frame.rate = 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_m4a_is_heard(url):
    told = client_of(url).chat.completions.create(
        model="salad", messages=question(audio_part(m4a(), "m4a")), max_tokens=2
    )
    assert told.usage.prompt_tokens > 12 and told.usage.completion_tokens == 2


@pytest.mark.parametrize("kind, name", [("WAV", "wav"), ("FLAC", "flac"), ("OGG", "ogg"), ("MP3", "mp3")])
def test_every_kind_of_file_is_heard(url, kind, name):
    told = client_of(url).chat.completions.create(
        model="salad", messages=question(audio_part(noise_file(1.0, kind), name)), max_tokens=2
    )
    silent = client_of(url).chat.completions.create(
        model="salad", messages=question({"type": "text", "text": ""}), max_tokens=2
    )
    assert told.usage.prompt_tokens > silent.usage.prompt_tokens


def test_a_stream_says_what_the_whole_says(url, post):
    messages = question(audio_part(noise_file()))
    whole = post(body(messages=messages)).json()
    events = client_of(url).chat.completions.create(
        model="salad", messages=messages, max_tokens=6, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(events)
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole["choices"][0]["message"]["content"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) >= 5  # as it comes, not at the end
    assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == whole["choices"][0]["finish_reason"]
    assert chunks[-1].choices == [] and chunks[-1].usage.model_dump(exclude_none=True) == whole["usage"]
    raw = post(body(stream=True)).text
    assert raw.endswith("data: [DONE]\n\n") and '"usage"' not in raw
    assert json.loads(raw.split("\n\n")[0][6:])["choices"][0]["delta"] == {"role": "assistant"}
    assert all(json.loads(line[6:])["object"] == "chat.completion.chunk" for line in raw.split("\n\n")[:-2])


def test_a_data_url_is_heard_as_its_bytes_are(post):
    data = noise_file()
    url = {"url": "data:audio/wav;base64," + base64.b64encode(data).decode()}
    one = post(body(messages=question({"type": "audio_url", "audio_url": url}))).json()
    other = post(body(messages=question(audio_part(data)))).json()
    assert one["choices"] == other["choices"] and one["usage"] == other["usage"]


def test_stop_ends_before_its_words(post):
    whole = post(body()).json()["choices"][0]["message"]["content"]
    third = whole.split()[2]
    cut = post(body(stop=[third])).json()["choices"][0]
    assert cut["message"]["content"] == whole[: whole.index(third)] and cut["finish_reason"] == "stop"


def test_a_whole_answer_that_stops_frees_its_row(tiny, served):
    """Without a stream, too: what would be generated behind its end is not, and its place is free."""
    with served(tiny, Settings(max_concurrency=1, max_queue=0)) as url, httpx2.Client(base_url=url, timeout=60) as one:
        word = one.post("/v1/chat/completions", json=body()).json()["choices"][0]["message"]["content"].split()[2]
        for _ in range(3):  # each would be refused where the one before it still had its place
            told = one.post("/v1/chat/completions", json=body(max_tokens=1800, stop=[word]))
            assert told.status_code == 200 and told.json()["choices"][0]["finish_reason"] == "stop"


def test_draws_follow_their_seed(post):
    def drawn(**more):
        return post(body(max_tokens=12, temperature=1.5, **more)).json()["choices"][0]["message"]["content"]

    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    assert drawn(top_p=1e-9) == post(body(max_tokens=12)).json()["choices"][0]["message"]["content"]


def test_logprobs_are_of_the_tokens_told(post):
    choice = post(body(logprobs=True, top_logprobs=3)).json()["choices"][0]
    told = choice["logprobs"]["content"]
    assert len(told) == 6 and " ".join(t["token"] for t in told) == choice["message"]["content"]
    for token in told:
        assert len(token["top_logprobs"]) == 3 and token["logprob"] == token["top_logprobs"][0]["logprob"] < 0
        assert bytes(token["bytes"]).decode() == token["token"]


def test_what_clients_send_besides_is_read_past(post):
    plain = post(body()).json()["choices"]
    more = {
        "user": "u",
        "store": False,
        "n": 1,
        "presence_penalty": 0,
        "tools": [],
        "response_format": {"type": "text"},
        "stream": None,
    }
    assert post(body(**more)).json()["choices"] == plain


def test_too_many_are_told_when_to_come_back(tiny, served):
    with served(tiny, Settings(max_concurrency=1, max_queue=1)) as url, httpx2.Client(base_url=url, timeout=60) as one:
        codes = []

        def send():
            with httpx2.Client(base_url=url, timeout=60) as client:
                codes.append(client.post("/v1/chat/completions", json=body(max_tokens=300)))

        threads = [threading.Thread(target=send) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {c.status_code for c in codes} == {200, 429}
        refused = next(c for c in codes if c.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1 and refused.json()["error"]["type"] == "rate_limit_error"
        assert one.post("/v1/chat/completions", json=body()).status_code == 200  # and all places are free again
        assert one.get("/ready").json()["room"] == 2


def test_who_comes_too_many_is_refused_before_the_body_is_read(tiny, served):
    """One that is no JSON: it would be a 400 otherwise."""
    more = body(max_tokens=1800, stream=True)
    with (
        served(tiny, Settings(max_concurrency=1, max_queue=0)) as url,
        httpx2.stream("POST", f"{url}/v1/chat/completions", json=more) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        for route in ("chat/completions", "audio/transcriptions", "salad/compare"):
            told = httpx2.post(f"{url}/v1/{route}", content=b"{")
            assert told.status_code == 429 and told.json()["error"]["code"] == "server_busy"


def test_a_stream_that_never_begins_gives_its_place_back():
    """The client is gone before the first event: the events are never asked for."""
    freed = []

    async def events():
        yield "never"

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        raise OSError

    with contextlib.suppress(Exception):
        asyncio.run(Streamed(events(), lambda: freed.append(1))({"type": "http"}, receive, send))
    assert freed == [1]


def test_a_client_that_leaves_frees_its_place(tiny, served):
    with served(tiny, Settings(max_concurrency=1, max_queue=0)) as url, httpx2.Client(base_url=url, timeout=60) as one:
        with one.stream("POST", "/v1/chat/completions", json=body(max_tokens=1500, stream=True)) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert one.get("/ready").status_code == 503
        begun = time.monotonic()
        while one.get("/ready").status_code != 200:
            assert time.monotonic() - begun < 5
            time.sleep(0.02)
        assert one.post("/v1/chat/completions", json=body(max_tokens=1)).status_code == 200


def test_a_recording_that_takes_too_long_is_no_reason_to_wait(tiny, served, monkeypatch):
    """The answer is 408 in time, and the place is taken until the thread has ended."""
    held = threading.Event()
    monkeypatch.setattr("salad.serve.chat.listen", lambda *given: held.wait(timeout=30))
    with served(tiny, Settings(timeout_s=0.3)) as url, httpx2.Client(base_url=url, timeout=60) as one:
        assert one.post("/v1/chat/completions", json=body()).status_code == 408 and not held.is_set()
        assert one.get("/ready").json()["room"] == 79
        held.set()
        begun = time.monotonic()
        while one.get("/ready").json()["room"] != 80:
            assert time.monotonic() - begun < 5
            time.sleep(0.02)


def test_time_is_up(tiny, served):
    with served(tiny, Settings(timeout_s=0.001)) as url, httpx2.Client(base_url=url, timeout=60) as one:
        late = one.post("/v1/chat/completions", json=body(max_tokens=900))
        assert late.status_code == 408 and late.json()["error"]["type"] == "timeout_error"


def test_what_it_does_is_counted(tiny, served):
    with served(tiny, Settings()) as url, httpx2.Client(base_url=url, timeout=60) as client:
        client.post("/v1/chat/completions", json=body(messages=question(audio_part(noise_file(1.5))), max_tokens=5))
        client.post("/v1/chat/completions", json=body(max_tokens=0))
        client.get("/secret-of-a-client")
        told = client.get("/metrics").text
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in told.splitlines() if line[0] != "#"}
    for status in ("200", "400"):
        assert values[f'salad_requests_total{{route="/v1/chat/completions",status="{status}"}}'] == 1
    assert values['salad_requests_total{route="other",status="404"}'] == 1 and "secret" not in told
    assert values["salad_tokens_total"] == 5 and values["salad_heard_seconds_total"] == 1.5
    assert values["salad_first_token_seconds_count"] == 1 and values['salad_load{state="waiting"}'] == 0
