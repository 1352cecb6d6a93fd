"""Pinned weights: name -> files + sha256 -> source (local folder | hub | package file) -> cache.

`get(name)` gives a folder whose files have the pinned bytes. Asset folders hold: an LLM its GGUF (`llm_folder` makes
the Hugging Face folder of it), `whisper-tiny.en` the CTranslate2 files, `kokoro` kokoro.onnx, vocab.json and
voices_ja.npz, `kokoro-voices` voices/NAME.bin, `piper-joe` the .onnx and .onnx.json, the embedder a
sentence-transformers folder, `human-speech` WAV files, a corpus what `salad.data.prepared` reads, ears an
adapter (`model_folder` makes the whole model of it).
"""

from __future__ import annotations

from salad.assets.ears import model_folder, origin_of, recipe_behind
from salad.assets.gguf import llm_folder
from salad.assets.hub import BUILT_IN, hub_folder, hub_revision, is_hub_name, split_setting
from salad.assets.registry import ASSETS
from salad.assets.store import cache_dir, fingerprint, get, is_cached, verify

__all__ = [
    "ASSETS",
    "BUILT_IN",
    "cache_dir",
    "fingerprint",
    "get",
    "hub_folder",
    "hub_revision",
    "is_cached",
    "is_hub_name",
    "llm_folder",
    "model_folder",
    "origin_of",
    "recipe_behind",
    "split_setting",
    "verify",
]
