"""POST /v1/chat/completions: questions that are heard or read, answered whole or as they come."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from salad.files import JsonObject
from salad.serve.chat_request import AudioPart, ChatRequest, TextPart, UrlPart, parse_chat
from salad.serve.engine import Prepare, Token, TokenSampling
from salad.serve.errors import ApiError, error_body, refusal
from salad.serve.served_model import RECORDINGS
from salad.serve.service import Running, Service, until_gone
from salad.serve.sound import decode_sound, fetch, of_base64, of_data_url
from salad.serve.text_stream import TextStream

SSE = "text/event-stream"
Listened = tuple[list[JsonObject], list[Any]]


async def json_body(request: Request) -> Any:
    """A request's body. Raises ApiError where it is no JSON."""
    body = await request.body()
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "body: not JSON; send application/json in UTF-8", None, "invalid_json") from None


def sse(event: JsonObject | str) -> str:
    return f"data: {event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)}\n\n"


class Streamed(StreamingResponse):
    """Events as they come; `freed` is called at their end, also where the client left before the first."""

    def __init__(self, events: AsyncIterator[str], freed: Callable[[], None]) -> None:
        super().__init__(events, media_type=SSE, headers={"cache-control": "no-store"})
        self._freed = freed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._freed()


def check_model(service: Service, name: str) -> None:
    if name not in service.model.names:
        known = " or ".join(service.model.names)
        raise ApiError(404, f"model: got {name!r:.60}, expected {known}", "model", "model_not_found")


def check_size(service: Service, request: ChatRequest) -> None:
    """Raises ApiError for more than any prompt holds, before it is decoded or tokenised."""
    contents = [message.content for message in request.messages]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    written = [*texts, *(content for content in contents if isinstance(content, str))]
    service.check_text(sum(map(len, written)), "messages")
    recordings = len(parts) - len(texts)
    for what, number, most in (
        ("messages", len(contents), service.model.context),
        ("recordings", recordings, RECORDINGS),
    ):
        if number > most:
            message = f"messages: {number} {what}, expected at most {most}; send fewer"
            raise ApiError(400, message, "messages", "context_length_exceeded")


def listen(service: Service, request: ChatRequest) -> Listened:
    """Messages as the processor takes them, and their recordings as samples; together at most `max_audio_s`."""
    messages, audio, left_s = [], [], service.settings.max_audio_s
    for i, message in enumerate(request.messages):
        parts: list[JsonObject] = []
        content = message.content
        for j, part in enumerate([TextPart(type="text", text=content)] if isinstance(content, str) else content):
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": part.text})
                continue
            samples = _samples(service, part, f"messages[{i}].content[{j}]", left_s)
            seconds = len(samples) / service.model.rate_hz
            left_s -= seconds
            service.metrics.heard.inc(seconds)
            audio.append(samples)
            parts.append({"type": "audio"})
        messages.append({"role": "system" if message.role == "developer" else message.role, "content": parts})
    return messages, audio


def _samples(service: Service, part: AudioPart | UrlPart, where: str, left_s: float) -> Any:
    settings = service.settings
    if isinstance(part, AudioPart):
        where = f"{where}.input_audio.data"
        data = of_base64(part.input_audio.data, where)
    else:
        where, url = f"{where}.audio_url.url", part.audio_url.url
        if url[:5].lower() == "data:":
            data = of_data_url(url, where)
        elif settings.audio_urls:
            data = fetch(url, settings.max_body_bytes, where)
        else:
            raise ApiError(
                400, f"{where}: addresses are not fetched here; send data:audio/..., or start with --allow-audio-urls",
                where, "invalid_url",
            )  # fmt: skip
    return decode_sound(data, service.model.rate_hz, left_s, where)


def prepared(service: Service, listened: Listened, wanted: int | None) -> Prepare:
    def prepare() -> Any:
        prompt = service.model.prompt(*listened)
        return prompt, service.limit(len(prompt), wanted)

    return prepare


def sampling_of(service: Service, request: ChatRequest) -> TokenSampling:
    return TokenSampling(
        service.model.ends,
        temperature=request.temperature or 0.0,
        top_p=request.top_p or 1.0,
        seed=request.seed,
        top=(request.top_logprobs or 0) if request.logprobs else None,
    )


class Written:
    """What one generation says: pieces of text as they come, and what the whole came to."""

    def __init__(self, service: Service, running: Running, request: ChatRequest, positions: int) -> None:
        self._service, self._running = service, running
        self._text = TextStream(service.model.decode, request.stops)
        self._told = bool(request.logprobs)
        self.positions, self.made, self.reason = positions, 0, "stop"

    async def pieces(self) -> AsyncIterator[tuple[str, list[JsonObject]]]:
        """Text and, where they were asked for, log-probabilities of the tokens that it came from."""
        logprobs: list[JsonObject] = []
        async for token in self._running.tokens():
            self.made += 1
            text = self._text.push(token.id)
            if self._told:
                logprobs.append(self._logprob(token))
            if text:
                yield text, logprobs
                logprobs = []
            if self._text.stopped:
                return
        self.reason = self._running.reason
        rest = self._text.end()
        if self._text.stopped:
            self.reason = "stop"
        if rest or logprobs:
            yield rest, logprobs

    def _logprob(self, token: Token) -> JsonObject:
        top = [self._token_logprob(i, value) for i, value in token.top]
        return {**self._token_logprob(token.id, token.logprob or 0.0), "top_logprobs": top}

    def _token_logprob(self, token_id: int, value: float) -> JsonObject:
        text = self._service.model.decode([token_id])
        return {"token": text, "logprob": max(value, -9999.0), "bytes": list(text.encode())}

    @property
    def usage(self) -> dict[str, int]:
        total = self.positions + self.made
        return {"prompt_tokens": self.positions, "completion_tokens": self.made, "total_tokens": total}


async def whole(service: Service, request: ChatRequest, running: Running, head: JsonObject) -> JsonObject:
    written = Written(service, running, request, await running.started())
    text, logprobs = "", list[JsonObject]()
    async for piece, more in written.pieces():
        text, logprobs = text + piece, logprobs + more
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": {"content": logprobs, "refusal": None} if request.logprobs else None,
        "finish_reason": written.reason,
    }
    return {**head, "object": "chat.completion", "choices": [choice], "usage": written.usage}


async def streamed(
    service: Service, request: ChatRequest, running: Running, positions: int, head: JsonObject
) -> AsyncIterator[str]:
    def chunk(delta: JsonObject, reason: str | None = None, logprobs: Any = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        if logprobs:
            choice["logprobs"] = {"content": logprobs, "refusal": None}
        return sse({**head, "object": "chat.completion.chunk", "choices": [choice]})

    try:
        written = Written(service, running, request, positions)
        yield chunk({"role": "assistant"})
        async for piece, logprobs in written.pieces():
            yield chunk({"content": piece}, None, logprobs)
        yield chunk({}, written.reason)
        if request.stream_options is not None and request.stream_options.include_usage:
            yield sse({**head, "object": "chat.completion.chunk", "choices": [], "usage": written.usage})
    except Exception as error:
        yield sse(error_body(refusal(error)))
    finally:
        running.close()  # before the last event, for which a slow reader may take long
    yield sse("[DONE]")


def make_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/chat/completions", openapi_extra={"requestBody": {"content": {"application/json": {
        "schema": ChatRequest.model_json_schema()}}}})  # fmt: skip
    async def chat(request: Request) -> Any:
        """A chat whose user messages may hold `input_audio`; an unknown field is refused by name."""
        service.check_room()
        asked = parse_chat(await json_body(request))
        check_model(service, asked.model)
        check_size(service, asked)
        ticket = service.ticket()
        running: Running | None = None
        goes_on = False
        try:
            listened = await service.in_thread(request, ticket, listen, service, asked)
            prepare = prepared(service, listened, asked.limit)
            running = service.generate(prepare, sampling_of(service, asked), ticket)
            head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
            if not asked.stream:
                work = asyncio.create_task(whole(service, asked, running, head))
                return JSONResponse(await until_gone(request, work, ticket))
            positions = await until_gone(request, asyncio.create_task(running.started()), ticket)
            goes_on = True
            return Streamed(streamed(service, asked, running, positions, head), running.close)
        finally:
            if not goes_on:
                ticket.give_back()
                if running is not None:
                    running.close()

    return router
