"""A small training run for a process of its own: by `Fork`, or `python -m salad.testing.small_run SHARD FOLDER`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.measure.divergence import divergence, speech_ears, summary
from salad.model.teacher import Teacher
from salad.sequence.stream import ShardSource, Stream, StreamBatches
from salad.testing.models import make_examples, make_model
from salad.training.distributed import ProcessGroup, shard
from salad.training.loop import Schedule, train
from salad.training.tasks import DistillTask
from salad.types import Example, Span


def plain(step: int) -> Example:
    """A document that nobody speaks: one process hears nothing in its pack."""
    ids = np.arange(1 + step, 45 + step) % 60
    return Example(f"t{step}", (Span("text", 0, 44),), ids, ((0, 44),), 0, ())


class SlowTask(DistillTask):
    pause_s = 0.0

    def packs(self, step: int) -> list[Any]:
        time.sleep(self.pause_s)
        return super().packs(step)


def work(
    folder: Path,
    sharded: bool = False,
    streamed: bool = False,
    steps: int = 4,
    pause_s: float = 0.0,
    *,
    ready: Callable[[], None],
) -> None:
    """`steps` steps with `pause_s` before each, from where `folder` stands."""
    world = ProcessGroup.join()
    model, base = make_model("fixed", 0), make_model("fixed", 0)
    if sharded:
        shard(model, world)
    batches = [[*make_examples(step % 5, num=6), plain(step)] for step in range(steps)]
    stream = None
    if streamed:
        own = [[(example, 12) for example in batch] for batch in batches]
        source = ShardSource("s", 1.0, [len(shard) for shard in own], own.__getitem__, lambda document, epoch: document)
        lanes = Stream([source], positions=48, seed=1, lanes=2, buffer=2, rank=world.rank, size=world.size)
        stream = StreamBatches(lanes, steps)
    task = SlowTask(model, Teacher(base, cache=False), stream or batches, alpha=0.5, context=48)
    task.pause_s = pause_s
    schedule = Schedule(
        steps=steps, lr={"adapter": 1e-3, "llm": 1e-4}, warmup_steps=2, checkpoint_every=2, keep=3, probe_every=2
    )
    ready()
    sharded = sharded and world.size > 1
    heldout = make_examples(9, num=3)

    def probe() -> dict[str, float]:
        return {"misalignment": summary(divergence(model, Teacher(base, cache=False), heldout, speech_ears(model))).all}

    train(
        model, task, schedule, folder, title="t", bf16=False, probe=probe, world=world, sharded=sharded, stream=stream
    )
    world.leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[2]), sys.argv[1] == "1", ready=lambda: None)
