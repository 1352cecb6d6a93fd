"""Continuous batching: one forward pass for all that generate; who is done leaves, who waits joins, between two steps.

Rows end at the same place of one cache, padded on the left, and each keeps its own positions; so a row's answer is what
it is alone.
"""

from __future__ import annotations

import collections
import concurrent.futures
import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch.nn import functional
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from salad.model import SaladForConditionalGeneration
from salad.serve.prefixes import Prefixes
from salad.training.loop import autocast

GROW = 64  # positions of room behind the longest row
LEAST = 1e-5  # of temperature and top_p: below it only the likeliest token is drawn, and numbers would leave float32
logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class TokenSampling:
    """temperature 0: the likeliest token. ends: tokens that end an answer.

    top: how many likely tokens are told at each; None: not even the log-probability of the chosen one.
    """

    ends: frozenset[int]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top: int | None = None


@dataclass(frozen=True)
class Token:
    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Started:
    """The prompt was heard and read; its positions."""

    positions: int


@dataclass(frozen=True)
class Finished:
    """reason: stop, length, cancelled or error. Nothing comes behind it."""

    reason: str
    error: Exception | None = None


Event = Started | Token | Finished
Call = tuple[Callable[[], Any], concurrent.futures.Future[Any]]
Prepare = Callable[[], tuple[torch.Tensor, int]]  # embeddings [positions, width] of a prompt, most tokens of its answer


@dataclass
class Generation:
    """A request in the engine."""

    prepare: Prepare
    sampling: TokenSampling
    deliver: Callable[[Event], None]
    limit: int = 0
    length: int = 0  # positions in the cache
    last: int = 0
    made: int = 0
    cancelled: bool = False
    ended: bool = False
    draws: torch.Generator | None = field(default=None)

    def cancel(self) -> None:
        """Leave the batch before its next step; harmless when done."""
        self.cancelled = True

    def end(self, reason: str, error: Exception | None = None) -> None:
        """Tell that nothing more comes, once."""
        if not self.ended:
            self.ended = True
            self.deliver(Finished(reason, error))


class Slab(DynamicLayer):
    """Keys and values [rows, heads, room, d] of a layer, written in place; `length` positions of them are there."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers gives it no types
        self.keys, self.values, self.length = keys, values, length
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self.keys, self.values = (functional.pad(t, (0, 0, 0, GROW)) for t in (self.keys, self.values))
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length


class Engine:
    """One thread that generates for at most `rows` requests at a time; others wait in order."""

    def __init__(self, model: SaladForConditionalGeneration, rows: int, *, bf16: bool = False) -> None:
        self.model, self.rows, self.bf16 = model, rows, bf16
        self.device = model.get_input_embeddings().weight.device
        self._decoder = model.decoder()
        self._takes_positions = "position_ids" in inspect.signature(self._decoder.forward).parameters
        self._waiting: collections.deque[Generation] = collections.deque()
        self._calls: collections.deque[Call] = collections.deque()
        self._ahead: collections.deque[Call] = collections.deque()
        self._active: list[Generation] = []
        self._cache = Cache(layers=[])
        self._wake, self._closed = threading.Condition(), False
        self._prefixes = Prefixes()
        self.steps = 0
        self._thread = threading.Thread(target=self._run, name="salad-engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """How many generate, and how many wait."""
        return len(self._active), len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether there is somebody to answer."""
        return self._thread.is_alive()

    def submit(self, prepare: Prepare, sampling: TokenSampling, deliver: Callable[[Event], None]) -> Generation:
        """`prepare` is called in the engine's thread when there is room, so that two of torch's pools of threads never
        fight; `deliver` is given `Started`, tokens, and at last `Finished` there."""
        generation = Generation(prepare, sampling, deliver)
        if sampling.temperature:
            generation.draws = torch.Generator()
            if sampling.seed is None:
                generation.draws.seed()
            else:
                generation.draws.manual_seed(sampling.seed)
        with self._wake:
            if self._closed:
                deliver(Finished("error", RuntimeError("the engine is closed")))
                return generation
            self._waiting.append(generation)
            self._wake.notify()
        return generation

    def call(self, function: Callable[[], T]) -> concurrent.futures.Future[T]:
        """What `function` gives in the engine's thread, between two steps."""
        return self._called(self._calls, function)

    def read_ahead(self, prompt: Callable[[], torch.Tensor]) -> concurrent.futures.Future[int]:
        """Read what a prompt will begin with, embeddings [positions, width], while nobody waits to be answered or
        heard: what began before is heard by then. How many positions were new; cancel it where it is of no use any
        more."""
        return self._called(self._ahead, lambda: self._read(prompt())[2])

    def _called(self, queue: collections.deque[Call], function: Callable[[], T]) -> concurrent.futures.Future[T]:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._wake:
            if self._closed:
                future.cancel()
            else:
                queue.append((function, future))
                self._wake.notify()
        return future

    def close(self) -> None:
        """End the thread; what still generates is told so."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=30)

    # --- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        with torch.no_grad(), autocast(self.bf16, self.device.type):
            while True:
                with self._wake:
                    self._wake.wait_for(
                        lambda: self._closed or self._waiting or self._active or self._calls or self._ahead
                    )
                    if self._closed:
                        break
                try:
                    self._turn()
                except Exception as error:  # a request must end in an answer or an error, never in silence
                    logger.error("a step failed: %s", type(error).__name__)
                    self._begin_anew(error)
        for generation in [*self._active, *self._waiting]:
            generation.end("error", RuntimeError("the server was stopped"))
        for _, future in [*self._calls, *self._ahead]:
            future.cancel()

    def _begin_anew(self, error: Exception) -> None:
        """End all that generate, and keep nothing of what may be broken."""
        active, self._active = self._active, []
        self._cache, self._prefixes = Cache(layers=[]), Prefixes()
        for generation in active:
            generation.end("error", error)

    def _turn(self) -> None:
        """Who left goes, who waits comes, and one step for all."""
        self._drop([i for i, g in enumerate(self._active) if not self._goes_on(g)])
        self._forget_cancelled()
        if self._calls:
            self._answer(self._calls.popleft())
        elif self._ahead and not self._waiting:
            self._answer(self._ahead.popleft())
        for _ in range(max(1, len(self._waiting) - len(self._active))):  # one a turn, so that who generates goes on
            if self._waiting and len(self._active) < self.rows:  # meanwhile; more where more wait than generate
                self._begin(self._waiting.popleft())
        if self._active:
            self._drop(self._step())

    def _forget_cancelled(self) -> None:
        """What waits and nobody wants any more, with the sound that it holds."""
        with self._wake:
            self._waiting = collections.deque([g for g in self._waiting if self._goes_on(g)])
            for queue in (self._calls, self._ahead):
                kept = [call for call in queue if not call[1].cancelled()]
                queue.clear()
                queue.extend(kept)

    @staticmethod
    def _answer(call: Call) -> None:
        function, future = call
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    def _goes_on(self, generation: Generation) -> bool:
        if generation.cancelled:
            generation.end("cancelled")
        return not generation.ended

    def _begin(self, generation: Generation) -> None:
        """Read the prompt, choose the first token, and join the batch."""
        if not self._goes_on(generation):
            return
        try:
            prompt, generation.limit = generation.prepare()
            hidden, cache, _ = self._read(prompt)
            logits = self.model.head.logits(hidden)
            generation.length = len(prompt)
            generation.deliver(Started(len(prompt)))
            if not self._chosen(generation, logits[0]):
                self._join(generation, cache)
        except Exception as error:
            generation.end("error", error)

    def _read(self, prompt: torch.Tensor) -> tuple[torch.Tensor, DynamicCache, int]:
        """The last hidden state [1, width] of a prompt, its keys and values, and how many positions were new."""
        cache, known = self._prefixes.begin(prompt)
        positions = torch.arange(known, len(prompt), device=self.device)[None]
        out = self._decoder(
            inputs_embeds=prompt[None, known:],
            past_key_values=cache,
            use_cache=True,
            **({"position_ids": positions} if known and self._takes_positions else {}),
        )
        self._prefixes.keep(prompt, cache)
        return out.last_hidden_state[:, -1], cache, len(prompt) - known

    def _step(self) -> list[int]:
        """One token for each row; rows that are done."""
        lengths = torch.tensor([g.length for g in self._active], device=self.device)
        total = self._cache.get_seq_length() + 1
        mask = (torch.arange(total, device=self.device) >= (total - 1 - lengths)[:, None]).long()
        ids = torch.tensor([[g.last] for g in self._active], device=self.device)
        out = self._decoder(
            inputs_embeds=self.model.get_input_embeddings()(ids),
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            **({"position_ids": lengths[:, None]} if self._takes_positions else {}),
        )
        logits = self.model.head.logits(out.last_hidden_state[:, -1])
        self.steps += 1
        done = []
        for i, generation in enumerate(self._active):
            generation.length += 1
            if self._chosen(generation, logits[i]):
                done.append(i)
        return done

    def _chosen(self, generation: Generation, logits: torch.Tensor) -> bool:
        """Choose a token and deliver it; whether it was the last one. A fault in it ends this row alone."""
        sampling = generation.sampling
        try:
            logits[self.model.silent_ids] = -torch.inf
            token = draw(logits.float(), sampling, generation.draws)
        except Exception as error:
            generation.end("error", error)
            return True
        generation.last, generation.made = token.id, generation.made + 1
        ended = token.id in sampling.ends
        if not ended:
            generation.deliver(token)
        if ended or generation.made >= generation.limit:
            generation.end("stop" if ended else "length")
            return True
        return False

    def _drop(self, rows: Sequence[int]) -> None:
        """Take rows out, and the padding that only they had need of."""
        if not rows:
            return
        kept = [i for i in range(len(self._active)) if i not in set(rows)]
        self._active = [self._active[i] for i in kept]
        if not kept:
            self._cache = Cache(layers=[])
            return
        longest = max(g.length for g in self._active)
        index = torch.tensor(kept, device=self.device)
        self._cache = Cache(layers=[_moved(layer, index, longest) for layer in self._slabs])

    @property
    def _slabs(self) -> list[Slab]:
        return cast(list[Slab], self._cache.layers)

    def _join(self, generation: Generation, cache: DynamicCache) -> None:
        if not self._active:
            fresh = cast(list[Any], cache.layers)
            self._cache = Cache(layers=[Slab(_room(n.keys), _room(n.values), n.keys.shape[-2]) for n in fresh])
        else:
            longest = max(self._cache.get_seq_length(), generation.length)
            layers: list[Any] = []
            for old, new in zip(self._slabs, cast(list[Any], cache.layers), strict=True):
                keys, values = (
                    torch.cat([_right(a[:, :, : old.length], longest), _right(b, longest)])
                    for a, b in ((old.keys, new.keys), (old.values, new.values))
                )
                layers.append(Slab(_room(keys), _room(values), longest))
            self._cache = Cache(layers=layers)
        self._active.append(generation)


def draw(logits: torch.Tensor, sampling: TokenSampling, draws: torch.Generator | None) -> Token:
    """A token by its logits [V]: the likeliest, or drawn from the likeliest that together have probability top_p."""
    if draws is None:
        chosen = int(logits.argmax())
    else:
        shares = ((logits - logits.max()) / max(sampling.temperature, LEAST)).softmax(-1).cpu()
        if sampling.top_p < 1:
            shares, ids = shares.sort(descending=True)
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= max(sampling.top_p, LEAST), 0.0)
            chosen = int(ids[torch.multinomial(shares, 1, generator=draws)])
        else:
            chosen = int(torch.multinomial(shares, 1, generator=draws))
    if sampling.top is None:
        return Token(chosen)
    logs = logits.log_softmax(-1)
    best = logs.topk(sampling.top)
    return Token(chosen, float(logs[chosen]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))


def _right(part: torch.Tensor, length: int) -> torch.Tensor:
    """[rows, heads, n, d] -> [rows, heads, length, d], padded on the left."""
    return functional.pad(part, (0, 0, length - part.shape[2], 0))


def _room(part: torch.Tensor) -> torch.Tensor:
    return functional.pad(part, (0, 0, 0, GROW))


def _moved(layer: Slab, rows: torch.Tensor, longest: int) -> Slab:
    first = layer.length - longest
    keys, values = (_room(t[rows, :, first : layer.length]) for t in (layer.keys, layer.values))
    return Slab(keys, values, longest)
