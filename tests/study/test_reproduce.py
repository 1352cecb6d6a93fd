"""Findings are judged by their intervals, and a page holds every number of its cells."""

import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from salad.config import load_recipe
from salad.files import read_json, read_jsonl, write_json, write_jsonl
from salad.measure.hearing import HeardSpan
from salad.records import from_json, to_json
from salad.study.cell_figures import BaseFigures, DocumentSum, DoneCell, DroppedCell
from salad.study.cell_training import warm_folder
from salad.study.cells import MAIN, Cell, Times, grid
from salad.study.findings import findings as judge
from salad.study.grid import Grid, reproduce
from salad.study.grid_page import write_reproduction
from salad.study.locks import alone
from salad.study.measuring import Measuring
from salad.study.own_findings import _by_document
from salad.study.scaling_law import hours_at, law_table
from salad.study.verdicts import Finding, five
from salad.study.verdicts import paired_documents as of_documents
from salad.types import SaladError

GROUPS = [f"d{i // 2}" for i in range(64)]
READ = "".join(str(int(i % 16 != 0)) for i in range(64))  # of the text LLM
BASE = {
    "key": "", "text_right": READ, "groups": GROUPS, "heard_items": 40, "narrow_domains": [], "spell_seconds": 90.0,
    "text_accuracy": {"value": 0.9, "low": 0.85, "high": 0.95, "n": 40},
    "cascade_accuracy": {"value": 0.85, "low": 0.8, "high": 0.9, "n": 40},
    "chance": 0.25, "items_of": ["next_sentence"],
    **{name: [{"id": f"{d}{i}--v", "domain": "art", "kl": m * 80, "count": 80, "speaker": speaker}
              for d, speaker in (("d", "v"), ("u", "x (unseen)")) for i in range(32)]
       for name, m in (("deaf", 1.3), ("cascade", 0.1))},
}  # fmt: skip
SHARED = from_json(BaseFigures, BASE, "shared.json")


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
        documents.append({"id": f"d{i}--v", "domain": "law" if i % 2 else "art", "kl": kl, "count": 80, "speaker": "v"})
    found = sum(d["kl"] for d in documents) / (80 * 32)
    shift = 80 * (0.1 if cell.alpha == 1 else -0.2)  # training has moved M down at alpha 1, up elsewhere
    before = [{**d, "kl": d["kl"] + shift} for d in documents] if cell.warm else []
    speech = 0.9 - 0.4 * np.log(found + 1)
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    lost = [i for i in range(64) if READ[i] == "1"][: round(32 * max(0.0, f - 0.2))]
    return {
        **asdict(cell), "cell": cell.name, "status": "done", "misalignment": found, "misalignment_se": 0.02,
        "forgetting": f, "forgetting_se": 0.001, "documents": documents, "before": before, "natural": [],
        "unseen": [{**d, "id": d["id"].replace("d", "u"), "speaker": "x (unseen)"} for d in documents],
        "other": documents[:4], "blind": documents[:4], "heard": share, "wer": share, "wer_unseen": share,
        "recall": [{**share, "exposure": "heard_3"}], "margin": share, "margin_over_silence": share,
        "speech_accuracy": {"value": speech, "low": speech - 0.05, "high": speech + 0.05, "n": 40},
        "silence_accuracy": share, "other_accuracy": share, "speech_right": "1" * 40,
        "text_right": "".join("0" if i in lost else READ[i] for i in range(64)),
        "text_accuracy": {"value": 0.9 - f, "low": 0.85 - f, "high": 0.95 - f, "n": 64}, "items": 40,
        "hours": cell.share, "steps": 40, "positions": 4000.0, "train_seconds": 12.0, "seconds": 20.0,
        "warm_start_seconds": 1.0 if cell.warm else 0.0, "key": "", "utterances": 4, "machine": "a processor",
        "bought": {"law": 20 if cell.speech == "active" else 10, "art": 10} if cell.buys else None,
    }  # fmt: skip


def truth(cell):
    """A world in which all findings hold."""
    if cell.ears != "symbols":
        return 2.0 if cell.ears == "cold" else 0.9 + 0.3 * cell.share**-0.5
    if cell.buys:
        return 0.7 if cell.speech == "uniform" else 0.6
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
    rows = [r for r in rows if r["bought"]]
    found = {f.claim[:3]: f for f in findings(rows, BASE)}["4. "]
    larger, smaller = re.findall(r"(larger|smaller) share: ([-+.\d]+ \[.*?\])", found.why)
    assert larger[0] == "larger" and smaller[0] == "smaller" and larger[1] != smaller[1]


def test_the_speechs_own_domains_have_slopes_of_their_own():
    rng = np.random.default_rng(2)
    rows = [row(c, 1.0, rng) for c in grid(2) if c.speech == "narrow" and c.ears == "symbols"]
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
    for f, verdict in ((0.01, "holds"), (1.2, "does not hold")):
        rows = [row(Cell("narrow", 1.0, 0.5, seed), 1.0, rng, f) for seed in range(3)]
        found = {x.number: x for x in findings(rows, BASE)}["5"]
        assert found.verdict == verdict and "64 items, 3 cells" in found.ours
        assert f"{50.0 if f > 0.2 else 0.0:.1f} % flip" in found.why  # 32 of 64 answers, or none
        alone = {x.number: x for x in findings(rows[:2], BASE)}["5"]
        assert alone.verdict == "cannot tell" and "under 3" in alone.why and "points could have been told" in alone.why


def test_a_margin_says_how_many_items_it_needs():
    rng = np.random.default_rng(3)
    one = row(Cell("narrow", 1.0, 0.5), 1.0, rng)
    one["text_right"] = "".join("0" if i in (1, 2) else c for i, c in enumerate(READ))  # 2 of 64: 3 %
    found = {x.number: x for x in findings([{**one, "seed": seed} for seed in range(3)], BASE)}["5"]
    assert found.verdict == "cannot tell" and "holds -2" in found.why
    assert "needs 614 items" in found.why  # 2 / 64 * ((1.96 + 0.84) / 0.02)^2 = 613.2


def test_what_was_not_run_is_said(rows):
    few = [r for r in rows if r["cell"] == "narrow-alpha1-share0.5-seed0"]
    named = [{**asdict(c), "cell": c.name} for c in grid(1)[1:]]
    dropped = [{**row, "status": "dropped", "reason": "9 s left"} for row in named]
    found = findings([*few, *dropped], BASE)
    told = [f.claim[:3] for f in found if f.verdict != "cannot tell"]
    assert told == [] and all(f.why for f in found if f.verdict == "cannot tell")  # one training tells nothing
    paper = five(found)
    assert [f.number for f in paper] == list("12345") and all(f.verdict == "cannot tell" and f.why for f in paper)


def test_the_papers_form_stands_beside_ours_with_the_seconds_of_both(rows):
    rows = [r for r in rows if r["share"] == MAIN and r["alpha"] == 1.0]
    form = next(f for f in findings(rows, BASE) if f.number == "P")
    assert form.verdict == "holds" and "after 13 s and 90 s of spelling" in form.ours and "after 12 s" in form.ours
    assert {"-cold" in cell for cell in form.cells} == {True, False} and len(form.cells) == 6


def test_seeds_of_one_share_are_no_sizes():
    """Their hours differ by chance: a line through them is no growth, and a law of them no law."""
    rng = np.random.default_rng(4)
    rows = [row(Cell("narrow", a, 0.5, seed), 1.0, rng) for seed in range(6) for a in (1.0, 0.0)]
    for n, r in enumerate(rows):
        r["hours"] = 0.5 + 0.001 * n
    found = {f.claim[:3]: f for f in findings(rows, BASE)}
    assert all("four sizes" in found[claim].why and found[claim].ours == "-" for claim in ("1a.", "1b.", "2. "))
    assert "doubling" not in found["1e."].why


def test_what_ears_are_worth_is_told_by_the_single_adapters_law_or_bounded(rows):
    by_law = next(f for f in findings(rows, BASE) if f.number == "B1")  # 0.9 + 0.3 D^-0.5 never comes to 0.66
    assert "at inf h" in by_law.ours and "[any, any]" in by_law.ours and by_law.verdict == "-"
    few = [r for r in rows if r["ears"] != "single" or r["share"] == 1.0]
    bound = next(f for f in findings(few, BASE) if f.number == "B1")
    assert "more than 2.0 times the speech" in bound.ours and "four sizes" in bound.why


def test_hours_at_an_m_are_those_of_the_law():
    d = [0.1, 0.2, 0.5, 1.0, 2.0, 4.0]
    m = [0.4 + 0.3 * x**-0.5 for x in d]
    found = hours_at(d, m, 0.4 + 0.3 * 9.0**-0.5)
    assert found.value == pytest.approx(9.0, rel=0.05) and found.low <= found.value <= found.high
    assert hours_at(d, m, 0.3).value == np.inf


def test_recordings_of_one_document_count_once(rows):
    rows = [r for r in rows if r["speech"] == "narrow" and r["share"] == MAIN]
    for r in rows:
        r["unseen"] = [{**d, "id": d["id"] + voice} for d in r["unseen"][:8] for voice in ("a", "b")]
    cascade = [{**d, "id": d["id"] + voice} for d in BASE["cascade"][32:40] for voice in ("a", "b")]
    found = {f.number: f for f in findings(rows, BASE | {"cascade": [*BASE["cascade"], *cascade]})}
    assert "(8 documents" in found["B4a"].ours and "(32 documents" in found["B4"].ours
    assert found["B4"].verdict == "does not hold" and found["B4b"].verdict == "cannot tell"  # of people there are none


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


def test_what_differs_from_one_kind_of_speech_to_the_other_is_no_slope():
    """Broad cells hear better and answer better; within a kind, better M brings nothing."""
    rng = np.random.default_rng(8)
    cells = [Cell(kind, 1.0, 0.5, seed) for kind in ("narrow", "broad") for seed in range(6)]
    rows = [row(cell, 1.0, rng, 0.01 + 0.01 * rng.random()) for cell in cells]
    for n, r in enumerate(rows):
        broad = r["speech"] == "broad"
        r["misalignment"] = (0.5 if broad else 0.7) + 0.01 * (n % 6)
        r["speech_accuracy"] = {"value": (0.6 if broad else 0.45) + 0.01 * (n % 2), "low": 0.3, "high": 0.7}
    found = {f.number: f for f in findings(rows, BASE)}["R1"]
    assert found.verdict == "cannot tell" and "within a kind of speech" in found.ours
    assert float(re.search(r"slope ([-+.0-9]+)", found.ours)[1]) < -0.3


def test_one_odd_cell_makes_no_slope():
    rng = np.random.default_rng(9)
    rows = [row(Cell("narrow", 1.0, 0.5, seed), 1.0, rng, 0.01 * seed) for seed in range(8)]
    for n, r in enumerate(rows):
        r["text_accuracy"] = {"value": 0.9 if n == 3 else 0.85, "low": 0.8, "high": 1.0}
    found = {f.number: f for f in findings(rows, BASE)}["R2"]
    assert found.ours == "-" and "in 7 of 8 cells" in found.why


def test_a_gain_on_silence_is_no_gain_of_hearing(rows):
    found = {f.claim[:3]: f for f in findings(rows, BASE)}["1e."]
    assert "On silence alpha 0 minus alpha 1 is" in found.why and "Heard:" in found.why


def test_accuracy_on_m_is_told_with_and_without_the_cells_that_began_cold(rows):
    deaf = [{**r, "misalignment": 0.3, "speech_accuracy": {"value": 0.25, "low": 0.15, "high": 0.35}} for r in rows[:6]]
    found = {f.number: f for f in findings([*rows, *({**r, "ears": "cold"} for r in deaf)], BASE)}["R1"]
    assert found.why.endswith("holds.") and "25 % [15, 35]" in found.why


def test_a_document_that_two_voices_read_counts_once():
    read_by = (("d--v", 10.0), ("d--w", 30.0), ("e--v", 5.0))
    own = _by_document([DocumentSum(name, "law", kl, 10, name[-1]) for name, kl in read_by])
    assert [(d.id, d.kl, d.count) for d in own] == [("d", 20.0, 10), ("e", 5.0, 10)]
    spans = [HeardSpan(name[0], "law", name[-1], ("a", "b"), "a b" if name[0] == "e" else "") for name, _ in read_by]
    measuring = SimpleNamespace(settings=SimpleNamespace(bootstrap=20))
    assert Measuring._wer(measuring, spans).value == 0.5  # d is heard as nothing, e whole


def test_a_cell_against_itself_differs_by_nothing(rows):
    for cells in (rows[:2], rows[:3]):
        found = paired_documents(cells, cells)
        assert (found.value, found.low, found.high, found.documents) == (0, 0, 0, 32)
    inside, nowhere = (paired_documents(rows[:1], rows[:1], {name}).documents for name in ("law", "-"))
    assert (inside, nowhere) == (16, 0)


def test_the_page_shows_n_and_interval_of_every_cell_and_names_what_was_dropped(rows, tmp_path):
    rows = [r for r in rows if r["seed"] == 0]
    rows = [*rows[:-1], {**{k: rows[-1][k] for k in asdict(Cell("narrow", 1, 1))}, "cell": rows[-1]["cell"],
                         "status": "dropped", "reason": "needs 30 s, 9 left"}]  # fmt: skip
    table = write_reproduction(read(rows), SHARED, tmp_path, "a machine")
    page = (tmp_path / "reproduce.html").read_text()
    for r in rows[:-1]:
        line = re.search(rf'<tr id="{re.escape(r["cell"])}">.*?</tr>', page, re.S).group()
        assert f"{r['misalignment']:.3f} ± " in line and "(n = 32)" in line and "(n = 40)" in line
    assert "needs 30 s, 9 left" in page and page.count("<svg") == 6 and "a machine" in page
    drawn = page.partition("</style>")[2]
    assert "var(--green)" in drawn and not re.search("#[0-9a-f]{6}", drawn), "a colour that dark mode does not change"
    links = set(re.findall(r'href="#(.*?)"', page.replace("xlink:href", "")))
    assert links and {i for i in links if "alpha" in i} <= set(re.findall(r'id="(.*?)"', page))
    assert read_json(tmp_path / "findings.json") == to_json(table)


def test_the_grid_begins_with_one_contrast_and_names_are_its_folders():
    cells = grid(3)
    assert len({c.name for c in cells}) == len(cells)
    assert {(c.speech, c.alpha, c.share, c.ears) for c in cells[:6]} == {
        ("narrow", alpha, MAIN, "symbols") for alpha in (1.0, 0.0)
    }
    assert [c.seed for c in cells[:6]] == [0, 0, 1, 1, 2, 2]
    assert len([c for c in cells if c.speech == "active"]) == 4  # where a verdict compares purchases


def test_times_are_foreseen_from_those_seen():
    times, quarter, half, whole = Times(), *(Cell("narrow", 1.0, share) for share in (0.25, 0.5, 1.0))
    assert times.expect_s(quarter) == 0 and Times(7.0).expect_s(quarter) == 7  # a guess, until one was seen
    times.note(quarter, 30.0)
    assert times.expect_s(whole) == pytest.approx(60)  # half the work: the square root of the share
    times.note(whole, 50.0)
    assert times.expect_s(whole) == pytest.approx(1.15 * 50)
    times.note(whole, 50.0, warm_s=100.0)  # it trained a warm start beside
    assert times.expect_s(whole, warms=True) == pytest.approx(1.15 * 150)
    assert times.expect_s(half) == pytest.approx(1.15 * (10 + 40 * 0.5**0.5))


def test_a_cell_is_kept_while_its_recipe_and_data_are_the_same(recipe_values, write_recipe):
    recipe = load_recipe(write_recipe(recipe_values))
    cell, other = Cell("narrow", 1.0, 0.5), Cell("narrow", 0.0, 0.5)
    here = Grid(recipe)
    folder = here.begin(cell)
    assert here.begin(cell) == folder and here.figures(cell) is None  # a cell that was cut off goes on
    (folder / "checkpoint-000024").mkdir()
    write_json(folder / "cell.json", row(cell, 0.5, np.random.default_rng(0)) | {"key": here.key(cell)})
    write_json(warm_folder(here.data, cell) / "warm.json", {"key": here.warm_key(cell)})
    assert here.figures(cell) is not None and not here.must_warm(cell)
    assert here.key(other) != here.key(cell) and not here.must_warm(other)  # alpha shares the warm start
    assert not here.must_warm(Cell("active", 1.0, 0.5)) and here.must_warm(Cell("broad", 1.0, 0.5))

    slower = Grid(recipe.model_copy(update={"stage1": recipe.stage1.model_copy(update={"lr_llm": 1e-6})}))
    assert not slower.must_warm(cell)  # a warm start knows nothing of the stage
    assert slower.figures(cell) is None and (folder / "cell.json").exists()  # looking removes nothing
    assert [p.name for p in slower.begin(cell).iterdir()] == ["key.json"]  # nor is an old training gone on
    assert (recipe.run_dir / "replaced" / cell.name / "cell.json").exists() and here.figures(cell) is None

    longer = Grid(recipe.model_copy(update={"warm_start": recipe.warm_start.model_copy(update={"steps": 7})}))
    assert longer.must_warm(cell) and longer.key(cell) != here.key(cell)


def test_no_path_of_a_machine_is_in_a_key(recipe_values, write_recipe, tmp_path):
    recipe = load_recipe(write_recipe(recipe_values))
    there = recipe.model_copy(update={
        "run_dir": tmp_path / "elsewhere", "threads": 7, "engine": recipe.engine.model_copy(update={"workers": 5}),
        "evaluate": recipe.evaluate.model_copy(update={"task_data": tmp_path}),
    })  # fmt: skip
    for cell in (
        Cell("narrow", 1.0, 0.5),
        Cell("broad", 0.0, 0.5),
        Cell("active", 1.0, 0.5),
        Cell("narrow", 1.0, 1.0, 0, "single"),
    ):
        assert Grid(there).key(cell) == Grid(recipe).key(cell) and Grid(there).warm_key(cell) == Grid(recipe).warm_key(
            cell
        )
    assert Grid(there).base_key() == Grid(recipe).base_key()
    bought = recipe.model_copy(update={"probe": recipe.probe.model_copy(update={"documents": 9})})
    assert Grid(bought).key(Cell("active", 1.0, 0.5)) != Grid(recipe).key(Cell("active", 1.0, 0.5))
    assert Grid(bought).key(Cell("narrow", 1.0, 0.5)) == Grid(recipe).key(Cell("narrow", 1.0, 0.5))


def test_kept_rows_are_taken_and_nothing_is_run_for_them(recipe_values, write_recipe, tmp_path):
    recipe = load_recipe(write_recipe(recipe_values))
    here, cells = Grid(recipe), grid(3)
    rng = np.random.default_rng(0)
    kept = [row(c, 0.5 + 0.1 * c.seed, rng) | {"key": here.key(c)} for c in cells[:6]]
    kept[5]["key"] = "of another recipe"
    write_jsonl(tmp_path / "kept" / "results.jsonl", kept)
    write_json(tmp_path / "kept" / "shared.json", BASE | {"key": here.base_key()})
    table = reproduce(recipe, budget_s=0.0, rows=tmp_path / "kept" / "results.jsonl")
    rows = read_jsonl(recipe.run_dir / "results.jsonl")
    assert [r["status"] for r in rows] == ["done"] * 5 + ["dropped"] * (len(cells) - 5)
    assert rows[5]["reason"] == "no time was left" and (recipe.run_dir / "reproduce.html").exists()
    assert not (recipe.run_dir / "base").exists() and next(f for f in table if f.claim.startswith("1f.")).cells
    again = Grid(recipe, recipe.run_dir / "results.jsonl")
    assert to_json(again.figures(cells[0])) == rows[0]


def test_rows_come_from_the_disk_whoever_ran_the_cell(recipe_values, write_recipe):
    recipe = load_recipe(write_recipe(recipe_values))
    here, cells = Grid(recipe), [Cell("narrow", 1.0, 0.5), Cell("narrow", 0.0, 0.5), Cell("broad", 1.0, 0.5)]
    figures = row(cells[1], 0.5, np.random.default_rng(0)) | {"key": here.key(cells[1]), "misalignment": 0.5}
    write_json(here.begin(cells[1]) / "cell.json", figures)
    first, second, third = here.rows(cells, {cells[0].name: "9 s left"})
    assert second.status == "done" and second.misalignment == 0.5
    assert (first.reason, third.reason) == ("9 s left", "not begun yet")
    del figures["misalignment"]
    write_json(here.folder(cells[1]) / "cell.json", figures)
    with pytest.raises(SaladError, match=r"cell\.json: misalignment: field required"):
        here.rows(cells, {})


def test_a_part_of_a_run_is_held_by_one_process(tmp_path):
    with alone(tmp_path, "cell") as mine, alone(tmp_path, "cell", wait=False) as second:
        assert mine and not second
        with alone(tmp_path, "other", wait=False) as third:
            assert third
    with alone(tmp_path, "cell", wait=False) as again:
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
