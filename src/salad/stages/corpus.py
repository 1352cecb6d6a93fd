"""corpus: D_web and the held-out texts, written by the teacher; D_speech, written and spoken (simulated)."""

from __future__ import annotations

import functools
import re
from dataclasses import asdict
from typing import Any

from salad.corpus.manifest import load_spoken, write_lhotse
from salad.corpus.read import find_recordings, import_recordings, read_local_text
from salad.corpus.topics import broad_topics, narrow_topics
from salad.corpus.write import prompts, write_documents
from salad.engine import run_shards
from salad.files import read_jsonl, write_jsonl
from salad.pipeline import Run
from salad.stages.speech import assign_voices, gather_quarantine, speak
from salad.train.loop import uses_bf16
from salad.types import Document, SaladError

__all__ = ["load_documents", "run"]

HELDOUT_TOPICS = 2  # topics of each domain that nothing is trained on


def run(run: Run) -> dict[str, Any]:
    recipe, folder = run.recipe, run.folder("corpus")
    documents = _write(run)
    web = documents["web"] + read_local_text(recipe.corpus.local_text)
    for name, group in (("web", web), ("speech", documents["speech"]), ("heldout", documents["heldout"])):
        if len({d.id for d in group}) != len(group):
            raise SaladError(f"corpus: two documents of {name} share an id; give every document its own")
        write_jsonl(folder / f"{name}.jsonl", [asdict(d) for d in group])
    voices = assign_voices(documents["speech"], recipe.corpus.voices.shares, recipe.seed)
    speech = speak(run, folder / "speech", voices, "speak D_speech (simulated)")
    recordings = find_recordings(recipe.corpus.speech_folders)
    if recordings:
        items = [(str(p), f"own-{i:06d}-{re.sub(r'[^A-Za-z0-9]+', '-', p.stem)}") for i, p in enumerate(recordings)]
        workers = recipe.engine.workers
        speech += load_spoken(
            run_shards(
                import_recordings,
                items,
                folder / "own",
                shard_items=64,
                workers=workers,
                title="read recordings",
                set_aside=True,
            )
        )
    # slow voices first: their shards are the long ones
    unseen = [
        (d, recipe.corpus.unseen_voice) for d in _one_a_domain(documents["heldout"], recipe.corpus.unseen_documents)
    ]
    heldout = speak(
        run,
        folder / "heldout",
        unseen + [(d, recipe.corpus.heldout_voice) for d in documents["heldout"]],
        "speak held-out",
    )
    write_lhotse([u for u, _ in speech], folder / "speech.cuts.jsonl.gz")
    write_lhotse([u for u, _ in heldout], folder / "heldout.cuts.jsonl.gz")
    aside = gather_quarantine(folder)
    return {
        "web_documents": len(web),
        "speech_documents": len(speech),
        "heldout_documents": len(documents["heldout"]),
        "speech_hours": sum(u.duration_s for u, _ in speech) / 3600,
        "heldout_hours": sum(u.duration_s for u, _ in heldout) / 3600,
        "quarantined": len(aside),
        "simulated": True,
    }


def load_documents(run: Run, name: str) -> list[Document]:
    """Documents of `web`, `speech` or `heldout`."""
    return [Document(**row) for row in read_jsonl(run.folder("corpus") / f"{name}.jsonl")]


def _write(run: Run) -> dict[str, list[Document]]:
    settings, seed = run.recipe.corpus, run.recipe.seed
    broad, narrow = broad_topics(), narrow_topics()
    kept = {domain: topics[HELDOUT_TOPICS:] for domain, topics in {**narrow, **broad}.items()}
    heldout = {domain: topics[:HELDOUT_TOPICS] for domain, topics in {**narrow, **broad}.items()}
    num_narrow = sum(len(kept[domain]) for domain in narrow)
    rows = prompts({d: kept[d] for d in broad}, settings.web_documents_per_topic, "web", seed)
    rows += prompts({d: kept[d] for d in narrow}, -(-settings.speech_documents // num_narrow), "speech", seed)[
        : settings.speech_documents
    ]
    rows += prompts(heldout, -(-settings.heldout_per_domain // HELDOUT_TOPICS), "heldout", seed)
    function = functools.partial(
        write_documents,
        llm=run.recipe.assets.llm,
        max_new_tokens=settings.max_new_tokens,
        min_words=settings.min_words,
        temperature=settings.temperature,
        top_k=settings.top_k,
        seed=seed,
        bf16=uses_bf16(run.recipe.precision),
    )
    folders = run_shards(
        function, rows, run.folder("corpus") / "text", shard_items=settings.batch, workers=run.recipe.engine.workers,
        title="the teacher writes", unit="documents", set_aside=True,
    )  # fmt: skip
    source = {row["id"]: row["source"] for row in rows}
    documents: dict[str, list[Document]] = {"web": [], "speech": [], "heldout": []}
    for path in folders:
        for row in read_jsonl(path / "documents.jsonl"):
            documents[source[row["id"]]].append(Document(**row))
    return documents


def _one_a_domain(documents: list[Document], num: int) -> list[Document]:
    """`num` documents, spread over the domains."""
    turn: dict[str, int] = {}
    ranked = []
    for document in documents:
        turn[document.domain] = turn.get(document.domain, -1) + 1
        ranked.append((turn[document.domain], document.domain, document))
    return [document for _, _, document in sorted(ranked, key=lambda r: (r[0], r[1]))][:num]
