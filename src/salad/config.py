"""The recipe: one frozen, validated model per section. Unknown keys are refused, nothing is rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from salad.types import SaladError

__all__ = ["Recipe", "Variation", "load_recipe"]


Optimizer = Annotated[
    Literal["adamw", "muon"], Field(description="muon: for the matrices inside the ears' blocks, adamw for the rest")
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Assets(Section):
    """Names from `salad assets list`, paths of local folders in the same layout, or OWNER/NAME of models on the hub.

    encoder: also "log-mel"; `:codes8` behind a Mimi (kyutai/mimi:codes8) takes 8 codebooks instead of its latents.
    """

    llm: str = "smollm2-135m-instruct"
    encoder: str = "whisper-tiny.en"
    asr: str = "whisper-tiny.en"
    embedder: str = "all-minilm-l6-v2"


class Engine(Section):
    kind: Literal["local", "ray"] = Field("local", description="processes of this machine, or tasks of a Ray cluster")
    workers: int = Field(2, ge=1, description="single-thread processes for data jobs")
    tries: int = Field(3, ge=1, description="workers that one item may kill before it is set aside")
    shard_items: int = Field(16, ge=1, description="items in one shard: what a kill can lose")


class Voices(Section):
    """Share of the documents that each voice speaks (need not sum to 1)."""

    shares: dict[str, float]

    @model_validator(mode="after")
    def _positive(self) -> Voices:
        if not self.shares or min(self.shares.values()) <= 0:
            raise ValueError("every voice needs a share above 0, and there must be at least one voice")
        return self


class Data(Section):
    """Data that is there already: a path (file, folder or pattern) or a name on the Hugging Face hub."""

    path: Path | None = None
    hub: str = Field("", description="a dataset of the hub; read only because it is named here")
    subset: str = Field("", description="of a hub dataset: its configuration")
    split: str = "train"
    name: str = Field("", description="how figures and the data card call it; default: the path's or hub's last part")
    licence: str = Field("", description="as its owners state it; goes into the data card and the model card")
    text_field: str = Field("", description="field that holds the text, if it has an unusual name; a.b reaches inside")

    @model_validator(mode="after")
    def _one_place(self) -> Data:
        if (self.path is None) == (not self.hub):
            raise ValueError("expected either path (a file, folder or pattern) or hub (a dataset's name)")
        return self

    @property
    def title(self) -> str:
        if self.name or self.path is None:
            return self.name or self.hub.rsplit("/", 1)[-1]
        plain = next((part for part in reversed(self.path.parts) if not set("*?[") & set(part)), "own")
        return plain.split(".", 1)[0] or "own"


class Speech(Data):
    format: Literal["auto", "lhotse", "shar", "webdataset", "parquet", "arrow", "table", "nemo", "folder"] = "auto"
    audio_field: str = ""
    speaker_field: str = ""
    recording_field: str = Field("", description="field that names the book or recording a row is a part of")
    audio_root: Path | None = Field(
        None, description="the folder that a manifest's audio paths start from; default: its own"
    )
    language: str = Field("", description="as the data write it, such as en; rows of another language are left out")
    max_hours: float | None = Field(None, gt=0, description="stop reading after so much audio")
    trusted: bool = Field(False, description="let the manifest name files outside its own folder and audio_root")


class Text(Data):
    format: Literal["auto", "jsonl", "parquet", "text"] = "auto"
    domain_field: str = ""
    max_documents: int = Field(100_000, ge=1, description="the first so many are taken; all are held in memory")


class Variation(Section):
    """How what the voices say for training varies from document to document; held-out and probe speech never does."""

    speed_jitter: float = Field(0.0, ge=0, le=0.3, description="0.1: each document 0.9 to 1.1 times as fast")
    pitch_jitter: float = Field(
        0.0, ge=0, le=0.5, description="0.17: each document's pitch and formants 1/1.17 to 1.17 times as high"
    )
    noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a Piper voice's own noise, seeded by document: 0 even, 1 all of it",
    )


class Corpus(Variation):
    speech: tuple[Speech, ...] = Field((), description="recordings with their text")
    text: tuple[Text, ...] = Field((), description="broad text (D_web)")
    heldout_share: float = Field(0.0, ge=0, lt=0.5, description="share of your own speech kept for measuring")
    heldout_documents: int = Field(200, ge=1, description="at most so many documents of it")
    min_utterance_s: float = Field(0.1, ge=0, description="shorter recordings are set aside")
    max_utterance_s: float = Field(1200.0, gt=0, description="longer ones are set aside, without being decoded")
    prepared: str = Field(
        "", description="a corpus that was written before, in place of the teacher's writing: asset or folder"
    )
    web_documents: int | None = Field(
        None, ge=0, description="of the prepared corpus: at most so many for D_web; all where it is not given"
    )
    web_documents_per_topic: int = Field(3, ge=0, description="documents the teacher writes for D_web")
    speech_documents: int = Field(120, ge=0, description="narrow-domain documents to write and speak (D_speech)")
    heldout_per_domain: int = Field(4, ge=0, description="written documents of each domain kept for measuring")
    max_new_tokens: int = Field(110, ge=24)
    min_words: int = Field(40, ge=16, description="shorter documents are set aside")
    temperature: float = Field(0.7, gt=0)
    top_k: int = Field(50, ge=1)
    batch: int = Field(48, ge=1, description="documents written at a time by one worker")
    local_text: tuple[Path, ...] = Field((), description="text or JSONL ({text, domain?}) files that join D_web")
    speech_folders: tuple[Path, ...] = Field((), description="folders of audio with a .txt beside each file")
    voices: Voices
    heldout_voice: str = Field(description="speaks the held-out documents; may be trained on")
    unseen_voice: str = Field(description="never trained on; speaks part of the held-out documents again")
    more_unseen_voices: tuple[str, ...] = Field((), description="others that are never trained on, measured like it")
    unseen_documents: int = Field(10, ge=0, description="documents that each unseen voice speaks")

    @model_validator(mode="after")
    def _unseen(self) -> Corpus:
        for voice in self.unseen_voices:
            if voice in self.voices.shares:
                raise ValueError(f"unseen_voice {voice!r} must not be among the training voices")
        if len({self.heldout_voice, *self.unseen_voices}) <= len(self.more_unseen_voices) + 1:
            raise ValueError("heldout_voice, unseen_voice and more_unseen_voices must all differ")
        return self

    @model_validator(mode="after")
    def _something(self) -> Corpus:
        if not (self.speech_documents or self.own_speech):
            raise ValueError("no speech: give speech or speech_folders, or speech_documents above 0")
        if self.prepared and self.web_documents_per_topic:
            raise ValueError(
                f"prepared {self.prepared!r} and web_documents_per_topic {self.web_documents_per_topic} exclude each "
                'other: set web_documents_per_topic: 0, or prepared: "" to let the teacher write'
            )
        from_prepared = self.prepared and self.web_documents != 0
        if not (from_prepared or self.web_documents_per_topic or self.text or self.local_text):
            raise ValueError(
                "no broad text (D_web): give prepared, text or local_text, or web_documents_per_topic above 0"
            )
        if not self.heldout_per_domain and not (self.heldout_share and self.own_speech):
            raise ValueError("nothing to measure on: heldout_share needs speech, or heldout_per_domain must be above 0")
        titles = [data.title for data in (*self.own_speech, *self.text)]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"two of speech and text are called {twice[0]!r}; give each its own name")
        return self

    @property
    def unseen_voices(self) -> tuple[str, ...]:
        """The voices that nothing is trained on."""
        return (self.unseen_voice, *self.more_unseen_voices)

    @property
    def own_speech(self) -> tuple[Speech, ...]:
        """`speech`, and each of `speech_folders` as one."""
        shorthand = [
            Speech(path=folder, format="folder", name=f"{folder.name or 'own'}{'-' + str(n) if n else ''}")
            for n, folder in enumerate(self.speech_folders)
        ]
        return (*self.speech, *shorthand)


class Align(Section):
    method: Literal["whisper", "ctc", "given"] = Field(
        "whisper", description="given: word times that came with the recordings; our own voices' speech: whisper"
    )
    model: str | None = Field(
        None, description="whisper: asset or folder, in place of assets.asr; ctc: folder of a Wav2Vec2ForCTC checkpoint"
    )
    times: Path | None = Field(
        None, description="given: folder of .TextGrid (MFA's) or .words.json, by audio file name"
    )
    listen: bool = Field(
        False, description="transcribe short recordings too (over 29.5 s always), to find words that the text lacks"
    )
    min_score: float = Field(
        0.3, ge=0, le=1, description="mean token probability under which an utterance is kept aside"
    )

    @model_validator(mode="after")
    def _fits(self) -> Align:
        if self.method == "ctc" and self.model is None:
            raise ValueError("method: ctc needs model, the folder of a Wav2Vec2ForCTC checkpoint with safetensors")
        if self.method != "given" and self.times is not None:
            raise ValueError(f"times: only method: given reads it, not {self.method}")
        return self


class Sequence(Section):
    text_words: tuple[int, int] = (10, 30)
    speech_words: tuple[int, int] = (5, 15)
    first: Literal["text", "speech", "random"] = "random"
    layouts: int = Field(2, ge=1, description="different interleavings drawn of each document")
    context: int = Field(2048, ge=64, description="positions in one pack")
    features: Literal["cache", "fly"] = Field("cache", description="encode once onto disk, or each time it is heard")
    stored: Literal["auto", "frames"] = Field(
        "auto", description="auto: the codes of an encoder that has them, made into frames on reading; else float16"
    )
    stream: bool = Field(False, description="stage1 and stage2 read shards as they go, in place of a plan in memory")
    lanes: int = Field(1, ge=1, description="streams that fill a batch together; a multiple of the number of processes")
    buffer_shards: int = Field(16, ge=1, description="shards whose documents a stream shuffles together")

    @model_validator(mode="after")
    def _ranges(self) -> Sequence:
        for name in ("text_words", "speech_words"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be [low, high] with 1 <= low <= high, got [{low}, {high}]")
        return self


class Model(Section):
    adapter_layers: int = Field(12, ge=1)
    adapter_width: int = Field(960, ge=8)
    adapter_mlp: int = Field(2560, ge=8)
    adapter_heads: int = Field(15, ge=1)
    adapter_kv_heads: int = Field(5, ge=1)
    stride: int = Field(1, ge=1, description="encoder frames stacked into one adapter position")
    llm_config: dict[str, Any] | None = Field(
        None, description="the LLM's configuration, for `salad plan` before its files are here"
    )
    rate: Literal["fixed", "text"] = Field(
        "fixed", description="text: drop positions the CTC head calls blank or repeat"
    )

    ears: Literal["single", "symbols"] = Field(
        "single",
        description="single: the paper's adapter; symbols: frames -> a small alphabet -> tokens, for little speech",
    )
    symbols: Literal["phones", "letters", "subwords"] = Field(
        "phones", description="of ears: symbols; letters, or 256 sub-words, where espeak does not know the language"
    )
    language: str = Field("en-us", description="of the phones, as espeak calls it")
    lower_layers: int = Field(5, ge=1, description="ears: symbols, frames -> symbols")
    lower_width: int = Field(256, ge=8)
    upper_layers: int = Field(4, ge=1, description="ears: symbols, symbols -> tokens")
    upper_width: int = Field(256, ge=8)
    upper_heads: int = Field(4, ge=1)
    prior: float = Field(
        0.0, ge=0, le=2, description="ears: symbols, how much the LLM's own expectation counts in what it hears"
    )
    depth: int = Field(12, ge=2, description="symbols of a token that its class is built from, counted from its end")

    def shape(self) -> dict[str, Any]:
        """What `SaladConfig` takes by the same names."""
        names = (
            "adapter_layers",
            "adapter_width",
            "adapter_mlp",
            "adapter_heads",
            "adapter_kv_heads",
            "stride",
            "rate",
        )
        shape = {name: getattr(self, name) for name in (*names, "ears")}
        if self.ears == "symbols":
            parts = ("lower_layers", "lower_width", "upper_layers", "upper_width", "upper_heads", "depth")
            shape["prior"] = self.prior
            shape["ears_shape"] = {name: getattr(self, name) for name in parts}
        return shape


class WarmStart(Section):
    enabled: bool = False
    steps: int = Field(400, ge=1)
    batch: int = Field(16, ge=1, description="speech spans in a step")
    lr: float = Field(1e-3, gt=0)
    optimizer: Optimizer = "adamw"
    warmup_steps: int = Field(20, ge=0)
    checkpoint_every: int = Field(100, ge=1)


class Spell(Section):
    """The upper part of `model.ears: symbols` from text alone, and the noise that it reads through. Ours."""

    steps: int = Field(400, ge=1)
    batch: int = Field(40, ge=1, description="runs of words in a step")
    lr: float = Field(2e-3, gt=0)
    optimizer: Optimizer = "muon"
    warmup_steps: int = Field(20, ge=0)
    checkpoint_every: int = Field(50, ge=1)
    lists_share: float = Field(0.3, ge=0, lt=1, description="share of runs that are words in no order")
    error_rate: float = Field(1.5, ge=0, description="mistakes up to so many times as often as the ears make them")
    noise: Literal["heard", "uniform"] = Field(
        "heard", description="heard: posteriors of recordings that the lower part was not trained on; uniform: made up"
    )
    kept_back: float = Field(0.1, gt=0, lt=0.5, description="share of D_speech that noise is taken from")
    kl_steps: int = Field(0, ge=0, description="of the last steps, so many distil the LLM on simulated documents too")
    kl_positions: int = Field(500, ge=64, description="student positions of simulated documents in such a step")
    kl_weight: float = Field(1.0, ge=0)


class Stage(Section):
    """One stage of training. The paper's stage II decays from its start: decay_share 1."""

    steps: int = Field(ge=1)
    positions: int = Field(1500, ge=64, description="student positions in a global batch")
    alpha: float = Field(1.0, ge=0, le=1, description="1: distillation only; 0: next-token NLL only")
    ctc_weight: float = Field(0.0, ge=0, description="weight of a CTC loss beside it (ours; needs the warm start)")
    ctc_batch: int = Field(16, ge=1, description="speech spans in a step of that CTC loss")
    ctc_steps: int = Field(
        0, ge=0, description="before the others, steps of CTC alone on all speech, as in the warm start (ears: symbols)"
    )
    spell_weight: float = Field(
        0.0, ge=0, description="weight of the spelling loss beside it, on text and on speech (model.ears: symbols)"
    )
    spell_batch: int = Field(24, ge=1, description="runs of text, and as many pieces of speech, in a step of that loss")
    text_share: float = Field(1 / 3, ge=0, lt=1, description="share of plain-text documents, against forgetting")
    llm: Literal["frozen", "lora", "full"] = "full"
    lora_rank: int = Field(16, ge=1)
    lr_adapter: float = Field(1e-3, gt=0)
    lr_llm: float = Field(5e-5, gt=0)
    optimizer: Optimizer = "adamw"
    weight_decay: float = Field(0.1, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    warmup_steps: int = Field(500, ge=0)
    decay_share: float = Field(0.2, ge=0, le=1)
    divergence: Literal["kl", "reverse_kl", "jsd"] = Field("kl", description="kl: KL(teacher || student), the paper's")
    temperature: float = Field(1.0, gt=0)
    jsd_beta: float = Field(0.5, gt=0, lt=1)
    compile: bool = Field(False, description="fuse the loss between its matrix products (needs a C++ compiler)")
    checkpoint_activations: bool = Field(False, description="form the LLM's activations again in the backward pass")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the weights' moving average, which is kept; 0: none")
    shard: bool = Field(False, description="under torchrun: spread the layers over the processes (FSDP2)")
    shard_teacher: bool = Field(False, description="the same for the teacher's layers")
    spike_factor: float = Field(
        0.0, ge=0, description="stop where the loss is this many times its recent median; 0: never"
    )
    keep: int = Field(2, ge=1, description="newest checkpoints to keep; that before the decay always stays")
    checkpoint_every: int = Field(50, ge=1)
    probe_every: int = Field(50, ge=1, description="steps between live measurements of M and F")
    probe_documents: int = Field(12, ge=1)


class Cluster(Section):
    k: int = Field(128, ge=2)
    batch: int = Field(32, ge=1, description="documents embedded at a time")
    shard_documents: int = Field(1024, ge=1, description="documents of one shard of embeddings: what a kill can lose")


class Probe(Section):
    documents: int = Field(2, ge=1, description="documents spoken per cluster, at first")
    max_documents: int = Field(0, ge=0, description="at most so many, where more can change what is bought; 0: no more")
    tolerance: float = Field(0.1, gt=0, lt=1, description="share of the budget that may stay in doubt")
    voice: str


class Select(Section):
    gamma: float = Field(5.0, ge=0, description="0: uniform over clusters' documents")
    score: Literal["misalignment", "domain", "nll", "oracle"] = Field(
        "misalignment",
        description="what drives the quotas: M (the paper's); the part of M that speech can mend; the model's own "
        "loss; or, as a bound, the share of documents in domains that the training speech does not have",
    )
    draw: Literal["clusters", "random"] = Field("clusters", description="random: documents at random, clusters unseen")
    budget_share: float = Field(0.01, gt=0, description="speech to buy, as a share of D_speech's hours")
    max_cer: float = Field(0.35, gt=0, description="clusters above are taken for TTS artefacts")
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard of five-word shingles; 1: only equal texts")
    overlap_words: int = Field(13, ge=3, description="so many words in a row as an evaluation text: never bought")
    evaluation: tuple[str, ...] = Field(
        (), description="tasks, as `salad eval --tasks` takes them, whose items no text may hold; held-out texts always"
    )
    replicate: int = Field(0, ge=0, description="another draw of documents from the same quotas")


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
    if (base := values.pop("base", None)) is not None:
        if not isinstance(base, str):
            raise SaladError(f"recipe: base in {path}: got {base!r}, expected the path of another recipe")
        values = _merge(_read(path.parent / base, (*above, path.resolve())), values)
    return values


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
        section = Recipe
        for part in problem["loc"][:-1]:
            annotation = section.model_fields[part].annotation if part in section.model_fields else None
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return f"{key}: unknown key"
            section = annotation
        return f"{key}: unknown key; expected one of {', '.join(sorted(section.model_fields))}"
    if problem["type"] == "missing":
        return f"{key}: missing; add it to the recipe"
    return f"{key}: {problem['msg']} (got {problem['input']!r})"
