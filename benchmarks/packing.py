"""Filling packs of 2048 positions: best-fit decreasing over a window, next-fit as the peer; and the share that is used.

Also: real tokens a second through a small Llama, packed without padding v padded to the longest of a batch.
"""

from __future__ import annotations

import random

import torch
from bench import DEVICE, in_turn, line, set_threads
from transformers import LlamaConfig, LlamaModel

from salad.model.attention import NAME, packed_arguments
from salad.sequence import best_fit

CONTEXT, WINDOW = 2048, 1024


def windowed(lengths: list[int]) -> list[list[int]]:
    packs = []
    for start in range(0, len(lengths), WINDOW):
        packs += [[start + i for i in pack] for pack in best_fit(lengths[start : start + WINDOW], CONTEXT)]
    return packs


def next_fit(lengths: list[int]) -> list[list[int]]:
    packs: list[list[int]] = [[]]
    used = 0
    for i, length in enumerate(lengths):
        if used + length > CONTEXT:
            packs.append([])
            used = 0
        packs[-1].append(i)
        used += length
    return packs


def fill(packs: list[list[int]], lengths: list[int]) -> float:
    return sum(lengths) / (len(packs) * CONTEXT)


def main() -> None:
    set_threads()
    rng = random.Random(0)
    lengths = [min(CONTEXT, max(16, int(rng.lognormvariate(5.6, 0.8)))) for _ in range(20_000)]
    times = in_turn({"ours": lambda: windowed(lengths), "peer": lambda: next_fit(lengths)})
    ours, peer, whole = windowed(lengths), next_fit(lengths), best_fit(lengths, CONTEXT)
    once = sorted(i for pack in ours for i in pack) == list(range(len(lengths)))

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=100, hidden_size=576, intermediate_size=1536, num_hidden_layers=6,
                         num_attention_heads=9, num_key_value_heads=3, attn_implementation=NAME)  # fmt: skip
    model = LlamaModel(config).to(DEVICE).eval()
    few = lengths[:8]
    ids = [torch.randint(0, 100, (length,), device=DEVICE) for length in few]
    starts = [0]
    for length in few:
        starts.append(starts[-1] + length)
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)

    def packed_step() -> torch.Tensor:
        out = model(input_ids=torch.cat(ids)[None], **packed_arguments(starts, padded.device)).last_hidden_state[0]
        out.square().sum().backward()
        return out.detach()

    def padded_step() -> torch.Tensor:
        out = model(input_ids=padded, attention_mask=mask, use_cache=False).last_hidden_state
        out[mask.bool()].square().sum().backward()
        return out[mask.bool()].detach()

    error = float((packed_step() - padded_step()).abs().max())
    steps = in_turn({"ours": packed_step, "peer": padded_step}, rounds=3)
    line(
        "packing",
        steps["ours"],
        "padded batch",
        steps["peer"],
        None,
        once and error < 1e-4,
        real_share=round(sum(few) / padded.numel(), 3),
        fill_window=round(fill(ours, lengths), 4),
        fill_global=round(fill(whole, lengths), 4),
        fill_next_fit=round(fill(peer, lengths), 4),
        packing_s=round(times["ours"], 4),
        max_error=error,
    )


if __name__ == "__main__":
    main()
