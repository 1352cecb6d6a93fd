"""/v1/realtime through OpenAI's own client: turns, answers, what is cancelled, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import time
from concurrent.futures import Future

import httpx2
import numpy as np
import openai
import pytest

pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from salad import assets
from salad.audio import read_audio, resample, split_at_quiet
from salad.serve import vad
from salad.serve.listening import TurnBegan, TurnEnded, TurnSound
from salad.serve.prefixes import LEAST
from salad.serve.realtime import Talk
from salad.serve.service import Service
from salad.serve.settings import Settings

speaks = pytest.mark.skipif(not vad.installed(), reason="faster-whisper and onnxruntime are not installed")
INPUT = {"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": None}
PUSH = {"type": "realtime", "audio": {"input": INPUT}}
HEARD = [{"role": "user", "content": [{"type": "audio"}]}]
DONE = ("response.done", "error")


@pytest.fixture
def talk(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none").realtime.connect(model="salad") as connection:
        assert connection.recv().type == "session.created"
        yield connection


def until(connection, *kinds):
    """Events up to one of `kinds`."""
    found = []
    while not found or found[-1].type not in kinds:
        found.append(connection.recv())
    return found


def one(found, kind):
    (event,) = [event for event in found if event.type == kind]
    return event


def written(found):
    return "".join(event.delta for event in found if event.type == "response.output_text.delta")


def pcm(samples):
    return (np.clip(samples, -1, 1) * 32767).astype("<i2")


def of_pcm(values):
    return values.astype(np.float32) / 32768


def noise(seconds, seed=0):
    return pcm(0.1 * np.random.default_rng(seed).normal(size=int(seconds * 16_000)))


def base64_of(values):
    return base64.b64encode(values.tobytes()).decode()


def say(connection, values, step=2400):
    for at in range(0, len(values), step):
        connection.input_audio_buffer.append(audio=base64_of(values[at : at + step]))


@pytest.fixture(scope="module")
def spoken():
    """A person speaks for a second, and is silent for one; 24 kHz."""
    speech = read_audio(assets.get("human-speech") / "beckett.wav", 24_000, duration_s=1.3)[0]
    return pcm(np.concatenate([speech, np.zeros(24_000, np.float32)]))


@speaks
def test_a_turn_is_found_heard_and_answered(talk, spoken, alone):
    talk.session.update(session={"type": "realtime", "output_modalities": ["text"], "max_output_tokens": 8})
    told = until(talk, "session.updated")[-1].session
    assert told.audio.input.format.rate == 24000 and told.audio.input.turn_detection.silence_duration_ms == 500
    say(talk, spoken)
    found = until(talk, *DONE)
    assert [event.type for event in found if event.type != "response.output_text.delta"] == [
        "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed",
        "conversation.item.added", "conversation.item.done", "response.created", "response.output_item.added",
        "conversation.item.added", "response.content_part.added", "response.output_text.done",
        "response.content_part.done", "response.output_item.done", "conversation.item.done", "response.done",
    ]  # fmt: skip
    start, stop = found[0].audio_start_ms, found[1].audio_end_ms
    assert 0 <= start < 400 < 1000 < stop < 1700
    assert found[0].item_id == found[1].item_id == found[2].item_id == found[3].item.id
    samples = resample(of_pcm(spoken), 24_000, 16_000)[start * 16 : stop * 16]
    assert written(found) == one(found, "response.output_text.done").text == alone(HEARD, [samples], 8)
    done = found[-1].response
    assert done.status == "incomplete" and done.status_details.reason == "max_output_tokens"
    assert done.output[0].content[0].text == written(found) and done.usage.output_tokens == 8
    assert len({event.event_id for event in found}) == len(found)


def test_push_to_talk_and_what_was_heard(talk, tiny, alone):
    transcription = {"type": "realtime", "audio": {"input": {"transcription": {"model": "salad"}}}}
    talk.session.update(session={**PUSH, "max_output_tokens": 8})
    talk.session.update(session=transcription)  # what it does not say stays
    until(talk, "session.updated")
    assert until(talk, "session.updated")[-1].session.audio.input.turn_detection is None
    values, read = noise(13.0), []
    watch = tiny.model.decoder().register_forward_pre_hook(
        lambda _, __, given: read.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    say(talk, values, 50_000)
    for _ in range(200):
        if len(read) >= 2:  # the closed spans, while more might come in
            break
        time.sleep(0.02)
    ahead = sum(read)
    talk.input_audio_buffer.commit()
    heard = until(talk, "conversation.item.input_audio_transcription.completed")
    spans = [tiny.hear(s, 0.0).text for s in split_at_quiet(of_pcm(values), 16_000, 6.0)]
    deltas = [e.delta for e in heard if e.type == "conversation.item.input_audio_transcription.delta"]
    assert len(deltas) == len([s for s in spans if s]) > 1
    assert "".join(deltas) == heard[-1].transcript == " ".join(s for s in spans if s)
    assert heard[-1].usage.seconds == 13.0 and not any(e.type.startswith("response") for e in heard)
    talk.response.create()
    found = until(talk, *DONE)
    watch.remove()
    left = found[-1].response.usage.input_tokens - ahead
    assert left <= read[-8] <= left + LEAST < ahead  # what was read ahead is not read again
    assert written(found) == alone(HEARD, [of_pcm(values)], 8)


def test_a_conversation_of_items(talk, alone):
    talk.session.update(session={**PUSH, "instructions": "w3 w4", "max_output_tokens": 6})
    values = noise(1.0)
    content = [{"type": "input_text", "text": "w5 "}, {"type": "input_audio", "audio": base64_of(values)}]
    talk.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    talk.response.create()
    first = written(until(talk, *DONE))
    turns = [
        {"role": "system", "content": "w3 w4"},
        {"role": "user", "content": [{"type": "text", "text": "w5 "}, {"type": "audio"}]},
    ]
    assert first == alone(turns, [of_pcm(values)], 6)
    question = {"type": "message", "role": "user", "id": "mine", "content": [{"type": "input_text", "text": "w7"}]}
    talk.conversation.item.create(item=question)
    turns += [{"role": "assistant", "content": first}, {"role": "user", "content": "w7"}]
    talk.response.create(response={"conversation": "none", "metadata": {"a": "b"}, "max_output_tokens": 3})
    aside = until(talk, *DONE)
    assert written(aside) == alone(turns, [of_pcm(values)], 3)
    assert aside[-1].response.metadata == {"a": "b"} and aside[-1].response.conversation_id is None
    assert one(aside, "conversation.item.done").item.id == "mine"  # and no other: it is no part of the conversation
    talk.conversation.item.delete(item_id="mine")
    talk.conversation.item.create(item={**question, "id": "yours"}, previous_item_id="root")
    talk.response.create(response={"instructions": ""})
    found = until(talk, *DONE)
    added = next(event for event in found if event.type == "conversation.item.added")
    assert added.previous_item_id is None and added.item.id == "yours"
    assert written(found) == alone([turns[-1], *turns[1:3]], [of_pcm(values)], 6)


def test_cancelled(talk, url):
    talk.session.update(session=PUSH)
    talk.conversation.item.create(
        item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "w1 w2"}]}
    )
    talk.response.create(response={"max_output_tokens": 1800})
    until(talk, "response.output_text.delta")
    talk.response.create()
    assert until(talk, "error")[-1].error.code == "conversation_already_has_active_response"
    talk.response.cancel()
    talk.response.create(response={"max_output_tokens": 2})  # waits for the end of the other
    done = until(talk, *DONE)[-1].response
    assert done.status == "cancelled" and done.status_details.reason == "client_cancelled"
    assert done.output[0].status == "incomplete" and 0 < done.usage.output_tokens < 1800
    assert until(talk, *DONE)[-1].response.status == "incomplete"
    talk.response.cancel()
    assert until(talk, "error")[-1].error.code == "response_cancel_not_active"


@speaks
def test_who_speaks_interrupts(talk, spoken):
    talk.conversation.item.create(
        item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "w1 w2"}]}
    )
    talk.response.create(response={"max_output_tokens": 1800})
    until(talk, "response.output_text.delta")
    say(talk, spoken)
    first, second = until(talk, "response.done")[-1].response, until(talk, "response.done")[-1].response
    assert first.status == "cancelled" and first.status_details.reason == "turn_detected"
    assert second.id != first.id and second.usage.output_tokens > 0


def test_who_leaves_frees_its_place(tiny, served):
    with served(tiny, Settings(max_concurrency=1, max_queue=0)) as url, httpx2.Client(base_url=url) as http:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        with client.realtime.connect(model="salad") as talk:
            talk.response.create(response={"instructions": "w1", "max_output_tokens": 1800})
            until(talk, "response.output_text.delta")
            assert http.get("/ready").status_code == 503
            with connect(url.replace("http", "ws") + "/v1/realtime") as other:
                assert json.loads(other.recv())["error"]["code"] == "server_busy"
                with pytest.raises(ConnectionClosed, match="sessions are open"):
                    other.recv()
        begun = time.monotonic()
        while http.get("/ready").status_code != 200:
            assert time.monotonic() - begun < 5
            time.sleep(0.02)
        with client.realtime.connect(model="salad") as talk:
            assert talk.recv().type == "session.created"


def event(kind, **fields):
    return json.dumps({"type": kind, "event_id": "e1", **fields})


def update(**fields):
    return event("session.update", session=fields)


def message(role="user", **fields):
    item = {"type": "message", "role": role, "content": [{"type": "input_text", "text": "w1"}], **fields}
    return event("conversation.item.create", item=item)


HOSTILE = [
    (b"\x00\x01", None),
    ("", None),
    ("{", None),
    ("[]", None),
    ("null", None),
    ("[" * 100_000, None),
    ('{"a": 1}', "type"),
    (event(["response.create"]), "type"),
    (event("response.cancelled"), "type"),
    (event("input_audio_buffer.append"), "audio"),
    (event("input_audio_buffer.append", audio=5), "audio"),
    (event("input_audio_buffer.append", audio=""), "audio"),
    (event("input_audio_buffer.append", audio="!"), "audio"),
    (event("input_audio_buffer.append", audio="AAAA"), "audio"),  # half a sample
    (event("input_audio_buffer.append", audio="AAA=", more=1), "more"),
    (event("input_audio_buffer.append", audio="A" * (15 * 2**20 + 4)), "audio"),
    (event("input_audio_buffer.commit"), None),
    (event("input_audio_buffer.commit", event_id=7), "event_id"),
    (event("session.update"), "session"),
    (event("session.update", session=[]), "session"),
    (update(type="transcription"), "session.type"),
    (update(model="gpt"), "session.model"),
    (update(output_modalities=["audio"]), "session.output_modalities[0]"),
    (update(output_modalities=["text", "text"]), "session.output_modalities"),
    (update(instructions="\ud800"), "session.instructions"),
    (update(instructions="w1 " * 10**6), None),
    (update(tools=[{"type": "function"}]), "session.tools"),
    (update(max_output_tokens=0), "session.max_output_tokens"),
    (update(max_output_tokens="many"), "session.max_output_tokens"),
    (update(audio=3), "session.audio"),
    (update(audio={"input": {"format": {"type": "audio/pcmu"}}}), "session.audio.input.format.type"),
    (update(audio={"input": {"format": {"rate": 8000}}}), "session.audio.input.format.rate"),
    (update(audio={"input": {"turn_detection": {"type": "semantic_vad"}}}), "session.audio.input.turn_detection.type"),
    (update(audio={"input": {"turn_detection": {"threshold": 2}}}), "session.audio.input.turn_detection.threshold"),
    (update(audio={"input": {"transcription": {"model": "whisper-1"}}}), "session.audio.input.transcription.model"),
    (update(voice="alloy"), "session.voice"),
    (message(role="tool"), "item"),
    (message(content=[]), "item.content"),
    (message(content=[{"type": "input_image"}]), "item.content[0]"),
    (message(content=[{"type": "input_text", "text": "\udfff"}]), "item.content[0].text"),
    (message(content=[{"type": "input_text", "text": "w1 " * 10**6}]), None),
    (message(content=[{"type": "input_audio", "audio": "AAA="}]), "item.content[0].audio"),
    (message(content=[{"type": "input_audio", "audio": "A" * 8_000_000}]), "item.content[0].audio"),
    (message(role="system", content=[{"type": "input_audio", "audio": "AAA="}]), "item.content[0].type"),
    (message(id=""), "item.id"),
    (event("conversation.item.create", item=json.loads(message())["item"], previous_item_id="no"), "previous_item_id"),
    (event("conversation.item.delete", item_id="no"), "item_id"),
    (event("response.create", response={"temperature": 1}), "response.temperature"),
    (event("response.create", response={"metadata": {str(i): "" for i in range(17)}}), "response.metadata"),
    (event("response.create", response={"instructions": "w1 " * 10**6}), None),
    (event("response.create"), None),
    (event("response.cancel"), "response_id"),
]


def test_what_is_hostile_ends_in_an_error(url):
    with connect(url.replace("http", "ws") + "/v1/realtime", max_size=None) as raw:
        assert json.loads(raw.recv())["type"] == "session.created"
        raw.send(json.dumps({"type": "session.update", "session": PUSH}))
        raw.recv()
        for frame, param in HOSTILE:
            raw.send(frame)
            told = json.loads(raw.recv(timeout=20))
            assert told["type"] == "error", (frame[:80], told)
            error = told["error"]
            assert error["param"] == param and error["type"] in ("invalid_request_error", "not_found_error"), error
            assert len(error["message"]) > 20 and "Traceback" not in error["message"] and len(error["message"]) < 500
            if isinstance(frame, str) and '"e1"' in frame:
                assert error["event_id"] == "e1"
        raw.send(message())
        raw.send(event("response.create", response={"max_output_tokens": 1}))  # and it still answers
        while (told := json.loads(raw.recv(timeout=20)))["type"] != "response.done":
            assert told["type"] != "error", told
        with pytest.raises(ConnectionClosed):  # larger than any event may be
            raw.send(b" " * (2**24 + 1))
            raw.recv(timeout=20)


class Socket:
    """What a client sends, and what it is told; what is called in between is no frame."""

    def __init__(self, *frames):
        self.frames, self.told = list(frames), []

    async def receive(self):
        while self.frames:
            frame = self.frames.pop(0)
            if not callable(frame):
                return {"type": "websocket.receive", "text": frame}
            frame()
        return {"type": "websocket.disconnect"}

    async def send_text(self, text):
        self.told.append(json.loads(text))

    def kinds(self, *wanted):
        return [event["type"] for event in self.told if event["type"] in wanted]


@pytest.fixture
def talking(tiny):
    """A session without a network, and the event that lets its engine go on."""
    services = []

    def made(*frames, max_audio_s=30.0):
        service = Service(tiny, Settings(max_audio_s=max_audio_s))
        held = threading.Event()
        service.engine.call(held.wait)
        services.append((service, held))
        socket = Socket(event("session.update", session=PUSH), *frames)
        return Talk(socket, service, "salad"), socket, held

    yield made
    for service, held in services:
        held.set()
        service.engine.close()


def sound(seconds, **fields):
    return message(content=[{"type": "input_audio", "audio": base64_of(noise(seconds))}], **fields)


def appended(seconds):
    return event("input_audio_buffer.append", audio=base64_of(noise(seconds)))


def test_what_nobody_will_ask_for_is_not_heard(talking):
    waits = []
    frames = [
        sound(13.0, id="mine"),
        lambda: waits.append(talk._hear.seconds),
        event("conversation.item.delete", item_id="mine"),
        lambda: waits.append(talk._hear.seconds),
        appended(13.0),
        event("input_audio_buffer.clear"),
        lambda: waits.append(talk._hear.seconds),
        sound(5.0),
        appended(13.0),
    ]
    talk, socket, _ = talking(*frames)
    asyncio.run(talk.run())
    assert waits == [13.0, 0.0, 0.0] and talk._hear.seconds > 5 and not socket.kinds("error")
    talk.close()
    assert talk._hear.seconds == 0 and all(future.cancelled() for _, future in talk._service.engine._calls)


def test_who_sends_faster_than_is_heard_is_read_more_slowly(talking):
    talk, socket, held = talking(*[sound(2.0)] * 4, max_audio_s=2.0)
    seen = []

    def look():
        begun = time.monotonic()
        while len(socket.kinds("conversation.item.done")) < 2 and time.monotonic() - begun < 20:
            time.sleep(0.01)
        time.sleep(0.2)  # in which the third would come, if it did not wait
        seen.append((talk._hear.seconds, len(socket.kinds("conversation.item.done"))))
        held.set()

    threading.Thread(target=look, daemon=True).start()
    asyncio.run(talk.run())
    assert seen == [(4.0, 2)]  # the third waits
    assert len(socket.kinds("conversation.item.done")) == 4 and not socket.kinds("error")


def test_a_refused_commit_keeps_its_sound(talking):
    frames = [*[sound(0.5, id=f"i{n}") for n in range(10)], appended(0.4), event("input_audio_buffer.commit")]
    again = [event("conversation.item.delete", item_id="i3"), event("input_audio_buffer.commit")]
    talk, socket, held = talking(*frames, *again, max_audio_s=0.5)
    held.set()
    asyncio.run(talk.run())
    (error,) = [told["error"] for told in socket.told if told["type"] == "error"]
    assert error["code"] == "conversation_too_long" and error["event_id"] == "e1"
    assert len(socket.kinds("input_audio_buffer.committed")) == 1 and talk._items[-1].sounds[0].seconds == 0.4


def test_a_turn_that_is_refused_takes_none_behind_it_along(talking, monkeypatch):
    talk, socket, _ = talking(appended(0.1))
    sounds = [TurnSound([Future()], seconds) for seconds in (10**6, 1.0)]
    changes = [change for n, one in enumerate(sounds) for change in (TurnBegan(n), TurnEnded(n, one))]
    monkeypatch.setattr(talk._listener, "append", lambda data: changes)
    asyncio.run(talk.run())
    kinds = ("input_audio_buffer.speech_started", "input_audio_buffer.committed", "error")
    assert socket.kinds(*kinds) == [kinds[0], kinds[2], kinds[0], kinds[1]]
    started = [told["item_id"] for told in socket.told if told["type"] == kinds[0]]
    assert started[1] == talk._items[-1].id != started[0]
    assert sounds[0].spans[0].cancelled() and not sounds[1].spans[0].cancelled()


def test_an_answer_that_cannot_be_is_told(talk):
    """A prompt longer than the LLM reads."""
    talk.conversation.item.create(
        item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "w1 " * 3000}]}
    )
    talk.response.create()
    assert "2048" in until(talk, "error")[-1].error.message
    done = until(talk, "response.done")[-1].response
    assert done.status == "failed" and "2048" in done.status_details.error.message and done.output == []


@pytest.mark.parametrize(
    "settings, headers, status",
    [
        (Settings(), {"Origin": "https://evil.example"}, 403),
        (Settings(), {"Host": "evil.example"}, 403),
        (Settings(api_key="right"), {}, 401),
        (Settings(api_key="right"), {"Authorization": "Bearer wrong"}, 401),
        (Settings(api_key="right"), {"Authorization": "Bearer right"}, 101),
    ],
)
def test_who_may_talk(tiny, served, settings, headers, status):
    with served(tiny, settings) as url:
        address = url.replace("http", "ws") + "/v1/realtime"
        if "Host" in headers:
            address = address.replace("127.0.0.1", headers["Host"])
            headers = {}
        port = int(url.rsplit(":", 1)[1])

        def opened():
            return connect(address, additional_headers=headers, sock=socket.create_connection(("127.0.0.1", port)))

        if status == 101:
            with opened() as raw:
                assert json.loads(raw.recv())["type"] == "session.created"
            offered = ["realtime", "openai-insecure-api-key.right"]  # as a browser has to
            with connect(address, subprotocols=offered) as raw:
                assert raw.subprotocol == "realtime" and json.loads(raw.recv())["type"] == "session.created"
            return
        with pytest.raises(InvalidStatus) as refused:
            opened()
        answer = refused.value.response
        assert answer.status_code == status and json.loads(answer.body)["error"]["message"]


def test_another_model_is_refused(url):
    with connect(url.replace("http", "ws") + "/v1/realtime?model=gpt") as raw:
        error = json.loads(raw.recv())["error"]
        assert error["param"] == "model" and error["code"] == "model_not_found"
        with pytest.raises(ConnectionClosed, match="1008.*expected"):
            raw.recv()
