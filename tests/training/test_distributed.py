"""Two processes: as many collectives on each whatever their packs, and the same numbers as one process."""

import pytest
from pair_worker import losses, make_task, run_pair, schedule, uneven

from salad.testing.models import make_examples
from salad.training.distributed import World
from salad.training.loop import train


def alone(folder, batches, llm, **options):
    model, task = make_task(batches, llm, World(), sharded=False, **options)
    train(model, task, schedule(), folder, title="t", bf16=False)
    return losses(folder)


def test_unequal_packs_end_and_equal_one_process(tmp_path):
    """One pack here and several there, of student and teacher: nobody waits for a collective that never comes."""
    found = run_pair("unequal", tmp_path)
    both = [[*a, *b] for a, b in zip(uneven(0), uneven(1), strict=True)]
    for llm in ("full", "frozen"):
        assert found[llm] == pytest.approx(alone(tmp_path / f"{llm}-alone", both, llm), rel=1e-4)
    batches = [make_examples(3, num=4)] * 2
    assert found["ctc"] == pytest.approx(alone(tmp_path / "ctc-alone", batches, "frozen", ctc=True), rel=1e-4)
