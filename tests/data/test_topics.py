"""The built-in topics: enough of them, short phrases, all distinct."""

from __future__ import annotations

from salad.data.topics import broad_topics, narrow_topics


def test_narrow_domains_and_counts():
    topics = narrow_topics()
    assert set(topics) == {"stories", "everyday"}
    assert all(len(of_domain) >= 40 for of_domain in topics.values())


def test_broad_domains_and_counts():
    topics = broad_topics()
    assert len(topics) == 14
    assert all(len(of_domain) >= 10 for of_domain in topics.values())
    assert sum(map(len, topics.values())) >= 140


def test_every_topic_is_a_phrase_and_there_once():
    narrow, broad = narrow_topics(), broad_topics()
    topics = [topic for group in (narrow, broad) for of_domain in group.values() for topic in of_domain]
    keys = [" ".join(topic.lower().split()) for topic in topics]
    assert len(keys) == len(set(keys)) and not narrow.keys() & broad.keys()
    assert all(1 <= len(topic.split()) <= 12 for topic in topics)


def test_callers_get_their_own_copy():
    broad_topics()["physics"].clear()
    assert broad_topics()["physics"]
