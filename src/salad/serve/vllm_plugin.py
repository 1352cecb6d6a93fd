"""How vLLM finds us (its entry point `vllm.general_plugins`), and the ears that its processor runs. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

ARCHITECTURE = "SaladForConditionalGeneration"
MODEL = "salad.serve.vllm:Model"  # by name: vLLM imports it where it needs it, and no GPU is touched before it forks


def register() -> None:
    """Tell vLLM of our model, and transformers of its configuration. It may be called any number of times."""
    from vllm import ModelRegistry

    import salad.model  # noqa: F401  (transformers' Auto classes know ours from here on)

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, MODEL)


class AudioReader:
    """A saved model's encoder and ears on the CPU: recordings in, what its LLM reads of them out.

    At text rate nobody knows how long that is before it was heard, and where the LLM judges what the ears heard
    (`config.prior`) it must be at hand; so all of it happens before vLLM sees the prompt. Layers of the LLM that are
    not asked for are dropped.
    """

    def __init__(self, place: str, revision: str | None = None) -> None:
        from torch import nn

        from salad.model import SaladForConditionalGeneration, SaladProcessor
        from salad.model.llm import decoder_layers, decoder_of

        self.processor = SaladProcessor.from_pretrained(place, revision=revision)
        self.model = SaladForConditionalGeneration.from_pretrained(place, revision=revision).eval()
        self.processor.ears = self.model
        if not self.model.config.prior:
            layers = decoder_layers(decoder_of(self.model.llm))
            for name, module in list(decoder_of(self.model.llm).named_children()):
                if module is layers:
                    setattr(decoder_of(self.model.llm), name, nn.ModuleList())

    def most(self, seconds: float) -> int:
        """The most embeddings that a recording of this length can have: one for each position of its spans, and one
        more for the end of each."""
        from salad.model.processor import MAX_SPAN_S

        spans = int(seconds // (MAX_SPAN_S / 2)) + 1  # none but the last is shorter than half of the longest
        config = self.model.config
        return int(seconds * config.frame_rate_hz / config.stride) + 2 * spans

    def embeddings(self, recordings: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """float32 [positions, llm width] of each recording, float32 [num_samples] at the encoder's rate."""
        import torch

        out = []
        with torch.no_grad():
            for recording in recordings:
                frames = self.processor.frames_of(np.asarray(recording, dtype=np.float32))
                out.append(torch.cat(self.model.get_audio_features(frames)).float())
        return out


@cache
def listener(place: str, revision: str | None = None) -> AudioReader:
    """One for each model and process: vLLM makes many processors."""
    return AudioReader(place, revision)
