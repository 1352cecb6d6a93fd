"""The topics that the teacher writes about when no corpus is at hand: narrow (like speech) and broad (like the web)."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml


def narrow_topics() -> dict[str, list[str]]:
    """Domain -> topics of the kind that natural speech covers: stories and daily talk."""
    return _copy("narrow")


def broad_topics() -> dict[str, list[str]]:
    """Domain -> topics of the kind that an encyclopaedia covers: sciences, society, arts."""
    return _copy("broad")


@cache
def _load() -> dict[str, dict[str, list[str]]]:
    text = resources.files("salad.data").joinpath("topics.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _copy(group: str) -> dict[str, list[str]]:
    """Callers may shuffle what they get."""
    return {domain: list(topics) for domain, topics in _load()[group].items()}
