"""SALAD: give a text LLM ears without making it dumber (arXiv 2510.13632)."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Where each name of the door lies: it is fetched when it is asked for, so that importing salad loads no torch.
_PLACES = {
    "Callback": "salad.training.callbacks",
    "DistillTask": "salad.training.tasks",
    "Divergence": "salad.api",
    "Evaluation": "salad.api",
    "Model": "salad.api",
    "RunExamples": "salad.pipeline.run_examples",
    "SaladConfig": "salad.model",
    "SaladError": "salad.types",
    "SaladForConditionalGeneration": "salad.model",
    "SaladProcessor": "salad.model",
    "Schedule": "salad.training.loop",
    "SpeechInput": "salad.evaluation.spoken_benchmark",
    "Teacher": "salad.model.teacher",
    "divergence": "salad.api",
    "evaluate": "salad.api",
    "load": "salad.api",
    "load_recipe": "salad.config",
    "run": "salad.api",
    "train": "salad.training.loop",
}
__all__ = sorted([*_PLACES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'salad' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
