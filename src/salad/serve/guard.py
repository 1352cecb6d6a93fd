"""Who may ask: the Host and Origin of a request, its key, and its size; on HTTP and on WebSocket."""

from __future__ import annotations

import hmac
import ipaddress
import json
from typing import Any
from urllib.parse import urlsplit

from salad.serve.errors import ApiError, close_reason, error_body
from salad.serve.settings import LOOPBACK, Settings

OPEN = ("/", "/health", "/ready")  # without a key: a page that asks for it, and whether the server lives
OPEN_FOLDER = "/static/"
WILD = ("0.0.0.0", "::", "")


class Guard:
    """ASGI around the app. A web page elsewhere reaches neither a server without a key (Origin), nor one by a name that
    it made point here (Host)."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers[name] = headers[name] + b"," + value if name in headers else value
        try:
            self._check(scope, headers)
        except ApiError as error:
            await _refuse(scope, send, error)
            return
        if scope["type"] == "http":
            receive = self._limited(receive)
        await self.app(scope, receive, send)

    def _check(self, scope: Any, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_ours(host):
            raise ApiError(
                403, f"Host: {host!r:.80} is no name of this server; start it with --allow-host NAME", None, "host"
            )
        origin = headers.get(b"origin")
        if origin is not None and not _same(origin.decode("latin-1"), host):
            raise ApiError(403, "Origin: another page's requests are refused; open this server's own", None, "origin")
        path = scope["path"]
        if self.settings.api_key is not None and not (path in OPEN or path.startswith(OPEN_FOLDER)):
            self._check_key(scope, headers)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15 or int(length) > self.settings.max_body_bytes:
            raise ApiError(413, self._too_long(), None, "body_too_large", {"connection": "close"})

    def _check_key(self, scope: Any, headers: dict[bytes, bytes]) -> None:
        wanted = (self.settings.api_key or "").encode()
        given = [headers.get(b"authorization", b"")]
        kept = [g[7:].strip() for g in given if g[:7].lower() == b"bearer "]
        if scope["type"] == "websocket":  # a browser's WebSocket has no other place for it
            offered = headers.get(b"sec-websocket-protocol", b"").split(b",")
            kept += [o.strip()[len(PROTOCOL) :] for o in offered if o.strip().startswith(PROTOCOL)]
        if not any([hmac.compare_digest(k, wanted) for k in kept]):
            raise ApiError(
                401, "Authorization: expected `Bearer KEY` with the key that the server was started with", None,
                "invalid_api_key", {"www-authenticate": "Bearer"},
            )  # fmt: skip

    def _is_ours(self, host: str) -> bool:
        name = _hostname(host)
        if name is None:
            return False
        known = {*LOOPBACK, self.settings.host, *self.settings.allowed_hosts}
        if name in {n.lower() for n in known}:
            return True
        return self.settings.host in WILD and _is_address(name)  # an address cannot be made to point elsewhere

    def _limited(self, receive: Any) -> Any:
        seen = 0

        async def limited() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.settings.max_body_bytes:
                raise ApiError(413, self._too_long(), None, "body_too_large", {"connection": "close"})
            return message

        return limited

    def _too_long(self) -> str:
        return f"body: more than {self.settings.max_body_bytes} bytes; send less, or compressed sound"


PROTOCOL = b"openai-insecure-api-key."


def _hostname(host: str) -> str | None:
    """The name in a Host header, in lower case; None where it is no such header."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018  raises where it is none
    except ValueError:
        return None
    if not parts.hostname or parts.netloc != host or "@" in host or parts.path:
        return None
    return parts.hostname.rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


async def _refuse(scope: Any, send: Any, error: ApiError) -> None:
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": close_reason(error)})
            return
        kind = "websocket.http.response"  # a refusal that says why, in place of the handshake
    body = json.dumps(error_body(error)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **(error.headers or {})}
    named = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": f"{kind}.start", "status": error.status, "headers": named})
    await send({"type": f"{kind}.body", "body": body})
