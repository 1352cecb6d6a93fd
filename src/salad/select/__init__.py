"""Embed -> balanced clusters -> probe -> explain -> allocate -> draw."""

from salad.select.allocate import allocate, draw, score_of
from salad.select.embed import embed_documents, join_embeddings, top_words
from salad.select.explain import Evidence, Parts, explain, with_evidence
from salad.select.kmeans.balanced import BalancedClusters, balanced_kmeans
from salad.select.looks import ACTIVE, UNIFORM, Look, Probed, expected_overlap, probe_in_looks
from salad.select.screen import Screen, near_duplicates, overlapping

__all__ = [
    "ACTIVE",
    "UNIFORM",
    "BalancedClusters",
    "Evidence",
    "Look",
    "Parts",
    "Probed",
    "Screen",
    "allocate",
    "balanced_kmeans",
    "draw",
    "embed_documents",
    "expected_overlap",
    "explain",
    "join_embeddings",
    "near_duplicates",
    "overlapping",
    "probe_in_looks",
    "score_of",
    "top_words",
    "with_evidence",
]
