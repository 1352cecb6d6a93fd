"""report: every figure in report.json, and a page to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import salad
from salad.audio import read_audio, to_samples, write_flac
from salad.engine.machine import machine
from salad.engine.memory import keep_freed_memory
from salad.files import read_json, read_jsonl
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.model.processor import AUDIO
from salad.pipeline.heldout import unseen_voices
from salad.pipeline.model_card import write_model_card
from salad.pipeline.run import STAGES, Run
from salad.pipeline.speechlm import build_model
from salad.pipeline.stages.align import load_aligned
from salad.pipeline.stages.cluster import load_clusters
from salad.pipeline.stages.corpus import load_documents
from salad.pipeline.stages.evaluate import load_figures
from salad.pipeline.stages.probe import load_probed
from salad.pipeline.stages.synthesize import load_bought
from salad.progress import console
from salad.report.summary import print_report, write_report
from salad.sequence.examples import draw_layout
from salad.types import Utterance

__all__ = ["run"]

NUM_CLIPS, CONTINUATION_TOKENS, CLIP_S = 4, 28, 14.0


def run(run: Run) -> dict[str, Any]:
    torch.set_num_threads(run.recipe.threads)
    keep_freed_memory()
    states = {name: run.done(name) for name in STAGES if name != "report"}
    summaries = {name: state["summary"] for name, state in states.items()}
    seconds = {name: state["seconds"] for name, state in states.items()}
    curves = {name: _curve(run, name) for name in ("warm_start", "spell", "stage1", "stage2")}
    samples = run.folder("warm_start") / "samples.json"
    report = {
        "name": run.dir.name,
        "version": salad.__version__,
        "simulated": summaries["corpus"]["simulated"],
        "seed": run.recipe.seed,
        "recipe": run.recipe.model_dump(mode="json"),
        **load_figures(run),
        "curves": curves,
        "selection": _selection(run),
        "evidence": _evidence(run),
        "speech_hours": {
            "stage1": summaries["align"]["hours"],
            "bought": summaries["synthesize"]["hours"],
            "heldout": summaries["corpus"]["heldout_hours"],
            "quarantined": _quarantined_hours(run),
        },
        "quarantine": [
            row
            for name in ("corpus", "align", "probe", "synthesize")
            for row in _rows(run.folder(name) / "quarantine.jsonl")
        ],
        "tokens": {name: curves[name][-1]["positions"] for name in ("stage1", "stage2") if curves[name]},
        "seconds": {**seconds, "total": sum(seconds.values())},
        "ctc_samples": read_json(samples) if samples.exists() else [],
        "machine": machine(),
    }
    write_report(report, _clips(run), run.folder("report"))
    print_report(report, console)
    write_model_card(run)  # now with the figures of `evaluate`
    return {"page": str(run.folder("report") / "report.html")}


def _rows(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path) if path.exists() else []


def _curve(run: Run, name: str) -> list[dict[str, Any]]:
    keys = ("step", "loss", "misalignment", "forgetting", "seconds", "positions")
    keys += ("token_accuracy",) if name == "spell" else ()
    return [{k: row.get(k) for k in keys} for row in _rows(run.folder(name) / "metrics.jsonl")]


def _selection(run: Run) -> list[dict[str, Any]]:
    """Clusters with what was bought in each, largest M first."""
    bought = {u.document_id: u.duration_s for u in load_bought(run)}
    drawn = read_jsonl(run.folder("select") / "documents.jsonl")
    labels = _labels(run)
    domain_of = {d.id: d.domain for d in load_documents(run, "web")}
    total = sum(row["quota_s"] for row in read_jsonl(run.folder("select") / "clusters.jsonl"))
    rows = []
    for row in read_jsonl(run.folder("select") / "clusters.jsonl"):
        own = [bought[d["id"]] for d in drawn if d["cluster"] == row["id"] and d["id"] in bought]
        domains = Counter(domain_of[i] for i, label in labels.items() if label == row["id"])
        rows.append(
            {
                "cluster": row["id"],
                **{
                    k: row[k]
                    for k in ("size", "misalignment", "misalignment_se", "cer", "quota_s", "top_words", "dropped")
                },
                "reason": row["reason"],
                "weight": row["quota_s"] / total,
                "bought_s": sum(own),
                "bought_documents": len(own),
                "domains": dict(domains.most_common()),
            }
        )
    return sorted(rows, key=lambda r: -(r["misalignment"] or 0.0))


def _evidence(run: Run) -> dict[str, Any]:
    """What the purchase rests on: the probe's decision, p, reliability, documents and seconds; the expected overlap."""
    _, _, probed = load_probed(run)
    keys = ("decision", "p", "reliability", "documents", "seconds")
    return {**{key: probed[key] for key in keys if key in probed}, "overlap": run.done("select")["summary"]["overlap"]}


def _labels(run: Run) -> dict[str, int]:
    _, labels = load_clusters(run)
    return {d.id: int(label) for d, label in zip(load_documents(run, "web"), labels, strict=True)}


def _quarantined_hours(run: Run) -> float:
    """Hours of D_speech that were spoken or read but not aligned."""
    corpus, kept = run.done("corpus")["summary"], run.done("align")["summary"]
    return max(0.0, corpus["speech_hours"] - kept["hours"])


def _clips(run: Run) -> list[dict[str, Any]]:
    """A few held-out recordings with what the model writes after hearing them."""
    folder = run.latest.folder("stage2") / "model"
    model = SaladForConditionalGeneration.from_pretrained(folder).eval()
    processor = SaladProcessor.from_pretrained(folder)
    base = model if run.recipe.stage2.llm == "frozen" else build_model(run)
    heard = {
        row["id"]: row["text"]
        for path in sorted((run.folder("evaluate") / "transcripts").glob("shard-*/transcripts.jsonl"))
        for row in read_jsonl(path)
    }
    clips = []
    unseen = unseen_voices(run)
    for utterance in _spread(load_aligned(run, "heldout"), unseen):
        spans = draw_layout(utterance, 0, run.recipe.sequence, run.recipe.seed)
        words = utterance.text.split()
        last = next((i for i, w in enumerate(utterance.words) if w.end_s > CLIP_S), len(words))
        context = " ".join(words[:last])
        audio = _cut(run, utterance, utterance.words[last - 1].end_s)
        clips.append(
            {
                "title": utterance.document_id,
                "domain": utterance.domain,
                "voice": f"{utterance.speaker}{' (never trained on)' if utterance.speaker in unseen else ''}",
                "audio": str(audio),
                "segments": [
                    {"modality": s.modality, "text": " ".join(words[s.start_word : min(s.end_word, last)])}
                    for s in spans
                    if s.start_word < last
                ],
                "base_continuation": _continue(base, processor, context, ()),
                "speech_continuation": _continue(model, processor, AUDIO, (audio,)),
                "cascade_transcript": heard.get(utterance.id, ""),
            }
        )
    return clips


def _spread(utterances: list[Utterance], unseen: Sequence[str]) -> list[Utterance]:
    """Clips from different domains; the last one in the voice that was never trained on."""
    firsts = {u.domain: u for u in reversed(utterances) if u.speaker not in unseen}
    chosen = [firsts[d] for d in sorted(firsts)][:: max(1, len(firsts) // (NUM_CLIPS - 1))][: NUM_CLIPS - 1]
    return chosen + [u for u in utterances if u.speaker in unseen][:1]


def _cut(run: Run, utterance: Utterance, end_s: float) -> Path:
    samples, rate = read_audio(utterance.audio)
    path = run.folder("report") / "clips" / f"{utterance.id}.flac"
    write_flac(path, samples[: to_samples(end_s, rate)], rate)
    return path


def _continue(model: Any, processor: Any, text: str, audio: tuple[Path, ...]) -> str:
    inputs = processor(text, audio)
    ids = model.generate(
        **inputs, max_new_tokens=CONTINUATION_TOKENS, do_sample=False, pad_token_id=processor.tokenizer.eos_token_id
    )
    return processor.decode(ids[0]).strip()
