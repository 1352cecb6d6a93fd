"""POST /v1/audio/transcriptions: what the ears heard, not an ASR beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.datastructures import FormData, UploadFile

from salad.audio import split_at_quiet
from salad.files import JsonObject
from salad.model.processor import MAX_SPAN_S
from salad.serve.chat import Streamed, check_model, sse
from salad.serve.errors import ApiError, error_body, refusal
from salad.serve.service import Service, Ticket, until_gone
from salad.serve.sound import decode_sound
from salad.serve.transcript import Segment, srt, text_of, verbose, vtt

FORMS = ("json", "text", "srt", "verbose_json", "vtt")
IGNORED = ("language", "prompt")  # the ears hear as they were trained
KNOWN = ("file", "model", "response_format", "temperature", "timestamp_granularities[]", "stream", *IGNORED)
GRANULARITIES = ("word", "segment")


class TranscriptionForm:
    """The fields of a form, checked. Raises ApiError that names the field."""

    def __init__(self, form: FormData) -> None:
        for name in form:
            if name not in KNOWN:
                raise ApiError(
                    400, f"{name!r:.60}: Unknown parameter, which no route reads; leave it out", f"{name:.60}",
                    "unknown_parameter",
                )  # fmt: skip
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "file: expected a recording in a form", "file", "missing_required_parameter")
        self.file = file
        self.model = self._text(form, "model", None)
        self.form = self._one_of(form, "response_format", FORMS, "json")
        self.stream = self._one_of(form, "stream", ("true", "false", "True", "False"), "false").lower() == "true"
        if self._text(form, "temperature", "0") not in ("0", "0.0"):
            raise ApiError(400, "temperature: expected 0; leave it out", "temperature", "invalid_value")
        name = "timestamp_granularities[]"
        self.times = form.getlist(name)
        if any(t not in GRANULARITIES for t in self.times) or (self.times and self.form != "verbose_json"):
            raise ApiError(
                400, f"{name}: expected word or segment, with response_format verbose_json", name, "invalid_value"
            )
        if self.stream and self.form not in ("json", "text"):
            raise ApiError(
                400, f"stream: {self.form} is told at the end, expected json or text with it; leave it out", "stream",
                "invalid_value",
            )  # fmt: skip

    @staticmethod
    def _text(form: FormData, name: str, default: str | None) -> str:
        value = form.get(name, default)
        if not isinstance(value, str):
            raise ApiError(400, f"{name}: expected text in the form", name, "missing_required_parameter")
        return value

    def _one_of(self, form: FormData, name: str, known: tuple[str, ...], default: str) -> str:
        value = self._text(form, name, default)
        if value not in known:
            raise ApiError(400, f"{name}: got {value!r:.60}, expected {' or '.join(known)}", name, "invalid_value")
        return value


def _usage(seconds: float) -> JsonObject:
    return {"type": "duration", "seconds": round(seconds, 3)}


async def heard(service: Service, samples: np.ndarray, ticket: Ticket) -> AsyncIterator[Segment]:
    """Spans as they are heard, one call of the engine each, so that who generates goes on between them."""
    rate, at = service.model.rate_hz, 0
    for span in split_at_quiet(samples, rate, MAX_SPAN_S):
        start_s, at = at / rate, at + len(span)
        yield await service.call(partial(service.model.hear, span, start_s), ticket)


async def hear_all(service: Service, samples: np.ndarray, ticket: Ticket) -> list[Segment]:
    return [segment async for segment in heard(service, samples, ticket)]


async def _streamed(service: Service, samples: np.ndarray, ticket: Ticket) -> AsyncIterator[str]:
    segments: list[Segment] = []
    try:
        async for segment in heard(service, samples, ticket):
            if segment.words:
                told = (" " if any(s.words for s in segments) else "") + segment.text
                yield sse({"type": "transcript.text.delta", "delta": told})
            segments.append(segment)
        usage = _usage(len(samples) / service.model.rate_hz)
        yield sse({"type": "transcript.text.done", "text": text_of(segments), "usage": usage})
    except Exception as error:
        yield sse(error_body(refusal(error)))
        yield sse("[DONE]")
    finally:
        ticket.give_back()


def make_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/audio/transcriptions")
    async def transcriptions(request: Request) -> Any:
        """The text of a recording (multipart/form-data) as json, text, verbose_json, srt or vtt, or as a stream."""
        service.check_room()
        async with request.form(max_files=1, max_fields=20) as form:
            asked = TranscriptionForm(form)
            check_model(service, asked.model)
            data = await asked.file.read()
        if not service.model.tells:
            raise ApiError(404, "model: its ears score no tokens to be told", "model", "no_transcript")
        ticket = service.ticket()
        try:
            given = data, service.model.rate_hz, service.settings.max_audio_s, "file"
            samples = await service.in_thread(request, ticket, decode_sound, *given)
            if asked.stream:
                return Streamed(_streamed(service, samples, ticket), ticket.give_back)
            segments = await until_gone(request, asyncio.create_task(hear_all(service, samples, ticket)), ticket)
        except BaseException:
            ticket.give_back()
            raise
        ticket.give_back()
        return _response(asked, segments, len(samples) / service.model.rate_hz)

    return router


def _response(asked: TranscriptionForm, segments: list[Segment], duration_s: float) -> Any:
    if asked.form == "json":
        return JSONResponse({"text": text_of(segments), "usage": _usage(duration_s)})
    if asked.form == "verbose_json":
        words, spans = "word" in asked.times, "segment" in asked.times or not asked.times
        return JSONResponse({**verbose(segments, duration_s, words=words, spans=spans), "usage": _usage(duration_s)})
    if asked.form == "text":
        return PlainTextResponse(text_of(segments) + "\n")
    if asked.form == "srt":
        return PlainTextResponse(srt(segments))
    return PlainTextResponse(vtt(segments), media_type="text/vtt")
