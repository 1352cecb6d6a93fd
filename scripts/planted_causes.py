"""Plant known causes of high M in a finished run's own corpus, and see what each score makes of them.

    python scripts/planted_causes.py recipes/demo.yaml --dir runs/planted

Clusters of held-out documents, heard by the model after Stage I: `known` (a domain of the training speech, as it is),
`garbled` (the same domains, the recording under noise), `hard` (the same domains, their words shuffled and spoken) and
`missing` (domains without training speech). The score that buys speech should put `missing` first. Prints a JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from salad.audio import read_audio, write_flac
from salad.config import load_recipe
from salad.pipeline.prober import Prober
from salad.pipeline.run import Run
from salad.pipeline.stages.align import load_aligned
from salad.pipeline.stages.corpus import load_documents
from salad.select.explain import explain
from salad.types import Document, Utterance


def garble(utterance: Utterance, folder: Path, snr_db: float, rng: np.random.Generator) -> Utterance:
    """The recording under white noise, its word times as they were."""
    samples, rate = read_audio(utterance.audio)
    noise = rng.standard_normal(len(samples)) * np.sqrt((samples**2).mean()) * 10 ** (-snr_db / 20)
    path = folder / f"{utterance.id}.flac"
    write_flac(path, 0.5 * (samples + noise).astype(np.float32), rate)
    return replace(utterance, audio=str(path), id=f"{utterance.id}-garbled", document_id=f"{utterance.document_id}-g")


def shuffle(document: Document, rng: random.Random) -> Document:
    words = document.text.split()
    rng.shuffle(words)
    return replace(document, id=f"{document.id}-shuffled", text=" ".join(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--dir", type=Path, default=Path("runs/planted"))
    parser.add_argument("--documents", type=int, default=5, help="documents of each cluster")
    parser.add_argument("--snr-db", type=float, default=-3.0)
    arguments = parser.parse_args()
    run = Run(load_recipe(arguments.recipe, arguments.set))
    n, rng, numbers = arguments.documents, random.Random(run.recipe.seed), np.random.default_rng(run.recipe.seed)
    trained = {d.domain for d in load_documents(run, "speech")}
    unseen = run.recipe.corpus.unseen_voices
    heldout = [u for u in load_aligned(run, "heldout") if u.speaker not in unseen]
    rng.shuffle(heldout)
    own = [u for u in heldout if u.domain in trained]
    away = sorted({u.domain for u in heldout} - trained)
    documents = {d.id: d for d in load_documents(run, "heldout")}

    prober = Prober(run)
    plan: dict[str, list[Utterance]] = {"known": own[:n], "garbled": [], "hard": []}
    plan["garbled"] = [garble(u, arguments.dir / "garbled", arguments.snr_db, numbers) for u in own[n : 2 * n]]
    plan |= {f"missing: {domain}": [u for u in heldout if u.domain == domain][:n] for domain in away}
    names = list(plan)
    cluster_of = {u.document_id: names.index(name) for name, group in plan.items() for u in group}
    rows = prober.measure_aligned(
        arguments.dir / "recorded", [u for group in plan.values() for u in group], cluster_of, "the planted clusters"
    )
    hard = [(shuffle(documents[u.document_id], rng), names.index("hard")) for u in own[-n:]]
    rows += prober.measure(arguments.dir / "hard", hard, "shuffled texts")
    parts, slopes = explain([row[1] for row in rows])
    table = {
        names[p.cluster]: {
            **{k: round(getattr(p, k), 3) for k in ("misalignment", "voice", "difficulty", "domain", "domain_se")},
            "documents": p.documents,
            "cer": round(float(np.mean([row[2] for row in rows.of(p.cluster)])), 3),
        }
        for p in parts
    }
    ranked = {score: sorted(table, key=lambda c: -table[c][score]) for score in ("misalignment", "domain")}
    for name in sorted(table, key=lambda c: -table[c]["domain"]):
        print(f"{name:42s}", table[name])
    print(json.dumps({"slopes": slopes, "first": {k: v[:3] for k, v in ranked.items()},
                      "rank_of_garbled": {k: v.index("garbled") + 1 for k, v in ranked.items()},
                      "rank_of_hard": {k: v.index("hard") + 1 for k, v in ranked.items()}}))  # fmt: skip


if __name__ == "__main__":
    main()
