"""The app: its routes, and the guard around them."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse

import salad
from salad.files import JsonObject
from salad.serve import chat, compare, page, realtime, transcriptions
from salad.serve.errors import install_errors
from salad.serve.guard import Guard
from salad.serve.metrics import Counted, metrics_router
from salad.serve.served_model import ServedModel
from salad.serve.service import Service
from salad.serve.settings import Settings

logger = logging.getLogger(__name__)


def make_app(model: ServedModel, settings: Settings) -> Guard:
    """ASGI: the routes of `model` behind the guard. Its engine ends with the server's life."""
    service = Service(model, settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.engine.close()

    app = FastAPI(
        title="SALAD", version=salad.__version__, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=life
    )
    install_errors(app)
    for routes in (chat, transcriptions, compare, realtime, page):
        app.include_router(routes.make_router(service))
    app.include_router(metrics_router(service.metrics))
    created = int(time.time())

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether the server lives, and there is somebody in it to answer."""
        alive = service.engine.alive
        return JSONResponse({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Whether a request would be taken now."""
        room = settings.max_concurrency + settings.max_queue - service.inside
        return JSONResponse({"status": "ready" if room else "busy", "room": room}, 200 if room else 503)

    @app.get("/v1/models")
    async def models() -> JsonObject:
        """The model that is served."""
        one = {"id": model.names[0], "object": "model", "created": created, "owned_by": "salad"}
        return {"object": "list", "data": [one]}

    return Guard(Counted(app, service.metrics), settings)
