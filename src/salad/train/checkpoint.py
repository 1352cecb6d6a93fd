"""Whole training states on disk: safetensors and JSON, written aside and renamed; nothing is unpickled."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from salad.files import read_json, sha256_file, write_json
from salad.types import SaladError

__all__ = ["latest_checkpoint", "load_checkpoint", "load_weights", "prune_checkpoints", "save_checkpoint", "trainable"]

PREFIX = "checkpoint-"


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, extra: dict[str, Any]
) -> Path:
    """Trained weights, buffers of the CTC head, optimiser moments and RNG after `step` steps."""
    out = folder / f"{PREFIX}{step:06d}"
    if out.exists():
        return out
    aside = folder / f".{out.name}.{os.getpid()}.tmp"
    aside.mkdir(parents=True, exist_ok=True)
    parameters = trainable(model)
    names = {id(parameter): name for name, parameter in parameters.items()}
    moments, steps = {}, {}
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        moments[f"{name}.exp_avg"] = state["exp_avg"]
        moments[f"{name}.exp_avg_sq"] = state["exp_avg_sq"]
        steps[name] = float(state["step"])
    weights = {name: parameter.detach().contiguous() for name, parameter in parameters.items()}
    weights |= {f"buffer.{name}": buffer.contiguous() for name, buffer in _saved_buffers(model).items()}
    save_file(weights, aside / "weights.safetensors")
    save_file({**moments, "rng": torch.get_rng_state()}, aside / "optimizer.safetensors")
    sums = {name: sha256_file(aside / name) for name in ("weights.safetensors", "optimizer.safetensors")}
    write_json(aside / "state.json", {"step": step, "adam_steps": steps, "sha256": sums, **extra})
    aside.rename(out)
    return out


def load_weights(path: Path, model: torch.nn.Module) -> dict[str, Any]:
    """Put a checkpoint's weights into `model`; returns its state.json. Refuses a damaged or foreign one."""
    try:
        state = read_json(path / "state.json")
        for name, expected in state["sha256"].items():
            if sha256_file(path / name) != expected:
                raise SaladError(f"checkpoint: {path / name} does not have the hash it was written with; remove {path}")
        weights = load_file(path / "weights.safetensors")
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
            targets[name].copy_(value)
    return state


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights, optimiser and RNG as they were; returns state.json."""
    state = load_weights(path, model)
    saved = load_file(path / "optimizer.safetensors")
    for name, parameter in trainable(model).items():
        if name in state["adam_steps"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(state["adam_steps"][name]),
                "exp_avg": saved[f"{name}.exp_avg"].clone(),
                "exp_avg_sq": saved[f"{name}.exp_avg_sq"].clone(),
            }
    torch.set_rng_state(saved["rng"])
    return state


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
