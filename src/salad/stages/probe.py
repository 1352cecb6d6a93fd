"""probe: speak a few documents of every cluster; M(c) and CER(c)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from salad.align.transcribe import cer
from salad.engine.memory import keep_freed_memory
from salad.files import read_json, write_json
from salad.measure.divergence import divergence, speech_ears, summary
from salad.model.teacher import Teacher
from salad.pipeline import Run
from salad.stages.cluster import load_clusters
from salad.stages.corpus import load_documents
from salad.stages.speech import align, encode, gather_quarantine, speak, transcribe
from salad.stages.speechlm import build_model, freeze, load_tokenizer, speech_examples
from salad.train.checkpoint import latest_checkpoint
from salad.train.loop import autocast, uses_bf16
from salad.types import Cluster

__all__ = ["load_probed", "run"]


def run(run: Run) -> dict[str, Any]:
    settings, folder = run.recipe.probe, run.folder("probe")
    clusters, labels = load_clusters(run)
    documents = load_documents(run, "web")
    rng = np.random.default_rng(run.recipe.seed)
    chosen, cluster_of = [], {}
    for cluster in clusters:
        members = np.flatnonzero(labels == cluster.id)
        for i in rng.choice(members, min(settings.documents, len(members)), replace=False):
            chosen.append((documents[i], settings.voice))
            cluster_of[documents[i].id] = cluster.id
    utterances = align(
        run, folder / "aligned", speak(run, folder / "speech", chosen, "speak the probe"), "align the probe"
    )
    frames = encode(run, folder / "frames", utterances, "encode the probe", layouts=1)
    heard = transcribe(run, folder / "transcripts", utterances, "transcribe the probe")
    aside = gather_quarantine(folder)
    tokenizer = load_tokenizer(run)
    torch.set_num_threads(run.recipe.threads)
    keep_freed_memory()
    lora = run.recipe.stage1.llm == "lora"
    model = build_model(run, latest_checkpoint(run.folder("stage1")), lora=lora)
    base = model if run.recipe.stage1.llm == "frozen" else build_model(run)
    for each in {id(model): model, id(base): base}.values():
        freeze(each, "frozen", run.recipe.precision)
    examples = speech_examples(run, tokenizer, utterances, frames)
    with torch.no_grad(), autocast(uses_bf16(run.recipe.precision)):
        rows = divergence(model, Teacher(base, cache=False), examples, speech_ears(model))
    errors = {u.id: cer(heard.get(u.id, ""), u.text) for u in utterances}
    found = []
    for cluster in clusters:
        own = [(row, u) for row, u in zip(rows, utterances, strict=True) if cluster_of[u.document_id] == cluster.id]
        if not own:  # every probe document was set aside: nothing is known, so nothing is bought
            found.append({"id": cluster.id, "misalignment": None, "misalignment_se": None, "cer": None, "documents": 0})
            continue
        m = summary([row for row, _ in own])
        se = m["se"] if np.isfinite(m["se"]) else 0.0
        mean_cer = float(np.mean([errors[u.id] for _, u in own]))
        found.append(
            {"id": cluster.id, "misalignment": m["all"], "misalignment_se": se, "cer": mean_cer, "documents": len(own)}
        )
    words = sum(len(u.words) for u in utterances)
    seconds = sum(u.duration_s for u in utterances)
    write_json(folder / "probe.json", {"clusters": found, "seconds_per_word": seconds / max(words, 1)})
    return {
        "documents": len(utterances),
        "hours": seconds / 3600,
        "misalignment": summary(rows)["all"],
        "cer": float(np.mean(list(errors.values()))),
        "quarantined": len(aside),
    }


def load_probed(run: Run) -> tuple[list[Cluster], np.ndarray, float]:
    """Clusters with M and CER, the cluster of every document, and seconds of speech per word."""
    clusters, labels = load_clusters(run)
    saved = read_json(run.folder("probe") / "probe.json")
    known = {row["id"]: row for row in saved["clusters"]}
    fields = ("misalignment", "misalignment_se", "cer")
    clusters = [replace(c, **{f: known[c.id][f] for f in fields if known[c.id][f] is not None}) for c in clusters]
    return clusters, labels, saved["seconds_per_word"]
