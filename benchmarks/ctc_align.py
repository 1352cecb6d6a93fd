"""The path of a known text through CTC emissions: ours v ctc-segmentation, at 30 s and 300 s; and its share of the
acoustic model's time (a Wav2Vec2-base of random weights).

ctc-segmentation (`pip install ctc-segmentation`) is needed by this file alone; without it `peer` is null.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from bench import in_turn, line, machine, set_threads

from salad.align.viterbi import ctc_path

FRAMES_S, LETTERS_S, NUM_CLASSES = 50, 15, 32


def emissions(seconds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Peaky emissions of a random text, as a trained model's are: scores, targets, frame of each target."""
    generator = np.random.default_rng(seconds)
    targets = generator.integers(1, NUM_CLASSES, seconds * LETTERS_S)
    frames = np.sort(generator.choice(seconds * FRAMES_S // 2, len(targets), replace=False)) * 2  # blanks between
    scores = generator.normal(0, 1, (seconds * FRAMES_S, NUM_CLASSES))
    scores[:, 0] += 8
    scores[frames, targets] += 14
    scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
    return scores.astype(np.float32), targets, frames


def peer(scores: np.ndarray, targets: np.ndarray) -> Any:
    """What ctc-segmentation does for the same text, or None where it is not installed."""
    try:
        from ctc_segmentation import CtcSegmentationParameters, ctc_segmentation
    except ImportError:
        return None
    settings = CtcSegmentationParameters(
        char_list=["_", *map(chr, range(97, 97 + NUM_CLASSES - 1))], min_window_size=max(8000, len(scores))
    )
    truth = np.concatenate([[-1], targets]).astype(np.int64)[:, None]
    return lambda: ctc_segmentation(settings, scores, truth)


def acoustic() -> Any:
    """A forward pass of 30 s through a Wav2Vec2-base."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=NUM_CLASSES)).eval()
    samples = torch.randn(1, 30 * 16_000)

    def forward() -> None:
        with torch.inference_mode():
            model(samples)

    return forward


def main() -> None:
    set_threads()
    figures: dict[str, Any] = {}
    ok = True
    for seconds, rounds in ((30, 9), (300, 3)):
        scores, targets, frames = emissions(seconds)
        path = ctc_path(scores, targets)
        ok = ok and bool((path[frames] == np.arange(len(targets))).mean() > 0.999)
        candidates = {"ours": lambda s=scores, t=targets: ctc_path(s, t)}
        if other := peer(scores, targets):
            candidates["peer"] = other
        times = in_turn(candidates, rounds)
        figures[f"ours_{seconds}s"], figures[f"peer_{seconds}s"] = times["ours"], times.get("peer")
    acoustic_s = in_turn({"acoustic": acoustic()}, rounds=2)["acoustic"]
    share = figures["ours_30s"] / acoustic_s
    if figures["peer_30s"] is None:
        print("ctc-segmentation is not installed: no peer")
        print(json.dumps({"bench": "ctc_align", "ok": ok, **figures, "share": share, "machine": machine()}))
        return
    line("ctc_align", figures["ours_30s"], "ctc-segmentation, 30 s", figures["peer_30s"], None, ok,
         ours_300_s=round(figures["ours_300s"], 4), peer_300_s=round(figures["peer_300s"], 4),
         ratio_300=round(figures["ours_300s"] / figures["peer_300s"], 3), acoustic_30_s=round(acoustic_s, 3),
         share_of_acoustic=round(share, 4))  # fmt: skip


if __name__ == "__main__":
    main()
