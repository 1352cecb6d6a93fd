"""The recipe: one frozen, validated model per section. Unknown keys are refused, nothing is rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from salad.config.base import Section
from salad.config.conditions import condition
from salad.config.data import Align, Assets, Corpus, Engine, Sequence, Variation, Voices
from salad.config.training import Model, Spell, Stage, WarmStart
from salad.types import SaladError


class Cluster(Section):
    k: int = Field(128, ge=2)
    batch: int = Field(32, ge=1, description="documents embedded at a time")
    shard_documents: int = Field(1024, ge=1, description="documents of one shard of embeddings: what a kill can lose")


class Probe(Section):
    documents: int = Field(2, ge=1, description="documents spoken per cluster in the first look, whatever they take")
    look_documents: int = Field(1, ge=1, description="documents more per cluster in each further look")
    max_seconds: float = Field(
        0.0,
        ge=0,
        description="seconds of speech that further looks may reach without evidence; 0: the first look alone",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="of the test of equal M(c), spent over all looks")
    reliability: float = Field(
        0.5, ge=0, lt=1, description="share of the variance between clusters that must not be sampling error"
    )
    voice: str


class Select(Section):
    gamma: float = Field(5.0, ge=0, description="0: uniform over clusters' documents; coverage, two_prices: not read")
    score: Literal["misalignment", "domain", "nll", "oracle", "uniform", "coverage", "two_prices"] = Field(
        "misalignment",
        description="what drives the quotas: M (the paper's); the part of M that speech can mend; the model's own "
        "loss; as a bound, the share of documents in domains that the training speech does not have; "
        "nothing (uniform); unseen words and diphones (coverage); what a second of speech is expected to bring "
        "(two_prices, docs/decisions/0014)",
    )
    rule: Literal["evidence", "raw"] = Field(
        "evidence",
        description="evidence: uniform where the probe finds no difference between clusters, else M shrunk by its "
        "reliability before the power (score: misalignment alone); raw: the paper's, M as it was measured",
    )
    draw: Literal["clusters", "random"] = Field("clusters", description="random: documents at random, clusters unseen")
    budget_share: float = Field(0.01, gt=0, description="speech to buy, as a share of D_speech's hours")
    max_cer: float = Field(0.35, gt=0, description="clusters above are taken for TTS artefacts")
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard of five-word shingles; 1: only equal texts")
    overlap_words: int = Field(
        13, ge=3, description="so many words in a row as a held-out text or an item of `evaluation`: not trained on"
    )
    evaluation: tuple[str, ...] = Field(
        (), description="tasks, as `salad eval --tasks` takes them, whose items no text may hold; held-out texts always"
    )
    replicate: int = Field(0, ge=0, description="another draw of documents from the same quotas")
    keep_probed: bool = Field(
        True, description="what the probe spoke is bought: it counts in the budget and is not spoken again"
    )

    @model_validator(mode="after")
    def _scored(self) -> Select:
        if self.draw == "random" and self.score in ("coverage", "two_prices"):
            raise ValueError(f"draw: random reads no score, got {self.score!r}; set draw: clusters, or score: uniform")
        return self


class Rounds(Section):
    """Buying in rounds: probe, select, synthesise and train again with what was learnt. Each gets an equal part of the
    budget and of Stage II's steps; the last one decays. Ours, not the paper's."""

    number: int = Field(1, ge=1, le=32)
    price: float = Field(
        0.0,
        description="no further round once M falls by less than this for an hour bought; below 0: rounds at any price",
    )


class Synthesize(Variation):
    voices: Voices
    audio: Literal["flac", "opus"] = Field("flac", description="opus: a sixth of the disk, lossy")
    max_cer: float | None = Field(
        None, gt=0, description="what the ASR hears further than this from what was said is set aside; null: no check"
    )


class Evaluate(Section):
    only: tuple[
        Literal["init", "warm_start", "stage1", "stage2", "blind", "other", "deaf", "cascade", "oracle"], ...
    ] = Field((), description="whose M to measure, beside stage2 and deaf; none named: `stages` and all controls")
    stages: tuple[Literal["init", "warm_start", "stage1"], ...] = Field(
        ("warm_start", "stage1"), description="stages before stage2 whose M to measure; init is the untrained model"
    )
    documents: int = Field(4, ge=1, description="held-out documents of each domain that M and F are measured on")
    stage_documents: int = Field(2, ge=1, description="of these, those that M of the stages before stage2 is of")
    oracle_documents: int = Field(
        1, ge=0, description="of these, those for M with the true symbols in place of the heard ones; 0: not measured"
    )
    noise: tuple[str, ...] = Field(
        (), description="conditions, such as white:10 and telephone, under which the held-out speech is heard once more"
    )
    noise_documents: int = Field(1, ge=1, description="of each domain's documents, those that are heard under `noise`")
    asr_precision: Literal["float32", "int8"] = Field(
        "int8", description="of the cascade's recogniser: int8 takes a little over half the time"
    )
    items: int = Field(200, ge=0, description="multiple-choice items built from the held-out documents; 0: none")
    options: int = Field(4, ge=2)
    context_words: int = Field(60, ge=5)
    bootstrap: int = Field(2000, ge=100)
    tasks: tuple[str, ...] = Field(
        (), description="multiple-choice tasks, as `salad eval --tasks` takes them, read and heard in heldout_voice"
    )
    num_fewshot: int = Field(
        0, ge=0, le=5, description="examples before each item of `tasks`: as many as fit its spoken version"
    )
    task_data: Path | None = Field(
        None, description="folder with NAME.jsonl of the tasks, and NAME_fewshot.jsonl of their examples"
    )
    task_hub: bool = Field(False, description="fetch items that are not here from the Hugging Face hub")

    @field_validator("noise")
    @classmethod
    def _conditions(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(condition(name) for name in names)
        for name in names:
            if "speed" in name:
                raise ValueError(f"{name!r} moves the times of words; leave out speed")
        return names


class Recipe(Section):
    seed: int = 0
    run_dir: Path
    threads: int = Field(2, ge=1, description="threads of the training process")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: a GPU computes in bf16, a CPU where the run's own timings find it 1.15 times as fast"
    )
    assets: Assets = Assets()
    engine: Engine = Engine()
    corpus: Corpus
    align: Align = Align()
    sequence: Sequence = Sequence()
    model: Model = Model()
    warm_start: WarmStart = WarmStart()
    spell: Spell = Spell()
    stage1: Stage
    cluster: Cluster = Cluster()
    probe: Probe
    select: Select = Select()
    synthesize: Synthesize
    stage2: Stage
    rounds: Rounds = Rounds()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.model.rate == "text" and not self.warm_start.enabled:
            raise ValueError("model.rate: text needs warm_start.enabled: true, whose CTC head finds the blanks")
        if self.model.ears == "symbols" and not (self.warm_start.enabled and self.model.rate == "text"):
            raise ValueError("model.ears: symbols needs warm_start.enabled: true and model.rate: text")
        if self.model.ears == "symbols" and self.sequence.stream:
            raise ValueError("model.ears: symbols needs sequence.stream: false")
        if self.model.ears == "single" and max(self.stage1.spell_weight, self.stage2.spell_weight) > 0:
            raise ValueError("spell_weight needs model.ears: symbols, whose upper part it trains")
        if self.model.ears == "single" and max(self.stage1.ctc_steps, self.stage2.ctc_steps) > 0:
            raise ValueError("ctc_steps needs model.ears: symbols, whose lower part they train")
        if not self.warm_start.enabled and max(self.stage1.ctc_weight, self.stage2.ctc_weight) > 0:
            raise ValueError("ctc_weight needs warm_start.enabled: true, which makes the CTC head")
        for name, stage in (("stage1", self.stage1), ("stage2", self.stage2)):
            if stage.shard and (stage.llm == "frozen" or stage.ctc_weight > 0):
                raise ValueError(f"{name}.shard needs {name}.llm: full or lora, and {name}.ctc_weight: 0")
            if stage.shard and stage.optimizer == "muon":
                raise ValueError(f"{name}.shard needs {name}.optimizer: adamw, for muon takes whole matrices")
            if stage.shard_teacher and not stage.shard:
                raise ValueError(f"{name}.shard_teacher needs {name}.shard: true")
        if self.select.score == "two_prices" and self.model.ears != "symbols":
            raise ValueError(
                "select.score: two_prices needs model.ears: symbols, whose two parts it prices; misalignment needs none"
            )
        if self.rounds.number > 1 and (self.sequence.stream or self.stage2.steps < self.rounds.number):
            raise ValueError("rounds.number above 1 needs sequence.stream: false and at least as many stage2.steps")
        if self.stage1.llm != self.stage2.llm:
            raise ValueError(f"stage2.llm ({self.stage2.llm}) must equal stage1.llm ({self.stage1.llm})")
        for voice in self.corpus.unseen_voices:
            if voice in {*self.synthesize.voices.shares, self.probe.voice}:
                raise ValueError(f"corpus.unseen_voice {voice!r} must not speak in probe or synthesize")
        return self


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a YAML recipe, apply `a.b=c` overrides in order, validate.

    A recipe may name another as `base:` (relative to itself); its own keys win.
    Raises SaladError that names the key, the value it got and what was expected.
    """
    values = _read(Path(path))
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise SaladError(f"--set {override!r}: expected a.b=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SaladError(f"--set {override!r}: {value!r} is not a YAML value: {error}") from None
        _assign(values, key.split("."), parsed, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise SaladError(f"recipe {path}:\n  " + "\n  ".join(lines)) from None


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in above:
        raise SaladError(f"recipe: {path} is its own base (through {', '.join(map(str, above))}); remove one `base:`")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SaladError(f"recipe: {path} does not exist; see recipes/ for examples") from None
    except OSError as error:
        raise SaladError(f"recipe: {path} cannot be read: {error.strerror}; give a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SaladError(f"recipe: {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise SaladError(f"recipe: {path} must hold sections (key: value), got {type(values).__name__}")
    values.pop("departures", None)  # what a run wrote beside its resolved recipe: it follows from the rest
    found: dict[str, Any] = values
    if (base := found.pop("base", None)) is not None:
        if not isinstance(base, str):
            raise SaladError(f"recipe: base in {path}: got {base!r}, expected the path of another recipe")
        found = _merge(_read(path.parent / base, (*above, path.resolve())), found)
    return found


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "shares"
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _assign(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise SaladError(f"--set {override!r}: {key} is a value, not a section")
    values[keys[-1]] = value


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        section: type[BaseModel] = Recipe
        for part in problem["loc"][:-1]:
            annotation = section.model_fields[part].annotation if part in section.model_fields else None
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return f"{key}: unknown key"
            section = annotation
        return f"{key}: unknown key; expected one of {', '.join(sorted(section.model_fields))}"
    if problem["type"] == "missing":
        return f"{key}: missing; add it to the recipe"
    return f"{key}: {problem['msg']} (got {problem['input']!r})"
