"""Sentence embeddings of documents, and the words that name a cluster."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from salad import assets
from salad.engine import Shard
from salad.engine.devices import worker_device
from salad.files import whole_file


def embed_documents(shard: Shard, folder: Path, *, asset: str, batch: int) -> None:
    """Unit vectors of a shard's texts by a sentence-transformers model -> embeddings.npy, float16 [texts, dim].

    A batch holds texts of like length (the library sorts them), so little is spent on padding.
    """
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(assets.get(asset)), device=worker_device(), local_files_only=True)
    vectors = model.encode(list(shard.items), batch_size=batch, normalize_embeddings=True, show_progress_bar=False)
    np.save(folder / "embeddings.npy", vectors.astype(np.float16))


def join_embeddings(folders: Sequence[Path], path: Path) -> np.ndarray:
    """One file of all shards' embeddings, memory-mapped float16 [N, dim]; no more than a shard is held at a time."""
    shapes = [np.load(folder / "embeddings.npy", mmap_mode="r").shape for folder in folders]
    header = {"descr": "<f2", "fortran_order": False, "shape": (sum(n for n, _ in shapes), shapes[0][1])}
    with whole_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for folder in folders:
            file.write(np.load(folder / "embeddings.npy").astype(np.float16).tobytes())
    kept: np.ndarray = np.load(path, mmap_mode="r")
    return kept


def top_words(texts: Sequence[str], labels: np.ndarray, num: int = 6) -> list[tuple[str, ...]]:
    """The `num` most telling words of each cluster: frequency inside times log inverse share of clusters (c-TF-IDF).

    labels: int [texts], the cluster of each text.
    """
    counts = [Counter[str]() for _ in range(int(labels.max()) + 1)]
    for text, label in zip(texts, labels, strict=True):
        counts[label].update(set(re.findall(r"[a-z]{4,}", text.lower())))
    spread = Counter(word for count in counts for word in count)

    def weight(count: Counter[str], word: str) -> float:
        return count[word] * math.log(1 + len(counts) / spread[word])

    return [tuple(sorted(count, key=lambda w: (-weight(count, w), w))[:num]) for count in counts]
