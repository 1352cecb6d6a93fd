"""A recording that was heard as it came reads as the recording itself does."""

from __future__ import annotations

import numpy as np
import torch


def test_frames_stand_for_their_recording(tiny):
    processor, rng = tiny.processor, np.random.default_rng(0)
    one, two = (0.1 * rng.normal(size=n).astype(np.float32) for n in (130_000, 16_000))
    text = "w1 <|audio|> w2 <|audio|>"
    whole, mixed = processor(text, audio=[one, two]), processor(text, audio=[processor.frames_of(one), two])
    assert torch.equal(whole["input_ids"], mixed["input_ids"]) and len(whole["frames"]) == len(mixed["frames"]) > 2
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole["frames"], mixed["frames"], strict=True))
