"""What inference writes and scoring reads: a sample (lm-eval's layout, and ours beside it) and eval.json, the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from salad.files import JsonObject


@dataclass(frozen=True)
class Doc:
    """An item: `choices` with the number of the right one; None in samples that were made before they were kept."""

    id: str
    context: str = ""
    choices: tuple[str, ...] | None = None
    answer: int = 0


@dataclass(frozen=True)
class Sample:
    """A line of samples_*.jsonl: lm-eval's fields, then ours (options, num_tokens, num_shots, said, heard).

    filtered_resps: (log-probability, whether greedy) of each of `options`. said: what was spoken of the prompt; heard:
    what an ASR made of it, of a cascade.
    """

    doc_id: int
    doc: Doc
    target: str
    arguments: Mapping[str, Mapping[str, str]]
    resps: tuple[tuple[tuple[str, str], ...], ...]
    filtered_resps: tuple[tuple[str, str], ...]
    filter: str
    metrics: tuple[str, ...]
    doc_hash: str
    prompt_hash: str
    target_hash: str
    options: tuple[str, ...]
    num_tokens: tuple[int, ...]
    num_shots: int
    said: tuple[str, ...]
    heard: tuple[str, ...] | None = None
    acc: float = 0.0
    acc_norm: float = 0.0
    acc_bytes: float = 0.0
    acc_token: float = 0.0


@dataclass(frozen=True)
class KnownAsr:
    name: str
    fingerprint: str


@dataclass(frozen=True)
class SpokenInputs:
    """What shapes what a system hears: voice, whether the model was trained on it, noise or control, and the ASR."""

    voice: str
    trained: str | bool
    condition: str
    form: str = ""
    audio: str = ""
    asr: KnownAsr | None = None


@dataclass(frozen=True)
class PlannedSystem:
    """A column of the table; samples: its file of each task, once they are made."""

    model: str
    fingerprint: str
    modality: str
    start: str | int | None
    precision: str
    inputs: SpokenInputs | str | None
    samples: Mapping[str, str] | None = None

    @property
    def spoken(self) -> SpokenInputs | None:
        return self.inputs if isinstance(self.inputs, SpokenInputs) else None


@dataclass(frozen=True)
class PlannedTask:
    """A task as its file has it, and fingerprints of its items and few-shot examples; skipped: {id, reason} each."""

    config: JsonObject
    num_rows: int
    skipped: tuple[dict[str, str], ...]
    items: str
    shots: str
    notes: tuple[str, ...] | None = None

    @property
    def metric(self) -> str:
        return str(self.config["metric"])


@dataclass(frozen=True)
class PlannedSettings:
    """What scoring reads of the settings of an evaluation."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class Plan:
    """eval.json."""

    settings: PlannedSettings
    tasks: Mapping[str, PlannedTask]
    systems: Mapping[str, PlannedSystem]
