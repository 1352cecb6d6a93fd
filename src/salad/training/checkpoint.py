"""Whole training states on disk: safetensors and JSON, written aside and renamed; nothing is unpickled."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from salad.files import read_json, sha256_file, write_json
from salad.training.distributed import World, full, like, reshard
from salad.training.optimizer import ADAM, MuonAdamW, moments_of
from salad.types import SaladError

__all__ = ["Saver", "latest_checkpoint", "load_averages", "load_checkpoint", "load_weights", "trainable"]

PREFIX = "checkpoint-"


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Saver:
    """Writes checkpoints beside the training: the state is copied at once, the files follow in a thread.

    `keep` newest ones stay, and those of the steps in `always`. In a group of processes all call `save`, for
    sharded tensors are gathered, and the first one writes. Files do not depend on the number of processes.
    """

    def __init__(self, folder: Path, keep: int, always: set[int], world: World | None = None) -> None:
        self.folder, self.keep, self.always = folder, keep, always
        self.world = world or World()
        if self.world.is_first:
            for left in folder.glob(f".{PREFIX}*.tmp"):  # a killed process was writing it
                shutil.rmtree(left)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.wait()
        elif self._thread is not None:  # what stopped the training is the error to tell
            self._thread.join()

    def save(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | MuonAdamW,
        step: int,
        extra: dict[str, Any],
        averages: dict[str, torch.Tensor] | None = None,
    ) -> Path:
        """Trained weights, buffers of the CTC head, optimiser moments, averaged weights and RNG after `step` steps."""
        self.wait()
        reshard(model)
        out = self.folder / f"{PREFIX}{step:06d}"
        keep = self.world.is_first
        tensors, steps = _snapshot(model, optimizer, keep)
        if averages:
            tensors["averages"] = {name: _host(value, keep) for name, value in averages.items()}
        state = {"step": step, "adam_steps": steps, **extra}
        if keep and not out.exists():
            self._thread = threading.Thread(target=self._write, args=(out, tensors, state), name="checkpoint")
            self._thread.start()
        return out

    def wait(self) -> None:
        """Until the last checkpoint is on disk; raises what went wrong there."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise SaladError(f"checkpoint: cannot be written in {self.folder}: {error}") from error

    def _write(self, out: Path, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
        try:
            aside = self.folder / f".{out.name}.{os.getpid()}.tmp"
            aside.mkdir(parents=True, exist_ok=True)
            sums = {}
            for name, values in tensors.items():
                save_file(values, aside / f"{name}.safetensors")
                _sync(aside / f"{name}.safetensors")
                sums[f"{name}.safetensors"] = sha256_file(aside / f"{name}.safetensors")
            write_json(aside / "state.json", {**state, "sha256": sums})
            _sync(aside)
            aside.rename(out)
            _sync(self.folder)
            prune_checkpoints(self.folder, self.keep, self.always)
        except BaseException as error:  # a thread's error must reach the training
            self._error = error


def _sync(path: Path) -> None:
    """On the disk, not only in the system's memory: a power cut must not leave half a checkpoint."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _host(tensor: torch.Tensor, keep: bool) -> torch.Tensor:
    """A copy of the whole tensor in host memory; all processes must ask, those that do not keep it get nothing."""
    whole = full(tensor.detach())
    return whole.to("cpu", copy=True).contiguous() if keep else torch.empty(0)


def _snapshot(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer | MuonAdamW, keep: bool
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, float]]:
    parameters = trainable(model)
    names = {id(parameter): name for name, parameter in parameters.items()}
    moments, steps = {"rng": torch.get_rng_state()}, {}
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        for key in moments_of(optimizer, parameter):
            moments[f"{name}.{key}"] = _host(state[key], keep)
        steps[name] = float(state.get("step", 0))
    weights = {name: _host(parameter, keep) for name, parameter in parameters.items()}
    weights |= {f"buffer.{name}": _host(buffer, keep) for name, buffer in _saved_buffers(model).items()}
    return {"weights": weights, "optimizer": moments}, steps


def load_weights(path: Path, model: torch.nn.Module, *, averaged: bool = False) -> dict[str, Any]:
    """Put a checkpoint's weights into `model`; returns its state.json. Refuses a damaged or foreign one.

    averaged: the weights' moving averages, where the checkpoint holds them.
    """
    try:
        state = read_json(path / "state.json")
        for name, expected in state["sha256"].items():
            if sha256_file(path / name) != expected:
                raise SaladError(f"checkpoint: {path / name} does not have the hash it was written with; remove {path}")
        weights = load_file(path / "weights.safetensors")
        if averaged and (path / "averages.safetensors").exists():
            weights |= load_file(path / "averages.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, SaladError):
            raise
        raise SaladError(
            f"checkpoint: {path} cannot be read ({error}); remove it to resume from the one before"
        ) from error
    targets = {**dict(model.named_parameters()), **{f"buffer.{k}": v for k, v in _saved_buffers(model).items()}}
    wrong = sorted(k for k, v in weights.items() if k not in targets or targets[k].shape != v.shape)
    if wrong:
        raise SaladError(f"checkpoint: {path} belongs to another model; {wrong[0]} does not fit this recipe's model")
    with torch.no_grad():
        for name, value in weights.items():
            targets[name].copy_(like(value, targets[name]))
    return state


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | MuonAdamW) -> dict[str, Any]:
    """Weights, optimiser and RNG as they were; returns state.json. What another kind of optimiser remembered of a
    parameter is of no use to this one, which begins it anew."""
    state = load_weights(path, model)
    saved = load_file(path / "optimizer.safetensors")
    for name, parameter in trainable(model).items():
        keys = moments_of(optimizer, parameter)
        if name not in state["adam_steps"] or any(f"{name}.{key}" not in saved for key in keys):
            continue
        own = {key: like(saved[f"{name}.{key}"].clone(), parameter) for key in keys}
        if keys == ADAM:
            own["step"] = torch.tensor(state["adam_steps"][name])
        if isinstance(optimizer, MuonAdamW):
            optimizer.set_state(parameter, own)
        else:
            optimizer.state[parameter] = own
    torch.set_rng_state(saved["rng"])
    return state


def load_averages(path: Path) -> dict[str, torch.Tensor]:
    """The moving averages of the weights that a checkpoint holds; empty where it holds none."""
    file = path / "averages.safetensors"
    return load_file(file) if file.exists() else {}


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, if any."""
    found = sorted(folder.glob(f"{PREFIX}*"))
    return found[-1] if found else None


def prune_checkpoints(folder: Path, keep: int, always: set[int]) -> None:
    """Keep the newest `keep` checkpoints and those of the steps in `always`."""
    for path in sorted(folder.glob(f"{PREFIX}*"))[:-keep]:
        if int(path.name.removeprefix(PREFIX)) not in always:
            shutil.rmtree(path)


def _saved_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith("ctc.token_ids")}
