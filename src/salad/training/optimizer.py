"""The optimisers of the training loop: AdamW, or Muon for the matrices inside the ears' blocks beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from salad.training.muon import Muon32

Group = dict[str, Any]  # of parameters with its settings, or what is remembered of one parameter: as torch has them
Kind = Literal["adamw", "muon"]
BETAS = (0.9, 0.95)
ADAM, MUON = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)  # the moments that each of them keeps


class MuonAdamW:
    """Muon (Jordan et al. 2024; `torch.optim.Muon`) for `matrices`, AdamW for the rest, behind one optimiser's face.

    Muon's update is scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so one rate serves both.
    bf16: it is made orthogonal in bf16, as torch does; in float32 otherwise (`Muon32`).
    """

    def __init__(
        self, groups: Sequence[Group], matrices: set[torch.nn.Parameter], weight_decay: float, fused: bool, bf16: bool
    ) -> None:
        parts: tuple[list[Group], list[Group]] = ([], [])
        for group in groups:
            for own, is_matrix in zip(parts, (True, False), strict=True):
                if chosen := [p for p in group["params"] if (p in matrices) == is_matrix]:
                    own.append({**group, "params": chosen})
        self.matrices = matrices
        self.parts: list[torch.optim.Optimizer] = []
        if parts[0]:
            self.parts.append(
                torch.optim.Muon(parts[0], weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
                if bf16
                else Muon32(parts[0], weight_decay)
            )
        if parts[1]:
            self.parts.append(torch.optim.AdamW(parts[1], betas=BETAS, weight_decay=weight_decay, fused=fused or None))

    @property
    def param_groups(self) -> list[Group]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> Mapping[torch.Tensor, Group]:
        return {parameter: own for part in self.parts for parameter, own in part.state.items()}

    def set_state(self, parameter: torch.Tensor, state: Group) -> None:
        """Put back what a checkpoint holds of one parameter."""
        for part in self.parts:
            if any(parameter is p for group in part.param_groups for p in group["params"]):
                part.state[parameter] = state

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)


def make_optimizer(
    kind: Kind,
    groups: Sequence[Group],
    names: Mapping[torch.nn.Parameter, str],
    weight_decay: float,
    *,
    fused: bool = False,
    bf16: bool = False,
) -> torch.optim.Optimizer | MuonAdamW:
    """groups: as `torch.optim` takes them, whole and sharded parameters apart. names: of parameters; Muon's are
    matrices of the adapter's blocks. fused: AdamW by one kernel, which counts its steps on the device. bf16: the
    machine trains in bf16, and so may Muon."""
    if kind == "muon":
        matrices = {
            p for p, name in names.items() if p.ndim == 2 and name.startswith("adapter.") and ".blocks." in name
        }
        return MuonAdamW(groups, matrices, weight_decay, fused, bf16)
    return torch.optim.AdamW(list(groups), betas=BETAS, weight_decay=weight_decay, fused=fused or None)


def moments_of(optimizer: Any, parameter: torch.Tensor) -> tuple[str, ...]:
    """Names of what `optimizer` remembers of a parameter from step to step, beside the number of steps."""
    return MUON if parameter in getattr(optimizer, "matrices", ()) else ADAM
