"""How often the law's 95 % intervals hold the truth: known curves with noise, fitted draw after draw.

One line a case: hits of E, B and beta out of --draws. Cases 1 and 2 are those of tests/study/test_scaling.py; the
others are harder (fewer sizes, one run a size).
"""

from __future__ import annotations

import argparse

import numpy as np

from salad.progress import console, progress
from salad.study.scaling_law import fit_law

CASES = [  # E, B, beta, noise, sizes, runs of each
    (0.5, 1.0, 0.5, 0.03, np.geomspace(0.1, 100, 8), 3),
    (0.13, 0.6, 0.4, 0.05, np.geomspace(1, 200, 7), 3),
    (0.3, 2.0, 0.8, 0.03, np.geomspace(0.5, 50, 6), 3),
    (0.2, 1.0, 0.6, 0.02, np.geomspace(1, 100, 8), 1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=200)
    arguments = parser.parse_args()
    with progress("fit", len(CASES) * arguments.draws, "curves") as bar:
        for e, b, beta, noise, sizes, runs in CASES:
            d, hits = np.repeat(sizes, runs), np.zeros(3, int)
            for seed in range(arguments.draws):
                m = (e + b * d**-beta) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(d)))
                law = fit_law(d, m, resamples=arguments.resamples, seed=seed)
                hits += [q.low <= truth <= q.high for q, truth in ((law.e, e), (law.b, b), (law.beta, beta))]
                bar.advance()
            known = f"E {e:g}, B {b:g}, beta {beta:g}, noise {noise:g}, {len(sizes)} sizes x {runs}"
            console.print(f"{known}: E {hits[0]}, B {hits[1]}, beta {hits[2]} of {arguments.draws}", highlight=False)


if __name__ == "__main__":
    main()
