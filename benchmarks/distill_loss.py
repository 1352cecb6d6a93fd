"""The distillation loss from hidden states, with gradient: ours, full logits + kl_div, and the matrix products alone.

    python benchmarks/distill_loss.py [--n 1024 --width 576 --vocab 49152 --precision bf16 --compile]

bf16: states and heads come in float32 and the step runs under autocast, as in training; logits are formed in float32
by ours (`ok` compares with float64 on a few rows), in bf16 by the peer, whose KL is wrong near zero for that reason.
floor: what an exact loss needs: both sides' logits in float32, one gradient in bf16. --halves (CUDA): heads and states
come in bf16, whose products a GPU sums in float32.
"""

from __future__ import annotations

import argparse

import torch
from bench import DEVICE, in_turn, line, set_threads

from salad.objective.distill import CPU_CHUNK, GPU_CHUNK, Objective, distill, kl_per_position
from salad.training.loop import autocast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1024)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--halves", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    set_threads()
    torch.manual_seed(0)
    bf16 = arguments.precision == "bf16"
    dtype = torch.bfloat16 if arguments.halves else torch.float32
    head = (torch.randn(arguments.vocab, arguments.width, device=DEVICE) * 0.05).to(dtype)
    teacher = torch.randn(arguments.n, arguments.width, device=DEVICE).to(dtype)
    student = (teacher.float() + 0.1 * torch.randn_like(teacher.float())).to(dtype).requires_grad_()
    targets = torch.randint(0, arguments.vocab, (arguments.n,), device=DEVICE)
    low = torch.bfloat16 if bf16 else torch.float32

    def ours() -> torch.Tensor:
        student.grad = None
        with autocast(bf16, DEVICE):
            loss = distill(student, teacher, head, head, targets, objective=Objective(compile=arguments.compile))
        loss.total.backward()
        return loss.total.detach()

    def peer() -> torch.Tensor:
        student.grad = None
        with autocast(bf16, DEVICE):
            log_s = torch.nn.functional.linear(student, head).float().log_softmax(-1)
            with torch.no_grad():
                log_t = torch.nn.functional.linear(teacher, head).float().log_softmax(-1)
            loss = torch.nn.functional.kl_div(log_s, log_t, reduction="sum", log_target=True)
        loss.backward()
        return loss.detach()

    chunk = CPU_CHUNK if DEVICE == "cpu" else GPU_CHUNK
    grads, low_head = torch.randn(chunk, arguments.vocab, device=DEVICE).to(low), head.to(low)

    def floor() -> None:
        with torch.no_grad():
            for start in range(0, arguments.n, chunk):
                rows = slice(start, start + chunk)
                student[rows] @ head.T
                teacher[rows] @ head.T
                grads[: len(student[rows])] @ low_head

    times = in_turn({"ours": ours, "peer": peer, "floor": floor}, arguments.rounds)
    few = slice(0, 32)
    loss = float(distill(student[few].detach(), teacher[few], head, head, targets[few]).kl)
    double = head.double()
    exact = float(kl_per_position(teacher[few].double() @ double.T, student[few].detach().double() @ double.T).sum())
    ok = abs(loss / exact - 1) < 1e-4
    size = {"n": arguments.n, "width": arguments.width, "vocab": arguments.vocab, "precision": arguments.precision}
    line(
        "distill_loss",
        times["ours"],
        "full logits + kl_div",
        times["peer"],
        times["floor"],
        ok,
        compiled=arguments.compile,
        **size,
    )


if __name__ == "__main__":
    main()
