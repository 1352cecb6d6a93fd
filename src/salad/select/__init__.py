"""Embed -> balanced clusters -> probe -> explain -> allocate -> draw."""

from salad.select.adaptive import Estimate, fixed_probes, next_probes, unsettled
from salad.select.allocate import allocate, draw, score_of
from salad.select.embed import embed_documents, join_embeddings, top_words
from salad.select.explain import Evidence, Parts, explain
from salad.select.kmeans.balanced import BalancedClusters, balanced_kmeans
from salad.select.screen import near_duplicates, overlapping

__all__ = [
    "BalancedClusters",
    "Estimate",
    "Evidence",
    "Parts",
    "allocate",
    "balanced_kmeans",
    "draw",
    "embed_documents",
    "explain",
    "fixed_probes",
    "join_embeddings",
    "near_duplicates",
    "next_probes",
    "overlapping",
    "score_of",
    "top_words",
    "unsettled",
]
