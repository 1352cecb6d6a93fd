"""Whole training states on disk: safetensors and JSON, written aside and renamed; nothing is unpickled.

A state is `weights`, `optimizer` and, where they are kept, `averages`, one file each. Where processes share layers each
writes its own rows of them, into files of its own ("weights-00001-of-00008.safetensors"), and the first one writes what
is whole on all. state.json names every file with its hash, and the first row of each tensor in it. Any number of
processes reads either: each takes the rows that it needs.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from salad.files import read_json, sha256_file, write_json
from salad.training.distributed import TOGETHER, ProcessGroup, from_rows, is_sharded, local, reshard, rows_of
from salad.training.optimizer import ADAM, MuonAdamW, moments_of
from salad.types import SaladError

State = dict[str, Any]  # state.json, or what goes into it: step, hashes, and what the loop keeps (`extra`)
PREFIX = "checkpoint-"
LOOK_S = 0.2  # between looks for what the other processes have written


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Saver:
    """Writes checkpoints beside the training: the state is copied at once, the files follow in a thread.

    `keep` newest ones stay, and those of the steps in `always`. In a group of processes all call `save`: the first one
    writes, and where they share layers each writes its rows, into one folder, which all of them must see.
    """

    def __init__(self, folder: Path, keep: int, always: set[int], world: ProcessGroup | None = None) -> None:
        self.folder, self.keep, self.always = folder, keep, always
        self.world = world or ProcessGroup()
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
        extra: State,
        averages: dict[str, torch.Tensor] | None = None,
    ) -> Path:
        """Trained weights, buffers of the CTC head, optimiser moments, averaged weights and RNG after `step` steps."""
        self.wait()
        out = self.folder / f"{PREFIX}{step:06d}"
        reshard(model)
        shared = any(is_sharded(p) for p in trainable(model).values())
        if (shared or self.world.is_first) and not out.exists():
            tensors, steps = _snapshot(model, optimizer, averages or {}, self.world.is_first)
            state = {"step": step, "adam_steps": steps, **extra}
            write = self._write_part if shared else self._write
            self._thread = threading.Thread(target=self._guarded, args=(write, out, tensors, state), name="checkpoint")
            self._thread.start()
        return out

    def wait(self) -> None:
        """Until the last checkpoint is on disk; raises what went wrong there."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise SaladError(
                f"checkpoint: cannot be written in {self.folder} ({error}); free some space or mend its rights, then "
                "give the same command again"
            ) from error

    def _guarded(self, write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except BaseException as error:  # a thread's error must reach the training
            self._error = error

    def _write(self, out: Path, tensors: dict[str, Tensors], state: State) -> None:
        aside = self.folder / f".{out.name}.{os.getpid()}.tmp"
        self._finish(aside, out, {**state, **_write_files(aside, tensors, "")})

    def _write_part(self, out: Path, tensors: dict[str, Tensors], state: State) -> None:
        """The rows of this process; the first one waits for those of the others, and makes the folder whole."""
        aside, number = self.folder / f".{out.name}.tmp", self.world.rank + 1
        mine = _write_files(aside, tensors, f"-{number:05d}-of-{self.world.size:05d}")
        write_json(aside / f"part-{number:05d}.json", mine)
        if not self.world.is_first:
            return
        parts = [aside / f"part-{i + 1:05d}.json" for i in range(self.world.size)]
        deadline = time.monotonic() + TOGETHER.total_seconds()
        while missing := [path for path in parts if not path.exists()]:
            if time.monotonic() > deadline:
                raise SaladError(f"checkpoint: {missing[0]} was not written; do all processes see {self.folder}?")
            time.sleep(LOOK_S)
        read = [read_json(path) for path in parts]
        for path in parts:
            path.unlink()
        merged = {key: {file: value for part in read for file, value in part[key].items()} for key in mine}
        self._finish(aside, out, {**state, **merged})

    def _finish(self, aside: Path, out: Path, state: State) -> None:
        write_json(aside / "state.json", state)
        _sync(aside)
        aside.rename(out)
        _sync(self.folder)
        prune_checkpoints(self.folder, self.keep, self.always)


Tensors = dict[str, tuple[torch.Tensor, int | None]]  # in host memory, and the first row where a part is held


def _write_files(aside: Path, tensors: dict[str, Tensors], ending: str) -> State:
    """One file a kind, and what state.json says of them."""
    aside.mkdir(parents=True, exist_ok=True)
    about: State = {"sha256": {}, "rows": {}} if ending else {"sha256": {}}
    for kind, values in tensors.items():
        file = aside / f"{kind}{ending}.safetensors"
        save_file({name: value for name, (value, _) in values.items()}, file)
        _sync(file)
        about["sha256"][file.name] = sha256_file(file)
        if ending:
            about["rows"][file.name] = {name: first for name, (_, first) in values.items() if first is not None}
    return about


def _sync(path: Path) -> None:
    """On the disk, not only in the system's memory: a power cut must not leave half a checkpoint."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _snapshot(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | MuonAdamW,
    averages: Mapping[str, torch.Tensor],
    is_first: bool,
) -> tuple[dict[str, Tensors], dict[str, float]]:
    """Copies of what this process writes, and each parameter's number of steps."""
    parameters = trainable(model)
    names = {id(parameter): name for name, parameter in parameters.items()}
    moments, steps = {"rng": torch.get_rng_state()}, {}
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        moments |= {f"{name}.{key}": state[key] for key in moments_of(optimizer, parameter)}
        steps[name] = float(state.get("step", 0))
    buffers = {f"buffer.{name}": buffer for name, buffer in _saved_buffers(model).items()}
    kinds = {"weights": {**parameters, **buffers}, "optimizer": moments, **({"averages": averages} if averages else {})}
    return {
        kind: {
            name: _host(value)
            for name, value in tensors.items()
            if (local(value).numel() if is_sharded(value) else is_first)
        }
        for kind, tensors in kinds.items()
    }, steps


def _host(tensor: torch.Tensor) -> tuple[torch.Tensor, int | None]:
    """A copy of what this process holds, and the first of its rows where others hold the rest."""
    copy = local(tensor.detach()).to("cpu", copy=True).contiguous()
    return copy, rows_of(tensor)[0] if is_sharded(tensor) else None


class Saved:
    """Tensors of some kinds in a checkpoint, whole or in parts, of which only what is asked for is read.

    Raises SaladError where a file cannot be read or is not the one that was written. In a group of processes, all of
    which must ask, each looks at some of the files.
    """

    def __init__(self, path: Path, kinds: Iterable[str], world: ProcessGroup | None = None) -> None:
        world, fault = world or ProcessGroup(), ""
        self._parts: dict[str, list[tuple[int, Any]]] = {}
        try:
            self.state: State = read_json(path / "state.json")
            own = [name for name in self.state["sha256"] if name.split(".")[0].split("-")[0] in kinds]
            for name in own[world.rank :: world.size]:
                if sha256_file(path / name) != self.state["sha256"][name]:
                    fault = f"{path / name} does not have the hash it was written with; remove {path}"
            for name in own:
                file: Any = safe_open(path / name, framework="pt")
                rows = self.state.get("rows", {}).get(name, {})
                for key in file.keys():
                    self._parts.setdefault(key, []).append((rows.get(key, 0), file))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            fault = f"{path} cannot be read ({error}); remove it to resume from the one before"
        if fault := next(filter(None, world.gather(fault)), ""):
            raise SaladError(f"checkpoint: {fault}")
        for parts in self._parts.values():
            parts.sort(key=lambda part: part[0])

    def __contains__(self, key: str) -> bool:
        return key in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def shape(self, key: str) -> tuple[int, ...]:
        first, file = self._parts[key][-1]
        length, *rest = file.get_slice(key).get_shape() or (None,)
        return () if length is None else (first + length, *rest)

    def like(self, key: str, target: torch.Tensor) -> torch.Tensor:
        """The tensor laid out as `target`, on its device: of a sharded one this process's rows alone are read."""
        if not is_sharded(target):
            return self.read(key).to(target.device)
        return from_rows(self.read(key, *rows_of(target)).to(target.device, target.dtype), target)

    def read(self, key: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """The tensor, or its rows from `first` up to `last`."""
        parts = self._parts[key]
        if last is None:
            whole = [file.get_tensor(key) for _, file in parts]
            return whole[0] if len(whole) == 1 else torch.cat(whole)
        found = []
        for start, file in parts:
            own = file.get_slice(key)
            low, high = max(first - start, 0), min(last - start, own.get_shape()[0])
            if low < high:
                found.append(own[low:high])
        return torch.cat(found) if found else torch.empty(0, *self.shape(key)[1:])


def load_weights(
    path: Path, model: torch.nn.Module, *, averaged: bool = False, world: ProcessGroup | None = None
) -> State:
    """Put a checkpoint's weights into `model`; returns its state.json. Refuses a damaged or foreign one.

    averaged: the weights' moving averages, where the checkpoint holds them. world: the processes that load it together.
    """
    saved = [Saved(path, [kind], world) for kind in (("weights", "averages") if averaged else ("weights",))]
    targets = {**dict(model.named_parameters()), **{f"buffer.{k}": v for k, v in _saved_buffers(model).items()}}
    wrong = sorted(
        name for one in saved for name in one if name not in targets or tuple(targets[name].shape) != one.shape(name)
    )
    if wrong:
        raise SaladError(f"checkpoint: {path} belongs to another model; {wrong[0]} does not fit this recipe's model")
    with torch.no_grad():
        for one in saved:
            for name in one:
                targets[name].copy_(one.like(name, targets[name]))
    return saved[0].state


def load_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | MuonAdamW, world: ProcessGroup | None = None
) -> State:
    """Weights, optimiser and RNG as they were; returns state.json. What another kind of optimiser remembered of a
    parameter is of no use to this one, which begins it anew."""
    state = load_weights(path, model, world=world)
    saved = Saved(path, ["optimizer"], world)
    for name, parameter in trainable(model).items():
        keys = moments_of(optimizer, parameter)
        if name not in state["adam_steps"] or any(f"{name}.{key}" not in saved for key in keys):
            continue
        own = {key: saved.like(f"{name}.{key}", parameter) for key in keys}
        if keys == ADAM:
            steps = torch.tensor(state["adam_steps"][name])
            own["step"] = steps.to(parameter.device) if optimizer.param_groups[-1].get("fused") else steps
        if isinstance(optimizer, MuonAdamW):
            optimizer.set_state(parameter, own)
        else:
            optimizer.state[parameter] = own
    torch.set_rng_state(saved.read("rng"))
    return state


def load_averages(
    path: Path, targets: Mapping[str, torch.Tensor], world: ProcessGroup | None = None
) -> dict[str, torch.Tensor]:
    """The moving averages of the weights that a checkpoint holds, laid out as `targets`; empty where it holds none."""
    saved = Saved(path, ["averages"], world)
    return {name: saved.like(name, targets[name]) for name in saved}


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, if any."""
    found = sorted(folder.glob(f"{PREFIX}*"))
    return found[-1] if found else None


def last_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint in `folder`, in which a training ended. Raises SaladError where there is none."""
    found = latest_checkpoint(folder)
    if found is None:
        raise SaladError(f"checkpoint: {folder} holds none; run the stage that trains it again")
    return found


def prune_checkpoints(folder: Path, keep: int, always: set[int]) -> None:
    """Keep the newest `keep` checkpoints and those of the steps in `always`."""
    for path in sorted(folder.glob(f"{PREFIX}*"))[:-keep]:
        if int(path.name.removeprefix(PREFIX)) not in always:
            shutil.rmtree(path)


def _saved_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith("ctc.token_ids")}
