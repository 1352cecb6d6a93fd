"""Two processes: as many collectives on each whatever their packs, and the same numbers as one process."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from pair_worker import batches_of, make_task, metrics, run_pair, schedule, uneven
from safetensors.torch import load_file

from salad.testing.models import make_examples
from salad.training.checkpoint import latest_checkpoint
from salad.training.distributed import World
from salad.training.loop import train

LAYERS = 2  # of the small model


def alone(folder, batches, llm, bf16=False, **options):
    """The same by one process."""
    model, task = make_task(batches, llm, World(), **options)
    train(model, task, schedule(len(batches)), folder, title="t", bf16=bf16)
    return metrics(folder)


def test_unequal_packs_end_and_equal_one_process(tmp_path):
    """One pack here and several there, of student and teacher: nobody waits for a collective that never comes."""
    found = run_pair("unequal", tmp_path)
    both = [[*a, *b] for a, b in zip(uneven(0), uneven(1), strict=True)]
    for llm in ("full", "frozen"):
        assert np.allclose(found[llm], alone(tmp_path / f"{llm}-alone", both, llm), rtol=1e-4), llm
    batches = [make_examples(3, num=4)] * 2
    assert np.allclose(found["ctc"], alone(tmp_path / "ctc-alone", batches, "frozen", ctc=True), rtol=1e-4)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return run_pair("modes", tmp_path_factory.mktemp("modes"))


def test_collectives_of_a_step_in_every_mode(rows):
    """Weights are gathered once a step, or twice a pack where each layer frees them; gradients are summed once a step,
    or once a pack. Where both are once a step, the number of packs changes nothing."""
    totals = defaultdict(set)
    for row in rows:
        rounds = -(-row["packs"] // 2)
        assert (rounds > 1) == (row["context"] in (24, "again"))
        assert row["gathers"] == LAYERS * (2 * rounds if row["reshard"] else 1), row
        assert row["reduces"] == LAYERS * (1 if row["once"] else rounds), row
        totals[row["reshard"], row["once"]].add(row["all"])
    assert len(totals[False, True]) == 1
    assert len(totals[True, False]) == 2


def test_every_mode_equals_one_process(rows, tmp_path):
    """Loss, norm of the gradient, and weights after three steps."""
    wanted = alone(tmp_path / "one", batches_of(3), "full", context=2048)
    weights = load_file(latest_checkpoint(tmp_path / "one") / "weights.safetensors")
    for row in rows:
        if row["context"] == "bf16":
            continue
        assert np.allclose(row["metrics"], wanted, rtol=1e-3), row
        ours = load_file(latest_checkpoint(Path(row["folder"])) / "weights.safetensors")
        for name, value in weights.items():
            assert np.allclose(ours[name], value, atol=3e-4), (name, row)


def test_bf16_in_two_processes_is_autocast_in_one(rows, tmp_path):
    (ours,) = (row["metrics"] for row in rows if row["context"] == "bf16")
    exact = np.array(alone(tmp_path / "exact", batches_of(3), "full", context=2048))
    rounded = np.array(alone(tmp_path / "bf16", batches_of(3), "full", context=2048, bf16=True))
    off = np.abs(rounded - exact).max()
    assert off > 0 and np.abs(np.array(ours) - rounded).max() < 2 * off
