"""report: every figure in report.json, and a page to look at."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import salad
from salad.config.paper import departures
from salad.engine.machine import machine
from salad.evaluation.clips import clips_of
from salad.files import read_json, read_jsonl
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.pipeline.model_card import write_model_card
from salad.pipeline.run import STAGES, Run
from salad.pipeline.speechlm import build_model
from salad.pipeline.stages.align import load_aligned
from salad.pipeline.stages.cluster import load_clusters
from salad.pipeline.stages.corpus import load_documents
from salad.pipeline.stages.evaluate import load_figures
from salad.pipeline.stages.probe import load_evidence
from salad.pipeline.stages.synthesize import load_bought
from salad.progress import console
from salad.report.summary import print_report, write_report
from salad.select.cluster_rows import purchase_rows

SECTIONS = ()


def run(run: Run) -> dict[str, Any]:
    run.use_threads()
    states = {name: run.done(name) for name in STAGES if name != "report"}
    summaries, seconds = ({name: state[key] for name, state in states.items()} for key in ("summary", "seconds"))
    curves = {name: _curve(run, name) for name in ("warm_start", "spell", "stage1", "stage2")}
    samples = run.folder("warm_start") / "samples.json"
    quarantined = [run.folder(name) / "quarantine.jsonl" for name in ("corpus", "align", "probe", "synthesize")]
    score = run.recipe.select.score
    by_score = {} if score == "misalignment" else {"decision": f"by {score}"}  # the probe's decision is on M alone
    report = {
        "name": run.dir.name,
        "version": salad.__version__,
        "simulated": summaries["corpus"]["simulated"],
        "seed": run.recipe.seed,
        "recipe": run.recipe.model_dump(mode="json"),
        "departures": [asdict(departure) for departure in departures(run.recipe)],
        **load_figures(run),
        "curves": curves,
        "selection": _selection(run),
        "evidence": {**load_evidence(run), **by_score, "overlap": run.done("select")["summary"]["overlap"]},
        "speech_hours": {
            "stage1": summaries["align"]["hours"],
            "bought": summaries["synthesize"]["hours"],
            "heldout": summaries["corpus"]["heldout_hours"],
            "quarantined": max(0.0, summaries["corpus"]["speech_hours"] - summaries["align"]["hours"]),  # not aligned
        },
        "quarantine": [row for path in quarantined for row in (read_jsonl(path) if path.exists() else [])],
        "tokens": {name: curves[name][-1]["positions"] for name in ("stage1", "stage2") if curves[name]},
        "seconds": {**seconds, "total": sum(seconds.values())},
        "ctc_samples": read_json(samples) if samples.exists() else [],
        "machine": machine(),
    }
    write_report(report, _clips(run), run.folder("report"))
    print_report(report, console)
    write_model_card(run)  # now with the figures of `evaluate`
    return {"page": str(run.folder("report") / "report.html")}


def _curve(run: Run, name: str) -> list[dict[str, Any]]:
    keys = ("step", "loss", "misalignment", "forgetting", "seconds", "positions")
    keys += ("token_accuracy",) * (name == "spell")
    path = run.folder(name) / "metrics.jsonl"
    return [{k: row.get(k) for k in keys} for row in (read_jsonl(path) if path.exists() else [])]


def _selection(run: Run) -> list[dict[str, Any]]:
    """Clusters with what was bought in each."""
    folder, labels = run.folder("select"), load_clusters(run)[1]
    web = [(d.domain, int(label)) for d, label in zip(load_documents(run, "web"), labels, strict=True)]
    bought = {u.document_id: u.duration_s for u in load_bought(run)}
    return purchase_rows(read_jsonl(folder / "clusters.jsonl"), read_jsonl(folder / "documents.jsonl"), bought, web)


def _clips(run: Run) -> list[dict[str, Any]]:
    folder, recipe = run.latest.folder("stage2") / "model", run.recipe
    model = SaladForConditionalGeneration.from_pretrained(folder).eval()
    transcripts = sorted((run.folder("evaluate") / "transcripts").glob("shard-*/transcripts.jsonl"))
    return clips_of(
        model,
        model if recipe.stage2.llm == "frozen" else build_model(run),
        SaladProcessor.from_pretrained(folder),
        load_aligned(run, "heldout"),
        {row["id"]: row["text"] for path in transcripts for row in read_jsonl(path)},
        run.folder("report") / "clips",
        unseen=recipe.corpus.unseen_voices,
        layout=recipe.sequence,
        seed=recipe.seed,
    )
