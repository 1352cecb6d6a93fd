"""The report of a run. All figures below are made up for these tests; no run gave them."""

from __future__ import annotations

import base64
import copy
import functools
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from rich.console import Console

from salad.audio import read_audio, write_flac
from salad.files import read_json
from salad.measure.results import Clip
from salad.records import from_json, to_json
from salad.report import captions, charts, page, summary, values
from salad.report.captions import CAPTIONS, rank_correlation
from salad.report.contents import CurvePoint, Report
from salad.report.page import CLIP_BYTES, encode_clip
from salad.report.style import COLOURS, svg_figure
from salad.report.values import EXPOSURES, duration, nats, percent, pick

FIGURES = page._figures


def read(report: dict[str, Any]) -> Report:
    """The report that a file holds."""
    return from_json(Report, to_json(report), "report.json")


def of_file(function: Any) -> Any:
    """The same function of a report as a file has it."""
    return lambda report, *more: function(read(report), *more)


headline, print_report = map(of_file, (summary.headline, summary.print_report))
caption_numbers, task_table = map(of_file, (captions.caption_numbers, page.task_table))
bought_by_domain, buys_more = map(of_file, (values.bought_by_domain, values.buys_more))
draw_clusters, draw_curves, draw_recall, draw_stages = map(
    of_file, (charts.draw_clusters, charts.draw_curves, charts.draw_recall, charts.draw_stages)
)


def write_report(report: dict[str, Any], clips: list[dict[str, Any]], folder: Path) -> None:
    summary.write_report(read(report), from_json(tuple[Clip, ...], clips, "clips"), folder)


def told(value: Any) -> Any:
    """Without what is None: a file tells as null what the figures of these tests leave out."""
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items() if item is not None}
    return [told(item) for item in value] if isinstance(value, list) else value


CHARTED = ("misalignment", "heard", "heard_by_stage", "accuracy", "hearing", "over", "curves", "selection", "recipe",
           "seconds")  # fmt: skip
DOMAINS = ("stories", "letters", "physics", "biology", "medicine", "law", "history", "cooking")
WORDS = ("cell energy membrane protein", "court contract party claim", "heat field charge wave", "oil salt dough oven")


def fake_divergence(mean: float, se: float) -> dict[str, Any]:
    by_domain = {d: mean * (0.7 + 0.09 * i) for i, d in enumerate(DOMAINS)}
    by_voice = {"piper-joe": mean * 0.94, "kokoro:af_heart": mean * 0.98, "kokoro:bm_george (unseen)": mean * 1.22}
    return {"all": mean, "se": se, "n_documents": 64, "n_tokens": 4100, "by_domain": by_domain, "by_voice": by_voice}


@functools.cache
def figures_of(charted: str) -> dict[str, Markup | None]:
    return FIGURES(read(json.loads(charted)))


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts depend on these parts of a report alone: those of the same parts are drawn once."""

    def figures(report: Report) -> dict[str, Markup | None]:
        return figures_of(json.dumps({key: to_json(report).get(key) for key in CHARTED}))

    monkeypatch.setattr(page, "_figures", figures)


VOICES = ("piper-joe", "kokoro:bm_george (unseen)")


def fake_share(m: float) -> dict[str, Any]:
    value = (0.655 - m) / (0.655 - 0.142)
    formula = "(M_ref - M) / (M_ref - M_cascade)"
    around = {"value": value, "low": value - 0.03, "high": value + 0.04}
    return around | {"n": 64, "reference": "blind", "formula": formula}


def fake_voice(voice: str) -> dict[str, Any]:
    wer = {"value": 0.248, "low": 0.21, "high": 0.29, "n": 2000}
    m = {key: {"all": 0.3 + 0.1 * i, "se": 0.02, "n_documents": 60} for i, key in enumerate(("stage2", "deaf"))}
    row = {"voice": voice, "unseen": "unseen" in voice, **m, "heard": fake_share(0.3), "phone_error": None}
    return row | {"wer": wer, "strict_wer": wer}


def fake_recall(number: int) -> dict[str, Any]:
    value = (0.87, 0.65, 0.21, 0.11, 0.0101)[number]
    return {"exposure": list(EXPOSURES)[number], "value": value, "low": 0.9 * value, "high": value + 0.05, "n": 500}


def old_report() -> dict[str, Any]:
    """As version 0.1.0 wrote it, without a word of what was heard."""
    report = fake_report()
    heard = ("heard", "heard_by_domain", "heard_by_stage", "voices", "hearing")
    for key in (*heard, "over", "oracle", "noise", "left_out"):
        del report[key]
    del report["curves"]["spell"]
    return report


def fake_curve(steps: int, m: tuple[float, float], seed: int, f: float = 0.0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = [{"step": 0, "loss": None, "misalignment": m[0], "forgetting": f, "seconds": 0.0}]
    for step in range(1, steps + 1):
        now = m[1] + (m[0] - m[1]) * math.exp(-5 * step / steps)
        live = step % 50 == 0
        rows.append(
            {
                "step": step,
                "loss": now * (1 + 0.15 * float(rng.standard_normal())),
                "misalignment": now if live else None,
                "forgetting": f + 0.012 * (1 - math.exp(-3 * step / steps)) if live else None,
                "seconds": 1.3 * step,
                "positions": 1500 * step,
            }
        )
    return rows


def fake_cluster(number: int) -> dict[str, Any]:
    m = 0.28 + 0.5 * ((number * 7) % 16) / 16
    dropped = number == 5
    bought_s = 0.0 if dropped or m < 0.6 else 40.0 * m
    return {
        "cluster": number,
        "size": 12 + (number * 5) % 17,
        "misalignment": m,
        "misalignment_se": 0.03 + 0.002 * number,
        "cer": 0.41 if dropped else 0.03 + 0.009 * ((number * 3) % 11),
        "weight": 0.06,
        "quota_s": bought_s * 1.05,
        "bought_s": bought_s,
        "bought_documents": int(bought_s > 0) * 2,
        "dropped": dropped,
        "reason": "CER 0.41 over 0.35" if dropped else "",
        "top_words": WORDS[number % 4].split(),
        "domains": {DOMAINS[number % 8]: 9, DOMAINS[(number + 3) % 8]: 4},
    }


def fake_report() -> dict[str, Any]:
    means = {"init": 0.912, "warm_start": 0.431, "stage1": 0.274, "stage2": 0.2315, "blind": 0.655, "deaf": 0.731}
    misalignment = {
        key: fake_divergence(mean, 0.011) for key, mean in (means | {"other": 0.662, "cascade": 0.142}).items()
    }
    for i, domain in enumerate(DOMAINS):
        misalignment["stage2"]["by_domain"][domain] *= 0.86 + 0.05 * i
    return {
        "name": "demo",
        "simulated": True,
        "seed": 0,
        "recipe": {"select": {"gamma": 5.0, "max_cer": 0.35}, "run_dir": Path("runs/demo")},
        "misalignment": misalignment,
        "forgetting": {
            "init": {"all": 0.0, "se": 0.0, "by_domain": {}},
            "stage1": {"all": 0.0121, "se": 0.0008, "by_domain": dict.fromkeys(DOMAINS, 0.012)},
            "stage2": {"all": 0.0143, "se": 0.0009, "by_domain": dict.fromkeys(DOMAINS, 0.014)},
        },
        "heard": fake_share(means["stage2"]),
        "heard_by_domain": {d: fake_share(0.3 - 0.02 * i) for i, d in enumerate(DOMAINS)},
        "heard_by_stage": {k: fake_share(means[k]) for k in ("init", "warm_start", "stage1", "stage2")},
        "over": {"other": {"value": 0.41, "low": 0.35, "high": 0.47, "n": 64}},
        "voices": [fake_voice(voice) for voice in VOICES],
        "hearing": {
            "word_recall": {name: [fake_recall(i) for i in range(5)] for name in ("trained", "unseen")},
            "withheld": {"words": 40, "heard_or_read": []},
            "spans": [
                {
                    "document": "physics-003",
                    "domain": "physics",
                    "speaker": voice,
                    "said": [["the", True], ["membrane", False]],
                    "heard": [["the", True], ["man", False], ["brain", False]],
                }
                for voice in VOICES
            ],
        },
        "oracle": {"oracle_none": {"all": 0.23}, "oracle_symbols": {"all": 0.09}},
        "noise": [
            {
                "condition": name,
                "documents": 16,
                "misalignment": 0.31 + 0.2 * i,
                "wer": {"value": 0.2 + 0.1 * i, "low": 0.15, "high": 0.4},
                "phone_error": None,
                "cascade_wer": {"value": 0.03 + 0.02 * i, "low": 0.02, "high": 0.08},
            }
            for i, name in enumerate(("as recorded", "white:10"))
        ],
        "left_out": ["M of init is not measured (evaluate.stages)"],
        "accuracy": {
            "text_base": {"value": 0.81, "low": 0.757, "high": 0.862},
            "text_adapted": {"value": 0.805, "low": 0.752, "high": 0.857},
            "speech_adapted": {"value": 0.6381, "low": 0.571, "high": 0.7},
            "cascade": {"value": 0.7762, "low": 0.719, "high": 0.833},
            "chance": 0.25,
            "n": 210,
            "gap": {"value": 0.1719, "low": 0.109, "high": 0.238, "n": 210},
        },
        "curves": {
            "warm_start": [{"step": s, "loss": 9.5 * math.exp(-s / 90) + 1.2, "seconds": s} for s in range(1, 401)],
            "stage1": fake_curve(600, (0.44, 0.27), 1),
            "stage2": fake_curve(300, (0.29, 0.23), 2, f=0.011),
            "spell": [{"step": s, "loss": 3 - s / 200, "token_accuracy": 0.3 + s / 1000} for s in range(0, 400, 20)],
        },
        "selection": [fake_cluster(number) for number in range(16)],
        "speech_hours": {"stage1": 1.31, "bought": 0.152, "heldout": 0.5, "quarantined": 0.012},
        "quarantine": [
            {"stage": "align", "id": "speech-0042", "reason": "mean token probability 0.21 under 0.3"},
            {"stage": "synthesize", "id": "web-0007", "reason": "CER 0.52 over 0.35"},
        ],
        "departures": [{"setting": "model.stride", "paper": "1", "ours": "2", "why": "fewer positions"}],
        "tokens": {"stage1": 900_000, "stage2": 450_000},
        "seconds": {"assets": 3.0, "corpus": 212.0, "align": 61.0, "warm_start": 160.0, "stage1": 702.0, "cluster": 5.0}
        | {"probe": 44.0, "select": 0.2, "synthesize": 39.0, "stage2": 381.0, "evaluate": 190.0, "total": 1797.2},
        "asr": {"cer": 0.041, "wer": 0.092},
        "ctc_samples": [{"reference": "the heat of the sun", "decoded": "the heet of the son"}],
        "machine": {"cpu": "A Fine CPU", "cores": 2, "python": "3.11", "torch": "2.13", "gpu": None},
        "version": "0.1.0",
    }


@pytest.fixture
def clips(tmp_path: Path) -> list[dict[str, Any]]:
    rate = 16_000
    t = np.arange(6 * rate) / rate
    write_flac(tmp_path / "clip.flac", 0.3 * np.sin(2 * np.pi * 220 * t) * np.hanning(len(t)), rate)
    clip = {
        "title": "physics-003",
        "domain": "physics",
        "voice": "kokoro:af_heart",
        "audio": str(tmp_path / "clip.flac"),
        "segments": [
            {
                "modality": "text",
                "text": "Heat moves from a warm body to a cold one; this is what the second law says, and",
            },
            {"modality": "speech", "text": "no engine that works in a circle can turn"},
            {"modality": "text", "text": "all of the heat it takes in into work."},
        ],
        "base_continuation": "Some of it must always be given up to a colder place.",
        "speech_continuation": "Some of the heat is always lost to the cold side.",
        "cascade_transcript": "no engine that works in a circle can turn",
    }
    return [clip, {**clip, "title": "law-001", "domain": "law", "voice": "kokoro:bm_george (never trained on)"}]


def written(report: dict[str, Any], clips: list[dict[str, Any]], folder: Path) -> str:
    write_report(report, clips, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; complains about tags that are not closed in order."""

    VOID = {"meta", "br", "img", "hr", "link", "input", "col"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.data: dict[str, tuple[str, str]] = {}
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text.append(data)
        if self.open and self.open[-1] == "data":
            attributes = self.tags[-1][1]
            self.data[attributes["data-key"]] = (attributes["value"], data)


def test_json_round_trips(tmp_path: Path, clips: list[dict[str, Any]]) -> None:
    report = fake_report()
    written(report, clips, tmp_path)
    saved = read_json(tmp_path / "report.json")
    assert saved["recipe"]["run_dir"] == "runs/demo"
    report["recipe"]["run_dir"] = "runs/demo"
    assert told(saved) == told(report), "nothing but the path needed a change"
    assert set(report) <= set(saved), "what was not measured is told as null"
    assert read(saved) == read(report)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.flac", "report.html", "report.json"], (
        "no file left aside"
    )


def test_an_old_report_is_told_as_it_was(tmp_path: Path) -> None:
    report = old_report()
    html = written(report, [], tmp_path)
    assert headline(report).startswith("What was heard was not measured")
    text = "".join(Page(html).text)
    assert "Heard words: not measured in this run" in text and "None" not in text
    console = Console(record=True, width=200)
    print_report(report, console)
    assert "None" not in console.export_text()


def test_what_was_heard_is_shown(tmp_path: Path) -> None:
    report = fake_report()
    html = written(report, [], tmp_path)
    assert '<span class="wrong">membrane</span>' in html and '<span class="right">the</span>' in html
    text = "".join(Page(html).text)
    for shown in ("24.8\xa0% [21.0,\xa029.0]", "neither heard nor read", "kokoro:bm_george (unseen)", "another's"):
        assert shown in text, shown
    assert "the true phones in place of those heard" in text and "(evaluate.stages)" in text
    assert "heard 82.6\xa0%" in re.sub(r"<[^>]+>", "", headline(report))
    without = copy.deepcopy(report)
    without["heard"] |= {"formula": "1 - M / M_ref"}
    assert "no cascade was measured" in headline(without) and "SALAD heard" not in headline(without)


def test_the_untrained_model_is_off_the_axis() -> None:
    report = fake_report()
    report["misalignment"]["init"]["all"] = 8.44
    [axis] = draw_stages(report).axes
    assert axis.get_title("left") == "untrained: M 8.440, off this axis"
    assert 0.731 < axis.get_xlim()[1] < 1
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["warm start", "Stage I", "Stage II"]
    dots = [line.get_xydata().tolist() for line in axis.lines if line.get_marker() == "o"]
    assert dots == [[[0.431, 0.0]], [[0.274, 1.0]], [[0.2315, 2.0]]]
    whiskers = [segment[:, 0] for lines in axis.collections for segment in getattr(lines, "get_segments", list)()]
    assert any(np.allclose(ends, [0.274 - 1.96 * 0.011, 0.274 + 1.96 * 0.011]) for ends in whiskers)


def test_charts_draw_what_was_measured() -> None:
    report = fake_report()
    axes = draw_curves(report, ["stage1", "stage2"], {"loss": "loss", "misalignment": "M"}).axes
    first, second = (line.get_xydata() for line in axes[1].lines[:2])
    assert first[0].tolist() == [0, 0.44] and second[0].tolist() == [600, 0.29] and second[-1, 0] == 900
    [axis] = draw_recall(report).axes
    assert [bar.get_width() for bar in axis.patches[:5]] == pytest.approx([87, 65, 21, 11, 1.01])
    report["recipe"]["select"]["max_cer"] = 0.35
    [axis] = draw_clusters(report).axes
    marks = [points.get_offsets().tolist() for points in axis.collections]
    drawn = sorted((x / 100, y) for [[x, y]] in (mark for mark in marks if len(mark) == 1))
    assert np.allclose(drawn, sorted((row["cer"], row["misalignment"]) for row in report["selection"]))


def test_charts_follow_the_pages_colours_and_repeat() -> None:
    def draw() -> str:
        return str(svg_figure(lambda: draw_clusters(fake_report()), "Clusters", "A caption."))

    svg = draw()
    assert svg == draw()
    assert not re.search("#[0-9a-f]{6}", svg) and "var(--after)" in svg and ">bought</text>" in svg
    style = files("salad.report").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = style.partition("prefers-color-scheme: dark")[::2]
    assert all(f"--{name}: {colour};" in light and f"--{name}:" in dark for name, colour in COLOURS.items())


def test_matplotlib_is_imported_where_a_chart_is_drawn() -> None:
    code = "import sys, salad.report.data_page, salad.study.grid_page; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wide_tables_stay_inside_a_container(tmp_path: Path) -> None:
    """No table is cut off at 1,100 pixels: those of many columns may scroll, and their headings wrap."""
    report = fake_report()
    own = report["accuracy"]
    report["accuracy"]["tasks"] = [{"task": "next sentence", **own}, {"task": "mine", **own}]
    html = written(report, [], tmp_path)
    for table in re.finditer(r"<table.*?</thead>", html, re.DOTALL):
        if table.group().count("<th") > 4:
            assert html[: table.start()].rstrip().endswith('<div class="scroll">'), table.group()
    assert "th.num, .wrap .num { white-space: normal; }" in html


def test_not_finite_becomes_null(tmp_path: Path) -> None:
    report = fake_report()
    report["misalignment"]["stage1"]["se"] = float("nan")
    report["heard"]["value"] = np.float32(0.5)
    report["accuracy"]["gap"]["low"] = -math.inf
    written(report, [], tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    saved = json.loads(text)
    assert saved["misalignment"]["stage1"]["se"] is None and saved["heard"]["value"] == 0.5


def test_html_is_self_contained_and_small(tmp_path: Path, clips: list[dict[str, Any]]) -> None:
    html = written(fake_report(), clips, tmp_path)
    assert not re.search(r"https?:|//[a-z]+\.", html)
    assert "<script" not in html and "@import" not in html and "url(" not in html and "<link" not in html
    parsed = Page(html)
    for tag, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            assert (attributes.get(name) or "data:").startswith("data:audio/ogg;base64,") or name not in attributes
    assert len(html.encode()) < 400_000
    assert sum(tag == "audio" for tag, _ in parsed.tags) == 2


def test_clips_over_the_budget_stay_silent(
    tmp_path: Path, clips: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salad.report.page.ALL_CLIPS_BYTES", 1000)
    html = written(fake_report(), clips, tmp_path)
    assert html.count("<audio") == 1 and html.count("left out to keep this page small") == 1


def test_every_figure_has_a_label_and_a_caption(tmp_path: Path, clips: list[dict[str, Any]]) -> None:
    parsed = Page(written(fake_report(), clips, tmp_path))
    drawings = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    assert len(drawings) == 10 and all(d["role"] == "img" and len(d["aria-label"] or "") > 30 for d in drawings)
    text = "".join(parsed.text)
    for name, numbers in caption_numbers(fake_report()).items():
        assert CAPTIONS[name] in text and all(f"{what} {shown}" in text for what, shown in numbers), name
    assert not re.search("not (measured|made|recorded) in this run", text)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_texts_are_escaped(tmp_path: Path, clips: list[dict[str, Any]]) -> None:
    evil = "<script>alert('x')</script>\"&"
    report = fake_report()
    report["name"] = report["version"] = evil
    report["recipe"]["note"] = evil
    report["misalignment"]["stage1"]["by_domain"][evil] = report["misalignment"]["stage2"]["by_domain"][evil] = 0.9
    report["misalignment"]["stage2"]["by_voice"][evil] = 0.9
    report["selection"][0] |= {"top_words": [evil], "domains": {evil: 9}, "reason": evil, "dropped": True}
    report["quarantine"][0] |= {"id": evil, "reason": evil, "stage": evil}
    report["departures"] = [dict.fromkeys(("setting", "paper", "ours", "why"), evil)]
    report["ctc_samples"] = [{"reference": evil, "decoded": evil}]
    report["machine"][evil] = evil
    report["seconds"][evil] = 9000.0
    clip = {key: evil for key in ("title", "domain", "voice", "base_continuation", "speech_continuation")}
    clip |= {"segments": [{"modality": "speech", "text": evil}], "audio": clips[0]["audio"], "cascade_transcript": evil}
    html = written(report, [clip], tmp_path)
    assert "<script" not in html and "&lt;script&gt;" in html
    assert not any(tag == "script" for tag, _ in Page(html).tags)


SAID_ABSENT = {
    "misalignment": "Misalignment M: not measured in this run",
    "forgetting": "Forgetting F: not measured in this run",
    "accuracy": "Accuracy: not measured in this run",
    "heard": "heard was not measured",
    "curves": "Training curves: not recorded in this run",
    "selection": "Active selection: not made in this run",
    "quarantine": "Quarantine: not recorded in this run",
    "departures": "Departures: not recorded in this run",
    "seconds": "Wall time: not recorded in this run",
    "recipe": "Recipe: not recorded in this run",
}


def blank(value: Any) -> Any:
    """The same shape with None for every number."""
    if isinstance(value, dict):
        return {key: blank(item) for key, item in value.items()}
    if isinstance(value, list):
        return [blank(item) for item in value]
    return None if isinstance(value, (int, float)) and not isinstance(value, bool) else value


CHARTS_OF = {  # which charts a part of a report is drawn in, by what their names begin with
    "misalignment": ("Misalignment",),
    "heard_by_stage": ("Misalignment by stage",),
    "accuracy": ("Accuracy",),
    "hearing": ("Words found",),
    "curves": ("Loss", "Warm", "Spelling"),
    "selection": ("Clusters", "Misalignment by domain"),
    "recipe": ("Clusters",),
    "seconds": ("Wall",),
}


@pytest.mark.parametrize("key", [*fake_report(), "everything", "every number", "all but the name"])
def test_absent_parts_are_said_and_do_not_fail(
    key: str, tmp_path: Path, clips: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    report, draw = fake_report(), svg_figure
    if key in report:  # drawing takes time: only the charts that this part is drawn in
        own = CHARTS_OF.get(key, ())
        monkeypatch.setattr(
            "salad.report.page.svg_figure",
            lambda *of: draw(*of) if of[1].startswith(own) else Markup("<figure></figure>"),
        )
    reports = [dict.fromkeys(report)]
    if key == "every number":
        reports = [blank(report)]
    elif key == "all but the name":
        reports = [{"name": "bare"}, {}]
    elif key != "everything":
        without = {k: v for k, v in report.items() if k != key}
        reports = [without, report | {key: None}, report | {key: blank(report[key])}]
        if isinstance(report[key], dict):
            reports.append(report | {key: {}})
            reports += [report | {key: report[key] | {part: None}} for part in list(report[key])[:8]]
        if isinstance(report[key], list):
            reports.append(report | {key: []})
    for number, each in enumerate(reports):
        html = written(each, clips if number == 0 else [], tmp_path / str(number))
        text = "".join(Page(html).text)
        assert "None" not in text and "nan" not in text.split()
        print_report(each, Console(file=io.StringIO(), width=80))
        parts = SAID_ABSENT if not set(each) - {"name"} or not any(each.values()) else [key]
        for part in parts if each.get(key) is None else ():
            assert SAID_ABSENT.get(part, "") in text


def test_a_run_without_stage_two(tmp_path: Path) -> None:
    report = fake_report()
    for part in (report["misalignment"], report["forgetting"], report["curves"], report["heard_by_stage"]):
        part["stage2"] = None
    report |= {"selection": None, "heard": None}
    html = written(report, [], tmp_path)
    assert "Stage I" in headline(report) and "Stage II" not in headline(report)
    assert "Active selection: not made in this run" in html


def test_clips_without_continuations(tmp_path: Path, clips: list[dict[str, Any]]) -> None:
    html = written(fake_report(), [{"title": "bare", "segments": None}, {}], tmp_path)
    assert html.count("not made in this run") == 6 and "No audio was kept" in html


def test_headline_numbers_are_those_of_the_json(tmp_path: Path) -> None:
    parsed = Page(written(fake_report(), [], tmp_path))
    saved = read_json(tmp_path / "report.json")
    keys = {f"misalignment.{key}.all" for key in ("init", "stage2", "cascade", "deaf", "blind", "other")}
    keys |= {"heard.value", "accuracy.chance", "accuracy.n"}
    keys |= {f"accuracy.{key}.value" for key in ("speech_adapted", "text_base", "cascade")}
    assert set(parsed.data) == keys
    for key, (value, shown) in parsed.data.items():
        exact = pick(saved, key)
        assert float(value) == exact
        form = nats if key.startswith("misalignment") else str if key == "accuracy.n" else percent
        assert shown == form(exact)
    text = "".join(parsed.text)
    for low, high in ((57.1, 70.0), (75.7, 86.2), (71.9, 83.3), (10.9, 23.8)):
        assert f"[{low},\xa0{high}]" in text


def test_what_cannot_be_told_says_what_could_have_been(tmp_path: Path) -> None:
    report = fake_report()
    report["misalignment"]["init"] = fake_divergence(0.25, 0.011)
    report["accuracy"]["gap"] = lost = {"value": 0.01, "low": -0.04, "high": 0.06, "n": 210}
    report["accuracy"]["tasks"] = [{"task": "mine", "n": 60, "chance": 0.5, "gap": lost}]
    told = re.sub(r"<[^>]+>", "", headline(report))
    least = 2.8 * 0.011 * math.sqrt(2)
    assert "did not clearly change, from 0.250" in told and f"cannot tell: a change of {least:.3f} would" in told
    text = "".join(Page(written(report, [], tmp_path)).text).replace("\xa0", " ")
    assert text.count("[−4.0, 6.0], cannot tell (7.1 could be, power 0.8)") == 2  # the figure and the table
    console = Console(record=True, width=200)
    print_report(report, console)
    assert console.export_text().replace("\xa0", " ").count("cannot tell (7.1 could be, power 0.8)") == 2


def test_a_change_is_told_by_its_pairs_where_they_were_kept() -> None:
    report = fake_report()
    report["misalignment"]["init"] = fake_divergence(0.25, 0.011)  # 0.018 above stage2: within two independent errors
    report["change"] = {"init": {"value": -0.018, "low": -0.024, "high": -0.012, "n": 64}}
    assert "misalignment fell from" in headline(report)
    report["change"]["init"] |= {"low": -0.04, "high": 0.004}
    told = re.sub(r"<[^>]+>", "", headline(report))
    assert f"cannot tell: a change of {2.8 / 1.96 * 0.022:.3f} would" in told


def test_captions_hold_the_numbers() -> None:
    report = fake_report()
    said = {name: dict(numbers) for name, numbers in caption_numbers(report).items()}
    assert set(said) == set(CAPTIONS) and "fell from" in headline(report)
    assert said["stages"]["M Stage II"] == "0.232 ± 0.022" and said["stages"]["held-out documents"] == "64"
    assert said["stages"]["hearing another document's recording costs (paired)"] == "+0.410 [+0.350,\xa0+0.470]"
    assert said["accuracy"] == {"gap, text − speech": "17.2\xa0points [10.9,\xa023.8]"}
    assert said["warm_start"]["mean loss, first and last tenth"] == "8.83 → 1.34"
    assert said["curves"]["M Stage I"] == "0.440 → 0.271" and said["spell"]["token accuracy"] == "30.0\xa0% → 68.0\xa0%"
    assert said["voices"] == {"mean M, voices trained on": "0.222", "voices never trained on": "0.282"}
    assert said["domains"]["domains that fell"] == "7 of 8"
    assert {name.rpartition("buys ")[2].split()[0] for name in said["domains"]} >= {"more", "less"}
    bought = [row["misalignment"] for row in report["selection"] if row["bought_s"]]
    assert said["clusters"]["bought"] == f"{len(bought)} of 16" and said["clusters"]["dropped"] == "1"
    assert said["clusters"]["mean M, bought"] == nats(np.mean(bought))
    assert said["seconds"] == {
        "whole run": "29\xa0min\xa057\xa0s",
        "longest stage, stage1": "11\xa0min\xa042\xa0s (39.1\xa0%)",
    }

    worse = copy.deepcopy(report)
    worse["misalignment"]["stage2"] = fake_divergence(1.4, 0.02)
    worse["heard"] = fake_share(1.4)
    worse["accuracy"]["gap"] = {"value": -0.01, "low": -0.05, "high": 0.03}
    worse["seconds"]["evaluate"] = 9000.0
    for row in worse["selection"]:
        row["bought_s"] = 0.0
    other = {name: dict(numbers) for name, numbers in caption_numbers(worse).items()}
    assert "rose from" in headline(worse) and "heard none" in headline(worse) and "−145.2" in headline(worse)
    told = "−1.0\xa0points [−5.0,\xa03.0],\xa0cannot tell (5.7 could be,\xa0power 0.8)"
    assert other["accuracy"] == {"gap, text − speech": told}
    assert other["clusters"]["bought"] == "0 of 16" and "longest stage, evaluate" in other["seconds"]
    changed = {key for key in said if said[key] != other[key]}
    assert changed == {"stages", "accuracy", "domains", "voices", "clusters", "seconds"}


def test_departures_from_the_paper_are_a_table(tmp_path: Path) -> None:
    text = "".join(Page(written(fake_report(), [], tmp_path / "one")).text)
    assert text.index("Departures from the paper") < text.index("model.stride") < text.index("fewer positions")
    paper = fake_report() | {"departures": []}
    assert "Every setting is the paper’s." in "".join(Page(written(paper, [], tmp_path)).text)


def test_many_clusters_and_quarantined_items(tmp_path: Path) -> None:
    report = fake_report()
    report["selection"] = [fake_cluster(number) for number in range(128)]
    report["quarantine"] = [{"stage": "align", "id": str(i), "reason": "too short"} for i in range(75)]
    report["curves"]["stage1"] = fake_curve(20_000, (0.4, 0.3), 0)
    html = written(report, [], tmp_path)
    assert "The other 120 clusters" in html and "15 more in report.json" in html
    assert len(html) < 400_000
    assert len(read_json(tmp_path / "report.json")["quarantine"]) == 75


def test_clusters_are_sorted_by_misalignment_and_unknown_ones_come_last(tmp_path: Path) -> None:
    report = fake_report()
    report["selection"][3] |= {"misalignment": None, "cer": None}
    html = written(report, [], tmp_path)
    order = [int(n) for n in re.findall(r'<tr class="(?:dropped|bought|)"><td>(\d+)</td>', html)]
    m = [report["selection"][n]["misalignment"] for n in order]
    assert len(order) == 16 and order[-1] == 3 and m[:-1] == sorted(m[:-1], reverse=True)


def test_what_the_purchase_rests_on_is_said() -> None:
    report = fake_report()
    report["evidence"] = {"decision": "uniform, for lack of evidence", "p": 0.214, "reliability": 0.18, "documents": 25,
                          "seconds": 612.4, "overlap": 0.71}  # fmt: skip
    said = str(caption_numbers(report)["clusters"])
    for word in ("uniform, for lack of evidence", "p 0.214", "0.18", "25 documents", "612 s", "71.0"):
        assert word in said
    assert "expected to share" not in str(caption_numbers({**report, "evidence": {"decision": "active"}})["clusters"])


def test_clip_fits_and_says_when_it_is_cut(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 24_000 * 50).astype(np.float32)
    write_flac(tmp_path / "long.flac", noise, 24_000)
    source, kept_s, whole_s = encode_clip(str(tmp_path / "long.flac"))
    assert len(source) <= CLIP_BYTES * 4 / 3 + 40 and 5 < kept_s < whole_s == 50
    write_flac(tmp_path / "short.flac", noise[: 24_000 * 8], 24_000)
    source, kept_s, whole_s = encode_clip(str(tmp_path / "short.flac"))
    assert kept_s == whole_s == 8
    (tmp_path / "back.ogg").write_bytes(base64.b64decode(source.partition(",")[2]))
    samples, rate = read_audio(tmp_path / "back.ogg")
    assert abs(len(samples) / rate - 8) < 0.1
    html = written(fake_report(), [{"title": "long", "audio": str(tmp_path / "long.flac")}], tmp_path)
    assert re.search(r"The first \d+ of 50 seconds", html)


def test_tasks_beside_the_next_sentence_are_shown(tmp_path: Path) -> None:
    report = fake_report()
    assert task_table(report) is None  # one set of items has its figure already
    own = report["accuracy"]
    heard = {"value": 0.525, "low": 0.4, "high": 0.65}
    read, lost = own["text_base"], {"value": 0.2, "low": 0.1, "high": 0.3, "n": 60}
    own["tasks"] = [
        {"task": "next sentence", **own},
        {"task": "salad_howto", "n": 60, "chance": 0.5, "text_base": read, "speech_adapted": heard, "gap": lost},
        {"task": "all items", "n": 270, "gap": {"value": 0.19, "low": 0.12, "high": 0.26, "n": 270}},
    ]  # fmt: skip
    assert task_table({"accuracy": {"tasks": own["tasks"][1:2]}}) is not None  # a task alone has no figure else
    write_report(report, [], tmp_path)
    page = (tmp_path / "report.html").read_text()
    for text in ("salad_howto", "all items", "52.5 [40.0,\xa065.0]", "19.0 [12.0,\xa026.0]"):
        assert text in page
    console = Console(record=True, width=200)
    print_report(report, console)
    assert "salad_howto" in console.export_text()


def test_terminal_table() -> None:
    out = io.StringIO()
    print_report(fake_report(), Console(file=out, width=80, no_color=True))
    text = out.getvalue().replace("\xa0", " ")
    assert max(map(len, text.splitlines())) <= 80
    for shown in (
        f"{nats(0.2315)} ± 0.022",
        "0.731",
        "82.6",
        "63.8",
        "[57.1, 70.0]",
        "25.0",
        "0.0143"[:5],
        "29 min 57 s",
    ):
        assert shown in text, shown


def test_small_parts() -> None:
    assert nats(-0.0001) == "0.000" and nats(-0.2, sign=True) == "−0.200" and percent(-0.0001) == "0.0\xa0%"
    durations = [duration(s).replace("\xa0", " ") for s in (8.44, 59.97, 3599.6)]
    assert durations == ["8.4 s", "1 min 00 s", "1 h 00 min"]
    assert rank_correlation([(1, 4), (2, 3), (3, 2), (4, 1)]) == pytest.approx(-1)
    assert rank_correlation([(1, 1), (1, 2), (1, 3), (1, 4)]) is None
    assert rank_correlation([(1, 1), (2, 3), (3, 2), (3, 4)]) == pytest.approx(0.632456)  # ties share their rank
    assert len(charts.thin([CurvePoint(step=s, loss=1.0) for s in range(5000)], "loss")) == 240
    bought = bought_by_domain({"selection": [{"bought_s": 40.0, "domains": {"a": 3, "b": 1}}, {"domains": {"c": 2}}]})
    assert bought == {"a": 30.0, "b": 10.0}
    two = [{"bought_s": 40.0, "domains": {"a": 3, "b": 1}}, {"bought_s": 10.0, "domains": {"b": 3}}]
    assert buys_more({"selection": two}) == {"a"} and buys_more({}) == set()  # 60 % of the speech, 43 % of the texts
