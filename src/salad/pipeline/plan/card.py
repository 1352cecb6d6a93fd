"""The calibration card: what a machine was measured to do, as JSON; and what is assumed of machines that were not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from salad.config import Recipe
from salad.engine.machine import machine
from salad.files import read_json, write_json
from salad.training.estimate import GPUS, SECONDS_PER_WORD, UTILISATION
from salad.types import SaladError

Mark = Literal["measured", "data sheet", "assumed"]
MARKS: tuple[Mark, ...] = get_args(Mark)  # from the surest to the least sure
FORMAT, VERSION = "salad calibration card", 1
TELLING = 0.1  # a part of a figure that is smaller than this share does not change its mark

CPU_RATE = 60e9  # operations a second of one core


@dataclass(frozen=True)
class Figure:
    """A number, how sure it is, and where it comes from, in words."""

    value: float
    mark: Mark
    source: str

    def times(self, factor: float) -> Figure:
        return Figure(self.value * factor, self.mark, self.source)


def total(parts: Iterable[Figure]) -> Figure:
    """The sum. Its mark is the least sure one among the parts that are a tenth of it or more; its source names these,
    and the mark of each that differs."""
    parts = [part for part in parts if part.value]
    value = sum(part.value for part in parts)
    telling = [part for part in parts if part.value >= TELLING * value]
    if not telling:
        return Figure(value, "assumed", "nothing to do")
    mark = max((part.mark for part in telling), key=MARKS.index)
    by_source: dict[tuple[str, Mark], float] = {}
    for part in telling:
        by_source[part.source, part.mark] = by_source.get((part.source, part.mark), 0.0) + part.value
    order = sorted(by_source, key=lambda key: -by_source[key])
    said = [source if own == mark else f"{source} ({own})" for source, own in order]
    return Figure(value, mark, "; ".join(dict.fromkeys(said)))


@dataclass(frozen=True)
class Card:
    """device: its name. gpu: whether data jobs and training compute on GPUs. cores: of the CPU, None: not known.

    figures: by name, those that were measured. about: what they were measured with. checks: of runs that were made on
    the machine, the seconds that the card foretold and those that they took, by stage.
    """

    device: str
    gpu: bool
    cores: int | None
    figures: Mapping[str, Figure]
    about: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Mapping[str, Any], ...] = ()

    def get(self, name: str) -> Figure:
        """The figure, or what is assumed of such a machine. Raises KeyError where nothing is known of it."""
        return self.figures[name] if name in self.figures else assumed(self.device, self.gpu)[name]

    def knows(self, name: str) -> bool:
        return name in self.figures or name in assumed(self.device, self.gpu)

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        write_json(path, {"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Card:
        """Raises SaladError where the file is no card, or one of a newer format."""
        try:
            values = read_json(path)
        except (OSError, ValueError) as error:
            raise SaladError(f"--card: {path} cannot be read ({error}); make one with salad plan --calibrate") from None
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise SaladError(f"--card: {path} is no calibration card; make one with salad plan --calibrate --card FILE")
        version = values.pop("version", None)
        if version != VERSION:
            raise SaladError(f"--card: {path} has version {version!r}, expected {VERSION}; calibrate again")
        try:
            figures = {name: Figure(**own) for name, own in values.pop("figures").items()}
            if any(own.mark not in MARKS for own in figures.values()):
                raise ValueError(f"a mark that is none of {', '.join(MARKS)}")
            return cls(figures=figures, checks=tuple(values.pop("checks")), **values)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise SaladError(f"--card: {path} is not whole ({error}); calibrate again") from None


def choose_card(recipe: Recipe, device: str | None) -> Card:
    """Without figures: of `device` ("cpu", or a GPU of `GPUS`); else of the GPU at hand; else an H100 where the recipe
    trains its LLM, and this CPU where it does not. Raises SaladError for an unknown one."""
    if device is not None and device != "cpu" and device not in GPUS:
        raise SaladError(f"--on: got {device!r}, expected cpu or one of {', '.join(GPUS)}; or give --card FILE")
    here = machine()
    if device is None and here["gpu"]:
        device = next((name for name in GPUS if name in here["gpu"]), "A100")
    if device is None:
        device = "cpu" if recipe.stage1.llm == "frozen" else "H100"
    if device != "cpu":
        return Card(device, True, None, {})
    return Card(f"{here['cpu']}, {here['cores']} cores", False, here["cores"], {})


def assumed(device: str, gpu: bool) -> dict[str, Figure]:
    """What is taken of a machine where nothing was measured: operations and bytes a second, and rates of data jobs by
    worker: seconds of sound a second (of `embed`: operations)."""
    log, scale = "docs/log.md, one core of another machine", "one core of another machine"
    kind = next((name for name in GPUS if name in device), "A100") if gpu else ""
    peak = GPUS[kind].flops if gpu else CPU_RATE
    share = f"{UTILISATION:.0%} of its peak in bf16" if gpu else "60 G operations a second and core"
    arithmetic = Figure(peak * UTILISATION if gpu else peak, "data sheet" if gpu else "assumed", share)
    return {
        **dict.fromkeys(("layer_forward", "layer_train", "head", "embed rate"), arithmetic),
        "collective": Figure(GPUS[kind].link, "data sheet", f"{kind}: bytes a second over its links, one way") if gpu
        else Figure(1e9, "assumed", "1 GB a second between processes"),
        "collective_latency": Figure(3e-5 if gpu else 3e-4, "assumed", "latency of a collective"),
        "ingest rate": Figure(482.0, "assumed", log),
        "texts rate": Figure(2e7, "assumed", "20 MB of text a second and worker"),
        "speak piper rate": Figure(12.0, "assumed", log),
        "speak kokoro rate": Figure(1.35, "assumed", log),
        "speak kokoro-torch rate": Figure(130.0 if gpu else 1.2, "assumed", "published of an H100" if gpu else log),
        "speak pace": Figure(SECONDS_PER_WORD, "assumed", "seconds of a word that is read aloud"),
        "speak openai rate": Figure(1.0, "assumed", "an endpoint as fast as speech"),
        "align whisper rate": Figure(300.0 if gpu else 35.0, "assumed", f"{'nine times ' * gpu}{scale}"),
        "align ctc rate": Figure(600.0 if gpu else 8.0, "assumed", "a model of 300 M parameters"),
        "align told rate": Figure(5000.0, "assumed", "the voice tells them"),
        "align given rate": Figure(5000.0, "assumed", "files are read"),
        "encode rate": Figure(1500.0 if gpu else 9.4, "assumed", f"{'Mimi, 160 times ' if gpu else 'Mimi, '}{scale}"),
        "encode whisper-tiny.en rate": Figure(1500.0 if gpu else 100.0, "assumed", log),
        "encode log-mel rate": Figure(2000.0, "assumed", log),
        "transcribe rate": Figure(200.0 if gpu else 15.0, "assumed", log),
        "kmeans": Figure(55 / (1e6 * 128 * 384), "assumed", "docs/log.md: 55 s for a million documents"),
        "hash": Figure(1e9, "assumed", "1 GB of files a second"),
        "load": Figure(2.5e-8, "assumed", "40 M parameters a second from the disk"),
        "start": Figure(8.0, "assumed", "processes and their libraries"),
        "worker": Figure(1e9, "assumed", "memory of a worker"),
        "process": Figure(1.2e9, "assumed", "memory of Python and torch"),
    }  # fmt: skip
