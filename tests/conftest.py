"""Every test run: few threads, no network, the same hypothesis examples each time; and a small recipe."""

from __future__ import annotations

import os

# Set before torch, numpy or huggingface_hub are imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import yaml

torch.set_num_threads(min(2, int(os.environ["OMP_NUM_THREADS"])))

hypothesis.settings.register_profile("salad", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("salad")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _subnormals() -> Iterator[None]:
    """Commands and onnxruntime's sessions leave subnormal numbers flushed; the next test begins without."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def recipe_values(tmp_path: Path) -> dict[str, Any]:
    """The fewest keys that make a valid recipe; its run directory lies in `tmp_path`."""
    return {
        "run_dir": str(tmp_path / "run"),
        "corpus": {
            "voices": {"shares": {"first": 0.5, "second": 0.5}},
            "heldout_voice": "first",
            "unseen_voice": "third",
        },
        "stage1": {"steps": 4},
        "probe": {"voice": "first"},
        "synthesize": {"voices": {"shares": {"first": 1.0}}},
        "stage2": {"steps": 2},
    }


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write values as a YAML recipe in `tmp_path` and return its path."""

    def write(values: Any, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A byte-level BPE as GPT-2's and SmolLM2's."""
    from salad.testing.tokenizers import make_tokenizer

    return make_tokenizer()
