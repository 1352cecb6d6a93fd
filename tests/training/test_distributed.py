"""Two processes: as many collectives on each whatever their packs, and the same numbers as one process."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from pair_worker import batches_of, make_task, metrics, run_pair, schedule, uneven

from salad.testing.models import make_examples
from salad.training.checkpoint import Saved, latest_checkpoint
from salad.training.distributed import ProcessGroup
from salad.training.loop import train
from salad.types import SaladError

LAYERS = 2  # of the small model


def alone(folder, batches, llm, bf16=False, ema=0.0, steps=None, **options):
    """The same by one process."""
    model, task = make_task(batches, llm, ProcessGroup(), **options)
    train(model, task, schedule(steps or len(batches), ema=ema), folder, title="t", bf16=bf16)
    return metrics(folder)


def tensors(path, kind):
    saved = Saved(path, [kind])
    return {name: saved.read(name) for name in saved}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes found, and where."""
    folder = tmp_path_factory.mktemp("pair")
    return {"folder": folder, **run_pair(folder, "unequal", "modes", "terminated", "resumed")}


def test_unequal_packs_end_and_equal_one_process(pair, tmp_path):
    """One pack here and several there, of student and teacher: nobody waits for a collective that never comes."""
    found = pair["unequal"]
    both = [[*a, *b] for a, b in zip(uneven(0), uneven(1), strict=True)]
    for llm in ("full", "frozen"):
        assert np.allclose(found[llm], alone(tmp_path / f"{llm}-alone", both, llm), rtol=1e-4), llm
    batches = [make_examples(3, num=4)] * 2
    assert np.allclose(found["ctc"], alone(tmp_path / "ctc-alone", batches, "frozen", ctc=True), rtol=1e-4)


def test_collectives_of_a_step_in_every_mode(pair):
    """Weights are gathered once a step, or twice a pack where each layer frees them; gradients are summed once a step,
    or once a pack. Where both are once a step, the number of packs changes nothing."""
    totals = defaultdict(set)
    for row in pair["modes"]:
        rounds = -(-row["packs"] // 2)
        assert (rounds > 1) == (row["context"] in (24, "again"))
        assert row["gathers"] == LAYERS * (2 * rounds if row["reshard"] else 1), row
        assert row["reduces"] == LAYERS * (1 if row["once"] else rounds), row
        totals[row["reshard"], row["once"]].add(row["all"])
    assert len(totals[False, True]) == 1
    assert len(totals[True, False]) == 2


def test_every_mode_equals_one_process(pair, tmp_path):
    """Loss, norm of the gradient, and weights after three steps."""
    wanted = alone(tmp_path / "one", batches_of(3), "full", context=2048)
    weights = tensors(latest_checkpoint(tmp_path / "one"), "weights")
    for row in pair["modes"]:
        if row["context"] == "bf16":
            continue
        assert np.allclose(row["metrics"], wanted, rtol=1e-3), row
        ours = tensors(latest_checkpoint(Path(row["folder"])), "weights")
        for name, value in weights.items():
            assert np.allclose(ours[name], value, atol=3e-4), (name, row)


def test_bf16_in_two_processes_is_autocast_in_one(pair, tmp_path):
    (ours,) = (row["metrics"] for row in pair["modes"] if row["context"] == "bf16")
    exact = np.array(alone(tmp_path / "exact", batches_of(3), "full", context=2048))
    rounded = np.array(alone(tmp_path / "bf16", batches_of(3), "full", context=2048, bf16=True))
    off = np.abs(rounded - exact).max()
    assert off > 0 and np.abs(np.array(ours) - rounded).max() < 2 * off


def test_each_process_writes_its_rows_and_any_number_goes_on(pair, tmp_path):
    """2 -> 1 -> 2 processes: weights, moments and averages are those of one process that trained all the while. A part
    that is damaged or lost is refused."""
    wanted, ours = tmp_path / "one", pair["folder"]
    alone(wanted, batches_of(6), "full", ema=0.5)
    files = {2: {f"{part}-of-00002" for part in ("00001", "00002")}, 4: {""}, 6: {"00001-of-00002", "00002-of-00002"}}
    for steps, endings in files.items():
        if steps == 4:
            alone(ours, batches_of(6), "full", ema=0.5, steps=4)
        elif steps == 6:
            run_pair(ours, "resumed")
        checkpoint = ours / f"checkpoint-{steps:06d}"
        kinds = ("weights", "optimizer", "averages")
        names = {f"{kind}{end and '-'}{end}.safetensors" for kind in kinds for end in endings}
        assert {path.name for path in checkpoint.iterdir()} == {*names, "state.json"}  # nothing that is unpickled
        for kind in kinds:
            right, left = (tensors(folder / checkpoint.name, kind) for folder in (wanted, ours))
            assert right.keys() == left.keys()
            for name in right.keys() - {"rng"}:
                far = (left[name] - right[name]).norm() / right[name].norm()
                assert left[name].shape == right[name].shape and far < 2e-2, (steps, kind, name)
    sizes = [(ours / "checkpoint-000006" / f"optimizer-0000{i}-of-00002.safetensors").stat().st_size for i in (1, 2)]
    assert sizes[1] > 0.2 * sizes[0]  # the first one writes what is whole as well
    part = checkpoint / "weights-00002-of-00002.safetensors"
    raw = part.read_bytes()
    part.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(SaladError, match="00002-of-00002.* does not have the hash"):
        Saved(checkpoint, ["weights"])
    part.unlink()
    with pytest.raises(SaladError, match="cannot be read"):
        Saved(checkpoint, ["weights"])


def test_sigterm_to_one_process_ends_both_with_a_checkpoint(pair):
    assert "SIGTERM after step 3 of 6" in pair["terminated"]
    assert latest_checkpoint(pair["folder"] / "term").name == "checkpoint-000003"
