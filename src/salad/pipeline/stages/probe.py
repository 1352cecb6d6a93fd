"""probe: speak a few documents of every cluster; M(c) with its parts, CER(c); more where it can change the purchase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.align.transcribe import cer
from salad.config import Recipe
from salad.engine.memory import keep_freed_memory
from salad.files import read_json, read_jsonl, write_json, write_jsonl
from salad.measure.divergence import deaf_ears, speech_ears, token_divergence, transcript_ears
from salad.model.freeze import freeze
from salad.model.teacher import Teacher
from salad.pipeline.fingerprints import fingerprint, section
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import align, encode, gather_quarantine, speak, transcribe
from salad.pipeline.speechlm import build_model, heard_tokens, load_tokenizer, speech_examples
from salad.pipeline.stages.cluster import load_clusters
from salad.pipeline.stages.corpus import load_documents
from salad.progress import console
from salad.select import Estimate, Evidence, explain, fixed_probes, next_probes, score_of, unsettled
from salad.training.checkpoint import latest_checkpoint
from salad.training.loop import autocast
from salad.types import Cluster, Document, Utterance

__all__ = ["Measured", "Prober", "load_probed", "run"]

SECTIONS = ("probe",)


def inputs(recipe: Recipe) -> dict[str, str]:
    """What may be bought decides where the probe looks again."""
    if recipe.probe.max_documents <= recipe.probe.documents:
        return {}
    values = section(recipe, "select")
    return {"rule of select": fingerprint({name: values[name] for name in ("gamma", "max_cer", "score")})}


BATCH_SHARE = 0.5  # documents of a later round, as a share of the first


class Measured(list[tuple[Utterance, Evidence, float, float]]):
    """(utterance, evidence, CER, the model's own loss summed) of each probe document that could be used."""

    def of(self, cluster: int) -> list[tuple[Utterance, Evidence, float, float]]:
        return [row for row in self if row[1].cluster == cluster]


class Prober:
    """Speaks documents and measures the model before this round of Stage II on them, as often as it is asked."""

    def __init__(self, run: Run) -> None:
        self.run, self.tokenizer = run, load_tokenizer(run)
        self._models: tuple[Any, Any] | None = None

    def measure(self, folder: Path, chosen: Sequence[tuple[Document, int]], title: str = "the probe") -> Measured:
        """Probe documents, each with the cluster that it stands for; what cannot be used is left in quarantine."""
        run, voice = self.run, self.run.recipe.probe.voice
        spoken = speak(run, folder / "speech", [(document, voice) for document, _ in chosen], f"speak {title}")
        utterances = align(run, folder / "aligned", spoken, f"align {title}")
        return self.listen(folder, utterances, {document.id: cluster for document, cluster in chosen}, title)

    def listen(self, folder: Path, utterances: Sequence[Utterance], cluster_of: dict[str, int], title: str) -> Measured:
        """The same for recordings that are aligned already."""
        run = self.run
        frames = encode(run, folder / "frames", utterances, f"encode {title}", layouts=1)
        heard = transcribe(run, folder / "transcripts", utterances, f"transcribe {title}")
        if not utterances:
            return Measured()
        model, base = self._load()
        examples = speech_examples(run, self.tokenizer, utterances, frames)
        tokens = heard_tokens(self.tokenizer, utterances, examples, heard)
        teacher = Teacher(base, cache=True)
        reading = teacher if model is base else Teacher(model, cache=False)  # M reads by the adapted weights (eq. 2)
        with torch.no_grad(), autocast(run.uses_bf16("score")):
            by_ear = token_divergence(model, reading, examples, speech_ears(model))
            by_asr = token_divergence(base, teacher, examples, transcript_ears(base, lambda e: tokens[e.id]))
            without = token_divergence(base, teacher, examples, deaf_ears(base))
        out = Measured()
        for utterance, m, v, s in zip(utterances, by_ear, by_asr, without, strict=True):
            evidence = Evidence(cluster_of[utterance.document_id], m.kl, v.kl, s.kl, s.entropy)
            out.append((utterance, evidence, cer(heard.get(utterance.id, ""), utterance.text), float(m.nll.sum())))
        return out

    def _load(self) -> tuple[Any, Any]:
        """The model so far, and the text LLM that it came from (the same object where that is frozen)."""
        if self._models is None:
            run = self.run
            torch.set_num_threads(run.recipe.threads)
            keep_freed_memory()
            llm = run.recipe.stage1.llm
            trained = run.folder("stage1") if run.round == 1 else run.rounds[-2].folder("stage2")
            model = build_model(run, latest_checkpoint(trained), lora=llm == "lora")
            base = model if llm == "frozen" else build_model(run)
            for each in {id(model): model, id(base): base}.values():
                freeze(each, "frozen", bf16=run.uses_bf16("score"))
            self._models = model, base
        return self._models


def run(run: Run) -> dict[str, Any]:
    settings, folder = run.recipe.probe, run.folder("probe")
    clusters, labels = load_clusters(run)
    documents = load_documents(run, "web")
    seed = run.recipe.seed
    order = {c.id: np.random.default_rng([seed, c.id]).permutation(np.flatnonzero(labels == c.id)) for c in clusters}
    heard = {r["id"] for one in run.rounds[:-1] for name in ("probe", "select")
             for r in read_jsonl(one.folder(name) / "documents.jsonl")}  # fmt: skip
    order = {c: np.array([i for i in members if documents[i].id not in heard], int) for c, members in order.items()}
    prober, measured = Prober(run), Measured()
    asked = dict.fromkeys(order, 0)
    wanted = {c: min(settings.documents, len(members)) for c, members in order.items()}
    doubts: list[float] = []
    while any(wanted.values()):
        chosen = [(documents[i], c) for c, n in wanted.items() for i in order[c][asked[c] : asked[c] + n]]
        asked = {c: asked[c] + wanted[c] for c in asked}
        title = f"the probe, round {len(doubts) + 1}" if doubts else "the probe"
        measured += prober.measure(folder / f"round-{len(doubts):02d}", chosen, title)
        clusters, estimates = _figures(run, clusters, measured, documents, labels)
        rule = {"gamma": run.recipe.select.gamma, "max_cer": run.recipe.select.max_cer, "seed": seed}
        doubts.append(unsettled(estimates, **rule))
        known = [e for e in estimates if e.documents]
        more = iter(
            next_probes(
                known,
                **rule,
                tolerance=settings.tolerance,
                documents=max(1, round(BATCH_SHARE * settings.documents * len(clusters))),
                available=[
                    min(settings.max_documents, len(order[c.id])) - asked[c.id] for c in clusters if c.documents
                ],
            )
            if settings.max_documents > settings.documents
            else [0] * len(known)
        )
        wanted = {c.id: max(0, next(more)) if c.documents else 0 for c in clusters}
    parts, slopes = explain([row[1] for row in measured])
    fixed = fixed_probes([e for e in estimates if e.documents], **rule, tolerance=max(doubts[-1], settings.tolerance))
    aside = gather_quarantine(folder)
    words, seconds = sum(len(u.words) for u, *_ in measured), sum(u.duration_s for u, *_ in measured)
    fields = [k for k in asdict(clusters[0]) if k not in ("centroid", "size", "quota_s", "top_words")]
    saved = [{k: _plain(getattr(c, k)) for k in fields} for c in clusters]
    figures = {
        "clusters": saved,
        "seconds_per_word": seconds / max(words, 1),
        "slopes": slopes,
        "doubt": doubts,
        "documents": len(measured),
        "fixed_documents": fixed * len(clusters),
    }
    write_json(folder / "probe.json", figures)
    rows = [
        {"id": u.document_id, "cluster": e.cluster, "count": len(e.heard), "misalignment": e.heard.mean().item(),
         "transcript": e.transcript.mean().item(), "stakes": e.stakes.mean().item(),
         "entropy": e.entropy.mean().item(), "nll": nll / max(len(e.heard), 1), "cer": error}
        for u, e, error, nll in measured if len(e.heard)
    ]  # fmt: skip
    write_jsonl(folder / "documents.jsonl", rows)
    if len(doubts) > 1:
        console.print(
            f"probe: {len(measured)} documents in {len(doubts)} rounds leave {doubts[-1]:.0%} of the budget in doubt; "
            f"as many for every cluster would take {figures['fixed_documents']}"
        )
    total = sum(p.misalignment * sum(len(r[1].heard) for r in measured.of(p.cluster)) for p in parts)
    return {
        "documents": len(measured),
        "hours": seconds / 3600,
        "misalignment": total / max(1, sum(len(r[1].heard) for r in measured)),
        "cer": float(np.mean([r[2] for r in measured])) if measured else float("nan"),
        "in_doubt": doubts[-1],
        "quarantined": len(aside),
    }


def _figures(
    run: Run, clusters: Sequence[Cluster], measured: Measured, documents: Sequence[Document], labels: np.ndarray
) -> tuple[list[Cluster], list[Estimate]]:
    """Clusters with all that the probe knows by now, and the same as estimates of what drives the quotas."""
    parts = {p.cluster: p for p in explain([row[1] for row in measured])[0]}
    errors = [[row[2] for row in measured.of(c.id)] for c in clusters]
    spread = float(np.sqrt(np.mean([np.var(e, ddof=1) for e in errors if len(e) > 1] or [0.0])))
    trained = {d.domain for d in load_documents(run, "speech")}
    found, estimates = [], []
    for cluster, error in zip(clusters, errors, strict=True):
        own, part = measured.of(cluster.id), parts.get(cluster.id)
        foreign = np.mean([documents[i].domain not in trained for i in np.flatnonzero(labels == cluster.id)])
        cluster = replace(cluster, documents=len(own), foreign=float(foreign))
        if part is not None:  # otherwise every probe document was set aside: nothing is known, so nothing is bought
            fields = ("misalignment", "misalignment_se", "voice", "difficulty", "domain", "domain_se")
            nll = sum(row[3] for row in own) / sum(len(row[1].heard) for row in own)
            cluster = replace(
                cluster, cer=float(np.mean(error)), nll=nll, **{name: getattr(part, name) for name in fields}
            )
        found.append(cluster)
        score = run.recipe.select.score
        score_se = {"misalignment": cluster.misalignment_se, "domain": cluster.domain_se}.get(score, 0.0)
        clean = np.nan_to_num([score_of(cluster, score), score_se, cluster.cer])
        estimates.append(
            Estimate(cluster.size, clean[0], clean[1], clean[2], spread / max(len(own), 1) ** 0.5, len(own))
        )
    return found, estimates


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def load_probed(run: Run) -> tuple[list[Cluster], np.ndarray, float]:
    """Clusters with what the probe found, the cluster of every document, and seconds of speech per word."""
    clusters, labels = load_clusters(run)
    saved = read_json(run.folder("probe") / "probe.json")
    known = {row["id"]: {k: v for k, v in row.items() if v is not None} for row in saved["clusters"]}
    return [replace(c, **known[c.id]) for c in clusters], labels, saved["seconds_per_word"]
