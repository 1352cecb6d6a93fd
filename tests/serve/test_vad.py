"""Voice activity chunk by chunk is that of the whole, and probabilities become turns."""

from __future__ import annotations

import numpy as np
import pytest

from salad import assets
from salad.audio import read_audio
from salad.serve.vad import CHUNK, Turns, Vad, installed

pytestmark = pytest.mark.skipif(not installed(), reason="faster-whisper and onnxruntime are not installed")


def test_in_pieces_as_faster_whisper_hears_the_whole():
    from faster_whisper.vad import get_vad_model

    speech = read_audio(assets.get("human-speech") / "beckett.wav", 16_000, duration_s=3.0)[0]
    whole = get_vad_model()(np.pad(speech, (0, -len(speech) % CHUNK)))
    chunks, vad, cuts = speech[: len(speech) // CHUNK * CHUNK].reshape(-1, CHUNK), Vad(), [1, 2, 2, 40]
    pieces = np.concatenate([vad(piece) for piece in np.split(chunks, cuts)])
    assert pieces.max() > 0.9 and pieces.min() < 0.1
    assert np.allclose(pieces, whole[: len(pieces)], atol=1e-4)


@pytest.mark.parametrize(
    "silence_ms, heard, changes",
    [
        (500, "..SS" + 16 * ".", {2: "start", 10: "pause", 19: "stop"}),
        (500, "SSSS" + 9 * "." + "S" + 16 * ".", {0: "start", 10: "pause", 13: "resume", 20: "pause", 29: "stop"}),
        (500, "S" + 3 * "." + "S" + 3 * "?", {0: "start"}),  # too short a silence, and one that is none
        (500, "S" + "." + 15 * "?", {0: "start", 7: "pause", 16: "stop"}),  # in a silence the same is one
        (100, "S....S", {0: "start", 4: "stop", 5: "start"}),
        (200, "S" + 7 * ".", {0: "start", 7: "stop"}),
    ],
)
def test_turns(silence_ms, heard, changes):
    turns, shares = Turns(), {"S": 0.9, "?": 0.4, ".": 0.1}
    found = [turns.step(shares[h], 0.5, silence_ms) for h in heard]
    assert {i: change for i, change in enumerate(found) if change} == changes
