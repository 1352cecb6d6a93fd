"""alpha * KL(teacher || student) + (1 - alpha) * NLL, from hidden states, chunk by chunk (SALAD, eqs. 5 and 6).

Logits are formed in float32 whatever the precision of the states: rounded to bf16 they would put errors
of 100 % and more into a KL near zero, which is where distillation starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Loss", "distill", "kl_per_position"]

CHUNK = 128  # logits of a chunk stay under the size that the C library hands back to the system each time


@dataclass(frozen=True)
class Loss:
    """Sums over `count` positions, in nats: `total` carries the gradient, `kl` and `nll` do not."""

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
    student_head: torch.Tensor,
    teacher_head: torch.Tensor,
    targets: torch.Tensor,
    alpha: float = 1.0,
) -> Loss:
    """Loss at N paired positions.

    student [N, Hs], teacher [N, Ht]: last hidden states. student_head [V, Hs], teacher_head [V, Ht].
    targets int64 [N]: the token both predict. No [N, V] tensor is kept: gradients are formed with the chunk's
    logits. N = 0 gives zero.
    """
    total, kl, nll = _Distill.apply(student, teacher.detach(), student_head, teacher_head, targets, alpha)
    return Loss(total, kl, nll, len(targets))


class _Distill(torch.autograd.Function):
    """Forms the gradients in the forward pass, so that a chunk's logits live once and are never formed again."""

    @staticmethod
    def forward(ctx, student, teacher, head_s, head_t, targets, alpha):  # type: ignore[no-untyped-def]
        wide = torch.promote_types(student.dtype, torch.float32)
        ctx.dtypes = student.dtype, head_s.dtype
        device = student.device.type
        # Only the logits must be exact: the gradient's product may round its inputs, as any mixed-precision layer does.
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else wide
        grad_student = torch.zeros_like(student, dtype=wide) if ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head_s, dtype=wide) if ctx.needs_input_grad[2] else None
        kl = torch.zeros((), dtype=wide, device=student.device)
        nll = torch.zeros_like(kl)
        with torch.autocast(student.device.type, enabled=False):
            head_low = head_s.to(low)
            head_s, head_t = head_s.to(wide), head_t.to(wide)
            for start in range(0, len(targets), CHUNK):
                part = slice(start, start + CHUNK)
                states = student[part].to(wide)
                log_s = (states @ head_s.T).log_softmax(dim=-1)
                log_t = (teacher[part].to(wide) @ head_t.T).log_softmax(dim=-1)
                p_t = log_t.exp()
                target = targets[part, None]
                nll -= log_s.gather(1, target).sum()
                kl += log_t.sub_(log_s).mul_(p_t).sum()
                if grad_student is None and grad_head is None:
                    continue
                # d KL / d logits = p_s - p_t; d NLL / d logits = p_s - onehot
                grad = log_s.exp_().sub_(p_t.mul_(alpha))
                grad.scatter_add_(1, target, torch.full_like(target, alpha - 1.0, dtype=wide))
                if grad_student is not None:
                    grad_student[part] = grad.to(low) @ head_low
                if grad_head is not None:
                    grad_head.addmm_(grad.T, states)
        ctx.save_for_backward(grad_student, grad_head)
        ctx.mark_non_differentiable(kl, nll)
        return alpha * kl + (1.0 - alpha) * nll, kl, nll

    @staticmethod
    def backward(ctx, grad_total, _kl, _nll):  # type: ignore[no-untyped-def]
        grad_student, grad_head = ctx.saved_tensors
        to_student = None if grad_student is None else (grad_student * grad_total).to(ctx.dtypes[0])
        to_head = None if grad_head is None else (grad_head * grad_total).to(ctx.dtypes[1])
        return to_student, None, to_head, None, None, None
