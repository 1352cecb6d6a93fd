"""Embed -> balanced clusters -> probe -> allocate -> draw."""

from salad.select.allocate import allocate, draw
from salad.select.balanced import balanced_kmeans
from salad.select.embed import embed_documents, join_embeddings, top_words

__all__ = ["allocate", "balanced_kmeans", "draw", "embed_documents", "join_embeddings", "top_words"]
