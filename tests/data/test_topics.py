"""The built-in topics: enough of them, all distinct, and a broken list is refused with a reason."""

from __future__ import annotations

import copy

import pytest

from salad.data.topics import broad_topics, check_topics, narrow_topics
from salad.types import SaladError


def test_narrow_domains_and_counts():
    topics = narrow_topics()
    assert set(topics) == {"stories", "everyday"}
    assert all(len(of_domain) >= 40 for of_domain in topics.values())


def test_broad_domains_and_counts():
    topics = broad_topics()
    assert len(topics) == 14
    assert all(len(of_domain) >= 10 for of_domain in topics.values())
    assert sum(map(len, topics.values())) >= 140


def test_every_topic_is_there_once():
    topics = [
        t.lower() for group in (narrow_topics(), broad_topics()) for of_domain in group.values() for t in of_domain
    ]
    assert len(topics) == len(set(topics))


def test_callers_get_their_own_copy():
    broad_topics()["physics"].clear()
    assert broad_topics()["physics"]


def _groups() -> dict:
    return copy.deepcopy({"narrow": narrow_topics(), "broad": broad_topics()})


def test_a_repeated_topic_is_named():
    groups = _groups()
    groups["broad"]["physics"].append("A lost dog that finds  its way home")
    with pytest.raises(SaladError, match="broad.physics.*already in topics.narrow.stories"):
        check_topics(groups)


def test_a_short_domain_is_named():
    groups = _groups()
    groups["narrow"]["stories"] = groups["narrow"]["stories"][:39]
    with pytest.raises(SaladError, match="narrow.stories.*at least 40"):
        check_topics(groups)


@pytest.mark.parametrize("topic", ["", 7, None, "word " * 13])
def test_a_topic_that_is_no_phrase_is_refused(topic):
    groups = _groups()
    groups["broad"]["law"].append(topic)
    with pytest.raises(SaladError, match="broad.law.*phrase"):
        check_topics(groups)


def test_a_domain_in_both_groups_is_refused():
    groups = _groups()
    groups["broad"]["stories"] = groups["broad"].pop("law")
    with pytest.raises(SaladError, match="both groups"):
        check_topics(groups)


@pytest.mark.parametrize("groups", [None, [], {}, {"narrow": {}}, {"narrow": {}, "broad": {}, "middle": {}}])
def test_a_file_without_the_groups_is_refused(groups):
    with pytest.raises(SaladError, match="groups"):
        check_topics(groups)
