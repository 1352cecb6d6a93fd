"""What a server does, counted: requests, tokens, times; told at GET /metrics as Prometheus reads it."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

ROUTES = ("/v1/chat/completions", "/v1/audio/transcriptions", "/v1/salad/compare", "/v1/models", "/health", "/ready")
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class ServerMetrics:
    """The metrics of one server; no label holds anything that a client wrote."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "salad_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "salad_request_seconds", "From a request's head to its last byte.", ("route",),
            registry=self.registry, buckets=SECONDS,
        )  # fmt: skip
        self.first = Histogram(
            "salad_first_token_seconds", "From a request's head to the first token of its answer.",
            registry=self.registry, buckets=SECONDS,
        )  # fmt: skip
        self.tokens = Counter("salad_tokens", "Tokens that were generated.", registry=self.registry)
        self.heard = Counter("salad_heard_seconds", "Seconds of sound that were decoded.", registry=self.registry)
        self.load = Gauge("salad_load", "Requests that generate, and that wait.", ("state",), registry=self.registry)


class Counted:
    """ASGI around the app: every request, by its route and its status."""

    def __init__(self, app: Any, metrics: ServerMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"
        begun, status = time.monotonic(), 499  # gone before an answer

        async def told(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, told)
        except Exception:  # answered and logged by then; its message, which may hold what was said, goes no further
            pass
        finally:
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - begun)


def metrics_router(metrics: ServerMetrics) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics")
    async def told() -> Response:
        """Counters and times, as Prometheus reads them."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
