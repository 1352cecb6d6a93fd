"""Who is told what the training loop does: metrics.jsonl, TensorBoard, other trackers, and callbacks of a user's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from salad.training.monitor import PERF
from salad.types import SaladError

Row = Mapping[str, float]  # what metrics.jsonl holds of a step: `step`, `loss`, ...
TRACK = "SALAD_TRACK"  # of the environment: trackers beside TensorBoard, joined by commas


class Callback:
    """What the training loop tells as it goes; a subclass overrides what it wants to hear.

    Called in the first process alone, in the order in which callbacks were given. An error in one ends the training.
    """

    def on_step(self, step: int, model: torch.nn.Module) -> None:
        """The optimiser has taken its step number `step`, the first of which is 1."""

    def on_log(self, row: Row) -> None:
        """A row of metrics.jsonl: `step`, `loss`, `perf/...`; with `misalignment` and the like where M was measured."""

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """A checkpoint lies whole in `folder`."""

    def on_end(self, last: Path | None) -> None:
        """The training has ended: the last checkpoint, or None where an error or SIGTERM ended it."""


class Callbacks(Callback):
    """Several as one. `on_end` comes as the `with` block is left, whatever ended it.

    last: the checkpoint that a training which has nothing left to do goes on from.
    """

    def __init__(self, callbacks: Sequence[Callback], last: Path | None = None) -> None:
        self.callbacks, self.last = callbacks, last

    def __enter__(self) -> Callbacks:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.on_end(self.last if kind is None else None)

    def on_step(self, step: int, model: torch.nn.Module) -> None:
        for callback in self.callbacks:
            callback.on_step(step, model)

    def on_log(self, row: Row) -> None:
        for callback in self.callbacks:
            callback.on_log(row)

    def on_checkpoint(self, step: int, folder: Path) -> None:
        self.last = folder
        for callback in self.callbacks:
            callback.on_checkpoint(step, folder)

    def on_end(self, last: Path | None) -> None:
        for callback in self.callbacks:
            callback.on_end(last)


class Metrics(Callback):
    """metrics.jsonl: one row a step, written at once."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8")

    def on_log(self, row: Row) -> None:
        self._file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
        self._file.flush()

    def on_end(self, last: Path | None) -> None:
        self._file.close()


class TensorBoard(Callback):
    """Writes the figures for TensorBoard, in `folder`/tensorboard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board: Any = SummaryWriter(str(folder / "tensorboard"))

    def on_log(self, row: Row) -> None:
        for key, value in _named(row).items():
            self._board.add_scalar(key, value, row["step"])

    def on_end(self, last: Path | None) -> None:
        self._board.close()


class WeightsAndBiases(Callback):
    """Sends the figures to Weights & Biases; project, entity and mode are what its own WANDB_... variables say."""

    def __init__(self, title: str, folder: Path) -> None:
        self._run = _tracker("wandb").init(name=title, dir=str(folder))

    def on_log(self, row: Row) -> None:
        self._run.log(_named(row), step=row["step"])

    def on_end(self, last: Path | None) -> None:
        self._run.finish(exit_code=0 if last else 1)


class MLflow(Callback):
    """Sends the figures to MLflow; server and experiment are what its own MLFLOW_... variables say."""

    def __init__(self, title: str, folder: Path) -> None:
        self._mlflow = _tracker("mlflow")
        self._mlflow.start_run(run_name=title, tags={"folder": str(folder)})

    def on_log(self, row: Row) -> None:
        self._mlflow.log_metrics(_named(row), step=row["step"])

    def on_end(self, last: Path | None) -> None:
        self._mlflow.end_run("FINISHED" if last else "FAILED")


TRACKERS: dict[str, Callable[[str, Path], Callback]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def trackers(title: str, folder: Path) -> list[Callback]:
    """metrics.jsonl and TensorBoard, and those that SALAD_TRACK names. Raises SaladError for a name not known, or of a
    package that is not installed."""
    asked = [name.strip() for name in os.environ.get(TRACK, "").split(",") if name.strip()]
    if unknown := set(asked) - set(TRACKERS):
        raise SaladError(
            f"{TRACK}: got {', '.join(sorted(unknown))}, expected {' or '.join(TRACKERS)}; correct the name"
        )
    return [Metrics(folder / "metrics.jsonl"), TensorBoard(folder), *(TRACKERS[name](title, folder) for name in asked)]


def _tracker(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise SaladError(
            f"{TRACK}: {name} cannot be imported ({error}); run `pip install {name}`, or unset it"
        ) from error


def _named(row: Row) -> dict[str, float]:
    """The row's figures as trackers group them: train/... and perf/..."""
    return {key if key.startswith(PERF) else f"train/{key}": value for key, value in row.items() if key != "step"}
