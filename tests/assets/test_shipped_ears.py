"""The ears that come with the package: pinned and small, they hear a human voice; and no demo begins with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salad import assets
from salad.assets.ears import ADAPTER
from salad.audio import read_audio
from salad.config import load_recipe
from salad.evaluation.saved_model import LoadedModel
from salad.model.encoders.job import shared_encoder
from salad.text.error_rates import wer

NAME = "salad-smollm2-135m-ears"
RECIPES = Path(__file__).parents[2] / "recipes"
SAID_IN_5_S = "it was the best of times, it was the worst of times,"


def test_they_are_what_is_pinned_and_take_at_most_30_mb():
    folder = assets.get(NAME, kind="ears")
    assert {state for _, state in assets.verify(NAME)} == {"ok"}
    assert assets.ASSETS[NAME].num_bytes <= 30_000_000 and (folder / ADAPTER).stat().st_size > 10_000_000
    for path in folder.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(root in text for root in ("/root/", "/home/", "/work/")), path


@pytest.mark.parametrize("name", ["demo.yaml", "demo-short.yaml", "reproduce.yaml"])
def test_no_demo_begins_with_trained_ears(name):
    ears = {asset.name for asset in assets.ASSETS.values() if asset.kind == "ears"}
    assert ears and not ears & set(strings(load_recipe(RECIPES / name).model_dump(mode="json")))


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for own in value.values() if isinstance(value, dict) else value:
            yield from strings(own)
    elif isinstance(value, str):
        yield value


def test_they_hear_a_human_voice():
    """Nobody's voice was trained on, only Piper's and Kokoro's."""
    loaded = LoadedModel(NAME)
    samples, rate_hz = read_audio(assets.get("human-speech") / "two_cities.wav", 16_000)
    frames = shared_encoder(loaded.model.config.encoder).encode([samples[rate_hz : 5 * rate_hz].astype(np.float32)])
    with torch.no_grad():
        heard = loaded.model.hear([torch.from_numpy(np.asarray(frames[0])).float()])
    text = loaded.tokenizer.decode([i for i in heard.token_ids.tolist() if i >= 0])
    assert loaded.frozen and wer(text, SAID_IN_5_S) <= 0.3, text
