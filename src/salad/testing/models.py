"""A SpeechLM of small random weights, interleaved examples of noise for it, and a small random Mimi."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MimiConfig, MimiModel

from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.types import Example, Span

VOCABULARY, DIM = 61, 6


def make_model(
    rate: str = "fixed", ctc: int = 0, lora: int = 0, seed: int = 0, dim: int = DIM
) -> SaladForConditionalGeneration:
    torch.manual_seed(seed)
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
    )
    config = SaladConfig(
        llm_config=llm.config,
        frame_dim=dim,
        stride=2,
        rate=rate,
        adapter_layers=1,
        adapter_width=16,
        adapter_mlp=24,
        adapter_heads=2,
        adapter_kv_heads=1,
        ctc_vocab_size=ctc,
        lora_rank=lora,
    )
    model = SaladForConditionalGeneration.from_llm(llm, config)
    if model.ctc is not None:
        model.ctc.token_ids.copy_(torch.arange(1, ctc + 1))
    return model.eval()


def make_example(rng: np.random.Generator, spans: Sequence[Span], name: str = "x") -> Example:
    bounds, at = [], 0
    for span in spans:
        bounds.append((at, at + span.num_words))
        at += span.num_words
    frames = tuple(
        rng.normal(size=(int(rng.integers(3, 12)), DIM)).astype(np.float16) for s in spans if s.modality == "speech"
    )
    ids = rng.integers(1, VOCABULARY, at)
    return Example(name, tuple(spans), ids, tuple(bounds), 0, frames, domain="d", speaker="v")


def make_examples(seed: int, num: int = 4) -> list[Example]:
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(num):
        spans, at, speech = [], 0, bool(rng.integers(2))
        for _ in range(int(rng.integers(2, 6))):
            n = int(rng.integers(1, 6))
            spans.append(Span("speech" if speech else "text", at, at + n))
            at, speech = at + n, not speech
        examples.append(make_example(rng, spans, f"e{i}"))
    return examples


def save_mimi(folder: Path, seed: int = 0) -> MimiModel:
    torch.manual_seed(seed)
    config = MimiConfig(
        hidden_size=32,
        num_filters=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        codebook_size=64,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=12,
        upsample_groups=32,
        sliding_window=20,
        layer_scale_initial_scale=1.0,
    )
    model = MimiModel(config)
    model.eval()
    for name, table in model.named_buffers():
        if name.endswith("embed_sum"):  # codebooks start at zero: every code would be 0
            table.normal_()
    model.save_pretrained(folder)
    return model
