"""The recipe: one frozen, validated model per section. Unknown keys are refused, nothing is rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from salad.config.alignment import Align, Sequence
from salad.config.base import Section
from salad.config.conditions import condition
from salad.config.data import Assets, Corpus, Engine, Variation, Voices
from salad.config.training import Model, Spell, Stage, WarmStart
from salad.types import SaladError

MERGE = "tag:yaml.org,2002:merge"  # of the key <<
Yaml = None | bool | int | float | str | list["Yaml"] | dict[str, "Yaml"]  # what a recipe's file may hold


class Cluster(Section):
    k: int = Field(
        128,
        ge=2,
        description="Clusters that D_web is parted into, of equal size; no more than it has documents. 128 is the "
        "paper's.",
    )
    batch: int = Field(32, ge=1, description="Documents that are embedded at a time.")
    shard_documents: int = Field(1024, ge=1, description="Documents in one shard of embeddings: what a kill can lose.")


class Probe(Section):
    documents: int = Field(2, ge=1, description="Documents of each cluster that are spoken in the first look.")
    look_documents: int = Field(1, ge=1, description="Further documents of each cluster in each later look.")
    max_seconds: float = Field(
        0.0,
        ge=0,
        description="Seconds of speech up to which the probe looks again while it has no evidence. 0: the first look "
        "alone.",
    )
    alpha: float = Field(
        0.05, gt=0, lt=1, description="Level of the test that all clusters have the same M, shared out over all looks."
    )
    reliability: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Least share of the variance between clusters that must not be sampling error, for M to be "
        "evidence.",
    )
    voice: str = Field(description="The voice of the probe. It must not be one of the unseen voices.")


class Select(Section):
    gamma: float = Field(
        5.0,
        ge=0,
        description="Power of the score in the quotas: 0 buys evenly, 5 (the paper's) mostly where the score is high. "
        "uniform, coverage and two_prices do not read it.",
    )
    score: Literal["misalignment", "domain", "nll", "oracle", "uniform", "coverage", "two_prices"] = Field(
        "misalignment",
        description="What drives the quotas. misalignment: M, the paper's. domain: the part of M that speech can "
        "mend. nll: the model's own loss. oracle: the share of documents in domains that the training speech lacks, a "
        "bound. uniform: nothing. coverage: unseen words and diphones. two_prices: what a second of speech is "
        "expected to bring (docs/decisions/0014).",
    )
    rule: Literal["evidence", "raw"] = Field(
        "evidence",
        description="For score: misalignment. evidence: buys evenly where the probe found no difference between "
        "clusters, else by M drawn towards the mean by its reliability. raw: by M as it was measured, the paper's.",
    )
    draw: Literal["clusters", "random"] = Field(
        "clusters", description="`clusters` draws documents by the quotas; `random` draws them all alike, a baseline."
    )
    budget_share: float = Field(
        0.01,
        gt=0,
        description="Speech to buy, as a share of the hours of D_speech. 0.01 is the paper's; over 1 is allowed.",
    )
    max_cer: float = Field(
        0.35,
        gt=0,
        description="Character error rate of a cluster's probe above which nothing of it is bought: the voice cannot "
        "say it.",
    )
    near_duplicate: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Jaccard similarity of five-word shingles from which a text repeats an earlier one, and is not "
        "bought. 1: only equal shingles.",
    )
    overlap_words: int = Field(
        13,
        ge=3,
        description="A text that shares so many words in a row with a held-out text, or with an item of `evaluation`, "
        "is never trained on. 13 is GPT-3's.",
    )
    evaluation: tuple[str, ...] = Field(
        (),
        description="Tasks, as `salad eval --tasks` takes them, whose items no text may share words with. Held-out "
        "texts are screened in any case.",
    )
    replicate: int = Field(
        0, ge=0, description="Number of the draw: another one buys other documents by the same quotas."
    )
    keep_probed: bool = Field(
        True, description="What the probe spoke is bought: it counts in the budget, and is not spoken again."
    )

    @model_validator(mode="after")
    def _scored(self) -> Select:
        if self.draw == "random" and self.score in ("coverage", "two_prices"):
            raise ValueError(f"draw: random reads no score, got {self.score!r}; set draw: clusters, or score: uniform")
        return self


class Rounds(Section):
    """Buying in rounds: probe, select, synthesise and train again with what was learnt. Each gets an equal part of the
    budget and of Stage II's steps; the last one decays. Ours, not the paper's."""

    number: int = Field(1, ge=1, le=32, description="Rounds at most. 1 is the paper's: everything is bought at once.")
    price: float = Field(
        0.0,
        description="Nats an hour: no further round once M falls by less for each hour bought. Below 0: rounds at any "
        "price.",
    )


class Synthesize(Variation):
    voices: Voices = Field(description="Voices that speak what is bought, with their shares.")
    audio: Literal["flac", "opus"] = Field(
        "flac", description="How bought speech is stored. opus takes a sixth of the disk, and is lossy."
    )
    max_cer: float | None = Field(
        None,
        gt=0,
        description="Character error rate of the recogniser above which a single recording is quarantined. Null: no "
        "check.",
    )


class Evaluate(Section):
    only: tuple[
        Literal["init", "warm_start", "stage1", "stage2", "blind", "other", "deaf", "cascade", "oracle"], ...
    ] = Field(
        (),
        description="Whose M to measure; stage2 and deaf are always measured. Empty: those of `stages`, and all "
        "controls.",
    )
    stages: tuple[Literal["init", "warm_start", "stage1"], ...] = Field(
        ("warm_start", "stage1"),
        description="Stages before stage2 whose M is measured, where `only` is empty. init is the untrained model.",
    )
    documents: int = Field(4, ge=1, description="Held-out documents of each domain that M and F are measured on.")
    stage_documents: int = Field(
        2, ge=1, description="Of these, the documents of each domain that M of the stages before stage2 is measured on."
    )
    oracle_documents: int = Field(
        1,
        ge=0,
        description="Of these, the documents of each domain for M with the true symbols in place of the heard ones. "
        "0: none.",
    )
    noise: tuple[str, ...] = Field(
        (),
        description="Conditions, such as white:10 (10 dB) and telephone, under which held-out speech is heard once "
        "more.",
    )
    noise_documents: int = Field(1, ge=1, description="Documents of each domain that are heard under `noise`.")
    asr_precision: Literal["float32", "int8"] = Field(
        "int8", description="How the cascade's recogniser computes: int8 takes a little over half the time of float32."
    )
    items: int = Field(
        200, ge=0, description="Next-sentence questions, at most, that are built from the held-out documents. 0: none."
    )
    options: int = Field(4, ge=2, description="Choices of each such question: the true next sentence among others.")
    context_words: int = Field(60, ge=5, description="Words before the asked sentence, at most, that a question gives.")
    bootstrap: int = Field(2000, ge=100, description="Draws behind each bootstrap interval (95 %).")
    tasks: tuple[str, ...] = Field(
        (),
        description="Multiple-choice tasks, as `salad eval --tasks` takes them, read, and heard in the held-out voice.",
    )
    num_fewshot: int = Field(
        0,
        ge=0,
        le=5,
        description="Examples before each item of `tasks`, as many as fit its spoken version. The paper takes up to 5.",
    )
    task_data: Path | None = Field(
        None, description="Folder with NAME.jsonl of the tasks, and NAME_fewshot.jsonl of their examples."
    )
    task_hub: bool = Field(False, description="Fetches items that are not here from the Hugging Face hub.")

    @field_validator("noise")
    @classmethod
    def _conditions(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(condition(name) for name in names)
        for name in names:
            if "speed" in name:
                raise ValueError(f"{name!r} moves the times of words; leave out speed")
        return names


class Recipe(Section):
    seed: int = Field(0, description="Everything random follows from it: the same seed makes the same files.")
    run_dir: Path = Field(description="The folder that everything is written to, relative to where the command runs.")
    threads: int = Field(
        2, ge=1, description="Threads of the process that trains and measures. More than there are cores is very slow."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="What models compute in. `auto`: bf16 on a GPU, and on a CPU where the run's own timing finds it "
        "at least 1.15 times as fast.",
    )
    assets: Assets = Field(Assets(), description="Which models the run is made of.")
    engine: Engine = Field(Engine(), description="How data jobs are spread over processes and machines.")
    corpus: Corpus = Field(description="What is read, written and spoken, and what is kept for measuring.")
    align: Align = Field(Align(), description="How each word is found in its recording.")
    sequence: Sequence = Field(Sequence(), description="How text and speech are interleaved, encoded and read.")
    model: Model = Field(Model(), description="The ears between the speech encoder and the LLM.")
    warm_start: WarmStart = Field(WarmStart(), description="Training of the ears by CTC, before they distil.")
    spell: Spell = Field(Spell(), description="Training of the upper part of the ears, from text alone.")
    stage1: Stage = Field(description="Stage I: distillation on the speech at hand.")
    cluster: Cluster = Field(Cluster(), description="How broad text is parted.")
    probe: Probe = Field(description="How M of each cluster is measured.")
    select: Select = Field(Select(), description="What speech is bought for.")
    synthesize: Synthesize = Field(description="How what is bought is spoken.")
    stage2: Stage = Field(description="Stage II: distillation goes on, with what was bought.")
    rounds: Rounds = Field(Rounds(), description="Whether buying is repeated.")
    evaluate: Evaluate = Field(Evaluate(), description="What is measured at the end.")

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


class _OneOfEachKey(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types here
    """Refuses a key that stands twice in one section, of which YAML's own reader takes the last without a word."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if (own := (key.tag, key.value)) in seen:
                problem = f"{key.value!r} stands twice in one section; keep one of the two"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(own)
        return node


def parse_yaml(text: str) -> Any:
    """What a YAML text holds, in plain types. Raises yaml.YAMLError, also for a key that stands twice."""
    return yaml.load(text, _OneOfEachKey)  # it is a SafeLoader


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
            parsed = parse_yaml(value)
        except yaml.YAMLError as error:
            raise SaladError(
                f"--set {override!r}: {value!r} is not a YAML value ({error}); quote it for the shell, or correct it"
            ) from None
        _assign(values, key.split("."), parsed, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise SaladError(f"recipe {path}:\n  " + "\n  ".join(lines)) from None


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Yaml]:
    if path.resolve() in above:
        raise SaladError(f"recipe: {path} is its own base (through {', '.join(map(str, above))}); remove one `base:`")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SaladError(f"recipe: {path} does not exist; see recipes/ for examples") from None
    except OSError as error:
        raise SaladError(f"recipe: {path} cannot be read: {error.strerror}; give a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SaladError(f"recipe: {path} is not YAML ({error}); mend that line, or give a recipe") from None
    if not isinstance(values, dict):
        raise SaladError(f"recipe: {path} must hold sections (key: value), got {type(values).__name__}")
    values.pop("departures", None)  # what a run wrote beside its resolved recipe: it follows from the rest
    found: dict[str, Yaml] = values
    if (base := found.pop("base", None)) is not None:
        if not isinstance(base, str):
            raise SaladError(f"recipe: base in {path}: got {base!r}, expected the path of another recipe")
        found = _merge(_read(path.parent / base, (*above, path.resolve())), found)
    return found


def _merge(below: dict[str, Yaml], above: dict[str, Yaml]) -> dict[str, Yaml]:
    merged = dict(below)
    for key, value in above.items():
        own = merged.get(key)
        if isinstance(value, dict) and isinstance(own, dict) and key != "shares":
            value = _merge(own, value)
        merged[key] = value
    return merged


def _assign(values: dict[str, Yaml], keys: list[str], value: Yaml, override: str) -> None:
    for key in keys[:-1]:
        section = values.setdefault(key, {})
        if not isinstance(section, dict):
            raise SaladError(f"--set {override!r}: {key} is a value, not a section")
        values = section
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
