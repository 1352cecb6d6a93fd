"""report: every figure in report.json, and a page to look at."""

from __future__ import annotations

from dataclasses import replace

import salad
from salad.config.paper import departures
from salad.data.quarantine import Quarantined
from salad.engine.machine import machine
from salad.evaluation.clips import clips_of
from salad.files import read_jsonl
from salad.measure.results import Clip, PurchaseRow
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.pipeline.corpus_needs import stream_documents
from salad.pipeline.model_card import write_model_card
from salad.pipeline.run import STAGES, Run, Summary
from salad.pipeline.speechlm import build_model
from salad.pipeline.stages.align import load_aligned
from salad.pipeline.stages.cluster import load_clusters
from salad.pipeline.stages.evaluate import load_figures
from salad.pipeline.stages.probe import load_evidence
from salad.pipeline.stages.synthesize import load_bought
from salad.progress import console
from salad.records import read_record, read_records
from salad.report.contents import CurvePoint, Decoded, Report, SpeechHours
from salad.report.summary import print_report, write_report
from salad.select.cluster_rows import ClusterRow, purchase_rows

SECTIONS = ()


def run(run: Run) -> Summary:
    run.use_threads()
    states = {name: run.done(name) for name in STAGES if name != "report"}
    corpus, aligned, bought = (states[name].summary for name in ("corpus", "align", "synthesize"))
    seconds = {name: state.seconds for name, state in states.items()}
    curves = {name: _curve(run, name) for name in ("warm_start", "spell", "stage1", "stage2")}
    samples = run.folder("warm_start") / "samples.json"
    quarantined = [run.folder(name) / "quarantine.jsonl" for name in ("corpus", "align", "probe", "synthesize")]
    evidence, score = load_evidence(run), run.recipe.select.score
    decision = evidence.decision if score == "misalignment" else f"by {score}"  # the probe's decision is on M alone
    report = Report(
        **vars(load_figures(run)),
        name=run.dir.name,
        version=salad.__version__,
        simulated=corpus["simulated"],
        seed=run.recipe.seed,
        recipe=run.recipe.model_dump(mode="json"),
        departures=tuple(departures(run.recipe)),
        curves=curves,
        selection=tuple(_selection(run)),
        evidence=replace(evidence, decision=decision, overlap=states["select"].summary["overlap"]),
        speech_hours=SpeechHours(
            stage1=aligned["hours"],
            bought=bought["hours"],
            heldout=corpus["heldout_hours"],
            quarantined=max(0.0, corpus["speech_hours"] - aligned["hours"]),  # not aligned
        ),
        quarantine=tuple(row for path in quarantined if path.exists() for row in read_records(Quarantined, path)),
        tokens={name: curves[name][-1].positions for name in ("stage1", "stage2") if curves[name]},
        seconds={**seconds, "total": sum(seconds.values())},
        ctc_samples=read_record(tuple[Decoded, ...], samples) if samples.exists() else (),
        machine=machine(),
    )
    write_report(report, _clips(run), run.folder("report"))
    print_report(report, console)
    write_model_card(run)  # now with the figures of `evaluate`
    return {"page": str(run.folder("report") / "report.html")}


def _curve(run: Run, name: str) -> tuple[CurvePoint, ...]:
    path = run.folder(name) / "metrics.jsonl"
    return tuple(read_records(CurvePoint, path)) if path.exists() else ()


def _selection(run: Run) -> list[PurchaseRow]:
    """Clusters with what was bought in each."""
    folder, labels = run.folder("select"), load_clusters(run)[1]
    web = [(d.domain, int(label)) for d, label in zip(stream_documents(run, "web"), labels, strict=True)]
    bought = {u.document_id: u.duration_s for u in load_bought(run)}
    drawn = [(row["id"], row["cluster"]) for row in read_jsonl(folder / "documents.jsonl")]
    return purchase_rows(read_records(ClusterRow, folder / "clusters.jsonl"), drawn, bought, web)


def _clips(run: Run) -> list[Clip]:
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
