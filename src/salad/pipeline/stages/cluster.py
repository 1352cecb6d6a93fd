"""cluster: embed D_web and part it into balanced clusters."""

from __future__ import annotations

import functools

import numpy as np
from safetensors.numpy import load_file

from salad.engine import Made, run_shards
from salad.files import read_json, write_json, write_tensors
from salad.pipeline.corpus_needs import stream_documents
from salad.pipeline.run import Run, Summary
from salad.select.embed import embed_documents, join_embeddings, top_words
from salad.select.kmeans.balanced import balanced_kmeans
from salad.types import Cluster

SECTIONS = ("cluster",)


def run(run: Run) -> Summary:
    folder = run.folder("cluster")
    texts = Made(lambda document: document.text, stream_documents(run, "web"))
    settings = run.recipe.cluster
    function = functools.partial(embed_documents, asset=run.recipe.assets.embedder, batch=settings.batch)
    folders = run_shards(
        function,
        texts,
        folder / "embeddings",
        shard_items=settings.shard_documents,
        workers=run.recipe.engine.workers,
        title="embed D_web",
        unit="documents",
        fresh=True,
        library="torch",
    )
    embeddings = join_embeddings(folders, folder / "embeddings.npy")
    clusters = balanced_kmeans(embeddings, settings.k, seed=run.recipe.seed)
    tensors = {"labels": clusters.labels, "centroids": clusters.centroids}
    write_tensors(folder / "clusters.safetensors", tensors)
    write_json(folder / "top_words.json", top_words(texts, clusters.labels))
    sizes = clusters.sizes
    return {
        "clusters": len(sizes),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "inertia": clusters.inertia,
        "gap": clusters.gap,
    }


def load_clusters(run: Run) -> tuple[list[Cluster], np.ndarray]:
    """Clusters without figures yet, and the cluster of every document of D_web."""
    saved = load_file(run.folder("cluster") / "clusters.safetensors")
    words = read_json(run.folder("cluster") / "top_words.json")
    labels = saved["labels"]
    clusters = [
        Cluster(id=i, centroid=centroid, size=int((labels == i).sum()), top_words=tuple(words[i]))
        for i, centroid in enumerate(saved["centroids"])
    ]
    return clusters, labels
