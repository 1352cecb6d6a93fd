"""What a recipe will take before anything is trained: parameters, memory, tokens, operations, hours, disk.

Counts are exact (the model is laid out without memory); rates are assumptions, and are named beside the figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig

from salad import recipe
from salad.assets import ASSETS, is_cached, llm_folder
from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.model.encoder import shape_of
from salad.recipe import Recipe
from salad.types import SaladError

__all__ = ["GPUS", "Plan", "StagePlan", "make_plan", "meta_model"]

# Peak bf16 operations a second (dense), from the makers' data sheets; and memory in GB.
GPUS = {
    "H200": (989e12, 141),
    "H100": (989e12, 80),
    "A100": (312e12, 80),
    "L40S": (362e12, 48),
    "RTX 4090": (165e12, 24),
}
UTILISATION = 0.40  # share of the peak that a well-fed step reaches
SECONDS_PER_WORD, TOKENS_PER_WORD = 0.38, 1.35  # English read aloud; a byte-level BPE of 50 k to 150 k tokens
MIMI_BYTES_PER_S = 200  # 12.5 Hz x 8 codebooks x 2 bytes
TTS_SPEED = 30.0  # seconds of speech a second on one GPU, one utterance at a time


@dataclass(frozen=True)
class StagePlan:
    """One stage of training.

    positions: student positions; flops: least operations; speech_hours: heard, with repeats.
    """

    name: str
    steps: int
    positions: int
    targets: int
    flops: float
    speech_hours: float


@dataclass(frozen=True)
class Plan:
    """parameters: by part, with the number that trains. memory: bytes by part on each of `processes` devices."""

    parameters: dict[str, tuple[int, int]]
    memory: dict[str, int]
    processes: int
    stages: list[StagePlan]
    disk: dict[str, int]

    @property
    def flops(self) -> float:
        return sum(stage.flops for stage in self.stages)

    def hours(self, gpu: str) -> float:
        """On one such GPU, at UTILISATION of its peak."""
        return self.flops / (GPUS[gpu][0] * UTILISATION) / 3600


def meta_model(settings: Recipe) -> SaladForConditionalGeneration:
    """The recipe's model without memory for its weights."""
    shape = shape_of(settings.assets.encoder)
    parts = settings.model
    config = SaladConfig(
        llm_config=_llm_config(settings),
        encoder=settings.assets.encoder,
        frame_rate_hz=shape.frame_rate_hz,
        frame_dim=shape.frame_dim,
        stride=parts.stride,
        rate=parts.rate,
        adapter_layers=parts.adapter_layers,
        adapter_width=parts.adapter_width,
        adapter_mlp=parts.adapter_mlp,
        adapter_heads=parts.adapter_heads,
        adapter_kv_heads=parts.adapter_kv_heads,
        lora_rank=settings.stage1.lora_rank if settings.stage1.llm == "lora" else 0,
    )
    with torch.device("meta"):
        return SaladForConditionalGeneration(config)


def make_plan(settings: Recipe, processes: int = 1) -> Plan:
    """Lay the recipe's model out and count. processes: devices that the training is spread over."""
    model = meta_model(settings)
    parameters = _parameters(model, settings.stage1.llm)
    rate = shape_of(settings.assets.encoder).frame_rate_hz / settings.model.stride
    llm = sum(p.numel() for n, p in model.decoder().layers.named_parameters() if "lora_" not in n)
    head = model.get_output_embeddings().weight.numel()
    adapter = parameters["adapter"][0]
    stages = [
        _stage(name, stage, settings.sequence, rate, llm, adapter, head)
        for name, stage in (("stage1", settings.stage1), ("stage2", settings.stage2))
    ]
    memory = _memory(model, parameters, settings, processes)
    trained = sum(t for _, t in parameters.values())
    disk = {
        "checkpoints": (settings.stage1.keep + settings.stage2.keep + 2) * trained * 12,
        "final model": sum(n for n, _ in parameters.values()) * 4,
        "features (Mimi codes, 8 codebooks)": int(stages[0].speech_hours * 3600 * MIMI_BYTES_PER_S),
    }
    return Plan(parameters, memory, processes, stages, disk)


def rows(plan: Plan, settings: Recipe) -> Iterable[tuple[str, str, str]]:
    """(group, what, figure) for a table."""
    for part, (number, trained) in plan.parameters.items():
        yield "parameters", part, f"{number:,}" + (f"  ({trained:,} trained)" if trained != number else "  (trained)")
    total = sum(n for n, _ in plan.parameters.values())
    yield "parameters", "all", f"{total:,}  ({sum(t for _, t in plan.parameters.values()):,} trained)"
    for part, number in plan.memory.items():
        yield f"memory per device ({plan.processes} of them)", part, f"{number / 1e9:.1f} GB"
    yield f"memory per device ({plan.processes} of them)", "all", f"{sum(plan.memory.values()) / 1e9:.1f} GB"
    for stage in plan.stages:
        yield stage.name, "steps", f"{stage.steps:,}"
        yield stage.name, "positions", f"{stage.positions / 1e9:.3g} G  ({stage.positions // stage.steps:,} a step)"
        yield stage.name, "text targets", f"{stage.targets / 1e9:.3g} G"
        yield stage.name, "speech heard", f"{stage.speech_hours:,.0f} h, repeats included"
        yield stage.name, "operations", f"{stage.flops:.2e}"
    for gpu in GPUS:
        hours = plan.hours(gpu)
        yield (
            f"GPU hours at {UTILISATION:.0%} of peak bf16",
            gpu,
            f"{hours:,.0f} h, {hours / plan.processes:,.0f} h on {plan.processes}",
        )
    budget = settings.select.budget_share * plan.stages[0].speech_hours
    yield (
        "speech to buy",
        "at most",
        f"{budget:,.0f} h, {budget / TTS_SPEED:,.0f} GPU hours at {TTS_SPEED:g} x real time",
    )
    for what, number in plan.disk.items():
        yield "disk", what, f"{number / 1e9:,.1f} GB"


def _llm_config(settings: Recipe) -> Any:
    if settings.model.llm_config is not None:
        values = dict(settings.model.llm_config)
        if "model_type" not in values:
            raise SaladError("model.llm_config: needs model_type, such as qwen2")
        return AutoConfig.for_model(**values)
    name = settings.assets.llm
    if name in ASSETS and not is_cached(name):
        raise SaladError(f"assets.llm: {name} is not in the cache; run `salad assets get {name}` first")
    return AutoConfig.from_pretrained(llm_folder(name))


def _parameters(model: SaladForConditionalGeneration, llm: str) -> dict[str, tuple[int, int]]:
    lora = {n: p.numel() for n, p in model.llm.named_parameters() if "lora_" in n}
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    tables = sum(p.numel() for p in model.llm.parameters() if id(p) in embeddings)
    layers = sum(p.numel() for p in model.llm.parameters()) - tables - sum(lora.values())
    adapter = sum(p.numel() for p in model.adapter.parameters())
    trains = llm == "full"
    parts = {
        "adapter": (adapter, adapter),
        "llm layers": (layers, layers * trains),
        "llm embeddings and head": (tables, tables * trains),
    }
    if lora:
        parts["llm lora"] = (sum(lora.values()),) * 2
    if model.ctc is not None:
        parts["ctc head"] = (sum(p.numel() for p in model.ctc.parameters()),) * 2
    return parts


def _stage(
    name: str, stage: recipe.Stage, spans: recipe.Sequence, rate: float, llm: int, adapter: int, head: int
) -> StagePlan:
    """A spoken document alternates mean-length spans; plain text has none."""
    text = sum(spans.text_words) / 2 * TOKENS_PER_WORD
    seconds = sum(spans.speech_words) / 2 * SECONDS_PER_WORD
    heard = seconds * rate
    positions = stage.steps * stage.positions
    spoken = positions * (1 - stage.text_share)
    speech_positions = spoken * heard / (text + heard)
    targets = spoken - speech_positions + positions * stage.text_share
    words_heard = speech_positions / heard * sum(spans.speech_words) / 2
    teacher = targets + words_heard * TOKENS_PER_WORD
    student = (4 if stage.llm == "frozen" else 6) * positions * llm
    loss = (6 if stage.llm == "frozen" else 8) * targets * head
    flops = student + 2 * teacher * llm + 6 * speech_positions * adapter + loss
    return StagePlan(name, stage.steps, positions, int(targets), float(flops), speech_positions / rate / 3600)


def _memory(
    model: SaladForConditionalGeneration, parameters: dict[str, tuple[int, int]], settings: Recipe, processes: int
) -> dict[str, int]:
    """Weights and moments in float32, frozen ones in bf16; a pack's activations in bf16."""
    stage, context = settings.stage1, settings.sequence.context
    sharded = processes if stage.shard else 1
    trained = sum(t for _, t in parameters.values())
    frozen = sum(n - t for n, t in parameters.values())
    llm = sum(n for part, (n, _) in parameters.items() if part.startswith("llm") and part != "llm lora")
    teacher = 0 if stage.llm == "frozen" else llm * 2 // (processes if stage.shard_teacher else 1)
    config = model.config.llm_config
    width, layers = config.hidden_size, config.num_hidden_layers
    kept = 1 if stage.checkpoint_activations else 8 + 4 * config.intermediate_size / width
    activations = int(context * width * layers * kept * 2)
    return {
        "trained weights": trained * 4 // sharded,
        "gradients": trained * 4 // sharded,
        "AdamW moments": trained * 8 // sharded,
        "frozen weights": frozen * 2 // sharded,
        "teacher": teacher,
        "activations of one pack": activations,
        "logits of one chunk": 3 * 1024 * config.vocab_size * 4,
    }
