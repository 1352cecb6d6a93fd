"""Requests between the event loop and the engine: who may come in, how long they may take, what they come to."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from fastapi import Request

from salad.serve.engine import Engine, Event, Finished, Prepare, Sampling, Started, Token
from salad.serve.errors import ApiError, refusal
from salad.serve.metrics import Metrics
from salad.serve.served_model import ServedModel
from salad.serve.settings import Settings
from salad.types import SaladError

T = TypeVar("T")


class Ticket:
    """A place among those who generate or wait; given back once."""

    def __init__(self, service: Service) -> None:
        self._service, self._held, self.started = service, True, time.monotonic()

    def part(self) -> Ticket:
        """For one of several generations of this request: its end gives nothing back."""
        own = Ticket(self._service)
        own._held, own.started = False, self.started
        return own

    def give_back(self) -> None:
        if self._held:
            self._held = False
            self._service.given_back(time.monotonic() - self.started)


class Service:
    """One model behind one engine, and who waits for it."""

    def __init__(self, model: ServedModel, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.engine = Engine(model.model, settings.max_concurrency, bf16=model.bf16)
        self.inside = 0
        self.metrics = Metrics()
        for place, state in enumerate(("active", "waiting")):
            self.metrics.load.labels(state).set_function(functools.partial(self._load, place))
        self._mean_s = 1.0

    def _load(self, place: int) -> float:
        return self.engine.load[place]

    def ticket(self) -> Ticket:
        """Raises ApiError 429 where as many are inside as may be; call it before a request's sound is decoded."""
        room = self.settings.max_concurrency + self.settings.max_queue
        if self.inside >= room:
            wait_s = max(1, round(self._mean_s * self.settings.max_queue / self.settings.max_concurrency))
            raise ApiError(
                429, f"server: {room} requests are inside; try again in {wait_s} s", None, "server_busy",
                {"retry-after": str(wait_s)},
            )  # fmt: skip
        self.inside += 1
        return Ticket(self)

    def given_back(self, took_s: float) -> None:
        self.inside -= 1
        self._mean_s += 0.1 * (took_s - self._mean_s)

    def generate(self, prepare: Prepare, sampling: Sampling, ticket: Ticket) -> Running:
        return Running(self, prepare, sampling, ticket)

    async def call(self, function: Callable[[], T]) -> T:
        """What `function` gives in the engine's thread, within the time a request may take."""
        future = self.engine.call(function)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.settings.timeout_s)
        except TimeoutError:
            raise timed_out(self.settings.timeout_s) from None

    def limit(self, positions: int, wanted: int | None) -> int:
        """Most tokens of an answer behind a prompt of so many positions."""
        room = self.model.context - positions
        if wanted is not None and wanted > room:
            message = f"max_tokens: got {wanted}, but behind {positions} positions there is room for {room}; lower it"
            raise ApiError(400, message, "max_tokens", "context_length_exceeded")
        return min(room, self.settings.max_tokens) if wanted is None else wanted


class Running:
    """A generation as the event loop sees it. `close` it whatever happens: that frees its row."""

    def __init__(self, service: Service, prepare: Prepare, sampling: Sampling, ticket: Ticket) -> None:
        self._service, self._ticket, self._begun = service, ticket, False
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._end = ticket.started + service.settings.timeout_s
        loop = asyncio.get_running_loop()

        def deliver(event: Event) -> None:
            try:
                loop.call_soon_threadsafe(self._arrived, event)
            except RuntimeError:  # the loop is gone, and whoever waited with it
                pass

        self._generation = service.engine.submit(prepare, sampling, deliver)

    def _arrived(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._ticket.give_back()
        if isinstance(event, Token):
            self._service.metrics.tokens.inc()
            if not self._begun:
                self._service.metrics.first.observe(time.monotonic() - self._ticket.started)
            self._begun = True
        self._queue.put_nowait(event)

    async def started(self) -> int:
        """Positions of the prompt, once it is heard; 0 where it was closed. Raises ApiError where it cannot be."""
        event = await self._next()
        if isinstance(event, Finished):
            self._queue.put_nowait(event)
            return 0
        assert isinstance(event, Started)
        return event.positions

    async def tokens(self) -> AsyncIterator[Token]:
        """Tokens as they come; `reason` tells at last why there are no more."""
        while True:
            event = await self._next()
            if isinstance(event, Finished):
                self.reason = event.reason
                return
            assert isinstance(event, Token)
            yield event

    async def _next(self) -> Event:
        try:
            event = await asyncio.wait_for(self._queue.get(), max(0.0, self._end - time.monotonic()))
        except TimeoutError:
            raise timed_out(self._service.settings.timeout_s) from None
        if isinstance(event, Finished) and event.error is not None:
            raise refusal(event.error, "messages" if isinstance(event.error, SaladError) else None)
        return event

    def close(self) -> None:
        self._generation.cancel()
        self._ticket.give_back()


def timed_out(limit_s: float) -> ApiError:
    return ApiError(408, f"server: not done within {limit_s:g} s; ask for fewer tokens, or later", None, "timeout")


async def until_gone(request: Request, work: asyncio.Task[T]) -> T:
    """What a task gives; it is cancelled when the client leaves."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.create_task(gone())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            raise ApiError(408, "client: gone before the answer", None, "client_gone")
        return work.result()
    finally:
        watch.cancel()
        work.cancel()
