"""The encoder inside an exported folder: frames as ours."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from salad.model.encoders.inside import encoder_inside, put_inside
from salad.model.encoders.load import load_encoder
from salad.testing.models import save_mimi
from salad.types import SaladError

TOLERANCE = 1e-5  # of the frames' size; 4e-6 was the most on 20 spans of human speech, silence and noise of 30 s


def moved(encoder, into):
    held = put_inside(encoder, into)
    return held, encoder_inside(held, into / "encoder", "moved")


def test_the_default_by_torch_gives_the_frames_of_ctranslate2(tmp_path):
    encoder = load_encoder("whisper-tiny.en")
    held, theirs = moved(encoder, tmp_path)
    assert held["kind"] == "WhisperOfCT2" and "model.safetensors" in held["files"]
    rng = np.random.default_rng(0)
    times = np.arange(40_000, dtype=np.float32) / 16_000
    waves = [np.zeros(1), np.zeros(16_000), 0.1 * rng.normal(size=33_333), np.sin(2 * np.pi * 300 * times) * times / 3]
    waves = [wave.astype(np.float32) for wave in waves]
    for ours, found in zip(encoder.encode(waves), theirs.encode(waves), strict=True):
        assert ours.shape == found.shape
        assert np.linalg.norm(ours - found) <= TOLERANCE * np.linalg.norm(ours)


@pytest.mark.parametrize("setting", ["", ":codes8"])
def test_mimi_gives_equal_frames(tmp_path, setting):
    save_mimi(tmp_path / "mimi")
    encoder = load_encoder(f"{tmp_path / 'mimi'}{setting}")
    (tmp_path / "out").mkdir()
    held, theirs = moved(encoder, tmp_path / "out")
    assert held["codebooks"] == (8 if setting else 0)
    wave = np.random.default_rng(0).normal(size=30_000).astype(np.float32)
    np.testing.assert_array_equal(encoder.encode([wave])[0], theirs.encode([wave])[0])


@pytest.mark.parametrize(
    ("version", "kind", "said"), [(6, 1, "CTranslate2's type 1, expected float32 or float16"), (5, 0, "format 5")]
)
def test_weights_in_integers_or_of_another_format_are_refused(tmp_path, version, kind, said):
    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    body = text("encoder/conv1/weight") + struct.pack("<BIBI", 1, 4, kind, 4) + b"\1\2\3\4"
    (tmp_path / "model.bin").write_bytes(
        struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, 1) + body
    )
    encoder = load_encoder("whisper-tiny.en")
    encoder.weights._seen = {tmp_path / "model.bin": None}
    with pytest.raises(SaladError, match=said):
        put_inside(encoder, tmp_path)
