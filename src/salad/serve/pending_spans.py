"""What one session of /v1/realtime waits to have heard: counted, slowed down where it is too much, and given up."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future

import numpy as np

from salad.audio import to_seconds
from salad.serve.errors import ApiError
from salad.serve.served_model import SpanEmbeddings
from salad.serve.service import Service

LOOK_S = 0.02  # between two looks at whether there is room


class Unheard:
    """Calls of the engine, one a span. `close` it when the session ends."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiting: dict[Future[SpanEmbeddings], int] = {}  # samples of each span

    def __call__(self, samples: np.ndarray, start_s: float) -> Future[SpanEmbeddings]:
        """What will be heard of a span that begins at `start_s`; in any thread."""
        model = self._service.model
        heard = self._service.engine.call(lambda: model.listen(samples, start_s))
        self._waiting[heard] = len(samples)
        heard.add_done_callback(lambda done: self._waiting.pop(done, None))
        return heard

    @property
    def seconds(self) -> float:
        """Seconds of sound that waits."""
        return to_seconds(sum(list(self._waiting.values())), self._service.model.rate_hz)

    async def room(self) -> None:
        """Wait while more than --max-audio-s waits: a client that sends faster than is heard is read more slowly.

        Raises ApiError where that takes longer than a request may.
        """
        settings = self._service.settings
        end = time.monotonic() + settings.timeout_s
        while self.seconds > settings.max_audio_s:
            if time.monotonic() > end:
                message = f"audio: {self.seconds:.0f} s wait to be heard, expected at most {settings.max_audio_s:g}"
                raise ApiError(429, f"{message}; send it again later", "audio", "server_busy")
            await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        for heard in list(self._waiting):
            heard.cancel()
