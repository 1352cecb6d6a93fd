"""Sections of a recipe about the model and its training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from salad.config.base import Optimizer, Section


class Model(Section):
    adapter_layers: int = Field(12, ge=1)
    adapter_width: int = Field(960, ge=8)
    adapter_mlp: int = Field(2560, ge=8)
    adapter_heads: int = Field(15, ge=1)
    adapter_kv_heads: int = Field(5, ge=1)
    stride: int = Field(1, ge=1, description="encoder frames stacked into one adapter position")
    llm_config: dict[str, Any] | None = Field(
        None, description="the LLM's configuration, for `salad plan` before its files are here"
    )
    rate: Literal["fixed", "text"] = Field(
        "fixed", description="text: drop positions the CTC head calls blank or repeat"
    )

    ears: Literal["single", "symbols"] = Field(
        "single",
        description="single: the paper's adapter; symbols: frames -> a small alphabet -> tokens, for little speech",
    )
    symbols: Literal["phones", "letters", "subwords"] = Field(
        "phones", description="of ears: symbols; letters, or 256 sub-words, where espeak does not know the language"
    )
    language: str = Field("en-us", description="of the phones, as espeak calls it")
    lower_layers: int = Field(5, ge=1, description="ears: symbols, frames -> symbols")
    lower_width: int = Field(256, ge=8)
    upper_layers: int = Field(4, ge=1, description="ears: symbols, symbols -> tokens")
    upper_width: int = Field(256, ge=8)
    upper_heads: int = Field(4, ge=1)
    prior: float = Field(
        0.0, ge=0, le=2, description="ears: symbols, how much the LLM's own expectation counts in what it hears"
    )
    depth: int = Field(12, ge=2, description="symbols of a token that its class is built from, counted from its end")

    def shape(self) -> dict[str, Any]:
        """What `SaladConfig` takes by the same names."""
        names = (
            "adapter_layers",
            "adapter_width",
            "adapter_mlp",
            "adapter_heads",
            "adapter_kv_heads",
            "stride",
            "rate",
        )
        shape = {name: getattr(self, name) for name in (*names, "ears")}
        if self.ears == "symbols":
            parts = ("lower_layers", "lower_width", "upper_layers", "upper_width", "upper_heads", "depth")
            shape["prior"] = self.prior
            shape["ears_shape"] = {name: getattr(self, name) for name in parts}
        return shape


class WarmStart(Section):
    enabled: bool = False
    steps: int = Field(400, ge=1)
    batch: int = Field(16, ge=1, description="speech spans in a step")
    lr: float = Field(1e-3, gt=0)
    optimizer: Optimizer = "adamw"
    warmup_steps: int = Field(20, ge=0)
    checkpoint_every: int = Field(100, ge=1)


class Spell(Section):
    """The upper part of `model.ears: symbols` from text alone, and the noise that it reads through. Ours."""

    steps: int = Field(400, ge=1)
    batch: int = Field(40, ge=1, description="runs of words in a step")
    lr: float = Field(2e-3, gt=0)
    optimizer: Optimizer = "muon"
    warmup_steps: int = Field(20, ge=0)
    checkpoint_every: int = Field(50, ge=1)
    lists_share: float = Field(0.3, ge=0, lt=1, description="share of runs that are words in no order")
    error_rate: float = Field(1.5, ge=0, description="mistakes up to so many times as often as the ears make them")
    noise: Literal["heard", "uniform"] = Field(
        "heard", description="heard: posteriors of recordings that the lower part was not trained on; uniform: made up"
    )
    kept_back: float = Field(0.1, gt=0, lt=0.5, description="share of D_speech that noise is taken from")
    kl_steps: int = Field(0, ge=0, description="of the last steps, so many distil the LLM on simulated documents too")
    kl_positions: int = Field(500, ge=64, description="student positions of simulated documents in such a step")
    kl_weight: float = Field(1.0, ge=0)


class Stage(Section):
    """One stage of training. The paper's stage II decays from its start: decay_share 1."""

    steps: int = Field(ge=1)
    positions: int = Field(1500, ge=64, description="student positions in a global batch")
    pack_positions: int = Field(
        0, ge=0, description="of them, those that one pass reads; 0, and at least: sequence.context"
    )
    alpha: float = Field(1.0, ge=0, le=1, description="1: distillation only; 0: next-token NLL only")
    ctc_weight: float = Field(0.0, ge=0, description="weight of a CTC loss beside it (ours; needs the warm start)")
    ctc_batch: int = Field(16, ge=1, description="speech spans in a step of that CTC loss")
    ctc_steps: int = Field(
        0, ge=0, description="before the others, steps of CTC alone on all speech, as in the warm start (ears: symbols)"
    )
    spell_weight: float = Field(
        0.0, ge=0, description="weight of the spelling loss beside it, on text and on speech (model.ears: symbols)"
    )
    spell_batch: int = Field(24, ge=1, description="runs of text, and as many pieces of speech, in a step of that loss")
    text_share: float = Field(1 / 3, ge=0, lt=1, description="share of plain-text documents, against forgetting")
    llm: Literal["frozen", "lora", "full"] = "full"
    lora_rank: int = Field(16, ge=1)
    lr_adapter: float = Field(1e-3, gt=0)
    lr_llm: float = Field(5e-5, gt=0)
    optimizer: Optimizer = "adamw"
    weight_decay: float = Field(0.1, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    warmup_steps: int = Field(500, ge=0)
    decay_share: float = Field(0.2, ge=0, le=1)
    divergence: Literal["kl", "reverse_kl", "jsd"] = Field("kl", description="kl: KL(teacher || student), the paper's")
    temperature: float = Field(1.0, gt=0)
    jsd_beta: float = Field(0.5, gt=0, lt=1)
    compile: bool = Field(False, description="fuse the loss between its matrix products (needs a C++ compiler)")
    checkpoint_activations: bool = Field(False, description="form the LLM's activations again in the backward pass")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the weights' moving average, which is kept; 0: none")
    shard: bool = Field(False, description="under torchrun: spread the layers over the processes (FSDP2)")
    shard_teacher: bool = Field(False, description="the same for the teacher's layers")
    reshard: bool = Field(
        True, description="free a sharded layer's weights after each use; false: gather them once a step, if they fit"
    )
    reduce_once: bool = Field(
        False, description="sum the gradients of sharded layers once a step, not after each pack; whole ones must fit"
    )
    spike_factor: float = Field(
        0.0, ge=0, description="stop where the loss is this many times its recent median; 0: never"
    )
    keep: int = Field(2, ge=1, description="newest checkpoints to keep; that before the decay always stays")
    checkpoint_every: int = Field(50, ge=1)
    probe_every: int = Field(50, ge=1, description="steps between live measurements of M and F")
    probe_documents: int = Field(12, ge=1)
