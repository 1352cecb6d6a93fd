"""Refusals in OpenAI's shape: what is wrong, which field, and how to mend it."""

from __future__ import annotations

import logging
import traceback

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from salad.files import JsonObject
from salad.types import SaladError

logger = logging.getLogger(__name__)
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
         429: "rate_limit_error", 500: "server_error"}  # fmt: skip
WORDS = {"missing": ("Missing required parameter", "missing_required_parameter"),
         "extra_forbidden": ("Unknown parameter, which no route reads; leave it out", "unknown_parameter")}  # fmt: skip


class ApiError(Exception):
    """A request that is refused: HTTP `status`, and of OpenAI's error its message, param and code."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers


def error_body(error: ApiError) -> JsonObject:
    kind = TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def close_reason(error: ApiError) -> str:
    """The first of its words, as many as a WebSocket's close frame holds."""
    return error.message.encode()[:120].decode(errors="ignore")


def refusal(error: Exception, param: str | None = None) -> ApiError:
    """What a client is told of an error: a user's own words, nothing of ours of a bug."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ClientDisconnect):
        return ApiError(408, "client: gone within its body", None, "client_gone")
    if isinstance(error, SaladError):
        return ApiError(400, str(error), param, "invalid_value")
    where = "".join(traceback.format_tb(error.__traceback__))  # not its message, which may hold what was said
    logger.error("a request failed: %s at\n%s", type(error).__name__, where)
    return ApiError(500, "the server failed at this request; its log says where", None, "internal_error")


def refusal_of(error: ValidationError, tags: tuple[str, ...] = ()) -> ApiError:
    """The first thing wrong with a body; `tags`: names of alternatives that stand in pydantic's place of it."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = ""
    for step in first["loc"]:
        if isinstance(step, int):
            param += f"[{step}]"
        elif step not in tags:
            param += f".{step}" if param else step
    param = param.encode("utf-8", "backslashreplace").decode()  # a name that is no text is told all the same
    words, code = WORDS.get(first["type"], (first["msg"].removeprefix("Value error, "), "invalid_value"))
    got = "" if first["type"] in WORDS else f", got {first['input']!r:.60}"
    return ApiError(400, f"{param or 'body'}: {words}{got}", param or None, code)


def answer_of(error: ApiError) -> JSONResponse:
    return JSONResponse(error_body(error), status_code=error.status, headers=error.headers)


def install_errors(app: FastAPI) -> None:
    """Every refusal of `app` in one shape."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        return answer_of(refusal(error))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        cure = {
            404: f"no route {request.url.path}; see /openapi.json",
            405: f"{request.url.path} does not take {request.method}; see /openapi.json",
        }
        told = cure.get(error.status_code, str(error.detail))
        return answer_of(ApiError(error.status_code, told, headers=dict(error.headers or {})))

    app.add_exception_handler(ApiError, ours)
    app.add_exception_handler(SaladError, ours)
    app.add_exception_handler(ClientDisconnect, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, ours)
