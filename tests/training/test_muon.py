"""Muon in float32 against torch's own, which works in bf16."""

import pytest
import torch

from salad.training.muon import Muon32, orthogonal
from salad.training.optimizer import make_optimizer

SHAPES = [(24, 216), (216, 24), (32, 40), (16, 16), (1, 9)]


def by_the_iteration(matrix: torch.Tensor) -> torch.Tensor:
    """Newton and Schulz's iteration as it is written, in float64."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_both_forms_are_the_iteration(shape: tuple[int, int], condition: float) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    left, values, right = torch.linalg.svd(drawn, full_matrices=False)
    matrix = left @ torch.diag(torch.logspace(0, -torch.tensor(condition).log10().item(), len(values))) @ right
    expected = by_the_iteration(matrix)
    assert (orthogonal(matrix) - expected).norm() / expected.norm() < 1e-3


def test_an_update_is_torchs_but_for_its_rounding() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(72, 8, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    steps = (
        Muon32([ours.weight], 0.1),
        torch.optim.Muon([theirs.weight], weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    before = ours.weight.detach().clone()
    for _ in range(4):
        grad = torch.randn(8, 72)
        for linear, optimizer in zip((ours, theirs), steps, strict=True):
            linear.weight.grad = grad.clone()
            optimizer.param_groups[0]["lr"] = 0.01
            optimizer.step()
    moved, difference = (ours.weight - before).norm(), (ours.weight - theirs.weight).norm()
    assert difference < 0.02 * moved
    torch.testing.assert_close(
        steps[0].state[ours.weight]["momentum_buffer"], steps[1].state[theirs.weight]["momentum_buffer"]
    )


@pytest.mark.parametrize("bf16", [False, True])
def test_torchs_own_where_the_machine_trains_in_bf16(bf16: bool) -> None:
    matrix = torch.nn.Parameter(torch.randn(4, 8))
    groups = [{"params": [matrix], "lr": 0.1}]
    made = make_optimizer("muon", groups, {matrix: "adapter.lower.blocks.0.up.weight"}, 0.0, bf16=bf16)
    assert isinstance(made.parts[0], Muon32) is not bf16
