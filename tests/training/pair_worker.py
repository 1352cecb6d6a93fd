"""Two processes that train together (gloo): `run_pair` starts both.

What rank 0 found is in FOLDER/found.json. A process that waits for ever is killed after minutes, which fails the test.
"""

import ctypes
import gc
import itertools
import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig

from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.model.check import load_llm
from salad.model.empty import WeightsOnMeta
from salad.model.freeze import freeze
from salad.model.llm import packs
from salad.model.teacher import Teacher
from salad.testing.forks import run_together
from salad.testing.models import make_examples, make_model
from salad.training.broadcast_weights import place
from salad.training.distributed import ProcessGroup, is_sharded, shard
from salad.training.loop import Schedule, autocast, train
from salad.training.tasks import CTCTask, DistillTask, Side, Together
from salad.types import Example, SaladError, Span

TIMEOUT_S = 120  # of each scenario
SMALL_ADAPTER = {
    "stride": 2, "adapter_layers": 1, "adapter_width": 16, "adapter_mlp": 24, "adapter_heads": 2, "adapter_kv_heads": 1
}  # fmt: skip


def run_pair(folder: Path, *scenarios: str) -> dict:
    """Both processes to their end, and what they found in each scenario, in turn."""
    run_together(both, folder, scenarios, timeout_s=TIMEOUT_S * len(scenarios))
    return json.loads((folder / "found.json").read_text())


def both(folder: Path, scenarios: Sequence[str], *, ready: Callable[[], None]) -> None:
    world = ProcessGroup.join()
    found = {name: SCENARIOS[name](world, folder) for name in scenarios}
    if world.is_first:
        (folder / "found.json").write_text(json.dumps(found))
    world.leave()


def plain(*lengths: int) -> list[Example]:
    """Documents that nobody speaks, of so many tokens."""
    return [
        Example(f"t{n}.{i}", (Span("text", 0, n),), np.arange(i, i + n) % 60, ((0, n),), 0, ())
        for i, n in enumerate(lengths)
    ]


class Own:
    """Batches of one process alone, in place of a stream."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def state_dict(self) -> dict:
        return {"lanes": {str(self.rank): {}}}

    def load_state_dict(self, state: dict) -> None:
        pass


def uneven(rank: int) -> list[list[Example]]:
    """Steps of one and of many packs, of long documents and of short ones: neither side ever needs as many passes."""
    few, many = make_examples(3, num=2), [*make_examples(5, num=6), *plain(40, 41, 15, 15, 15)]
    return [few, many] if rank == 0 else [many, few]


def make_task(
    batches: list,
    llm: str,
    world: ProcessGroup,
    *,
    ctc: bool = False,
    teacher: bool = True,
    context: int = 48,
    **options,
) -> tuple:
    """A student and its task; layers of the student, and those of the teacher, are spread over the processes."""
    model = make_model("fixed", 30 if ctc else 0)
    base = model if llm == "frozen" else make_model("fixed", 0)
    freeze(model, llm, bf16=False)
    freeze(base, "frozen", bf16=False)
    shard(model, world, **options)
    if teacher and base is not model:
        shard(base, world)
    most = {"most": lambda number: max(world.gather(number))} if teacher or base is model else {}
    reader = Teacher(base, cache=llm == "frozen", context=24, **most)
    task = DistillTask(model, reader, batches, alpha=0.5, context=context)
    if ctc:
        rng = np.random.default_rng(0)
        spans = [(rng.normal(size=(24, 6)).astype(np.float16), rng.integers(1, 31, 4)) for _ in range(4)]
        beside = CTCTask(model, spans, steps=len(batches), batch=3, seed=0)
        return model, Together(task, [Side("ctc", beside, 0.5)])
    return model, task


def schedule(steps: int = 2, **options) -> Schedule:
    rates = {"adapter": 1e-3, "ctc": 1e-3, "llm": 1e-4}
    return Schedule(steps=steps, lr=rates, warmup_steps=0, decay_share=0.0, checkpoint_every=2, keep=9, **options)


def metrics(folder: Path) -> list[list[float]]:
    """Loss and norm of the gradient of each step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[row["loss"], row["grad_norm"]] for row in rows]


def unequal(world: ProcessGroup, folder: Path) -> dict:
    """Batches of their own, of different sizes; plain text alone beside a frozen LLM; CTC on one process only."""
    found = {}
    for llm in ("full", "frozen"):
        model, task = make_task(uneven(world.rank), llm, world)
        settings = {"bf16": False, "world": world, "sharded": True, "stream": Own(world.rank)}
        train(model, task, schedule(), folder / llm, title="t", **settings)
        found[llm] = metrics(folder / llm)
    for name, batches in (
        ("ctc", [make_examples(3, num=4)] * 2),
        ("plain", [[*plain(40), *make_examples(3, num=1)]] * 2),
    ):
        model, task = make_task(batches, "frozen", world, ctc=name == "ctc")
        train(model, task, schedule(), folder / name, title="t", bf16=False, world=world, sharded=True)
        found[name] = metrics(folder / name)
    return found


class Collectives(TorchDispatchMode):
    """Counts them by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        space, _, name = function._schema.name.partition("::")
        self.counts[name] += space == "c10d"
        return function(*args, **(kwargs or {}))


def batches_of(steps: int) -> list[list[Example]]:
    return [make_examples(3 + step, num=6) for step in range(steps)]


def modes(world: ProcessGroup, folder: Path) -> list[dict]:
    """Every way to gather weights and to sum gradients, with a few packs a step and with one: a row each."""
    rows = []
    ways = itertools.product((False, True), (False, True), (24, 2048))
    for reshard, once, context in [*ways, (True, False, "again"), (False, True, "bf16")]:
        bf16 = context == "bf16"
        options = {"teacher": False, "context": {"again": 24, "bf16": 2048}.get(context, context), "bf16": bf16}
        model, task = make_task(batches_of(3), "full", world, reshard=reshard, **options)
        if context == "again":  # activations are formed again in the backward pass
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
            model.llm.train()
        collectives, at, packs = Collectives(), [], task.packs

        def counted(step, packs=packs, at=at, collectives=collectives):
            at.append((len(packs(step)), collectives.counts.copy()))
            return packs(step)

        task.packs = counted
        out = folder / f"{reshard}-{once}-{context}"
        settings = schedule(3, reshard=reshard, reduce_once=once)
        with collectives:
            train(model, task, settings, out, title="t", bf16=bf16, world=world, sharded=True)
        step = at[2][1] - at[1][1]
        row = {"reshard": reshard, "once": once, "context": context, "packs": at[1][0], "all": step.total()}
        row |= {"gathers": step["_allgather_base_"], "reduces": step["_reduce_scatter_base_"]}
        rows.append(row | {"metrics": metrics(out), "folder": str(out)})
    return rows


def resumed(world: ProcessGroup, folder: Path) -> None:
    """Two more steps than `folder` holds; layers, moments and averages are spread over the processes."""
    done = max((int(path.name[-6:]) for path in folder.glob("checkpoint-*")), default=0)
    model, task = make_task(batches_of(6), "full", world)
    train(model, task, schedule(done + 2, ema=0.5), folder, title="t", bf16=False, world=world, sharded=True)


def terminated(world: ProcessGroup, folder: Path) -> str:
    """SIGTERM for one of them."""
    model, task = make_task(batches_of(6), "full", world)
    packs = task.packs
    task.packs = lambda step: (world.rank and step == 2 and signal.raise_signal(signal.SIGTERM)) or packs(step)
    try:
        train(model, task, schedule(6), folder / "term", title="t", bf16=False, world=world, sharded=True)
    except SaladError as error:
        return str(error)


def started(world: ProcessGroup, folder: Path) -> dict:
    """The LLM in `folder`/llm read by the first process and spread: what each process took, and the whole weights."""
    found = {"ways": {}}
    for way, llm in (("full", "full"), ("lora", "lora"), ("plain", "full")):
        config = SaladConfig(
            llm_config=AutoConfig.from_pretrained(folder / "llm"),
            frame_dim=6,
            lora_rank=2 * (llm == "lora"),
            **SMALL_ADAPTER,
        )
        torch.manual_seed(world.rank * 7 + 1)  # the first one's is taken
        with Peak() as peak:
            if way == "plain" or world.is_first:
                model = SaladForConditionalGeneration.from_llm(load_llm(folder / "llm"), config)
            else:
                with WeightsOnMeta(draw=False):
                    model = SaladForConditionalGeneration(config)
            freeze(model, llm, bf16=llm == "lora")
            if way == "plain":
                shard(model, world)
            else:
                place(model, "cpu", world, partial(shard, world=world))
        whole = {n: (p.full_tensor() if is_sharded(p) else p).detach() for n, p in model.named_parameters()}
        with torch.no_grad(), autocast(llm == "lora"):
            states = model.text_hidden_states(torch.arange(3, 30), [0, 27])
        sums = {n: float(p.double().abs().sum()) for n, p in {**whole, **dict(model.named_buffers())}.items()}
        own = [sums, float(states.double().abs().sum()), torch.rand(1).item(), packs(model.llm)]
        found["ways"][way] = {"peak": world.gather(peak.bytes), "ranks": world.gather(own)}
        found["copy"] = 4 * sum(p.numel() for p in whole.values())
        del model, whole, states
    return found


class Peak:
    """The most memory of its own (no mapped files) that this process holds inside, beyond what it held before."""

    def __enter__(self) -> "Peak":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.bytes, self._before, self._done = 0, self._held(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.bytes = max(self.bytes, self._held() - self._before)

    def _held(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


SCENARIOS = {"modes": modes, "resumed": resumed, "started": started, "terminated": terminated, "unequal": unequal}
