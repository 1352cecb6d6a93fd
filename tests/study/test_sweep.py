"""A grid shares what is equal, keeps its budget, and its arms are compared on the same documents."""

import types
from dataclasses import replace

import numpy as np
import pytest
import yaml

from salad.files import read_json, write_json, write_jsonl
from salad.pipeline import run as pipeline
from salad.pipeline import up_to_date
from salad.records import to_json
from salad.study import sweep
from salad.study.ablation import CellRun, compare, table
from salad.types import SaladError


def test_cells_are_all_combinations_and_their_names_say_what_they_set():
    cells = sweep.cells_of(["select.gamma=5,0", "select.replicate=0,1"])
    assert [c.name for c in cells] == [f"select.gamma={g},select.replicate={r}" for g in (5, 0) for r in (0, 1)]
    assert cells[3].values == {"select.gamma": 0, "select.replicate": 1}
    for wrong in (["select.gamma"], ["=1"], ["a.b="], ["a.b=1", "a.b=2"]):
        with pytest.raises(SaladError, match="--vary"):
            sweep.cells_of(wrong)


def test_budgets_are_written_as_people_do():
    assert [sweep.seconds_of(x) for x in ("90s", "20m", "1.5h")] == [90, 1200, 5400]
    for wrong in ("20", "m", "", "-1h", "soon"):
        with pytest.raises(SaladError, match="budget"):
            sweep.seconds_of(wrong)


@pytest.fixture
def recipe(tmp_path, recipe_values, monkeypatch):
    """A recipe whose stages note where they ran; order, sharing and budget are the real ones."""
    ran: list[str] = []

    real = up_to_date.stage_module

    def noting(stage):
        def run(run):
            ran.append(f"{run.dir.name}:{stage}")
            write_json(run.folder(stage) / "figures.json", {"left_out": [stage]})
            return {}

        return types.SimpleNamespace(**{**vars(real(stage)), "run": run})

    for part in (pipeline, up_to_date):
        monkeypatch.setattr(part, "stage_module", noting)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe_values, "run_dir": str(tmp_path / "run")}))
    return path, ran


def test_cells_share_the_stages_that_their_settings_do_not_change(recipe, tmp_path):
    path, ran = recipe
    cells = sweep.cells_of(["select.gamma=5,0"])
    rows = sweep.run_cells(path, cells, tmp_path / "grid")
    assert [r.status for r in rows] == ["done", "done"] and not any("report" in r for r in ran)
    second = [r.split(":")[1] for r in ran if r.startswith("select.gamma=0")]
    assert second == ["select", "synthesize", "stage2", "rounds", "evaluate"]
    ran.clear()
    again = sweep.run_cells(path, cells, tmp_path / "grid")
    assert not ran and read_json(tmp_path / "grid" / "cells.json") == to_json(again)


def test_a_cell_that_does_not_fit_the_budget_is_named(recipe, tmp_path, monkeypatch):
    path, ran = recipe
    clock = iter(range(0, 10_000, 50))
    # sweep's own name for the module: the clock of the whole process is read by other threads too
    monkeypatch.setattr(sweep, "time", types.SimpleNamespace(monotonic=lambda: float(next(clock))))
    rows = sweep.run_cells(path, sweep.cells_of(["select.gamma=5,2,1,0"]), tmp_path / "grid", budget_s=240)
    assert next(r.status for r in rows) == "done" and rows[-1].status == "dropped" and "budget" in rows[-1].reason
    assert not any(r.startswith("select.gamma=0") for r in ran)


def measured(folder, m, rng, documents=40, bought=("art", "art", "law")):
    rows = []
    base = np.random.default_rng(7).normal(1.0, 0.3, documents)
    for i in range(documents):
        n = 50 + i
        domain = "art" if i % 2 else "law"
        kl = (base[i] + m[domain] + rng.normal(0, 0.05)) * n
        rows.append({"of": "stage2", "id": f"d{i}", "speaker": "joe", "kl": kl, "count": n, "domain": domain,
                     "by_exposure": {"seen": [kl / 4, n // 2], "unseen": [kl / 2, n // 2]}})  # fmt: skip
    rows.append({"of": "stage2", "id": "d0", "speaker": "eve (unseen)", "kl": 1e6, "count": 1, "domain": "art"})
    write_jsonl(folder / "evaluate" / "divergence.jsonl", rows)
    write_jsonl(folder / "select" / "documents.jsonl", [{"domain": d, "text": "a b c"} for d in bought])
    for stage, hours in (("align", 1.25), ("rounds", 0.5)):
        write_json(folder / stage / "stage.json", {"summary": {"hours": hours}})
    return folder


def test_the_difference_of_two_arms_has_an_interval_that_covers_the_truth(tmp_path):
    rng = np.random.default_rng(0)
    active = [measured(tmp_path / f"a{r}", {"art": -0.2, "law": 0.0}, rng) for r in range(3)]
    even = {"bought": ("art", "law", "law")}
    uniform = [measured(tmp_path / f"u{r}", {"art": 0.0, "law": 0.0}, rng, **even) for r in range(3)]
    there = compare(active, uniform, domains={"art"}.__contains__)
    assert there.significant and there.low < -0.2 < there.high and there.replicates == 3 and there.documents == 20
    none = compare(active, uniform, domains={"law"}.__contains__)
    assert not none.significant and none.low < 0 < none.high
    with pytest.raises(SaladError, match="give as many"):
        compare(active, uniform[:2])
    itself = compare(active, active)
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)

    rows = [
        CellRun("", {"select.gamma": g, "select.replicate": r}, str(runs[r]), "done")
        for g, runs in ((5, active), (0, uniform))
        for r in range(3)
    ]
    rows.append(CellRun("", {"select.gamma": 1}, "-", "dropped"))
    rows[:2] = [replace(row, seconds={"corpus": 20.0, "stage2": 40.0}) for row in rows[:2]]
    header, lines = table(rows, "select.gamma=0")
    assert [line[0] for line in lines] == ["select.gamma=5", "select.gamma=0"] and lines[0][1] == "3"
    told, plain = (dict(zip(header, line, strict=True)) for line in lines)
    assert (told["seconds"], plain["seconds"], told["hours of speech"]) == ("60", "", "1.75")
    known, new = float(told["M after words heard before"]), float(told["M after a new word"])
    assert new == pytest.approx(2 * known, abs=2e-3) and float(told["M"]) == pytest.approx(known * 2, rel=0.02)
    more, less = told["where it buys more"], told["where it buys less"]
    assert (
        more.endswith("(art)") and "cannot tell" not in more and "cannot tell (0.0" in less and less.endswith("(law)")
    )
    assert float(more.split()[0]) == pytest.approx(there.value, abs=1e-3) and plain["where it buys less"] == ""
    with pytest.raises(SaladError, match="not an arm"):
        table(rows, "nobody")


def test_two_trainings_tell_nothing_and_what_they_could_have_told_is_said(tmp_path):
    rng = np.random.default_rng(0)
    arms = {g: [measured(tmp_path / f"{g}-{r}", {"art": m, "law": m}, rng) for r in range(2)]
            for g, m in ((5, -0.5), (0, 0.0))}  # fmt: skip
    found = compare(arms[5], arms[0])
    assert found.high < 0 and not found.significant and found.freedom == 0
    rows = [CellRun("", {"select.gamma": g, "select.replicate": r}, str(run), "done")
            for g, runs in arms.items() for r, run in enumerate(runs)]  # fmt: skip
    header, lines = table(rows)
    text = lines[0][header.index("M minus select.gamma=0")]
    assert (
        "over documents alone: 2 trainings, cannot tell" in text and "could be but for the chance of training" in text
    )


def test_a_difference_of_few_trainings_is_no_bootstrap(tmp_path):
    """Differences of 0, 0 and 0.3: resampled, they lie in [0, 0.3]; t over three leaves room on both sides."""
    rng, nothing = np.random.default_rng(1), {"art": 0.0, "law": 0.0}
    moved = [measured(tmp_path / f"a{r}", {"art": m, "law": m}, rng) for r, m in enumerate((0.0, 0.0, 0.3))]
    found = compare(moved, [measured(tmp_path / f"b{r}", nothing, rng) for r in range(3)])
    assert found.low < -0.2 and found.high > 0.4 and found.freedom < 2.1 and found.minimum_detectable > 0.4
    known = compare(moved, moved[::-1], spread=(0.1, 12))
    assert (known.freedom >= 12, known.value) == (True, pytest.approx(0)) and known.high < 0.15
