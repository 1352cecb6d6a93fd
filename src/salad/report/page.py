"""`report.html`: figures as SVG, clips as Ogg/Opus, all inside one file without script or network."""

from __future__ import annotations

import base64
import functools
import importlib.resources
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np
import soundfile
from markupsafe import Markup

from salad.audio import read_audio, to_samples, to_seconds
from salad.measure.format import Z95
from salad.measure.results import Clip, VoiceFigures
from salad.report.captions import CAPTIONS, caption_numbers
from salad.report.charts import (
    draw_accuracy,
    draw_clusters,
    draw_curves,
    draw_dumbbells,
    draw_recall,
    draw_seconds,
    draw_stages,
)
from salad.report.contents import Report
from salad.report.style import svg_figure
from salad.report.values import (
    ACCURACIES,
    CONTROLS,
    STAGES,
    bought_by_domain,
    gap_points,
    heard_title,
    nats,
    nats_interval,
    percent,
    pick,
    rate,
    share,
    stage_two_beside,
    task_rows,
    with_error,
)

CLIP_BYTES = 60_000
CLIP_HZ = 24_000
ALL_CLIPS_BYTES = 2_400_000  # base64 adds a third, and the page stays under 4 MB
QUARANTINE_ROWS = 60


def encode_clip(path: str) -> tuple[str, float, float]:
    """A clip as a `data:` address of Ogg/Opus of at most `CLIP_BYTES`, the seconds it holds, the seconds it had.

    The bit rate falls to 12 kbit/s for longer clips; what still does not fit is cut at the end.
    """
    samples, rate = read_audio(path, CLIP_HZ)
    whole_s = to_seconds(len(samples), rate)
    samples = samples[: to_samples(CLIP_BYTES * 8 / 14_000, rate)]
    while True:
        kept_s = to_seconds(len(samples), rate)
        bits_per_s = min(32_000.0, max(12_000.0, 0.85 * CLIP_BYTES * 8 / kept_s))
        level = 1 - (bits_per_s - 6_000) / 250_000  # libsndfile maps level 1..0 to 6..256 kbit/s a channel
        file = io.BytesIO()
        soundfile.write(file, np.clip(samples, -1, 1), rate, format="OGG", subtype="OPUS", compression_level=level)
        if len(file.getvalue()) <= CLIP_BYTES:
            return "data:audio/ogg;base64," + base64.b64encode(file.getvalue()).decode(), kept_s, whole_s
        samples = samples[: int(len(samples) * 0.8)]


def with_audio(clips: Sequence[Clip]) -> list[tuple[Clip, str, str]]:
    """The clips, each with its sound (a data: address or "") and a note; those after the page's budget stay silent."""
    done, used = [], 0
    for clip in clips:
        source, note = "", "No audio was kept for this clip."
        if clip.audio and used > ALL_CLIPS_BYTES:
            note = "The audio was left out to keep this page small."
        elif clip.audio:
            source, kept_s, whole_s = encode_clip(clip.audio)
            used += len(source)
            note = f"The first {kept_s:.0f} of {whole_s:.0f} seconds." if kept_s < whole_s - 0.5 else ""
        done.append((clip, source, note))
    return done


@dataclass(frozen=True)
class TableRow:
    """A line of a table, as text: what it is of, its figures; n and chance of items."""

    name: str
    cells: list[str]
    n: str = ""
    chance: str = ""


@dataclass(frozen=True)
class PageTable:
    """Headings of the figures, and the lines."""

    columns: list[str]
    rows: list[TableRow]


def domain_table(report: Report) -> PageTable | None:
    """M of every system and F of every stage by domain ("–": not measured)."""
    columns: list[tuple[str, Mapping[str, float | None], Callable[[float], str]]] = []
    for kind, letter, keys in (("misalignment", "M", (*STAGES, *CONTROLS)), ("forgetting", "F", tuple(STAGES))):
        for key in keys:
            by_domain = pick(report, f"{kind}.{key}.by_domain")
            if by_domain:
                columns.append((f"{letter} {(STAGES | CONTROLS)[key]}", by_domain, nats))
    found = {d: row.value if row else None for d, row in (report.heard_by_domain or {}).items()}
    if found:
        columns.append((heard_title(report), found, percent))
    domains = sorted({domain for _, by_domain, _ in columns for domain in by_domain})
    if not domains:
        return None
    rows = [
        TableRow(domain, ["–" if (v := by_domain.get(domain)) is None else show(v) for _, by_domain, show in columns])
        for domain in domains
    ]
    return PageTable([name for name, _, _ in columns], rows)


def task_table(report: Report) -> PageTable | None:
    """Accuracies of each set of items and the gap, as headings and rows of text; None where `task_rows` has none."""
    tasks = task_rows(report)
    if not tasks:
        return None
    systems = [key for key in ACCURACIES if any(getattr(row, key) is not None for row in tasks)]
    margins = {"over_blind": "margin over silence, nats", "over_other": "margin over another's, nats"}
    margins = {key: name for key, name in margins.items() if any(pick(row, f"margin.{key}") for row in tasks)}
    rows = [
        TableRow(
            row.task or "",
            [
                *(share(getattr(row, key)) for key in systems),
                gap_points(row.gap),
                *(nats_interval(pick(row, f"margin.{key}")) for key in margins),
            ],
            str(row.n),
            "" if row.chance is None else f"{100 * row.chance:.0f}",
        )
        for row in tasks
    ]
    return PageTable([*(ACCURACIES[key] for key in systems), "gap, text − speech", *margins.values()], rows)


def voice_table(report: Report) -> PageTable | None:
    """One row a voice, headings and text: M with its controls, what was heard, word and phone error rates."""
    voices = report.voices or ()
    names = {"stage2": "M"} | {key: f"M {name}" for key, name in CONTROLS.items()}
    names = {key: name for key, name in names.items() if any(pick(row, f"{key}.all") is not None for row in voices)}
    rates = {"heard": heard_title(report), "wer": "WER", "strict_wer": "WER, case and punctuation kept"}
    rates |= {"phone_error": "phone error rate"}
    rates = {key: name for key, name in rates.items() if any(pick(row, f"{key}.value") is not None for row in voices)}
    if not names and not rates:
        return None

    def cells(row: VoiceFigures) -> list[str]:
        return [*(with_error(getattr(row, key)) for key in names), *(rate(getattr(row, key)) for key in rates)]

    return PageTable([*names.values(), *rates.values()], [TableRow(row.voice or "–", cells(row)) for row in voices])


def noise_table(report: Report) -> list[TableRow]:
    """What is still heard of the same recordings under noise, of which the first row has none: M, then error rates."""
    return [
        TableRow(
            row.condition or "–",
            [
                "–" if row.misalignment is None else nats(row.misalignment),
                *map(rate, (row.wer, row.phone_error, row.cascade_wer)),
            ],
        )
        for row in report.noise or ()
    ]


def oracle_rows(report: Report) -> list[tuple[str, str]]:
    """What M is with the true symbols in place of the heard ones, on the documents that it was measured on."""
    names = {
        "oracle_none": "as it is",
        "oracle_argmax": "the likeliest token in place of the expected embedding",
        "oracle_symbols": "the true phones in place of those heard",
        "oracle_symbols_5": "the same, 5 % of them wrong",
        "oracle_symbols_10": "the same, 10 % wrong",
        "oracle_symbols_20": "the same, 20 % wrong",
    }
    found = {name: pick(report, f"oracle.{key}.all") for key, name in names.items()}
    return [(name, nats(value)) for name, value in found.items() if value is not None]


@functools.cache
def template(name: str, room: str = "salad.report") -> jinja2.Template:
    """A page of this folder, or of another room; `style` is the style sheet that all of them share."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"nats": nats, "percent": percent, "with_error": with_error}
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    files = importlib.resources.files("salad.report")
    environment.globals["Z95"] = Z95
    environment.globals["style"] = Markup(files.joinpath("page.css").read_text(encoding="utf-8").strip())
    return environment.from_string(importlib.resources.files(room).joinpath(name).read_text(encoding="utf-8"))


def _figures(report: Report) -> dict[str, Markup | None]:
    """Every figure of the page by its key in CAPTIONS; None where there is nothing to draw."""
    bought = {domain: f"{s:.0f} s" if s >= 1 else "< 1 s" for domain, s in bought_by_domain(report).items()}
    live = {
        "loss": "loss (nats per token)",
        "misalignment": "live M (nats per token)",
        "forgetting": "live F (nats per token)",
    }
    spelling = {"loss": "loss (nats per token)", "token_accuracy": "tokens spelled rightly (share)"}

    def m(kind: str) -> tuple[Mapping[str, float | None], Mapping[str, float | None]]:
        """M after Stage I, and after Stage II on the same documents; of voices that Stage I lacks, on all of theirs."""
        before, after = (pick(report, f"misalignment.stage1.{kind}") or {}, stage_two_beside(report, "stage1"))
        return before, {**(pick(report, f"misalignment.stage2.{kind}") or {}), **(getattr(after, kind) or {})}

    drawings = {
        "stages": ("Misalignment by stage", lambda: draw_stages(report)),
        "accuracy": ("Accuracy", lambda: draw_accuracy(report)),
        "recall": ("Words found, by exposure", lambda: draw_recall(report)),
        "spell": ("Spelling from text", lambda: draw_curves(report, ["spell"], spelling)),
        "warm_start": ("Warm start", lambda: draw_curves(report, ["warm_start"], {"loss": "CTC loss (nats)"})),
        "curves": ("Loss, M and F over steps", lambda: draw_curves(report, ["stage1", "stage2"], live)),
        "domains": ("Misalignment by domain", lambda: draw_dumbbells(*m("by_domain"), bought, "bought ≈")),
        "voices": ("Misalignment by voice", lambda: draw_dumbbells(*m("by_voice"), {}, "")),
        "clusters": ("Clusters", lambda: draw_clusters(report)),
        "seconds": ("Wall time by stage", lambda: draw_seconds(report)),
    }
    numbers = caption_numbers(report)
    return {key: svg_figure(draw, name, CAPTIONS[key], numbers[key]) for key, (name, draw) in drawings.items()}


def render(report: Report, clips: Sequence[Clip], headline: Markup) -> str:
    """The whole page. `headline`: the sentence under the title."""
    figures = _figures(report)
    selection = sorted(
        report.selection or (), key=lambda row: math.inf if row.misalignment is None else -row.misalignment
    )
    quarantine = report.quarantine or ()
    return template("report.html.j2").render(
        report=report,
        pick=lambda path: pick(report, path),
        headline=headline,
        figures=figures,
        selection=selection,
        clips=with_audio(clips),
        domains=domain_table(report),
        tasks=task_table(report),
        voices=voice_table(report),
        oracles=oracle_rows(report),
        noise=noise_table(report),
        spans=pick(report, "hearing.spans") or (),
        left_out=report.left_out or (),
        stages=STAGES,
        measured=next((key for key in reversed(STAGES) if pick(report, f"misalignment.{key}.n_tokens")), "stage2"),
        samples=report.ctc_samples or (),
        quarantine=quarantine[:QUARANTINE_ROWS],
        quarantine_left=max(0, len(quarantine) - QUARANTINE_ROWS),
        recipe=json.dumps(report.recipe, indent=2, ensure_ascii=False) if report.recipe else "",
    )
