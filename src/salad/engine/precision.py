"""float32 or bf16: timed on the machine at hand, for each use that a run makes of its LLM.

A processor that multiplies bf16 natively need not be faster at it: with AVX512-bf16 and no AMX, float32 wins. So one
decoder layer of the LLM's shape and a part of its head are timed in both, as the code of each use runs them:

- train: a frozen layer holds its matrices in bf16, a trained one casts them; logits are formed in float32 in either.
- score: forward alone, on frozen matrices.
- write: documents side by side, one new position each, the whole model in one precision, one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

from salad.engine.local import torch_threads
from salad.engine.machine import machine
from salad.engine.memory import keep_freed_memory
from salad.files import JsonObject, read_json, write_json

Precision = Literal["auto", "fp32", "bf16"]
Use = Literal["train", "score", "write"]

GAIN = 1.15  # bf16 rounds: it must save at least this to be taken
ROUNDS, LEAST_ROUNDS, BUDGET_S = 5, 3, 0.2  # of each thing that is timed
TRAIN_POSITIONS, SCORE_POSITIONS, FEWEST = 256, 1000, 32
LAYER_PRODUCTS = 10**9  # multiplications in a layer of TRAIN_POSITIONS; larger layers are timed on fewer positions
TARGETS = 128  # rows of logits at a time, as the loss forms them
HEAD_ROWS = 8192  # of the vocabulary, for products that are bound by arithmetic
MLP_NAMES = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
WRITTEN, BEFORE = 48, 128  # documents written side by side, and positions before the new one


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder that its time depends on."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @classmethod
    def of(cls, config: JsonObject) -> DecoderShape:
        """Read the shape from a config.json, a text LLM's or a SALAD model's."""
        found = _text_config(config.get("llm_config") or config)
        hidden, heads = found.hidden_size, found.num_attention_heads
        return cls(
            hidden,
            mlp_width(found),
            found.num_hidden_layers,
            heads,
            getattr(found, "num_key_value_heads", None) or heads,
            getattr(found, "head_dim", None) or hidden // heads,
            found.vocab_size,
        )

    @property
    def layer_parameters(self) -> int:
        return self.hidden * (2 * self.head_dim * (self.heads + self.kv_heads) + 3 * self.mlp)


def _text_config(values: JsonObject) -> Any:
    """The configuration under names that all families share: a config.json has its family's, as GPT-2's n_embd."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if values.get("model_type") in CONFIG_MAPPING:
        return AutoConfig.for_model(**values).get_text_config()
    return SimpleNamespace(**(values.get("text_config") or values))


def mlp_width(config: Any) -> int:
    """The MLP's width in a text LLM's configuration; families name it in many ways, some not at all: 4 widths then."""
    found = (getattr(config, name, None) for name in MLP_NAMES)
    return int(next(filter(None, found), 4 * config.hidden_size))


@dataclass(frozen=True)
class Timing:
    """Seconds that the LLM's layers and head take for one use."""

    fp32_s: float
    bf16_s: float

    @property
    def bf16(self) -> bool:
        return takes_bf16(self.fp32_s, self.bf16_s)


def takes_bf16(fp32_s: float, bf16_s: float) -> bool:
    """bf16 where it is at least GAIN times as fast."""
    return bf16_s <= fp32_s / GAIN


def decide(precision: Precision, use: Use, device: str, timings: Callable[[], Mapping[Use, Timing]]) -> bool:
    """Whether `use` computes in bf16: as told; on a GPU; else where `timings` (asked only then) say it is faster."""
    if precision != "auto":
        return precision == "bf16"
    return device != "cpu" or timings()[use].bf16


def summary(timings: Mapping[Use, Timing]) -> str:
    """Such as `train bf16 (1.8 x as fast), write fp32 (bf16 0.6 x as fast)`."""
    parts = []
    for use, timing in timings.items():
        ratio = f"{timing.fp32_s / timing.bf16_s:.2g} x as fast"
        parts.append(f"{use} bf16 ({ratio})" if timing.bf16 else f"{use} fp32 (bf16 {ratio})")
    return ", ".join(parts)


def measured(
    llm: Callable[[], Path], threads: int, *, trained: bool = False, keep: Path | None = None
) -> Mapping[Use, Timing]:
    """The timings kept in `keep`, or those of this machine, taken once a process for the LLM whose folder `llm` gives.

    They are kept in `keep`: whoever asks again, on whatever machine, gets the same.
    """
    if keep is not None and keep.exists():
        kept = read_json(keep)["uses"]
        return {use: Timing(kept[use]["fp32_s"], kept[use]["bf16_s"]) for use in get_args(Use)}
    folder = llm()
    timings = measure(DecoderShape.of(read_json(folder / "config.json")), threads, trained=trained)
    if keep is not None:
        uses = {use: {"bf16": t.bf16, "fp32_s": t.fp32_s, "bf16_s": t.bf16_s} for use, t in timings.items()}
        write_json(keep, {"uses": uses, "gain": GAIN, "threads": threads, "llm": folder.name, "machine": machine()})
    return timings


@cache
def measure(shape: DecoderShape, threads: int, *, trained: bool = False) -> Mapping[Use, Timing]:
    """Time both precisions for each use on this CPU; about two seconds for an LLM of 135 M parameters.

    trained: the LLM's own weights train. Draws nothing from torch's global generator.
    """
    import torch

    keep_freed_memory()
    bench = _Bench(shape)
    with torch_threads(threads), torch.inference_mode(False):
        train = _whole(shape, bench.train(trained), bench.loss())
        score = _whole(shape, bench.score(), bench.logits())
    with torch_threads(1):
        write = _whole(shape, bench.write(), bench.next_token())
    return {"train": train, "score": score, "write": write}


Pair = tuple[float, float]  # seconds in fp32 and in bf16


def _whole(shape: DecoderShape, layer: Pair, head: Pair) -> Timing:
    """All layers, and the head once."""
    fp32_s, bf16_s = (shape.layers * own + once for own, once in zip(layer, head, strict=True))
    return Timing(fp32_s, bf16_s)


def _in_turn(functions: Sequence[Callable[[], Any]]) -> list[float]:
    """Median seconds of each; they alternate, so that a slow moment of the machine hits all of them."""
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    began = time.perf_counter()
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() - began > BUDGET_S:
            break
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


class _Bench:
    """A decoder layer (RMS norms, grouped attention, gated MLP) and a head, of random weights."""

    def __init__(self, shape: DecoderShape) -> None:
        import torch

        self.shape, self.torch = shape, torch
        self.generator = torch.Generator().manual_seed(0)
        h, d = shape.hidden, shape.head_dim
        sizes = {
            "q": (shape.heads * d, h),
            "k": (shape.kv_heads * d, h),
            "v": (shape.kv_heads * d, h),
            "o": (h, shape.heads * d),
            "gate": (shape.mlp, h),
            "up": (shape.mlp, h),
            "down": (h, shape.mlp),
        }
        self.weights = {name: self.draw(*size) / size[1] ** 0.5 for name, size in sizes.items()}
        self.low = {name: weight.bfloat16() for name, weight in self.weights.items()}

    def draw(self, *size: int) -> Any:
        return self.torch.randn(*size, generator=self.generator)

    def positions(self, most: int) -> int:
        share = LAYER_PRODUCTS / (self.shape.layer_parameters * TRAIN_POSITIONS)
        return max(FEWEST, int(most * min(1.0, share)))

    def layer(self, x: Any, weights: Mapping[str, Any], before: tuple[Any, Any] | None = None) -> Any:
        """[B, L, hidden] -> the same. before: keys and values of earlier positions, each [B, kv_heads, *, d]."""
        functional, d = self.torch.nn.functional, self.shape.head_dim
        normal = functional.rms_norm(x, (self.shape.hidden,))
        q, k, v = (
            functional.linear(normal, weights[name]).unflatten(-1, (-1, d)).transpose(1, 2) for name in ("q", "k", "v")
        )
        dtype = q.dtype
        if before is not None:
            k, v = (self.torch.cat(pair, dim=2) for pair in zip(before, (k, v), strict=True))
        else:  # packed attention takes the float32 kernel
            q, k, v = q.float(), k.float(), v.float()
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=before is None, enable_gqa=True)
        x = x + functional.linear(seen.transpose(1, 2).flatten(2).to(dtype), weights["o"])
        normal = functional.rms_norm(x, (self.shape.hidden,))
        gated = functional.silu(functional.linear(normal, weights["gate"])) * functional.linear(normal, weights["up"])
        return x + functional.linear(gated, weights["down"])

    def autocast(self, bf16: bool) -> Any:
        return self.torch.autocast("cpu", self.torch.bfloat16, enabled=bf16, cache_enabled=False)

    def train(self, trained: bool) -> Pair:
        """A layer forward and backward."""
        x = self.draw(1, self.positions(TRAIN_POSITIONS), self.shape.hidden).requires_grad_()
        own = {name: weight.clone().requires_grad_() for name, weight in self.weights.items()} if trained else None

        def step(weights: Mapping[str, Any], bf16: bool) -> None:
            with self.autocast(bf16):
                out = self.layer(x, weights)
            out.sum().backward()
            for each in (x, *(own or {}).values()):
                each.grad = None

        plain, low = own or self.weights, own or self.low
        fp32_s, bf16_s = _in_turn([lambda: step(plain, False), lambda: step(low, True)])
        return fp32_s, bf16_s

    def score(self) -> Pair:
        x = self.draw(1, self.positions(SCORE_POSITIONS), self.shape.hidden)

        def step(weights: Mapping[str, Any], bf16: bool) -> None:
            with self.torch.no_grad(), self.autocast(bf16):
                self.layer(x, weights)

        fp32_s, bf16_s = _in_turn([lambda: step(self.weights, False), lambda: step(self.low, True)])
        return fp32_s, bf16_s

    def write(self) -> Pair:
        x, d = self.draw(WRITTEN, 1, self.shape.hidden), self.shape.head_dim
        before = tuple(self.draw(WRITTEN, self.shape.kv_heads, BEFORE, d) for _ in range(2))
        low_x, low_before = x.bfloat16(), tuple(part.bfloat16() for part in before)

        def step(*arguments: Any) -> None:
            with self.torch.no_grad():
                self.layer(*arguments)

        fp32_s, bf16_s = _in_turn([lambda: step(x, self.weights, before), lambda: step(low_x, self.low, low_before)])
        return fp32_s, bf16_s

    def head(self, rows: int) -> tuple[Any, Any]:
        """[rows, hidden] in both precisions."""
        few = self.draw(min(rows, 2048), self.shape.hidden)
        head = few.repeat(-(-rows // len(few)), 1)[:rows]
        return head, head.bfloat16()

    def logits(self) -> Pair:
        """Two readers' probabilities at as many targets as a layer has positions: in float32 in either case."""
        rows = min(HEAD_ROWS, self.shape.vocab)
        head, _ = self.head(rows)
        states = self.draw(TARGETS, self.shape.hidden)
        (seconds,) = _in_turn([lambda: (states @ head.T).softmax(-1)])
        whole = 2 * seconds * self.shape.vocab / rows * self.positions(SCORE_POSITIONS) / 2 / TARGETS
        return whole, whole

    def loss(self) -> Pair:
        """What half of the positions cost as targets: both sides' logits in float32, one gradient's product."""
        rows = min(HEAD_ROWS, self.shape.vocab)
        head, low = self.head(rows)
        states, grads = self.draw(TARGETS, self.shape.hidden), self.draw(TARGETS, rows)
        low_grads = grads.bfloat16()
        logits, fp32_s, bf16_s = _in_turn(
            [lambda: (states @ head.T).softmax(-1), lambda: grads @ head, lambda: low_grads @ low]
        )
        factor = self.shape.vocab / rows * self.positions(TRAIN_POSITIONS) / 2 / TARGETS
        return factor * (2 * logits + fp32_s), factor * (2 * logits + bf16_s)

    def next_token(self) -> Pair:
        """Logits of one position of each document: bound by reading the head, so more of it than a cache holds."""
        rows = min(self.shape.vocab, max(HEAD_ROWS, 2**25 // self.shape.hidden))
        head, low = self.head(rows)
        states = self.draw(WRITTEN, self.shape.hidden)
        low_states, factor = states.bfloat16(), self.shape.vocab / rows
        fp32_s, bf16_s = _in_turn([lambda: states @ head.T, lambda: low_states @ low.T])
        return factor * fp32_s, factor * bf16_s
