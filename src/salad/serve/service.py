"""Requests between the event loop and the engine: who may come in, how long they may take, what they come to."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from salad.serve.engine import Engine, Event, Finished, Prepare, Started, Token, TokenSampling
from salad.serve.errors import ApiError, refusal
from salad.serve.metrics import ServerMetrics
from salad.serve.served_model import CHARACTERS, ServedModel
from salad.serve.settings import Settings
from salad.types import SaladError

T = TypeVar("T")


class Ticket:
    """A place among those who generate or wait; given back once."""

    def __init__(self, service: Service) -> None:
        self._service, self._held, self.started = service, True, time.monotonic()
        self.limit_s = service.settings.timeout_s
        self._thread: asyncio.Task[Any] | None = None

    def part(self) -> Ticket:
        """A ticket for one of several generations of this request: its end gives nothing back."""
        own = Ticket(self._service)
        own._held, own.started = False, self.started
        return own

    @property
    def left_s(self) -> float:
        """Seconds left of the time that the request may take."""
        return max(0.0, self.started + self.limit_s - time.monotonic())

    def keep_for(self, thread: asyncio.Task[Any]) -> None:
        """It is not given back before a thread has ended, which nobody can stop."""
        self._thread = thread

    def give_back(self) -> None:
        if self._thread is not None and not self._thread.done():
            self._thread.add_done_callback(lambda _: self.give_back())
        elif self._held:
            self._held = False
            self._service.given_back(time.monotonic() - self.started)


class Service:
    """One model behind one engine, and who waits for it."""

    def __init__(self, model: ServedModel, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.engine = Engine(model.model, settings.max_concurrency, bf16=model.bf16)
        self.inside = 0
        self.metrics = ServerMetrics()
        for place, state in enumerate(("active", "waiting")):
            self.metrics.load.labels(state).set_function(functools.partial(self._load, place))
        self._mean_s = 1.0

    def _load(self, place: int) -> float:
        return self.engine.load[place]

    def check_room(self) -> None:
        """Raises ApiError 429 where as many are inside as may be; call it before a request's body is read."""
        room = self.settings.max_concurrency + self.settings.max_queue
        if self.inside >= room:
            wait_s = max(1, round(self._mean_s * self.settings.max_queue / self.settings.max_concurrency))
            raise ApiError(
                429, f"server: {room} requests are inside; try again in {wait_s} s", None, "server_busy",
                {"retry-after": str(wait_s)},
            )  # fmt: skip

    def ticket(self) -> Ticket:
        """Raises as `check_room` does; call it before a request's sound is decoded."""
        self.check_room()
        self.inside += 1
        return Ticket(self)

    def given_back(self, took_s: float) -> None:
        self.inside -= 1
        self._mean_s += 0.1 * (took_s - self._mean_s)

    def generate(self, prepare: Prepare, sampling: TokenSampling, ticket: Ticket) -> Running:
        return Running(self, prepare, sampling, ticket)

    async def call(self, function: Callable[[], T], ticket: Ticket) -> T:
        """What `function` gives in the engine's thread, within what is left of the request's time."""
        future = self.engine.call(function)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), ticket.left_s)
        except TimeoutError:
            raise timed_out(self.settings.timeout_s) from None

    async def in_thread(self, request: Request, ticket: Ticket, function: Callable[..., T], *given: Any) -> T:
        """What `function` gives in a thread, while the client waits and within what is left of its time."""
        thread = asyncio.create_task(run_in_threadpool(function, *given))
        ticket.keep_for(thread)
        return await until_gone(request, asyncio.shield(thread), ticket)

    def check_text(self, characters: int, param: str) -> None:
        """Raises ApiError for more text than any prompt holds; call it before the text is tokenised."""
        most = CHARACTERS * self.model.context
        if characters > most:
            message = f"{param}: {characters} characters, expected at most {most}; send less"
            raise ApiError(400, message, param, "context_length_exceeded")

    def limit(self, positions: int, wanted: int | None) -> int:
        """Most tokens of an answer behind a prompt of so many positions."""
        room = self.model.context - positions
        if wanted is not None and wanted > room:
            message = f"max_tokens: got {wanted}, but behind {positions} positions there is room for {room}; lower it"
            raise ApiError(400, message, "max_tokens", "context_length_exceeded")
        return min(room, self.settings.max_tokens) if wanted is None else wanted


class Running:
    """A generation as the event loop sees it. `close` it whatever happens: that frees its row."""

    def __init__(self, service: Service, prepare: Prepare, sampling: TokenSampling, ticket: Ticket) -> None:
        self._service, self._ticket, self._begun = service, ticket, False
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
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
            event = await asyncio.wait_for(self._queue.get(), self._ticket.left_s)
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


async def until_gone(request: Request, work: asyncio.Future[T], ticket: Ticket) -> T:
    """What a task gives; it is cancelled when the client leaves, or the request's time is over."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.create_task(gone())
    both: set[asyncio.Future[Any]] = {work, watch}
    try:
        await asyncio.wait(both, timeout=ticket.left_s, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if watch.done():
            raise ApiError(408, "client: gone before the answer", None, "client_gone")
        raise timed_out(ticket.limit_s)
    finally:
        watch.cancel()
        if not work.done():
            work.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody asks any more
            work.cancel()
