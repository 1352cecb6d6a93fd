"""WS /v1/realtime: speech comes in while it is spoken, text goes out; OpenAI's GA dialect."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from salad.audio import resample, to_seconds
from salad.serve import realtime_events as events
from salad.serve import vad
from salad.serve.chat import check_model
from salad.serve.errors import ApiError, close_reason, error_body, refusal
from salad.serve.listening import LEAST_S, Listener, TurnBegan, TurnEnded, TurnSound, heard_whole, of_pcm
from salad.serve.pending_spans import Unheard
from salad.serve.realtime_response import Item, Response, instructions_of, new_id
from salad.serve.served_model import CHARACTERS
from salad.serve.service import Service
from salad.serve.sound import of_base64

CONVERSATION = 10  # times --max-audio-s: the sound of a conversation
ITEMS = 1000


class Talk:
    """One connection: its settings, what waits to be heard, what was said, and the answer that is being written."""

    def __init__(self, socket: WebSocket, service: Service, name: str) -> None:
        self._socket, self._service = socket, service
        self.id, self._conversation = new_id("sess"), new_id("conv")
        turns = events.ServerVad() if vad.installed() else None
        self._session = events.Session(model=name, audio=events.Audio(input=events.Input(turn_detection=turns)))
        self._hear = Unheard(service)
        self._listener = Listener(service.model.rate_hz, self._hear, service.settings.max_audio_s)
        self._listener.configure(self._input.format.rate, turns)
        self._items: list[Item] = []
        self._turn_id = new_id("item")  # of the item that the next turn becomes
        self._response: Response | None = None
        self._answering: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._ahead: object = None  # what the LLM was given to read before a turn ends
        self._reading: Future[int] | None = None
        self._takes: dict[type[events.Event], Callable[[Any], Coroutine[Any, Any, None]]] = {
            events.SessionUpdate: self._update,
            events.Append: self._append,
            events.Commit: self._commit,
            events.Clear: self._clear,
            events.ItemCreate: self._create_item,
            events.ItemDelete: self._delete_item,
            events.ResponseCreate: self._create_response,
            events.ResponseCancel: self._cancel_response,
        }

    @property
    def _input(self) -> events.Input:
        return self._session.audio.input

    async def send(self, kind: str, **fields: Any) -> None:
        """Raises WebSocketDisconnect where nobody is there any more."""
        try:
            await self._socket.send_text(json.dumps({"type": kind, "event_id": new_id("event"), **fields}))
        except RuntimeError:  # it was closed meanwhile
            raise WebSocketDisconnect(1006) from None

    async def run(self) -> None:
        """Until the client leaves. Whatever it sends ends in an event."""
        await self.send("session.created", session=self._session_json())
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            event_id = None
            try:
                body = events.read_event(message.get("text"))
                named = body.get("event_id")
                event_id = named[:512] if isinstance(named, str) else None
                event = events.parse_event(body)
                await self._takes[type(event)](event)
            except WebSocketDisconnect:
                return
            except Exception as error:
                await self.refuse(refusal(error), event_id)

    async def refuse(self, error: ApiError, event_id: str | None = None) -> None:
        await self.send("error", error={**error_body(error)["error"], "event_id": event_id})

    def close(self) -> None:
        """Free what still is heard or written for it."""
        if self._response is not None:
            self._response.stop("client_cancelled")
        for task in [*self._telling, *([] if self._answering is None else [self._answering])]:
            task.cancel()
        self._drop_ahead()
        self._listener.clear()
        self._hear.close()

    # --- the session ----------------------------------------------------------------------------------

    def _session_json(self) -> dict[str, Any]:
        return {"id": self.id, "object": "realtime.session", **self._session.model_dump()}

    async def _update(self, event: events.SessionUpdate) -> None:
        new = events.updated(self._session, event.session)
        known, where = self._service.model.names, "session.audio.input"
        if new.model not in known:
            message = f"session.model: got {new.model!r:.60}, expected {' or '.join(known)}"
            raise ApiError(404, message, "session.model", "model_not_found")
        if new.audio.input.turn_detection is not None and not vad.installed():
            message = "server_vad wants onnxruntime and faster-whisper; pip install 'salad-speech[serve]', or send null"
            raise ApiError(400, f"{where}.turn_detection: {message}", f"{where}.turn_detection", "unsupported_value")
        if new.audio.input.transcription is not None:
            asked = new.audio.input.transcription.model
            if not self._service.model.tells:
                message = f"{where}.transcription: this model's ears score no tokens to be told; send null"
                raise ApiError(400, message, f"{where}.transcription", "unsupported_value")
            if asked is not None and asked not in known:
                message = f"{where}.transcription.model: got {asked!r:.60}, but the ears themselves tell; leave it out"
                raise ApiError(404, message, f"{where}.transcription.model", "model_not_found")
        self._check_room(characters=len(new.instructions) - len(self._session.instructions))
        self._session = new
        await run_in_threadpool(self._listener.configure, self._input.format.rate, self._input.turn_detection)
        await self.send("session.updated", session=self._session_json())

    # --- what is heard --------------------------------------------------------------------------------

    async def _append(self, event: events.Append) -> None:
        await self._hear.room()
        for change in await run_in_threadpool(lambda: self._listener.append(of_base64(event.audio, "audio"))):
            try:
                await (self._begin_turn(change) if isinstance(change, TurnBegan) else self._end_turn(change))
            except WebSocketDisconnect:
                raise
            except Exception as error:  # what changes behind it does so all the same
                await self.refuse(refusal(error), event.event_id and event.event_id[:512])
        self._read_ahead()

    def _read_ahead(self) -> None:
        """The LLM reads what was said so far while more of it comes in, and the whole prompt where it may end here, so
        that little is left to read at the end. What was read in vain is no loss: nobody else waited."""
        spans, ends = self._listener.spans
        ahead = (spans, ends, [item.id for item in self._items], self._session.instructions)
        if self._response is not None or ahead == self._ahead:
            return
        self._ahead = ahead
        self._drop_ahead()
        items = [*instructions_of(self._session), *self._items, Item("user", [{"type": "input_audio"}])]
        sounds = [*(sound.spans for item in self._items for sound in item.sounds), spans]
        messages, model = [item.message() for item in items], self._service.model

        def prompt() -> torch.Tensor:
            audio = [[span.result(timeout=0).embeddings for span in sound] for sound in sounds]
            return model.prompt(messages, audio, goes_on=not ends)

        self._reading = self._service.engine.read_ahead(prompt)

    def _drop_ahead(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def _begin_turn(self, change: TurnBegan) -> None:
        turns = self._input.turn_detection
        if turns is not None and turns.interrupt_response and self._response is not None:
            self._response.stop("turn_detected")
        await self.send("input_audio_buffer.speech_started", audio_start_ms=change.at_ms, item_id=self._turn_id)

    async def _end_turn(self, change: TurnEnded) -> None:
        turns = self._input.turn_detection
        await self.send("input_audio_buffer.speech_stopped", audio_end_ms=change.at_ms, item_id=self._turn_id)
        try:
            self._check_room(items=1, seconds=change.sound.seconds)
        except ApiError:
            change.sound.cancel()
            self._turn_id = new_id("item")
            raise
        await self._commit_sound(change.sound)
        if turns is not None and turns.create_response:
            await self._respond(events.ResponseOptions())

    async def _commit(self, event: events.Commit) -> None:
        self._check_room(items=1, seconds=self._listener.seconds)  # first: what was taken cannot be committed later
        await self._commit_sound(await run_in_threadpool(self._listener.commit))

    async def _commit_sound(self, sound: TurnSound) -> None:
        item = Item("user", [{"type": "input_audio", "transcript": None}], [sound], id=self._turn_id)
        self._turn_id = new_id("item")
        before = self._items[-1].id if self._items else None
        await self.send("input_audio_buffer.committed", item_id=item.id, previous_item_id=before)
        await self._add_item(item, len(self._items))
        if self._input.transcription is not None:
            task = asyncio.create_task(self._tell(item, sound))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _clear(self, event: events.Clear) -> None:
        await run_in_threadpool(self._listener.clear)
        await self.send("input_audio_buffer.cleared")

    async def _tell(self, item: Item, sound: TurnSound) -> None:
        """What the ears heard of an item, span by span."""
        kind, place = "conversation.item.input_audio_transcription", {"item_id": item.id, "content_index": 0}
        told: list[str] = []
        with contextlib.suppress(WebSocketDisconnect):
            try:
                for span in sound.spans:
                    heard = await asyncio.shield(asyncio.wrap_future(span))
                    if heard.segment is not None and heard.segment.words:
                        text = (" " if told else "") + heard.segment.text
                        told.append(text)
                        await self.send(f"{kind}.delta", **place, delta=text)
            except WebSocketDisconnect:
                raise
            except Exception as error:
                await self.send(f"{kind}.failed", **place, error=error_body(refusal(error))["error"])
                return
            item.content[0]["transcript"] = "".join(told)
            usage = {"type": "duration", "seconds": round(sound.seconds, 3)}
            await self.send(f"{kind}.completed", **place, transcript="".join(told), usage=usage)

    # --- the conversation -----------------------------------------------------------------------------

    def _check_room(self, *, items: int = 0, seconds: float = 0.0, characters: int = 0) -> None:
        """Raises ApiError where so much more would be too much."""
        held_s = sum(sound.seconds for item in self._items for sound in item.sounds)
        texts = [self._session.instructions, *(p.get("text", "") for item in self._items for p in item.content)]
        for what, number, most in (
            ("items", items + len(self._items), ITEMS),
            ("seconds of sound", seconds + held_s, CONVERSATION * self._service.settings.max_audio_s),
            ("characters", characters + sum(map(len, texts)), CHARACTERS * self._service.model.context),
        ):
            if number > most:
                raise ApiError(
                    400, f"conversation: would hold {number:g} {what}, expected at most {most:g}; delete items", None,
                    "conversation_too_long",
                )  # fmt: skip

    async def _add_item(self, item: Item, at: int) -> None:
        for sound in item.sounds:
            self._service.metrics.heard.inc(sound.seconds)
        self._items.insert(at, item)
        before = self._items[at - 1].id if at else None
        for kind in ("added", "done"):
            await self.send(f"conversation.item.{kind}", previous_item_id=before, item=item.as_json())

    def _place_of(self, item_id: str, field: str) -> int:
        for place, item in enumerate(self._items):
            if item.id == item_id:
                return place
        message = f"{field}: no item {item_id!r:.80} in the conversation; give the id of one that was added"
        raise ApiError(400, message, field, "item_not_found")

    async def _create_item(self, event: events.ItemCreate) -> None:
        await self._hear.room()
        message, before = event.item, event.previous_item_id
        at = len(self._items)
        if before is not None:
            at = 0 if before == "root" else self._place_of(before, "previous_item_id") + 1
        if any(item.id == message.id for item in self._items):
            why = f"item.id: there is an item {message.id!r:.80} already; choose another"
            raise ApiError(400, why, "item.id", "invalid_value")
        rate_hz, most_s = self._service.model.rate_hz, self._service.settings.max_audio_s
        recordings: list[np.ndarray] = []
        for i, part in enumerate(message.content):
            if isinstance(part, events.SoundPart):
                left_s = most_s - to_seconds(sum(map(len, recordings)), rate_hz)
                recordings.append(
                    await run_in_threadpool(self._samples, part.audio, f"item.content[{i}].audio", left_s)
                )
        self._check_room(
            items=1,
            seconds=to_seconds(sum(map(len, recordings)), rate_hz),
            characters=sum(len(part.text) for part in message.content if isinstance(part, events.RealtimeText)),
        )
        content = [part.model_dump(exclude={"audio"}) for part in message.content]
        sounds = [heard_whole(samples, rate_hz, self._hear) for samples in recordings]
        await self._add_item(Item(message.role, content, sounds, id=message.id or new_id("item")), at)

    def _samples(self, audio: str, where: str, left_s: float) -> np.ndarray:
        rate_hz = self._input.format.rate
        samples = of_pcm(of_base64(audio, where), where)
        seconds = to_seconds(len(samples), rate_hz)
        if not LEAST_S <= seconds <= left_s:
            message = f"{where}: {seconds:.2f} s, expected {LEAST_S:g} to {left_s:g} s of the session's PCM; cut it"
            raise ApiError(400, message, where, "invalid_audio")
        return resample(samples, rate_hz, self._service.model.rate_hz)

    async def _delete_item(self, event: events.ItemDelete) -> None:
        place = self._place_of(event.item_id, "item_id")
        if self._response is not None and self._response.item is self._items[place]:
            raise ApiError(400, "item_id: it is being written; cancel the response first", "item_id", "invalid_value")
        item = self._items.pop(place)
        if self._response is None or not self._response.reads(item):
            for sound in item.sounds:
                sound.cancel()
        await self.send("conversation.item.deleted", item_id=event.item_id)

    # --- answers --------------------------------------------------------------------------------------

    async def _create_response(self, event: events.ResponseCreate) -> None:
        await self._respond(event.response or events.ResponseOptions())

    async def _respond(self, wanted: events.ResponseOptions) -> None:
        if self._response is not None:
            if self._response.stopped is None:
                message = f"response: {self._response.id} is being written; cancel it first, or wait for response.done"
                raise ApiError(400, message, None, "conversation_already_has_active_response")
            assert self._answering is not None
            await self._answering
        if not (self._items or self._session.instructions or wanted.instructions):
            message = "response: nothing was said yet; commit sound, or add an item"
            raise ApiError(400, message, None, "conversation_empty")
        if wanted.instructions is not None:
            self._check_room(characters=len(wanted.instructions) - len(self._session.instructions))
        ticket = self._service.ticket()
        self._drop_ahead()
        response = Response(self._service, self._session, wanted, self._items, ticket, self.send)
        self._response = response
        self._answering = asyncio.create_task(self._answer(response))

    async def _answer(self, response: Response) -> None:
        kept = response.wanted.conversation == "auto"
        try:
            await response.run(self._conversation if kept else None, self._keep if kept else _forget)
        except WebSocketDisconnect:  # the loop that receives finds out by itself
            pass
        finally:
            self._response = None

    async def _keep(self, item: Item) -> None:
        """An answer's item goes behind all that was said when its first token comes; told again when it is whole."""
        kind = "done"
        if item.status == "in_progress":
            self._items.append(item)
            kind = "added"
        at = self._items.index(item)
        before = self._items[at - 1].id if at else None
        await self.send(f"conversation.item.{kind}", previous_item_id=before, item=item.as_json())

    async def _cancel_response(self, event: events.ResponseCancel) -> None:
        response = self._response
        if response is None or event.response_id not in (None, response.id):
            message = "response_id: no such response is being written; there is nothing to cancel"
            raise ApiError(400, message, "response_id", "response_cancel_not_active")
        response.stop("client_cancelled")


async def _forget(item: Item) -> None:
    """Forget what belongs to an answer outside the conversation."""


def make_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")
    talks: set[Talk] = set()

    @router.websocket("/realtime")
    async def realtime(socket: WebSocket) -> None:
        """A session; as many at a time as requests may be inside."""
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
        name = socket.query_params.get("model", service.model.names[0])
        talk = Talk(socket, service, name)
        try:
            check_model(service, name)
            room = service.settings.max_concurrency + service.settings.max_queue
            if len(talks) >= room:
                raise ApiError(429, f"server: {room} sessions are open; try again later", None, "server_busy")
            talks.add(talk)
            await talk.run()
        except ApiError as error:
            await talk.refuse(error)
            await socket.close(1008 if error.status == 404 else 1013, close_reason(error))
        except WebSocketDisconnect:
            pass
        finally:
            talks.discard(talk)
            talk.close()

    return router
