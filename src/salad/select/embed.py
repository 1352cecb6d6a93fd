"""Sentence embeddings of documents, and the words that name a cluster."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["embed", "top_words"]


def embed(texts: Sequence[str], folder: Path) -> np.ndarray:
    """float32 [num_texts, dim], unit length, by the sentence-transformers model in `folder`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)


def top_words(texts: Sequence[str], labels: np.ndarray, num: int = 6) -> list[tuple[str, ...]]:
    """The `num` most telling words of each cluster: frequency inside times log inverse share of clusters (c-TF-IDF)."""
    counts = [Counter() for _ in range(int(labels.max()) + 1)]
    for text, label in zip(texts, labels, strict=True):
        counts[label].update(set(re.findall(r"[a-z]{4,}", text.lower())))
    spread = Counter(word for count in counts for word in count)

    def weight(count: Counter[str], word: str) -> float:
        return count[word] * math.log(1 + len(counts) / spread[word])

    return [tuple(sorted(count, key=lambda w: (-weight(count, w), w))[:num]) for count in counts]
