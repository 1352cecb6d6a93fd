"""Sections of a recipe about the model and its training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from salad.config.base import Optimizer, Section


class Model(Section):
    """The ears. Keys that begin with adapter_ are of `ears: single`; lower_, upper_, symbols, language and depth are of
    `ears: symbols`."""

    adapter_layers: int = Field(12, ge=1, description="Transformer layers of the adapter. The default is the paper's.")
    adapter_width: int = Field(960, ge=8, description="Width of the adapter's layers. The default is the paper's.")
    adapter_mlp: int = Field(2560, ge=8, description="Width inside the adapter's MLPs. The default is the paper's.")
    adapter_heads: int = Field(
        15, ge=1, description="Attention heads of the adapter; adapter_width must divide by them."
    )
    adapter_kv_heads: int = Field(
        5, ge=1, description="Key and value heads of the adapter; adapter_heads must divide by them."
    )
    stride: int = Field(
        1,
        ge=1,
        description="Encoder frames that are stacked into one position of the ears. 1 is the paper's; more is cheaper.",
    )
    llm_config: dict[str, Any] | None = Field(
        None,
        description="The LLM's configuration as transformers writes it, for `salad plan` before the LLM's files are "
        "here. Nothing else reads it.",
    )
    rate: Literal["fixed", "text"] = Field(
        "fixed",
        description="`fixed` gives the LLM every position of the ears, as in the paper. `text` drops those that the "
        "CTC head calls blank or a repeat, so that about one is left for each token.",
    )

    ears: Literal["single", "symbols"] = Field(
        "single",
        description="`single` is the paper's adapter. `symbols` has two parts, frames to symbols and symbols to "
        "tokens, and needs much less speech; it needs warm_start.enabled and rate: text.",
    )
    symbols: Literal["phones", "letters", "subwords"] = Field(
        "phones",
        description="The alphabet of ears: symbols. Take letters, or 256 sub-words, where espeak does not know the "
        "language.",
    )
    language: str = Field("en-us", description="The language of the phones, by espeak's name.")
    lower_layers: int = Field(5, ge=1, description="Blocks of the lower part, which hears symbols in frames.")
    lower_width: int = Field(256, ge=8, description="Width of the lower part's blocks.")
    upper_layers: int = Field(4, ge=1, description="Blocks of the upper part, which spells symbols as tokens.")
    upper_width: int = Field(256, ge=8, description="Width of the upper part's blocks.")
    upper_heads: int = Field(4, ge=1, description="Attention heads of the upper part; upper_width must divide by them.")
    prior: float = Field(
        0.0,
        ge=0,
        le=2,
        description="With ears: symbols, the weight of the LLM's own expectation in which token was heard. 0: the "
        "ears alone.",
    )
    depth: int = Field(
        12, ge=2, description="Symbols of a token's pronunciation that its class is built from, counted from its end."
    )

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
    """CTC training of the ears before the distillation: onto the LLM's own tokens, or of the lower part onto symbols.
    Ours, not the paper's."""

    enabled: bool = Field(
        False, description="Runs the stage. It makes the CTC head, which model.rate: text and model.ears: symbols need."
    )
    steps: int = Field(400, ge=1, description="Steps of training.")
    batch: int = Field(16, ge=1, description="Speech spans in one step.")
    lr: float = Field(
        1e-3, gt=0, description="Highest learning rate. It falls to 0 over the last 30 % or 40 % of the steps."
    )
    optimizer: Optimizer = "adamw"
    warmup_steps: int = Field(20, ge=0, description="Steps over which the learning rate rises from 0.")
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints: what a kill can lose.")


class Spell(Section):
    """The upper part of `model.ears: symbols` from text alone, and the noise that it reads through. Ours."""

    steps: int = Field(400, ge=1, description="Steps of training.")
    batch: int = Field(40, ge=1, description="Runs of words in one step.")
    lr: float = Field(2e-3, gt=0, description="Highest learning rate. It falls to 0 over the last 40 % of the steps.")
    optimizer: Optimizer = "muon"
    warmup_steps: int = Field(20, ge=0, description="Steps over which the learning rate rises from 0.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints: what a kill can lose.")
    lists_share: float = Field(
        0.3, ge=0, lt=1, description="Share of the runs that are words in no order, so that rare words are spelled too."
    )
    error_rate: float = Field(
        1.5, ge=0, description="Each run is read with 0 up to so many times the mistakes that the lower part makes."
    )
    noise: Literal["heard", "uniform"] = Field(
        "heard",
        description="`heard` takes mistakes from recordings that the lower part was not trained on; `uniform` makes "
        "them up.",
    )
    kept_back: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="Share of D_speech's documents that the lower part does not train on, for their noise.",
    )
    kl_steps: int = Field(
        0,
        ge=0,
        description="In so many of the last steps the ears distil from the LLM on simulated documents too. 0: none.",
    )
    kl_positions: int = Field(500, ge=64, description="Student positions of simulated documents in such a step.")
    kl_weight: float = Field(1.0, ge=0, description="Weight of that distillation beside the spelling loss.")


class Stage(Section):
    """One stage of training by distillation. The paper's Stage II decays from its start: decay_share 1."""

    steps: int = Field(ge=1, description="Steps of training; each takes one global batch.")
    positions: int = Field(
        1500,
        ge=64,
        description="Student positions in a global batch, over all processes. The paper takes about 1 million.",
    )
    pack_positions: int = Field(
        0,
        ge=0,
        description="Student positions that one forward pass reads, at least sequence.context; a batch is summed over "
        "passes. Lower it when memory is short.",
    )
    alpha: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Weight of distillation against next-token likelihood. 1: distillation alone, the paper's.",
    )
    ctc_weight: float = Field(
        0.0, ge=0, description="Weight of a CTC loss beside the distillation (ours; it needs the warm start). 0: none."
    )
    ctc_batch: int = Field(16, ge=1, description="Speech spans in one step of that CTC loss.")
    ctc_steps: int = Field(
        0,
        ge=0,
        description="Steps of CTC alone before the others, on all speech so far, by the rate and batch of warm_start "
        "(ears: symbols). 0: none.",
    )
    spell_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of a spelling loss beside the distillation, on text and on speech (ears: symbols).",
    )
    spell_batch: int = Field(
        24, ge=1, description="Runs of text, and as many pieces of speech, in one step of that spelling loss."
    )
    text_share: float = Field(
        1 / 3,
        ge=0,
        lt=1,
        description="Share of a batch that is plain text, against forgetting. A frozen LLM forgets nothing: its plain "
        "text is skipped. 1/3 is the paper's.",
    )
    llm: Literal["frozen", "lora", "full"] = Field(
        "full",
        description="What of the LLM is trained: nothing, LoRA weights, or all (the paper). Both stages must agree.",
    )
    lora_rank: int = Field(
        16, ge=1, description="With llm: lora, the rank of its weights; LoRA's alpha is twice the rank."
    )
    lr_adapter: float = Field(
        1e-3, gt=0, description="Highest learning rate of the ears. The paper takes 1e-3 for 3B and 1e-4 for 7B."
    )
    lr_llm: float = Field(
        5e-5, gt=0, description="Highest learning rate of the LLM. The paper takes 5e-5 for 3B and 5e-6 for 7B."
    )
    optimizer: Optimizer = "adamw"
    weight_decay: float = Field(
        0.1, ge=0, description="Decoupled weight decay of the optimiser. The default is the paper's."
    )
    grad_clip: float = Field(
        1.0, gt=0, description="Longest gradient, as a norm over all weights; a longer one is scaled down."
    )
    warmup_steps: int = Field(
        500, ge=0, description="Steps over which the learning rates rise from 0. The default is of the paper's Stage I."
    )
    decay_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of the steps, at the end, over which the learning rates fall to 0. The paper: 0.2, and 1 "
        "in Stage II.",
    )
    divergence: Literal["kl", "reverse_kl", "jsd"] = Field(
        "kl",
        description="`kl` is KL(teacher || student), the paper's; `reverse_kl` is KL(student || teacher); `jsd` lies "
        "between.",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="Both logits are divided by it in the distillation, not in the likelihood. 1 is the paper's.",
    )
    jsd_beta: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="With divergence: jsd, the teacher's share of the mixture that both are held against.",
    )
    compile: bool = Field(
        False,
        description="Fuses the loss between its matrix products by torch.compile, which needs a C++ compiler, "
        "and on a GPU the LLM's layers.",
    )
    checkpoint_activations: bool = Field(
        False, description="Forms the LLM's activations again in the backward pass: less memory, more time."
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of a moving average of the weights, such as 0.999. The saved model takes the average, "
        "and `evaluate` measures it. 0: none.",
    )
    shard: bool = Field(False, description="Under torchrun, spreads the student's layers over the processes (FSDP2).")
    shard_teacher: bool = Field(False, description="The same for the teacher's layers; it needs `shard`.")
    reshard: bool = Field(
        True,
        description="With `shard`, frees a layer's weights after each use. False gathers them once a step: faster, if "
        "they fit.",
    )
    reduce_once: bool = Field(
        False,
        description="With `shard`, sums gradients over the processes once a step and not after each pass: faster, if "
        "whole gradients fit.",
    )
    spike_factor: float = Field(
        0.0, ge=0, description="Stops where the loss is so many times the median of its last 20 steps. 0: never."
    )
    keep: int = Field(2, ge=1, description="Newest checkpoints to keep. The one before the decay is always kept too.")
    checkpoint_every: int = Field(50, ge=1, description="Steps between checkpoints: what a kill can lose.")
    probe_every: int = Field(50, ge=1, description="Steps between live measurements of M and F.")
    probe_documents: int = Field(
        12, ge=1, description="Held-out documents, spread over the domains, that live M and F are measured on."
    )
