"""What training a recipe will take, before anything is trained: parameters, memory, tokens, operations, hours.

Counts are exact (the model is laid out without memory); rates are assumptions, and are named beside the figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig

from salad import config
from salad.assets import ASSETS, hub_folder, is_cached, is_hub_name, llm_folder
from salad.config import Recipe
from salad.config.paper import measured
from salad.engine.precision import mlp_width
from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.model.encoders.load import shape_of
from salad.model.llm import decoder_layers
from salad.model.nested import causal_config
from salad.text.phonemes import Symbols
from salad.types import SaladError


class Gpu(NamedTuple):
    """Of its maker's data sheet: peak bf16 operations a second (dense), and bytes a second that it sends, one way."""

    flops: float
    link: float  # NVLink's, half of what the sheet gives for both ways; PCIe's where it has none


GPUS = {
    "H200": Gpu(989e12, 450e9),
    "H100": Gpu(989e12, 450e9),
    "A100": Gpu(312e12, 300e9),
    "L40S": Gpu(362e12, 32e9),
    "RTX 4090": Gpu(165e12, 32e9),
}
UTILISATION = 0.40  # share of the peak that a well-fed step reaches
SECONDS_PER_WORD, TOKENS_PER_WORD = 0.38, 1.35  # English read aloud; a byte-level BPE of 50 k to 150 k tokens


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
class TrainingEstimate:
    """parameters: by part, with the number that trains. memory: bytes by part on each of `processes` devices."""

    parameters: dict[str, tuple[int, int]]
    memory: dict[str, int]
    processes: int
    stages: list[StagePlan]

    @property
    def flops(self) -> float:
        return sum(stage.flops for stage in self.stages)

    def hours(self, gpu: str) -> float:
        """On one such GPU, at UTILISATION of its peak."""
        return self.flops / (GPUS[gpu].flops * UTILISATION) / 3600


def meta_model(settings: Recipe) -> SaladForConditionalGeneration:
    """The recipe's model without memory for its weights."""
    config = model_config(settings, llm_config(settings))
    with torch.device("meta"):
        return SaladForConditionalGeneration(config)


def model_config(settings: Recipe, llm: Any) -> SaladConfig:
    """The recipe's model in front of an LLM of this configuration, with an alphabet of the usual size."""
    shape, two_parts = shape_of(settings.assets.encoder), settings.model.ears == "symbols"
    return SaladConfig(
        llm_config=llm,
        encoder=settings.assets.encoder,
        frame_rate_hz=shape.frame_rate_hz,
        frame_dim=shape.frame_dim,
        **settings.model.shape(),
        lora_rank=settings.stage1.lora_rank if settings.stage1.llm == "lora" else 0,
        ctc_vocab_size=1 if settings.warm_start.enabled and not two_parts else 0,  # rows are the LLM's: no parameters
        symbols=dict(Symbols("phones", ("#", *map(str, range(63)))).to_dict()) if two_parts else None,  # as many
    )


def make_plan(settings: Recipe, processes: int = 1) -> TrainingEstimate:
    """Lay the recipe's model out and count. processes: devices that the training is spread over."""
    model = meta_model(settings)
    parameters = _parameters(model, settings.stage1.llm)
    llm = sum(p.numel() for n, p in decoder_layers(model.decoder()).named_parameters() if "lora_" not in n)
    head = model.get_output_embeddings().weight.numel()
    adapter = parameters["adapter"][0]
    stages = [
        _stage(name, stage, settings, llm, adapter, head)
        for name, stage in (("stage1", settings.stage1), ("stage2", settings.stage2))
    ]
    memory = _memory(model, parameters, settings, processes)
    return TrainingEstimate(parameters, memory, processes, stages)


def rows(plan: TrainingEstimate, settings: Recipe) -> Iterable[tuple[str, str, str]]:
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
    for what, which in measured(settings):
        yield "measured on", what, which


def llm_config(settings: Recipe) -> Any:
    """The configuration of the recipe's LLM, from the recipe or from files that are here; nothing is fetched."""
    if settings.model.llm_config is not None:
        values = dict(settings.model.llm_config)
        if "model_type" not in values:
            raise SaladError(
                f"model.llm_config: got {', '.join(values)}, but no model_type; copy the LLM's config.json, or add "
                "such as model_type: qwen2"
            )
        return causal_config(AutoConfig.for_model(**values))
    name = settings.assets.llm
    if name in ASSETS and not is_cached(name):
        raise SaladError(f"assets.llm: {name} is not in the cache; run `salad assets get {name}` first")
    if is_hub_name(name):  # a plan downloads nothing
        return causal_config(AutoConfig.from_pretrained(hub_folder(name, download=False)))
    return causal_config(AutoConfig.from_pretrained(llm_folder(name)))


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


def _span(settings: Recipe) -> tuple[float, float, float]:
    """Positions of a mean speech span in the adapter, of the text behind it, and of the span that the LLM reads."""
    spans, parts = settings.sequence, settings.model
    rate = shape_of(settings.assets.encoder).frame_rate_hz / parts.stride
    words = sum(spans.speech_words) / 2
    sounded = words * SECONDS_PER_WORD * rate
    heard = sounded if parts.rate == "fixed" else words * TOKENS_PER_WORD
    return sounded, sum(spans.text_words) / 2 * TOKENS_PER_WORD, heard


def _stage(name: str, stage: config.Stage, settings: Recipe, llm: int, adapter: int, head: int) -> StagePlan:
    """A spoken document alternates spans of mean length; plain text has none."""
    words = sum(settings.sequence.speech_words) / 2
    sounded, text, heard = _span(settings)
    positions = stage.steps * stage.positions
    spoken = positions * (1 - stage.text_share)
    num_spans = spoken / (text + heard)
    plain = 0 if stage.llm == "frozen" else positions * stage.text_share  # without a gradient, and left out
    targets = num_spans * text + plain
    teacher = targets + num_spans * words * TOKENS_PER_WORD
    student = (4 if stage.llm == "frozen" else 6) * (spoken + plain) * llm
    loss = (6 if stage.llm == "frozen" else 8) * targets * head
    flops = student + 2 * teacher * llm + 6 * num_spans * sounded * adapter + loss
    hours = num_spans * words * SECONDS_PER_WORD / 3600
    return StagePlan(name, stage.steps, positions, int(targets), float(flops), hours)


def _memory(
    model: SaladForConditionalGeneration, parameters: dict[str, tuple[int, int]], settings: Recipe, processes: int
) -> dict[str, int]:
    """Weights and moments in float32, frozen layers in bf16; a pack's activations in bf16. Only layers are sharded."""
    stage = settings.stage1
    pack = max(settings.sequence.context, stage.pack_positions)
    layers, layers_trained = parameters["llm layers"]
    tables, tables_trained = parameters["llm embeddings and head"]
    layers_trained += parameters.get("llm lora", (0, 0))[1]
    trained = sum(t for _, t in parameters.values())
    sharded = processes if stage.shard else 1
    here = trained - layers_trained + layers_trained // sharded
    frozen = (layers - parameters["llm layers"][1]) * 2 // sharded + (tables - tables_trained) * 4
    teacher = 0
    if stage.llm != "frozen":
        teacher = layers * 2 // (processes if stage.shard_teacher else 1) + tables * 4
    config = model.config.get_text_config()
    width = config.hidden_size
    layer, parts, head = _activations(width, mlp_width(config)), settings.model, config.vocab_size * width
    kept = 1 if stage.checkpoint_activations else layer
    formed_again = pack * width * layer * 2 * stage.checkpoint_activations
    adapter = parts.adapter_width * _activations(parts.adapter_width, parts.adapter_mlp) * 2 * parts.adapter_layers
    halves = (2 if stage.llm == "frozen" else 4) * head * 2 + head * 2  # bf16 parts of one or two heads; the gradient's
    chunk = 1024 * config.vocab_size * (3 * 4 if stage.compile else 8 * 4 + 2)
    return {
        "trained weights": here * 4,
        "gradients": here * 4,
        "AdamW moments": here * 8,
        "moving average": here * 4 * (stage.ema > 0),
        "frozen weights": frozen,
        "teacher": teacher,
        "sharded layers, whole (reshard, reduce_once)": (sharded > 1)
        * (layers * 2 * (not stage.reshard) + layers_trained * 4 * stage.reduce_once),
        "activations of one pack": int(pack * width * config.num_hidden_layers * kept * 2),
        "activations of one layer, formed again": int(formed_again),
        "activations of the adapter": int(_sounded(settings, stage) * pack * adapter),
        "loss: logits of a chunk, gradient of the head": chunk + 2 * 4 * head * (tables_trained > 0),
        "loss: heads in bf16 parts": halves,
    }


def _activations(width: int, inner: int) -> float:
    """Numbers a position and width that a layer keeps for its backward pass."""
    return 8 + 4 * inner / width


def _sounded(settings: Recipe, stage: config.Stage) -> float:
    """Positions of the adapter for each one of a pack, on average."""
    sounded, text, heard = _span(settings)
    return (1 - stage.text_share) * sounded / (text + heard)
