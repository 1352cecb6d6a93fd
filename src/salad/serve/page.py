"""GET /: the page that talks, from files of the package; nothing of it comes from anywhere else."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

from salad.serve.errors import ApiError
from salad.serve.service import Service

STATIC = Path(__file__).parent / "static"
TYPES = {".css": "text/css", ".html": "text/html; charset=utf-8", ".js": "text/javascript"}
FILES = {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES}
HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def make_router(service: Service) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index() -> Response:
        return _file("index.html")

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        return _file(name)

    return router


def _file(name: str) -> Response:
    if name not in FILES:
        raise ApiError(404, f"no file {name!r:.60}", None, "not_found")
    return Response(FILES[name].read_bytes(), media_type=TYPES[FILES[name].suffix], headers=HEADERS)
