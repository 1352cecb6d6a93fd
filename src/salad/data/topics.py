"""The topics that the teacher writes about when no corpus is at hand: narrow (like speech) and broad (like the web)."""

from __future__ import annotations

from functools import cache
from importlib import resources
from types import MappingProxyType

import yaml

from salad.types import SaladError

__all__ = ["broad_topics", "check_topics", "narrow_topics"]

MIN_TOPICS = {"narrow": 40, "broad": 10}  # in every domain
MIN_DOMAINS = {"narrow": 2, "broad": 12}


def narrow_topics() -> dict[str, list[str]]:
    """Domain -> topics of the kind that natural speech covers: stories and daily talk."""
    return _copy("narrow")


def broad_topics() -> dict[str, list[str]]:
    """Domain -> topics of the kind that an encyclopaedia covers: sciences, society, arts."""
    return _copy("broad")


def check_topics(groups: object) -> None:
    """Raise SaladError where a group is missing or too small, or where a topic is empty, too long or there twice."""
    if not isinstance(groups, dict) or set(groups) != set(MIN_DOMAINS):
        raise SaladError(f"topics: expected the groups {sorted(MIN_DOMAINS)}, got {groups!r:.200}")
    seen: dict[str, str] = {}
    domains: set[str] = set()
    for group, by_domain in groups.items():
        if not isinstance(by_domain, dict) or len(by_domain) < MIN_DOMAINS[group]:
            raise SaladError(f"topics.{group}: expected at least {MIN_DOMAINS[group]} domains, got {by_domain!r:.200}")
        if twice := domains & set(by_domain):
            raise SaladError(f"topics.{group}: domain {min(twice)!r} is in both groups; rename one")
        domains |= set(by_domain)
        for domain, topics in by_domain.items():
            where = f"topics.{group}.{domain}"
            if not isinstance(topics, list) or len(topics) < MIN_TOPICS[group]:
                raise SaladError(
                    f"{where}: expected a list of at least {MIN_TOPICS[group]} topics, got {topics!r:.200}"
                )
            for topic in topics:
                if not isinstance(topic, str) or not 1 <= len(topic.split()) <= 12:
                    raise SaladError(f"{where}: expected a phrase of 1 to 12 words, got {topic!r}")
                key = " ".join(topic.lower().split())
                if key in seen:
                    raise SaladError(f"{where}: {topic!r} is already in {seen[key]}; remove one")
                seen[key] = where


@cache
def _load() -> MappingProxyType[str, dict[str, list[str]]]:
    groups = yaml.safe_load(resources.files("salad.data").joinpath("topics.yaml").read_text(encoding="utf-8"))
    check_topics(groups)
    return MappingProxyType(groups)


def _copy(group: str) -> dict[str, list[str]]:
    """Callers may shuffle what they get."""
    return {domain: list(topics) for domain, topics in _load()[group].items()}
