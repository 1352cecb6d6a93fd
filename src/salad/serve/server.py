"""Uvicorn around the app: one process, which answers what it has begun before it stops."""

from __future__ import annotations

import uvicorn

from salad.serve.app import make_app
from salad.serve.served_model import ServedModel
from salad.serve.settings import Settings


def address(settings: Settings) -> str:
    scheme = "https" if settings.ssl_certfile else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{settings.port}"


def make_server(model: ServedModel, settings: Settings) -> uvicorn.Server:
    """`run()` it. SIGTERM and Ctrl-C: no new connection, and what was begun is answered within its own time."""
    config = uvicorn.Config(
        make_app(model, settings),
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        log_level="warning",
        access_log=False,  # addresses may hold what was said
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.timeout_s) + 1,
        ws_max_size=min(settings.max_body_bytes, 2**24),  # of one event; OpenAI's hold 15 MiB of sound at most
        ws_per_message_deflate=False,  # a small message cannot become a large one
    )
    return uvicorn.Server(config)
