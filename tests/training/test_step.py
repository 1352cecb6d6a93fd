"""What a step costs beside its arithmetic: how often the host waits for the device, what is moved and made."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from salad.files import read_json
from salad.model.teacher import Teacher
from salad.model.transfer import to_device
from salad.testing.models import make_examples, make_model
from salad.training import loop, optimizer, tasks
from salad.training.checkpoint import Saved
from salad.training.loop import Schedule, train
from salad.training.tasks import DistillTask
from salad.types import SaladError


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for a device: each value that is taken out of a tensor, each size that depends on
    values (`unsized` names these), and each index by a mask. Copies to the host cannot be told from others here."""

    UNSIZED = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal", "repeat_interleave")

    def __init__(self) -> None:
        super().__init__()
        self.count, self.unsized = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        by_mask = name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
        if name in self.UNSIZED or by_mask:
            self.unsized.append(name)
        self.count += name == "_local_scalar_dense"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("context", [24, 2048])
def test_the_host_waits_once_a_step_before_the_optimiser(tmp_path, monkeypatch, context):
    """However many packs; with the fused AdamW that a GPU gets (a CPU's own reads its counters, which are its own)."""
    waits, at_packs, at_update = Waits(), [], []

    def fused(kind, groups, names, weight_decay, **_):
        optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
        optimizer.register_step_pre_hook(lambda *_: at_update.append(waits.count))
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", fused)
    model, base = make_model(), make_model()
    task = DistillTask(model, Teacher(base, cache=False), [make_examples(5, num=6)] * 5, alpha=0.5, context=context)
    packs = task.packs
    task.packs = lambda step: at_packs.append(waits.count) or packs(step)
    schedule = Schedule(steps=5, lr={"adapter": 1e-3, "llm": 1e-4}, warmup_steps=0, decay_share=0.0, checkpoint_every=5)
    with waits:
        train(model, task, schedule, tmp_path, title="t", bf16=False)
    assert (len(packs(0)) > 1) == (context == 24)
    assert [after - before for before, after in itertools.pairwise(at_packs)] == [1] * 4
    assert [after - before for before, after in zip(at_packs, at_update, strict=True)] == [1] * 5
    assert not waits.unsized


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path):
    model = make_model()
    task = DistillTask(model, Teacher(make_model(), cache=False), [make_examples(5, num=6)], alpha=0.5, context=2048)
    next(model.adapter.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(SaladError, match="grad_norm: got (inf|nan) at step 0"):
        train(model, task, Schedule(steps=1, lr={"adapter": 1e-3}, warmup_steps=0), tmp_path, title="t", bf16=False)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_pack_s_frames_and_indices_go_to_the_device_together(monkeypatch):
    """One tensor of frames and one of indices a pack, whatever its number of spans."""
    model = make_model()
    task = DistillTask(model, Teacher(make_model(), cache=False), [make_examples(5, num=6)], alpha=0.5, context=2048)
    moved, hear = [], task.hear
    monkeypatch.setattr(tasks, "to_device", lambda *given: moved.append(given[0]) or to_device(*given))
    task.hear = lambda frames: stored.append({f.untyped_storage().data_ptr() for f in frames}) or hear(frames)
    stored = []
    (pack,) = task.packs(0)
    spans = [span for example in pack for span in example.speech_frames]
    task.loss(pack)
    assert len(spans) > 3 and [len(arrays) for arrays in moved] == [len(spans), 5] and len(stored[0]) == 1
    for array, tensor in zip(spans, to_device(spans, "cpu", torch.float32), strict=True):
        assert tensor.dtype == torch.float32 and np.array_equal(tensor.numpy(), array.astype(np.float32))


def test_a_fused_optimiser_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    """It counts its steps on the device; what it resumes from may have been counted on the host, and the other way."""

    def run(folder, fused, steps):
        made = optimizer.make_optimizer
        monkeypatch.setattr(loop, "make_optimizer", lambda *given, **_: made(*given, fused=fused))
        model, base = make_model(), make_model()
        task = DistillTask(model, Teacher(base, cache=False), [make_examples(5, num=6)] * 6, alpha=0.5, context=2048)
        schedule = Schedule(
            steps=steps, lr={"adapter": 1e-3, "llm": 1e-4}, warmup_steps=0, decay_share=0.0, checkpoint_every=2, keep=9
        )
        saved = Saved(train(model, task, schedule, folder, title="t", bf16=False), ["weights"])
        return {name: saved.read(name) for name in saved}

    wanted = run(tmp_path / "plain", False, 6)
    for steps, fused in ((2, True), (4, False), (6, True)):
        ours = run(tmp_path / "both", fused, steps)
    assert all(torch.allclose(ours[name], value, atol=1e-5) for name, value in wanted.items())
    assert set(read_json(tmp_path / "both" / "checkpoint-000006" / "state.json")["adam_steps"].values()) == {6.0}
