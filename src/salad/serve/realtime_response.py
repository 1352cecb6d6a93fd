"""One answer of /v1/realtime: the events that tell it, from response.created to response.done."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fastapi import WebSocketDisconnect

from salad.serve.chat import Written
from salad.serve.chat_request import ChatMessage, ChatRequest
from salad.serve.engine import TokenSampling
from salad.serve.errors import ApiError, error_body, refusal
from salad.serve.listening import TurnSound
from salad.serve.realtime_events import ResponseOptions, Session
from salad.serve.service import Running, Service, Ticket, timed_out

Send = Callable[..., Awaitable[None]]  # an event's type, and its fields


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"


@dataclass
class Item:
    """A message of the conversation; `sounds`: of its input_audio parts, in order."""

    role: str
    content: list[dict[str, Any]] = field(default_factory=list)
    sounds: list[TurnSound] = field(default_factory=list)
    status: str = "completed"
    id: str = field(default_factory=lambda: new_id("item"))

    def as_json(self) -> dict[str, Any]:
        content = [dict(part) for part in self.content]
        return {"id": self.id, "object": "realtime.item", "type": "message", "status": self.status, "role": self.role,
                "content": content}  # fmt: skip

    def message(self) -> dict[str, Any]:
        """The item as a chat template takes it."""
        sound = {"type": "audio"}
        parts = [sound if p["type"] == "input_audio" else {"type": "text", "text": p["text"]} for p in self.content]
        return {"role": self.role, "content": parts}


async def spans_of(sound: TurnSound) -> list[torch.Tensor]:
    """What the LLM reads for each span of a recording, once all were heard."""
    return [(await asyncio.shield(asyncio.wrap_future(span))).embeddings for span in sound.spans]


def instructions_of(session: Session, instead: str | None = None) -> list[Item]:
    """The system turn that opens a prompt; none without instructions."""
    told = session.instructions if instead is None else instead
    return [Item("system", [{"type": "input_text", "text": told}])] if told else []


class Response:
    """An answer to `items`; its own item is `item`. `run` it as a task; `stop` it at any time."""

    def __init__(
        self,
        service: Service,
        session: Session,
        wanted: ResponseOptions,
        items: Sequence[Item],
        ticket: Ticket,
        send: Send,
    ) -> None:
        self._service, self._ticket, self._send = service, ticket, send
        self.wanted, self._items = wanted, list(items)
        self._instructions = instructions_of(session, wanted.instructions)
        self._most = session.max_output_tokens if wanted.max_output_tokens is None else wanted.max_output_tokens
        self.id, self.item = new_id("resp"), Item("assistant", status="in_progress")
        self._running: Running | None = None
        self.stopped: str | None = None
        self._usage: dict[str, int] | None = None

    def reads(self, item: Item) -> bool:
        """Whether it answers to this item, among others."""
        return any(own is item for own in self._items)

    def stop(self, reason: str) -> None:
        """client_cancelled or turn_detected; what was written so far stays."""
        self.stopped = self.stopped or reason
        self._ticket.give_back()
        if self._running is not None:
            self._running.close()

    async def run(self, conversation_id: str | None, added: Callable[[Item], Awaitable[None]]) -> None:
        """`added` is given the item when its first token is about to come, and again when it is whole."""
        self._conversation = conversation_id
        error: ApiError | None = None
        reason = "stop"
        try:
            await self._send("response.created", response=self._response_json("in_progress"))
            reason = await self._answer(added)
        except WebSocketDisconnect:
            raise
        except Exception as failure:
            error = refusal(failure)
        finally:
            self._ticket.give_back()
            if self._running is not None:
                self._running.close()
        status: str = "completed"
        details: dict[str, Any] | None = None
        if error is not None:
            told = error_body(error)["error"]
            status, details = "failed", {"error": {name: told[name] for name in ("type", "code", "message")}}
            await self._send("error", error={**told, "event_id": None})
        elif self.stopped is not None:
            status, details = "cancelled", {"reason": self.stopped}
        elif reason == "length":
            status, details = "incomplete", {"reason": "max_output_tokens"}
        self.item.status = "completed" if status == "completed" else "incomplete"
        if self.item.content:
            await self._end(added)
        if details is not None:
            details = {"type": status, **details}
        await self._send("response.done", response=self._response_json(status, details))

    async def _answer(self, added: Callable[[Item], Awaitable[None]]) -> str:
        """Why it ended."""
        service = self._service
        sounds = [sound for item in self._items for sound in item.sounds]
        try:
            audio = await asyncio.wait_for(asyncio.gather(*map(spans_of, sounds)), self._ticket.left_s)
        except TimeoutError:
            raise timed_out(service.settings.timeout_s) from None
        if self.stopped is not None:
            return "cancelled"
        messages = [item.message() for item in [*self._instructions, *self._items]]

        def prepare() -> tuple[torch.Tensor, int]:
            prompt = service.model.prompt(messages, audio)
            room = service.model.context - len(prompt)
            return prompt, min(room, service.settings.max_tokens if isinstance(self._most, str) else self._most)

        self._running = service.generate(prepare, TokenSampling(service.model.ends), self._ticket)
        positions = await self._running.started()
        if not positions:
            return "cancelled"
        plain = ChatRequest(model=service.model.names[0], messages=[ChatMessage(role="user", content="-")])
        written = Written(service, self._running, plain, positions)
        await self._begin(added)
        try:
            async for piece, _ in written.pieces():
                self.item.content[0]["text"] += piece
                await self._send("response.output_text.delta", **self._place, delta=piece)
        finally:
            usage = written.usage
            self._usage = {
                "total_tokens": usage["total_tokens"],
                "input_tokens": usage["prompt_tokens"],
                "output_tokens": usage["completion_tokens"],
            }
        return written.reason

    @property
    def _place(self) -> dict[str, Any]:
        return {"response_id": self.id, "item_id": self.item.id, "output_index": 0, "content_index": 0}

    async def _begin(self, added: Callable[[Item], Awaitable[None]]) -> None:
        await self._send("response.output_item.added", response_id=self.id, output_index=0, item=self.item.as_json())
        await added(self.item)
        self.item.content.append({"type": "output_text", "text": ""})
        await self._send("response.content_part.added", **self._place, part={"type": "text", "text": ""})

    async def _end(self, added: Callable[[Item], Awaitable[None]]) -> None:
        text = self.item.content[0]["text"]
        await self._send("response.output_text.done", **self._place, text=text)
        await self._send("response.content_part.done", **self._place, part={"type": "text", "text": text})
        await self._send("response.output_item.done", response_id=self.id, output_index=0, item=self.item.as_json())
        await added(self.item)

    def _response_json(self, status: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [self.item.as_json()] if self.item.content else [],
            "conversation_id": self._conversation,
            "output_modalities": ["text"],
            "max_output_tokens": self._most,
            "usage": self._usage,
            "metadata": self.wanted.metadata,
        }
