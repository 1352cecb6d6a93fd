"""Balanced k-means in one run: ours, k-means-constrained (balanced too), faiss and sklearn (not balanced).

    python benchmarks/balanced_kmeans.py [--n 20000 --k 128 --dim 384] [--n 1000000] [--alone]

Points: unequal topics under broad fields on the unit sphere, with a falling spectrum around them, as embeddings of
sentences have; float16, memory-mapped for ours. Inertia is the mean squared distance to the own cluster's mean, by the
same arithmetic for all. peer: k-means-constrained, 30 iterations, up to 50,000 points; faiss, 20 iterations, beyond.
floor: one pass of distances and sums. A peer that is not installed is skipped: `pip install -c constraints.txt
'.[bench]'`; k-means-constrained needs ortools, whose bound on protobuf does not fit the demo's, so both come without
their requirements: `pip install --no-deps k-means-constrained==0.9.1 ortools==9.15.6755 immutabledict==4.3.1 six`.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import DEVICE, line, set_threads

from salad.select.kmeans.balanced import balanced_kmeans

BLOCK = 1 << 15
MOST_CONSTRAINED, MOST_SKLEARN = 50_000, 200_000  # points: beyond, they take too long


def make_points(path: Path, n: int, dim: int, num_topics: int = 400, num_fields: int = 30) -> np.ndarray:
    """Memory-mapped float16 [n, dim] unit vectors."""
    rng = np.random.default_rng(0)

    def directions(num: int) -> np.ndarray:
        x = rng.standard_normal((num, dim), dtype=np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    centres = 0.45 * (directions(num_fields)[rng.integers(0, num_fields, num_topics)] + directions(num_topics))
    weights = 1 / (np.arange(num_topics) + 5.0)
    spread = (np.arange(dim) + 10.0) ** -0.5
    spread = (0.75 * spread / np.linalg.norm(spread)).astype(np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n, dim))
    for start in range(0, n, BLOCK):
        num = min(BLOCK, n - start)
        x = centres[rng.choice(num_topics, num, p=weights / weights.sum())]
        x = x + rng.standard_normal((num, dim), dtype=np.float32) * spread
        out[start : start + num] = x / np.linalg.norm(x, axis=1, keepdims=True)
    out.flush()
    return np.load(path, mmap_mode="r")


def inertia_of(x: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Sum of squares less that of the means, in float64: the same arithmetic for every method."""
    squares, total = 0.0, np.zeros((k, x.shape[1]))
    for start in range(0, len(x), BLOCK):
        part = torch.from_numpy(x[start : start + BLOCK].astype(np.float64))
        squares += float((part**2).sum())
        here = torch.zeros(k, x.shape[1], dtype=torch.float64)
        total += here.index_add_(0, torch.from_numpy(labels[start : start + BLOCK]), part).numpy()
    sizes = np.maximum(np.bincount(labels, minlength=k), 1)
    return float((squares - (total**2 / sizes[:, None]).sum()) / len(x))


def constrained(x: np.ndarray, k: int) -> np.ndarray:
    module = importlib.import_module("k_means_constrained")
    sizes = {"size_min": len(x) // k, "size_max": -(-len(x) // k)}
    return module.KMeansConstrained(k, **sizes, n_init=1, max_iter=30, random_state=0, n_jobs=1).fit_predict(x)


def faiss(x: np.ndarray, k: int) -> np.ndarray:
    module = importlib.import_module("faiss")
    module.omp_set_num_threads(torch.get_num_threads())
    found = module.Kmeans(x.shape[1], k, niter=20, seed=1, max_points_per_centroid=len(x))
    found.train(x)
    return found.index.search(x, 1)[1][:, 0]


def sklearn(x: np.ndarray, k: int) -> np.ndarray:
    module = importlib.import_module("sklearn.cluster")
    return module.KMeans(k, n_init=1, max_iter=20, tol=0, random_state=0).fit_predict(x)


def floor_s(x: np.ndarray, k: int) -> float:
    """Distances of all points and the sums of k clusters, once."""
    centroids, rows = torch.from_numpy(x[:k].astype(np.float32)).to(DEVICE), 4096
    part = torch.from_numpy(x[:rows].astype(np.float32)).to(DEVICE)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        _ = float(((part @ centroids.T).T @ part).sum())
        seconds.append(time.perf_counter() - start)
    return min(seconds) * len(x) / rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--k", type=int, default=128)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--alone", action="store_true", help="without the peers")
    arguments = parser.parse_args()
    set_threads()
    n, k = arguments.n, arguments.k
    with tempfile.TemporaryDirectory() as folder:
        x = make_points(Path(folder) / "points.npy", n, arguments.dim)
        start = clocks()
        ours = balanced_kmeans(x, k, seed=0, device=DEVICE)
        methods: dict[str, dict[str, Any]] = {"ours": row(x, ours.labels, k, start)}
        rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        floor = floor_s(x, k)
        peers = {"k-means-constrained": constrained} if n <= MOST_CONSTRAINED else {}
        peers |= {"faiss": faiss} | ({"sklearn": sklearn} if n <= MOST_SKLEARN else {})
        whole = None if arguments.alone else x.astype(np.float32)
        for name, peer in {} if arguments.alone else peers.items():
            start = clocks()
            try:
                labels = peer(whole, k).astype(np.int64)
            except ImportError as error:
                print(f"{name}: skipped, {error}", file=sys.stderr)
                continue
            methods[name] = row(x, labels, k, start)
    free = [methods[name]["inertia"] for name in ("faiss", "sklearn") if name in methods]
    for name, found in methods.items():
        found["over_unconstrained"] = round(found["inertia"] / min(free), 4) if free else None
        print(f"{name}: {found}", file=sys.stderr)
    peer = next((name for name in peers if name in methods), "ours")
    rival = methods.get("k-means-constrained")
    ok = methods["ours"]["max"] - methods["ours"]["min"] <= 1 and ours.gap <= 0.002
    ok &= rival is None or methods["ours"]["inertia"] <= 1.005 * rival["inertia"]
    line(
        "balanced_kmeans",
        methods["ours"]["s"],
        peer if peer != "ours" else "none",
        methods[peer]["s"],
        floor,
        bool(ok),
        n=n,
        k=k,
        dim=arguments.dim,
        gap=ours.gap,
        ours_rss_mb=rss_mb,
        methods=methods,
    )


def clocks() -> tuple[float, float]:
    """Wall and processor seconds: on a machine shared with others the second tells more."""
    return time.perf_counter(), time.process_time()


def row(x: np.ndarray, labels: np.ndarray, k: int, start: tuple[float, float]) -> dict[str, Any]:
    seconds, cpu = (now - then for now, then in zip(clocks(), start, strict=True))
    sizes, inertia = np.bincount(labels, minlength=k), inertia_of(x, labels, k)
    return {
        "s": round(seconds, 2),
        "cpu_s": round(cpu, 2),
        "inertia": round(inertia, 5),
        "max": int(sizes.max()),
        "min": int(sizes.min()),
    }


if __name__ == "__main__":
    main()
