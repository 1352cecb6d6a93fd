"""Time this machine: one decoder layer, one head, whole steps of two depths, a collective, a shard of each data job."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from salad.config import Recipe
from salad.engine.local import torch_threads
from salad.engine.machine import default_device, machine, wait_for
from salad.engine.memory import keep_freed_memory
from salad.engine.precision import DecoderShape, decide
from salad.engine.precision import measure as measure_precision
from salad.objective.distill import distill
from salad.pipeline.plan.card import Card, Figure
from salad.pipeline.plan.check import check, sentence
from salad.pipeline.plan.data_jobs import time_jobs
from salad.pipeline.plan.small_steps import time_ears, time_load, time_steps
from salad.pipeline.plan.timing import is_busy, measured, processor_seconds, quickest
from salad.progress import console
from salad.training.estimate import llm_config
from salad.training.loop import autocast

POSITIONS = 512
TARGETS = 256
LIBRARIES = ("salad.pipeline.stages.report", "transformers.models.llama.modeling_llama", "peft")
SENT = 2**26  # bytes of an all-reduce


def calibrated(recipe: Recipe, path: Path | None, runs: Sequence[Path] = ()) -> Path:
    """Write the card of this machine to `path`, by default a file named by the device; returns where it is.

    runs: finished ones of this machine, by which the card says how far off its forecasts are.
    """
    card = calibrate(recipe)
    path = path or Path("-".join(re.findall(r"[a-z0-9]+", card.device.lower())) + ".card.json")
    card.write(path)  # before anything is wrong with a run: this took minutes
    card = replace(card, checks=tuple(check(card, folder) for folder in runs))
    card.write(path)
    for found in card.checks:
        console.print(sentence(found), highlight=False)
    return path


def calibrate(recipe: Recipe) -> Card:
    """The card of this machine for recipes like this one, in a few minutes; nothing is fetched, nothing is kept."""
    keep_freed_memory()
    device = default_device()
    here = machine()
    name = here["gpu"] or f"{here['cpu']}, {here['cores']} cores"
    config = llm_config(recipe)
    shape = DecoderShape.of(config.to_dict())
    figures: dict[str, Figure] = {}
    load_before, busy = os.getloadavg()[0], is_busy()
    if busy:
        text = (
            f"calibrate: the load is {load_before:.1f}: other processes compute here, so processor seconds are counted"
        )
        console.print(text, highlight=False)
    counted = processor_seconds(recipe.threads) if busy else nullcontext()
    with torch_threads(recipe.threads), torch.inference_mode(False), counted:
        bf16 = decide(recipe.precision, "train", device, lambda: measure_precision(shape, recipe.threads))
        jobs: list[tuple[str, Callable[[], dict[str, Figure]]]] = [
            ("one decoder layer", lambda: time_layer(shape, device, bf16)),
            ("one head", lambda: time_head(shape, device)),
            ("steps of two depths", lambda: time_steps(recipe, config, device, bf16)),
            ("ears in two parts", lambda: time_ears(recipe, config, device, bf16)),
            ("the LLM from the disk", lambda: time_load(recipe)),
        ]
        for what, found in jobs:
            console.print(f"calibrate: {what}", highlight=False)
            figures |= found()
    console.print("calibrate: a process and its libraries, a collective of two", highlight=False)
    figures |= time_start() | time_collective()
    counted = processor_seconds(1) if busy else nullcontext()
    with tempfile.TemporaryDirectory(prefix="salad-calibrate-") as folder, counted:
        figures |= time_jobs(recipe, Path(folder), here["cores"] or 1, busy)
    about = {
        **here,
        "llm": recipe.assets.llm,
        "hidden": shape.hidden,
        "threads": recipe.threads,
        "bf16": bf16,
        "load_before": round(load_before, 2),
    }
    return Card(name, here["gpu"] is not None, here["cores"], figures, about)


def time_layer(shape: DecoderShape, device: str, bf16: bool) -> dict[str, Figure]:
    """Operations a second of one decoder layer of the recipe's width: forward, and with its backward pass."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=1,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
    )
    decoder = AutoModelForCausalLM.from_config(config).model.to(device)
    x = torch.randn(1, POSITIONS, shape.hidden, device=device)

    def forward() -> Any:
        with autocast(bf16, device):
            return decoder(inputs_embeds=x, use_cache=False).last_hidden_state

    def read() -> None:
        with torch.no_grad():
            forward()

    def train() -> None:
        forward().sum().backward()
        decoder.zero_grad(set_to_none=True)

    operations = 2.0 * shape.layer_parameters * POSITIONS
    source = f"one layer of width {shape.hidden}, {'bf16' if bf16 else 'fp32'}"
    return {
        "layer_forward": measured(operations / quickest(read, device), f"{source}, forward"),
        "layer_train": measured(3 * operations / quickest(train, device), f"{source}, forward and backward"),
    }


def time_head(shape: DecoderShape, device: str) -> dict[str, Figure]:
    """Operations a second of the KL of a chunk of targets: both sides' logits, and the gradient of the states."""
    torch.manual_seed(0)
    head = torch.randn(shape.vocab, shape.hidden, device=device) / shape.hidden**0.5
    student = torch.randn(TARGETS, shape.hidden, device=device, requires_grad=True)
    teacher, targets = torch.randn_like(student), torch.zeros(TARGETS, dtype=torch.long, device=device)

    def loss() -> None:
        distill(student, teacher.detach(), head, head, targets).total.backward()
        student.grad = None

    seconds = quickest(loss, device)
    return {"head": measured(6.0 * head.numel() * TARGETS / seconds, f"the KL of {TARGETS} targets")}


def time_start() -> dict[str, Figure]:
    """Processor seconds until a process has the libraries of a stage, the lesser of two."""
    times = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", f"import {', '.join(LIBRARIES)}"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"start": measured(min(times), "a process with the libraries of a stage")}


def time_collective() -> dict[str, Figure]:
    """Bytes a second, and the latency, of an all-reduce of two processes: nccl on two GPUs, else gloo."""
    backend = "nccl" if torch.cuda.is_available() and torch.cuda.device_count() > 1 else "gloo"
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="salad-calibrate-") as folder:
        receive, send = context.Pipe(duplex=False)
        both = [context.Process(target=_collective, args=(rank, folder, backend, send)) for rank in range(2)]
        for process in both:
            process.start()
        found = receive.recv() if receive.poll(120) else None
        for process in both:
            process.join(10)
            process.kill()
    if found is None:
        return {}  # what is assumed of such a machine stays
    source = f"an all-reduce of two processes by {backend}"
    return {"collective": measured(SENT / found[0], source), "collective_latency": measured(found[1], source)}


def _collective(rank: int, folder: str, backend: str, send: Any) -> None:
    from torch import distributed

    torch.set_num_threads(1)
    device = f"cuda:{rank}" if backend == "nccl" else "cpu"
    distributed.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    times = []
    for number in (SENT // 4, 1):
        tensor, own = torch.ones(number, device=device), []
        for _ in range(6):
            distributed.barrier()
            wait_for(device)
            start = time.perf_counter()
            distributed.all_reduce(tensor)
            wait_for(device)
            own.append(time.perf_counter() - start)
        times.append(statistics.median(own[1:]))
    if rank == 0:
        send.send(times)
    distributed.barrier()
    distributed.destroy_process_group()
