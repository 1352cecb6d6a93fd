"""POST /v1/salad/compare: one recording, heard by the ears, read as they heard it, and read as a cascade hears it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field, ValidationError

from salad.align.asr import load_asr
from salad.audio import resample
from salad.files import JsonObject
from salad.serve.chat import check_model, json_body, whole
from salad.serve.chat_request import ChatRequest, InputAudio, Strict, Text
from salad.serve.engine import TokenSampling
from salad.serve.errors import ApiError, refusal_of
from salad.serve.service import Service, Ticket, until_gone
from salad.serve.sound import decode_sound, of_base64
from salad.serve.transcript import text_of
from salad.serve.transcriptions import hear_all
from salad.serve.word_gap import cost_of_words

ASR_HZ = 16_000
Asr = Callable[[np.ndarray], str]
Who = Literal["ears", "reader", "cascade"]
EVERYBODY: tuple[Who, ...] = ("ears", "reader", "cascade")


class CompareRequest(Strict):
    """A recording; `text`: what is written behind it in the question; `said`: what was said, for M by word.

    answers: of whom answers are wanted: `ears` hears the recording, `reader` reads what the ears heard, `cascade` reads
    the recogniser's transcript (left out where the server has none); the LLM is the same.
    """

    model: str
    audio: InputAudio
    text: Text = ""
    said: Text | None = None
    answers: Annotated[list[Who], Field(max_length=3)] = list(EVERYBODY)
    max_tokens: Annotated[int, Field(ge=1)] | None = None


def parse_compare(body: Any) -> CompareRequest:
    if not isinstance(body, dict):
        raise ApiError(400, f"body: expected a JSON object, got {type(body).__name__}", None, "invalid_value")
    try:
        asked = CompareRequest.model_validate(body)
    except ValidationError as error:
        raise refusal_of(error) from None
    if asked.said is not None and not asked.said.split():
        raise ApiError(400, "said: holds no word; type what was said, or leave it out", "said", "invalid_value")
    return asked


async def compared(
    service: Service, asked: CompareRequest, samples: np.ndarray, ticket: Ticket, asr: Asr | None
) -> JsonObject:
    """What was heard, by the ears and by the recogniser; the answers; M by word where `said` is there."""
    segments = await hear_all(service, samples, ticket)
    words = [w for segment in segments for w in segment.words]
    heard: JsonObject = {"text": text_of(segments), "words": [
        {"word": w.text, "start": round(w.start_s, 3), "end": round(w.end_s, 3), "probability": w.score} for w in words
    ]}  # fmt: skip
    found: JsonObject = {"heard": heard, "cascade": None, "said": None}
    contents: dict[str, list[dict[str, str]]] = {
        "ears": [{"type": "audio"}],
        "reader": [{"type": "text", "text": heard["text"]}],
    }
    if asr is not None:
        sound = resample(samples, service.model.rate_hz, ASR_HZ)
        transcript = await service.call(lambda: asr(sound), ticket)
        found["cascade"] = {"text": transcript, "asr": service.settings.asr}
        contents["cascade"] = [{"type": "text", "text": transcript}]
    if asked.said is not None:
        said = asked.said
        found["said"] = await service.call(lambda: cost_of_words(service.model, samples, said), ticket)
    wanted = {who: contents[who] for who in EVERYBODY if who in asked.answers and who in contents}
    answers = await asyncio.gather(*[
        _answer(service, asked, content, [samples] if who == "ears" else [], ticket) for who, content in wanted.items()
    ])  # fmt: skip
    return {"object": "salad.comparison", **found, "answers": dict(zip(wanted, answers, strict=True))}


async def _answer(
    service: Service, asked: CompareRequest, content: list[dict[str, str]], audio: list[np.ndarray], ticket: Ticket
) -> JsonObject:
    if asked.text:
        content = [*content, {"type": "text", "text": asked.text}]

    def prepare() -> Any:
        prompt = service.model.prompt([{"role": "user", "content": content}], audio)
        return prompt, service.limit(len(prompt), asked.max_tokens)

    running = service.generate(prepare, TokenSampling(service.model.ends), ticket.part())
    try:
        plain = ChatRequest.model_validate({"model": asked.model, "messages": [{"role": "user", "content": "-"}]})
        told = await whole(service, plain, running, {})
    finally:
        running.close()
    choice = told["choices"][0]
    return {"text": choice["message"]["content"], "finish_reason": choice["finish_reason"], "usage": told["usage"]}


def make_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/salad")

    @functools.cache
    def asr() -> Asr | None:
        return load_asr(service.settings.asr).transcribe if service.settings.asr else None

    @router.post("/compare", openapi_extra={"requestBody": {"content": {"application/json": {
        "schema": CompareRequest.model_json_schema()}}}})  # fmt: skip
    async def compare(request: Request) -> Any:
        """Put one question to the ears, to the LLM that reads what they heard, and to a cascade."""
        service.check_room()
        asked = parse_compare(await json_body(request))
        check_model(service, asked.model)
        service.check_text(len(asked.text), "text")
        service.check_text(len(asked.said or ""), "said")
        if not service.model.tells:
            raise ApiError(404, "model: its ears score no tokens to be told", "model", "no_transcript")
        ticket = service.ticket()
        try:
            data = of_base64(asked.audio.data, "audio.data")
            limit_s = service.settings.max_audio_s
            given = data, service.model.rate_hz, limit_s, "audio.data"
            samples = await service.in_thread(request, ticket, decode_sound, *given)
            recogniser = await service.call(asr, ticket)
            work = asyncio.create_task(compared(service, asked, samples, ticket, recogniser))
            return JSONResponse(await until_gone(request, work, ticket))
        finally:
            ticket.give_back()

    return router
