"""Findings are judged by their intervals, and a page holds every number of its cells."""

import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from salad.config import load_recipe
from salad.files import read_json, write_json, write_jsonl
from salad.pipeline.run import Run
from salad.records import from_json, to_json
from salad.study.cell_figures import BaseFigures, DoneCell, DroppedCell, Shared
from salad.study.cells import Cell, Times, grid
from salad.study.findings import findings as judge
from salad.study.grid import _alone, _Measure
from salad.study.grid_page import write_reproduction
from salad.study.scaling_law import law_table
from salad.study.verdicts import Finding, five
from salad.study.verdicts import paired_documents as of_documents
from salad.types import SaladError

BASE = {
    "text_accuracy": {"value": 0.9, "low": 0.85, "high": 0.95},
    "cascade_accuracy": {"value": 0.85, "low": 0.8, "high": 0.9},
    "text_by_document": [{"id": f"d{i}", "correct": 2 - (i % 8 == 0), "count": 2} for i in range(32)],
    "chance": 0.25, "items": 64, "deaf": 1.3, "warm_start": 1.2, "active_domains": ["law"],
}  # fmt: skip
SHARED = from_json(Shared, {"base": BASE, "base_seconds": 100.0}, "shared.json")


def read(rows):
    """The rows that a file of results holds."""
    kinds = {"done": DoneCell, "dropped": DroppedCell}
    return [from_json(kinds[r["status"]], r, "results.jsonl") for r in rows]


def findings(rows, base):
    return judge(read(rows), from_json(BaseFigures, base, "shared.json"))


def paired_documents(a, b, domains=None):
    return of_documents(*([r.documents for r in read(rows)] for rows in (a, b)), domains)


def row(cell, m, rng, f=0.01):
    documents = []
    for i in range(32):
        kl = (m + 0.2 * np.sin(i) + rng.normal(0, 0.01)) * 80
        documents.append({"id": f"d{i}", "domain": "law" if i % 2 else "art", "kl": kl, "count": 80})
    found = sum(d["kl"] for d in documents) / (80 * 32)
    shift = 80 * (0.1 if cell.alpha == 1 else -0.2)  # training has moved M down at alpha 1, up elsewhere
    before = [{**d, "kl": d["kl"] + shift} for d in documents] if cell.warm else []
    speech = 0.9 - 0.4 * np.log(found + 1)
    curve = [{"step": s, "seconds": 3.0 * s, "positions": s, "misalignment": found + 1.0 / s} for s in (1, 2, 4)]
    return {
        **asdict(cell), "cell": cell.name, "run_dir": "-", "status": "done", "misalignment": found,
        "text_by_document": [{**d, "correct": d["correct"] - (f > 0.2)} for d in BASE["text_by_document"]],
        "misalignment_se": 0.02, "forgetting": f, "forgetting_se": 0.001, "documents": documents,
        "before": before,
        "speech_accuracy": {"value": speech, "low": speech - 0.05, "high": speech + 0.05},
        "text_accuracy": {"value": 0.9 - f, "low": 0.85 - f, "high": 0.95 - f}, "items": 64, "hours": cell.share,
        "steps": 40, "positions": 4000.0, "train_seconds": 12.0, "seconds": 20.0, "curve": curve,
        "warm_start_seconds": 1.0 if cell.warm else 0.0, "key": "", "utterances": 4, "by_domain": {"law": found},
    }  # fmt: skip


def truth(cell):
    """A world in which all findings hold."""
    if not cell.warm:
        return 2.0
    if cell.speech in ("active", "uniform"):
        return 0.6 if cell.speech == "active" else 0.7
    if cell.alpha == 0:
        return 1.2 + 0.1 * np.log2(8 * cell.share) + (0.1 if cell.speech == "broad" else 0.0)
    floor = 0.5 if cell.speech == "narrow" else 0.3
    return floor + 0.1 * cell.share**-0.7


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return [row(c, truth(c), rng, 0.01 + 0.05 * (1 - c.alpha) + 0.01 * rng.random()) for c in grid(3)]


def test_every_finding_holds_where_it_was_planted(rows):
    verdicts = {f.claim[:3]: f.verdict for f in findings(rows, BASE)}
    for claim in ("1a.", "1b.", "1e.", "1f.", "1g.", "3a.", "3b.", "3c.", "4. ", "5. ", "Spe", "Tex"):
        assert verdicts[claim] == "holds", (claim, verdicts)


def opposite(cell):
    if cell.speech in ("active", "uniform"):
        return replace(cell, speech="uniform" if cell.speech == "active" else "active")
    return replace(cell, alpha=1.0 - cell.alpha)


def test_none_holds_where_the_opposite_was_planted():
    rng = np.random.default_rng(1)
    rows = [row(c, truth(opposite(c)), rng) for c in grid(3)]
    for r in rows:
        r["before"] = [{**d, "kl": 2 * o["kl"] - d["kl"]} for d, o in zip(r["before"], r["documents"], strict=False)]
    verdicts = {f.claim[:3]: f.verdict for f in findings(rows, BASE)}
    for claim in ("1a.", "1b.", "1e.", "1f.", "1g.", "3a.", "3b.", "3c.", "4. "):
        assert verdicts[claim] == "does not hold", (claim, verdicts)


def test_the_papers_five_findings_are_judged_together(rows):
    found = findings(rows, BASE)
    paper = {f.number: f for f in five(found)}
    assert {n: paper[n].verdict for n in "1345"} == dict.fromkeys("1345", "holds")
    assert "1f. holds; 1g. holds" in paper["1"].ours and set(paper["4"].cells) <= {r["cell"] for r in rows}
    for f in paper.values():  # none is surer among five than alone
        assert f.p >= max((r.p for r in found if r.claim.startswith(f"{f.number}. ")), default=0.0)


def test_a_row_that_chance_may_give_one_of_five_does_not_make_a_finding():
    def told(*p):
        claims = ("1f. x", "1g. x", "2. x", "3a. x", "3b. x", "3c. x", "4. x", "5. x")
        verdicts = ["cannot tell" if one == 1 else "holds" if one > 0 else "does not hold" for one in p]
        rows = zip(claims, verdicts, p, strict=True)
        return {f.number: f for f in five([Finding(c[0], c, "-", "-", v, "", (), abs(one)) for c, v, one in rows])}

    alone = told(1, 1, 1, 1, 1, 1, 0.02, 1)["4"]  # p 0.02 of five: 0.1
    assert alone.verdict == "cannot tell" and "by Holm 0.1" in alone.ours and "may be chance" in alone.why
    assert told(1, 1, 1, 1, 1, 1, 0.009, 1)["4"].verdict == "holds"
    many = told(0.001, 0.002, 0.003, 0.004, 0.004, 0.004, 0.02, 1)  # the others are sure: 0.02 is the fourth of five
    assert many["4"].p == pytest.approx(0.04) and many["4"].verdict == "holds" and many["1"].p == pytest.approx(0.01)
    parts = told(0.001, 1, 1, 0.001, -0.002, 0.001, 1, 1)  # one row is open, one goes the other way
    assert parts["1"].verdict == "cannot tell" and parts["3"].verdict == "does not hold"
    assert parts["3"].p == pytest.approx(5 * 3 * 0.002) and five([])[0].verdict == "cannot tell"


def test_what_active_buys_less_of_stands_beside_what_it_buys_more_of(rows):
    found = {f.claim[:3]: f for f in findings(rows, BASE | {"uniform_domains": ["art"]})}["4. "]
    larger, smaller = re.findall(r"(larger|smaller) share: ([-+.\d]+ \[.*?\])", found.why)
    assert larger[0] == "larger" and smaller[0] == "smaller" and larger[1] != smaller[1]


def test_the_speechs_own_domains_have_slopes_of_their_own():
    rng = np.random.default_rng(2)
    rows = [row(c, 1.0, rng) for c in grid(2)]
    for r in rows:  # M moves in one domain, and against it in the other
        tilt = (-1 if r["alpha"] == 1 else 1) * 0.2 * np.log2(8 * r["share"])
        for d in r["documents"]:
            d["kl"] += d["count"] * tilt * (1 if d["domain"] == "art" else -1)
    found = {f.claim[:3]: f for f in findings(rows, BASE | {"narrow_domains": ["art"]})}
    assert found["1c."].verdict == found["1d."].verdict == "holds" and "art" in found["1c."].claim
    assert found["1b."].verdict != "holds"
    assert "1c." not in {f.claim[:3] for f in findings(rows, BASE)}


def test_lost_text_ability_is_seen():
    rng = np.random.default_rng(3)
    for f, verdict in ((0.01, "holds"), (0.5, "does not hold")):
        rows = [row(Cell("narrow", 1.0, 1.0, seed), 1.0, rng, f) for seed in range(3)]
        found = {x.number: x for x in findings(rows, BASE)}["5"]
        assert found.verdict == verdict and "64 items of 32 documents" in found.ours
        alone = {x.number: x for x in findings(rows[:2], BASE)}["5"]
        assert alone.verdict == "cannot tell" and "under 3" in alone.why and "points could have been told" in alone.why


def test_a_small_loss_is_within_the_margin_or_open():
    rng, documents = np.random.default_rng(3), [{"id": f"d{i}", "correct": 4, "count": 4} for i in range(32)]
    one = row(Cell("narrow", 1.0, 1.0), 1.0, rng)
    one["text_by_document"] = [{**d, "correct": 4 - (i < 4)} for i, d in enumerate(documents)]  # 3 points, 0.8 to 5.5
    rows = [{**one, "seed": seed} for seed in range(3)]
    found = {x.number: x for x in findings(rows, BASE | {"text_by_document": documents})}["5"]
    assert found.verdict == "cannot tell" and "holds -5" in found.why and re.search(r"\d points could have", found.why)


def test_what_was_not_run_is_said(rows):
    few = [r for r in rows if r["cell"] == "narrow-alpha1-share0.125-seed0"]
    named = [{**asdict(c), "cell": c.name, "run_dir": "-"} for c in grid(1)[1:]]
    dropped = [{**row, "status": "dropped", "reason": "9 s left"} for row in named]
    found = findings([*few, *dropped], BASE)
    told = [f.claim[:3] for f in found if f.number in "1234W" and f.verdict != "cannot tell"]
    assert told == [] and all(f.why for f in found if f.verdict == "cannot tell")  # one training tells nothing
    paper = five(found)
    assert [f.number for f in paper] == list("12345") and all(f.verdict == "cannot tell" and f.why for f in paper)


def test_a_warm_starts_seconds_are_set_against_the_colds():
    rng = np.random.default_rng(5)
    cells = [Cell("narrow", 1.0, 1.0), Cell("narrow", 1.0, 1.0, warm=False, rate="fixed")]
    for warm, ratio in ((0.8, "above 12.00"), (1.02, "above 0.92"), (1.5, None)):
        rows = [row(cells[0], warm, rng), row(cells[1], 1.05, rng)]  # before it, warm is 0.1 worse; cold takes 12 s
        all_of_it, *others = [f for f in findings(rows, BASE | {"narrow_domains": ["art"]}) if f.number == "W"]
        assert all_of_it.verdict == "cannot tell" and "under 3" in all_of_it.why  # one training of each
        assert all_of_it.ours.endswith(f"seconds {ratio or 'not told'}"), all_of_it
        assert ("the warm start alone" in all_of_it.ours) == (warm == 0.8)
        assert "(16 documents)" in others[0].ours and "everyday" not in others[0].claim
        assert others[1].verdict == "cannot tell" and "cold broad cell" in others[1].why


def test_a_warm_start_may_save_seconds_only_where_something_was_heard():
    rng = np.random.default_rng(6)
    rows = [row(Cell("narrow", 1.0, 1.0), 1.0, rng), row(Cell("narrow", 1.0, 1.0, warm=False, rate="fixed"), 1.0, rng)]
    for d in rows[0]["before"]:
        d["kl"] += d["count"] * (-0.6 if d["domain"] == "art" else 0.6)
    everywhere, inside, _ = [f for f in findings(rows, BASE | {"narrow_domains": ["art"]}) if f.number == "W"]
    assert everywhere.ours.endswith("not told") and "nothing was heard" in everywhere.why
    assert inside.ours.endswith("above 12.00") and "nothing was heard" not in inside.why


def test_a_cold_cell_stands_beside_warm_ones_of_both_rates(rows):
    found = [f for f in findings(rows, BASE) if f.number == "W"]
    reads = [("text rate" in f.claim, "12.5 Hz" in f.claim, "narrow" in f.claim) for f in found]
    assert reads == [(True, False, True), (False, True, True), (True, False, False)]
    assert all(f.cells[0] != f.cells[1] and "-cold-" in f.cells[1] for f in found)


def test_chance_of_training_is_in_an_interval_of_three_pairs_and_named_with_fewer():
    rng = np.random.default_rng(7)
    cells = [Cell("narrow", alpha, 1.0, seed) for seed in range(4) for alpha in (1.0, 0.0)]
    rows = [row(c, 1.0 + (0.3 * (-1) ** c.seed if c.alpha == 0 else 0.0), rng) for c in cells]  # a seed moves it most
    few, many = (next(f for f in findings(some, BASE) if f.claim.startswith("1f.")) for some in (rows[:4], rows))
    assert "chance of training is not" in few.why and "chance" not in many.why
    assert few.verdict == "cannot tell" and "too few trainings" in few.why
    pairs = next(f for f in findings(rows, BASE) if f.claim.startswith("1e."))
    low, high = map(float, re.search(r"\[(.*?), (.*?)\]", pairs.ours).groups())
    assert pairs.verdict == "cannot tell" and high - low > 0.2
    assert re.search(r"A difference of 0\.\d{3} nats could have been told \(power 0\.8\)", pairs.why)


def test_accuracy_on_m_is_told_with_and_without_the_cells_that_began_cold(rows):
    deaf = [{**r, "misalignment": 0.3, "speech_accuracy": {"value": 0.25, "low": 0.15, "high": 0.35}} for r in rows[:6]]
    found = {f.number: f for f in findings([*rows, *({**r, "warm": False} for r in deaf)], BASE)}["R1"]
    assert found.verdict != "holds" and found.why.endswith("holds.") and "25 % [15, 35]" in found.why


def test_a_cell_against_itself_differs_by_nothing(rows):
    for cells in (rows[:2], rows[:3]):
        found = paired_documents(cells, cells)
        assert (found.value, found.low, found.high, found.documents) == (0, 0, 0, 32)
    inside, nowhere = (paired_documents(rows[:1], rows[:1], {name}).documents for name in ("law", "-"))
    assert (inside, nowhere) == (16, 0)


def test_the_page_shows_n_and_interval_of_every_cell_and_names_what_was_dropped(rows, tmp_path):
    rows = [*rows[:-1], {**{k: rows[-1][k] for k in asdict(Cell("narrow", 1, 1))}, "cell": rows[-1]["cell"],
                         "run_dir": "-", "status": "dropped", "reason": "needs 30 s, 9 left"}]  # fmt: skip
    table = write_reproduction(read(rows), SHARED, tmp_path, "a machine")
    page = (tmp_path / "reproduce.html").read_text()
    for r in rows[:-1]:
        line = re.search(rf"<tr><td><code>{re.escape(r['cell'])}</code>.*?</tr>", page, re.S).group()
        assert f"{r['misalignment']:.3f} ± " in line and "(n = 32)" in line and "(n = 64)" in line
    assert "needs 30 s, 9 left" in page and page.count("<svg") == 2 and "a machine" in page
    drawn = page.partition("</style>")[2]
    assert "var(--green)" in drawn and not re.search("#[0-9a-f]{6}", drawn), "a colour that dark mode does not change"
    assert read_json(tmp_path / "findings.json") == to_json(table)


def test_the_grid_begins_with_what_the_findings_need_and_names_are_its_folders():
    cells = grid(3)
    assert len({c.name for c in cells}) == len(cells)
    first = cells[:12]
    assert {(c.alpha, c.share) for c in first if c.speech == "narrow"} == {
        (a, s) for a in (1.0, 0.0) for s in (0.125, 0.25, 0.5, 1.0)
    }
    assert {c.speech for c in first} == {"narrow", "broad", "active", "uniform"}


def test_times_are_foreseen_from_those_seen():
    times = Times()
    assert times.expect_s(grid(1)[0]) == 0
    times.note(Cell("narrow", 1.0, 0.25), 30.0)
    assert times.expect_s(Cell("narrow", 1.0, 1.0)) == pytest.approx(120)
    times.note(Cell("narrow", 1.0, 0.5), 40.0)
    assert times.expect_s(Cell("narrow", 1.0, 1.0)) == pytest.approx(1.15 * 60)
    times.note(Cell("narrow", 1.0, 0.5), 40.0, warm_s=100.0)  # it trained a warm start beside
    assert times.expect_s(Cell("narrow", 0.0, 1.0)) == pytest.approx(1.15 * 60)
    assert times.expect_s(Cell("broad", 1.0, 1.0), warms=True) == pytest.approx(1.15 * 260)
    assert times.expect_s(Cell("narrow", 1.0, 1.0, warm=False)) == pytest.approx(1.15 * 140)  # three times the steps


def measure_of(recipe):
    """As the grid makes it, without what training and measuring need."""
    measure = object.__new__(_Measure)
    base = Run(recipe.model_copy(update={"run_dir": recipe.run_dir / "base"}))
    write_json(base.folder("synthesize") / "stage.json", {"status": "done", "inputs": {"corpus": "a"}})
    measure.base, measure.stage, measure.bought = base, recipe.stage1, {}
    return measure


def test_a_cell_is_kept_while_its_recipe_and_data_are_the_same(recipe_values, write_recipe):
    recipe = load_recipe(write_recipe(recipe_values))
    cell, other = Cell("narrow", 1.0, 0.5), Cell("narrow", 0.0, 0.5)
    measure = measure_of(recipe)
    folder = measure.begin(cell)
    assert measure.begin(cell) == folder and not measure.finished(cell)  # a cell that was cut off goes on
    (folder / "checkpoint-000024").mkdir()
    write_json(folder / "cell.json", {"key": measure.key(cell)})
    write_json(measure.warm_folder(cell) / "warm.json", {"key": measure.warm_key(cell)})
    assert measure.finished(cell) and not measure.must_warm(cell)
    assert measure.key(other) != measure.key(cell) and not measure.must_warm(other)  # alpha shares the warm start
    assert not measure.must_warm(Cell("active", 1.0, 0.5)) and measure.must_warm(Cell("broad", 1.0, 0.5))

    slower = recipe.model_copy(update={"stage1": recipe.stage1.model_copy(update={"lr_llm": 1e-6})})
    assert not measure_of(slower).must_warm(cell)  # a warm start knows nothing of Stage I
    assert not measure_of(slower).finished(cell) and (folder / "cell.json").exists()  # looking removes nothing
    assert [p.name for p in measure_of(slower).begin(cell).iterdir()] == ["key.json"]  # nor is an old training gone on
    assert (recipe.run_dir / "replaced" / cell.name / "cell.json").exists() and not measure.finished(cell)

    longer = recipe.model_copy(update={"warm_start": recipe.warm_start.model_copy(update={"steps": 7})})
    assert measure_of(longer).must_warm(cell)
    measure = measure_of(recipe)
    write_json(measure.base.folder("synthesize") / "stage.json", {"status": "done", "inputs": {"corpus": "b"}})
    assert measure.must_warm(cell)


def test_rows_come_from_the_disk_whoever_ran_the_cell(recipe_values, write_recipe):
    recipe = load_recipe(write_recipe(recipe_values))
    measure, cells = measure_of(recipe), [Cell("narrow", 1.0, 0.5), Cell("narrow", 0.0, 0.5), Cell("broad", 1.0, 0.5)]
    figures = row(cells[1], 0.5, np.random.default_rng(0)) | {"key": measure.key(cells[1]), "misalignment": 0.5}
    write_json(measure.begin(cells[1]) / "cell.json", figures)
    first, second, third = measure.rows(cells, {cells[0].name: "9 s left"})
    assert second.status == "done" and second.misalignment == 0.5 and second.before == ()  # its warm start is not there
    assert (first.reason, third.reason) == ("9 s left", "not begun yet")
    del figures["hours"]
    write_json(measure.folder(cells[1]) / "cell.json", figures)
    with pytest.raises(SaladError, match=r"cell\.json: hours: field required"):
        measure.rows(cells, {})


def test_a_part_of_a_run_is_held_by_one_process(tmp_path):
    with _alone(tmp_path, "cell") as mine, _alone(tmp_path, "cell", wait=False) as second:
        assert mine and not second
        with _alone(tmp_path, "other", wait=False) as third:
            assert third
    with _alone(tmp_path, "cell", wait=False) as again:
        assert again


def test_laws_of_a_file_of_results(tmp_path):
    d = np.geomspace(1, 100, 8)
    write_jsonl(tmp_path / "r.jsonl", [
        {"speech": "narrow", "alpha": a, "hours": x, "misalignment": 0.3 + x**-0.5} for a in (0, 1) for x in d
    ] + [{"speech": "narrow", "alpha": 0.5, "hours": 1, "misalignment": 1.0}])  # fmt: skip
    header, lines = law_table(tmp_path / "r.jsonl", "hours", "misalignment", ["speech", "alpha"])
    assert [line[:3] for line in lines] == [["narrow", "0", "8"], ["narrow", "0.5", "1"], ["narrow", "1", "8"]]
    assert lines[0][header.index("E")].startswith("0.3 [") and "not fitted" in lines[1][3]
    (tmp_path / "r.csv").write_text("hours,misalignment\n" + "".join(f"{x},{0.3 + x**-0.5}\n" for x in d))
    assert law_table(tmp_path / "r.csv", "hours", "misalignment", [])[1][0][1].startswith("0.3 [")
    with pytest.raises(SaladError, match="no tokens"):
        law_table(tmp_path / "r.csv", "tokens", "misalignment", [])
    with pytest.raises(SaladError, match="does not exist"):
        law_table(tmp_path / "none.csv", "hours", "misalignment", [])
