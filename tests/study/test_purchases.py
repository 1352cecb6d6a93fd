"""The table of scripts/purchases.py: arms of equal seconds, less uniform, draw by draw."""

import importlib.util
from pathlib import Path

import numpy as np
from scipy.stats import t

from salad.types import Utterance

SCRIPT = Path(__file__).parents[2] / "scripts" / "purchases.py"
SPEC = importlib.util.spec_from_file_location("purchases", SCRIPT)
purchases = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(purchases)


def cell(arm, draw, m):
    rows = [{"id": f"h{i}", "domain": "", "speaker": "", "kl": 10 * (m + 0.1 * i), "count": 10} for i in range(4)]
    return {"arm": arm, "draw": draw, "misalignment": m + 0.15, "rows": rows, "seconds_bought": 1080.0,
            "phone_error": m / 10, "wer": m / 2}  # fmt: skip


def test_each_arm_stands_beside_uniform_with_a_t_interval_over_draws():
    uniform, better = [0.5, 0.6, 0.4, 0.5], [0.45, 0.52, 0.37, 0.42]
    rows = [cell("uniform", n, m) for n, m in enumerate(uniform)] + [
        cell("coverage", n, m) for n, m in enumerate(better)
    ]
    _, _, first, second = purchases.table(rows)
    found = [part.strip() for part in second.strip("|").split("|")]
    assert "uniform" in first and found[:4] == ["coverage", "4", "1080", "0.590"]
    d = np.subtract(better, uniform)
    reach = t.ppf(0.975, 3) * d.std(ddof=1) / 2
    assert found[4] == f"{d.mean():+.3f} [{d.mean() - reach:+.3f}, {d.mean() + reach:+.3f}]"
    assert found[5].startswith(f"{d.mean():+.3f}")


def test_a_draw_that_uniform_lacks_is_in_no_pair():
    rows = [cell("uniform", 0, 0.5), cell("active", 0, 0.4), cell("active", 1, 0.9)]
    line = purchases.table(rows)[-1]
    assert "| active | 2 |" in line and "-0.100" in line


def test_a_purchase_stays_within_its_seconds():
    spoken = [Utterance(f"u{i}", "a", "", 16000, round(16000 * s)) for i, s in enumerate((10.0, 20.0, 30.0, 1.0))]
    assert [u.id for u in purchases.within(spoken, 31.0)] == ["u0", "u1"]  # in the order of choice: the third ends it
    assert purchases.within(spoken, 61.0) == spoken and purchases.within([], 5.0) == []
