"""What the loop tells, to whom, and when: callbacks, and trackers that may not be installed."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import salad
from salad.files import read_jsonl
from salad.training.callbacks import Callback, Callbacks
from salad.training.checkpoint import latest_checkpoint
from salad.training.loop import Schedule, train
from salad.types import SaladError

SCHEDULE = Schedule(steps=4, lr={"adapter": 1e-2}, warmup_steps=0, decay_share=0.0, checkpoint_every=2)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.adapter = torch.nn.Linear(3, 1)


class Task:
    """The sum of squares of three outputs; `bad`: the step whose loss is not a number."""

    def __init__(self, model, bad=None):
        self.model, self.bad = model, bad

    def packs(self, step):
        return [[step]]

    def count(self, pack):
        return 3

    def loss(self, pack):
        loss = self.model.adapter(torch.eye(3)).square().sum()
        return loss * (float("nan") if pack == [self.bad] else 1.0), {"positions": 3, "targets": 3}


class Recorder(Callback):
    def __init__(self):
        self.steps, self.rows, self.checkpoints, self.ends, self.weights = [], [], [], [], []

    def on_step(self, step, model):
        self.steps.append(step)
        self.weights.append(model.adapter.weight.detach().clone())

    def on_log(self, row):
        self.rows.append(row)

    def on_checkpoint(self, step, folder):
        self.checkpoints.append((step, folder, (folder / "state.json").is_file()))

    def on_end(self, last):
        self.ends.append(last)


def run(folder, *callbacks, bad=None):
    model = Model()
    return train(model, Task(model, bad), SCHEDULE, folder, title="toy", bf16=False, callbacks=callbacks)


def test_steps_rows_checkpoints_and_the_end_are_told_in_order(tmp_path):
    told = Recorder()
    last = run(tmp_path, told)
    assert told.steps == [row["step"] for row in told.rows] == [1, 2, 3, 4]
    assert [row["loss"] for row in told.rows] == pytest.approx(
        [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")], abs=1e-6
    )
    assert not torch.equal(told.weights[0], told.weights[-1])
    assert [(step, whole) for step, _, whole in told.checkpoints] == [(2, True), (4, True)]
    assert told.ends == [last] == [told.checkpoints[-1][1]] == [latest_checkpoint(tmp_path)]


def test_a_training_that_ends_in_an_error_says_so_and_one_that_was_finished_names_its_checkpoint(tmp_path):
    told = Recorder()
    with pytest.raises(SaladError, match="loss: got nan"):
        run(tmp_path / "bad", told, bad=2)
    assert told.steps == [1, 2] and told.ends == [None]
    last, again = run(tmp_path / "good"), Recorder()
    assert run(tmp_path / "good", again) == last and again.ends == [last] and not again.steps


def test_a_callback_that_raises_ends_the_training_and_callbacks_change_no_weight(tmp_path):
    class Stops(Callback):
        def on_step(self, step, model):
            if step == 3:
                raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        run(tmp_path / "stopped", Stops())
    assert latest_checkpoint(tmp_path / "stopped").name.endswith("2")
    heard, alone = Recorder(), Recorder()
    run(tmp_path / "heard", heard, Callback())
    run(tmp_path / "alone", alone)
    assert torch.equal(heard.weights[-1], alone.weights[-1])


def test_the_callback_of_the_docs_runs(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    names = {"salad": salad}
    exec(next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "Callback" in block), names)
    assert run(tmp_path, names["Watch"]()) == latest_checkpoint(tmp_path)


def test_several_are_told_as_one():
    first, second = Recorder(), Recorder()
    with Callbacks([first, second]) as told:
        told.on_log({"step": 0})
    assert first.rows == second.rows == [{"step": 0}] and first.ends == second.ends == [None]


def test_trackers_of_the_environment_get_the_same_figures(tmp_path, monkeypatch):
    sent = []
    board = SimpleNamespace(
        log=lambda row, step: sent.append(("wandb", step, row)), finish=lambda exit_code: sent.append(exit_code)
    )
    flow = SimpleNamespace(
        start_run=lambda run_name, tags: sent.append(run_name),
        log_metrics=lambda row, step: sent.append(("mlflow", step, row)),
        end_run=lambda status: sent.append(status),
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda name, dir: board))
    monkeypatch.setitem(sys.modules, "mlflow", flow)
    monkeypatch.setenv("SALAD_TRACK", "wandb, mlflow")
    run(tmp_path)
    rows = [one for one in sent if isinstance(one, tuple)]
    assert [(name, step) for name, step, _ in rows] == [(n, s) for s in (1, 2, 3, 4) for n in ("wandb", "mlflow")]
    assert {"train/loss", "perf/positions_per_s"} <= set(rows[0][2]) and rows[0][2] == rows[1][2]
    assert sent[0] == "toy" and sent[-2:] == [0, "FINISHED"]


@pytest.mark.parametrize(
    ("asked", "said"), [("wandb", "pip install wandb"), ("aim", "got aim, expected wandb or mlflow")]
)
def test_a_tracker_that_is_not_there_is_refused_by_name(tmp_path, monkeypatch, asked, said):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("SALAD_TRACK", asked)
    with pytest.raises(SaladError, match=f"SALAD_TRACK: .*{said}"):
        run(tmp_path)
