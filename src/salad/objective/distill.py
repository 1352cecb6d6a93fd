"""alpha * D(teacher, student) + (1 - alpha) * NLL, from hidden states, chunk by chunk (SALAD, eqs. 5 and 6).

Logits are formed in float32 whatever the precision of the states: rounded to bf16 they would put errors
of 100 % and more into a KL near zero, which is where distillation starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast, get_args

import torch

from salad.config import Stage
from salad.objective.head import Head
from salad.types import SaladError

Divergence = Literal["kl", "reverse_kl", "jsd"]

# Rows of logits at a time. On a CPU a chunk's logits stay under the size that the C library gives back to the system
# each time, and what happens to them between the matrix products runs over a few rows that fit the cache.
CPU_CHUNK, CPU_ROWS, GPU_CHUNK = 128, 8, 1024
SPLITS = ("cuda",)  # devices that multiply bf16 several times as fast as float32, and can add it up in float32
RECOMPILE_LIMIT = 32  # graphs of one function: two a shape of head; beyond dynamo's 8 it would run slowly, unsaid


@dataclass(frozen=True)
class Objective:
    """What distillation brings down, by the names of a recipe's section (`of`). Without settings it is
    KL(teacher || student), by which M is measured whatever a recipe trains on.

    divergence: "kl" is KL(teacher || student), the paper's; "reverse_kl" is KL(student || teacher) (MiniLLM, Gu et al.
    2023); "jsd" is the generalised Jensen-Shannon divergence beta * KL(teacher || m) + (1 - beta) * KL(student || m),
    m = beta * teacher + (1 - beta) * student (GKD, Agarwal et al. 2023), where beta is `jsd_beta`. temperature: both
    logits are divided by it and the divergence is multiplied by its square (Hinton et al. 2015); the NLL has
    temperature 1. compile: what lies between the matrix products is fused with `torch.compile`.
    Raises SaladError on settings that do not fit.
    """

    divergence: Divergence = "kl"
    temperature: float = 1.0
    jsd_beta: float = 0.5
    compile: bool = False

    def __post_init__(self) -> None:
        if self.divergence not in get_args(Divergence):
            raise SaladError(f"divergence: {self.divergence!r}; expected one of {', '.join(get_args(Divergence))}")
        if not self.temperature > 0 or not 0 < self.jsd_beta < 1:
            got = f"temperature {self.temperature} and jsd_beta {self.jsd_beta}"
            raise SaladError(f"distill: got {got}, expected a temperature above 0 and a jsd_beta between 0 and 1")

    @classmethod
    def of(cls, section: Stage) -> Objective:
        """What a stage of a recipe asks for."""
        return cls(section.divergence, section.temperature, section.jsd_beta, section.compile)


PLAIN_KL = Objective()


@dataclass(frozen=True)
class Loss:
    """Sums over `count` positions, in nats: `total` carries the gradient, `kl` and `nll` do not.

    kl: the divergence that was asked for, KL(teacher || student) by default, times the temperature squared.
    """

    total: torch.Tensor
    kl: torch.Tensor
    nll: torch.Tensor
    count: int


def kl_per_position(teacher_logits: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) in nats for each row: [N, V], [N, V] -> [N], computed in float32 or wider."""
    wide = torch.promote_types(teacher_logits.dtype, torch.float32)
    log_t = teacher_logits.to(wide).log_softmax(dim=-1)
    log_s = student_logits.to(wide).log_softmax(dim=-1)
    return (log_t.exp() * (log_t - log_s)).sum(dim=-1)


def distill(
    student: torch.Tensor,
    teacher: torch.Tensor,
    student_head: Head | torch.Tensor,
    teacher_head: Head | torch.Tensor,
    targets: torch.Tensor,
    alpha: float = 1.0,
    objective: Objective = PLAIN_KL,
    *,
    chunk: int | None = None,
) -> Loss:
    """Loss at N paired positions.

    student [N, Hs], teacher [N, Ht]: last hidden states. student_head, teacher_head: how each makes logits of its own
    (a plain weight [V, Hs], [V, Ht] stands for a head without bias, scale or cap).
    targets int64 [N]: the token both predict. No [N, V] tensor is kept: gradients are formed with the chunk's
    logits. Gradients flow to `student` and, where they are trained, to weight and bias of `student_head`. N = 0: zero.

    chunk: rows whose logits are formed at a time. Raises SaladError on shapes that do not fit.
    """
    own, other = (h if isinstance(h, Head) else Head(h) for h in (student_head, teacher_head))
    _check(student, teacher, own.weight, other.weight, targets)
    heads = own.detach(), other.detach()
    given = student, teacher.detach(), own.weight, own.bias, heads, targets, alpha, objective, chunk
    total, kl, nll = cast(Any, _Distill).apply(*given)
    return Loss(total, kl, nll, len(targets))


class _Distill(torch.autograd.Function):
    """Forms the gradients in the forward pass, so that a chunk's logits live once and are never formed again."""

    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        teacher: torch.Tensor,
        head_s: torch.Tensor,
        bias_s: torch.Tensor | None,
        heads: tuple[Head, Head],
        targets: torch.Tensor,
        alpha: float,
        objective: Objective,
        chunk: int | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wide = torch.promote_types(student.dtype, torch.float32)
        ctx.dtypes = student.dtype, head_s.dtype, None if bias_s is None else bias_s.dtype
        device = student.device.type
        # Only the logits must be exact: the gradient's product may round its inputs, as any mixed-precision layer does.
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else student.dtype
        grad_student = torch.zeros_like(student, dtype=wide) if ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head_s, dtype=wide) if ctx.needs_input_grad[2] else None
        grad_bias = torch.zeros_like(bias_s, dtype=wide) if bias_s is not None and ctx.needs_input_grad[3] else None
        wants_gradient = any(ctx.needs_input_grad[i] for i in (0, 2, 3))
        sums = torch.zeros(2, dtype=wide, device=student.device)
        chunk = chunk or (CPU_CHUNK if device == "cpu" else GPU_CHUNK)
        rows = chunk if device != "cpu" or objective.compile else CPU_ROWS
        between = _compiled() if objective.compile else _between
        how = alpha, objective.divergence, objective.temperature, objective.jsd_beta
        with torch.autocast(device, enabled=False):
            halves = low == torch.bfloat16 and device in SPLITS
            trains = ctx.needs_input_grad[2]
            products = tuple(_Product(head, wide, 1 + trains if halves else 0) for head in heads)
            plain = heads[0].scale == 1.0 and heads[0].cap is None
            head_low = head_s.to(low) if grad_student is not None else None
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                logits_s, logits_t = products[0](student[part]), products[1](teacher[part])
                target = targets[part, None]
                grads = torch.empty(logits_s.shape, dtype=low, device=student.device) if wants_gradient else None
                for first in range(0, len(target), rows):
                    few = slice(first, first + rows)
                    grad, sums_few = between(logits_s[few], logits_t[few], target[few], *how, wants_gradient)
                    sums += sums_few
                    if grads is not None and grad is not None:
                        grads[few] = grad if plain else grad * heads[0].slope(logits_s[few])
                if grads is None:
                    continue
                if grad_student is not None and head_low is not None:
                    grad_student[part] = grads @ head_low
                if grad_head is not None:
                    grad_head += grads.T @ student[part].to(low)
                if grad_bias is not None:
                    grad_bias += grads.to(wide).sum(dim=0)
        kl, nll = sums
        ctx.save_for_backward(grad_student, grad_head, grad_bias)
        ctx.mark_non_differentiable(kl, nll)
        return alpha * kl + (1.0 - alpha) * nll, kl, nll

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        grad_total, _kl, _nll = grads
        grad_student, grad_head, grad_bias = ctx.saved_tensors
        to_student = None if grad_student is None else (grad_student * grad_total).to(ctx.dtypes[0])
        to_head = None if grad_head is None else (grad_head * grad_total).to(ctx.dtypes[1])
        to_bias = None if grad_bias is None else (grad_bias * grad_total).to(ctx.dtypes[2])
        return to_student, None, to_head, to_bias, *(None,) * 5


class _Product:
    """states [n, H] -> logits [n, V] of a head, summed in float32 or wider and never rounded to less.

    parts: of bf16 that a float32 weight is made of, 0 for none. What student and teacher round alike leaves their
    divergence as it is: one part does where neither head trains, two (16 bits) where the student's moves away from the
    teacher's. Their states differ from the beginning and are always two parts. The product of low parts is left out.
    """

    def __init__(self, head: Head, wide: torch.dtype, parts: int) -> None:
        # A GPU multiplies halves and adds up in float32; a CPU would round the result, so there the head is cast up.
        weight, self.whole, self.wide = head.weight, head, wide
        self.native = weight.is_cuda and weight.dtype in (torch.bfloat16, torch.float16)
        self.parts = _halves(weight, parts) if parts and weight.dtype == torch.float32 else []
        self.head = None if self.parts else (weight if self.native else weight.to(wide)).T
        self.bias = None if head.bias is None else head.bias.to(wide)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        if self.head is None:
            high, *low = _halves(states, 1 if states.dtype == torch.bfloat16 else 2)
            pairs = [(high, part) for part in self.parts] + [(part, self.parts[0]) for part in low]
            raw = self._mm(*pairs[0])
            for pair in pairs[1:]:
                raw += self._mm(*pair)
        elif self.native and states.dtype == self.head.dtype:
            raw = torch.mm(states, self.head, out_dtype=self.wide)
        else:
            raw = states.to(self.wide) @ self.head.to(self.wide)
        return self.whole.finish(raw if self.bias is None else raw + self.bias)

    def _mm(self, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if states.is_cuda:
            return torch.mm(states, weight.T, out_dtype=self.wide)
        return states.to(self.wide) @ weight.T.to(self.wide)


def _halves(x: torch.Tensor, number: int) -> list[torch.Tensor]:
    """bf16 tensors that add up to `x`, to eight bits more with each."""
    out = []
    for _ in range(number):
        out.append(x.to(torch.bfloat16))
        x = x - out[-1]
    return out


def _between(
    logits_s: torch.Tensor,
    logits_t: torch.Tensor,
    target: torch.Tensor,
    alpha: float,
    divergence: str,
    temperature: float,
    beta: float,
    wants_gradient: bool,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Logits [n, V] -> gradient with respect to the student's [n, V], and the sums (divergence, NLL)."""
    log_1 = logits_s.log_softmax(dim=-1)  # temperature 1, which the NLL has
    log_s = log_1 if temperature == 1.0 else (logits_s / temperature).log_softmax(dim=-1)
    log_t = (logits_t if temperature == 1.0 else logits_t / temperature).log_softmax(dim=-1)
    nll = -log_1.gather(1, target).sum()
    p_t, p_s = log_t.exp(), log_s.exp()
    slope: torch.Tensor | None = None  # d divergence / d p_s, up to a constant of each row
    if divergence == "kl":
        amount = (log_t.sub_(log_s) if not torch.compiler.is_compiling() else log_t - log_s).mul(p_t).sum()
    elif divergence == "reverse_kl":
        slope = log_s - log_t
        amount = (p_s * slope).sum()
    else:
        log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log(1.0 - beta))
        slope = (1.0 - beta) * (log_s - log_m)
        amount = beta * (p_t * (log_t - log_m)).sum() + (p_s * slope).sum()
    sums = torch.stack([amount * temperature**2, nll])
    if not wants_gradient:
        return None, sums
    if slope is None:
        grad = (p_s - p_t) * (alpha * temperature)
    else:
        grad = p_s * (slope - (p_s * slope).sum(dim=-1, keepdim=True)) * (alpha * temperature)
    if alpha != 1.0:
        ones = torch.zeros_like(grad).scatter(1, target, 1.0)
        grad = grad + (1.0 - alpha) * (log_1.exp() - ones)
    return grad, sums


@cache
def _compiled() -> Callable[..., Any]:
    return compiled(_between, fullgraph=True)


def compiled(function: Callable[..., Any], dynamic: bool | None = True, **options: Any) -> Callable[..., Any]:
    """`function` compiled for any shape (dynamic: None for those alone that change), RECOMPILE_LIMIT graphs at most."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
    return torch.compile(function, dynamic=dynamic, **options)


def _check(
    student: torch.Tensor,
    teacher: torch.Tensor,
    head_s: torch.Tensor,
    head_t: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    n = len(targets)
    if len(student) != n or len(teacher) != n:
        raise SaladError(
            f"distill: got {len(student)} student and {len(teacher)} teacher states for {n} targets, expected as many "
            "of each"
        )
    if student.shape[1] != head_s.shape[1] or teacher.shape[1] != head_t.shape[1]:
        raise SaladError(
            f"distill: got student and teacher states {student.shape[1]} and {teacher.shape[1]} wide, expected "
            f"{head_s.shape[1]} and {head_t.shape[1]} as their heads"
        )
    if len(head_s) != len(head_t):
        raise SaladError(
            f"distill: the student has {len(head_s)} tokens, the teacher {len(head_t)}; both need one vocabulary"
        )
