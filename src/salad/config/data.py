"""Sections of a recipe about data: assets, corpus, alignment, interleaving."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from salad.config.base import Section


class Assets(Section):
    """Names from `salad assets list`, paths of local folders in the same layout, or OWNER/NAME of models on the hub
    (OWNER/NAME@REVISION: that commit, tag or branch; the run keeps in assets/stage.json which commit it took).

    encoder: also "log-mel"; `:codes8` behind a Mimi (kyutai/mimi:codes8) takes 8 codebooks instead of its latents.
    """

    llm: str = "smollm2-135m-instruct"
    encoder: str = "whisper-tiny.en"
    asr: str = "whisper-tiny.en"
    embedder: str = "all-minilm-l6-v2"


class Engine(Section):
    kind: Literal["local", "ray"] = Field("local", description="processes of this machine, or tasks of a Ray cluster")
    workers: int = Field(2, ge=1, description="single-thread processes for data jobs on the CPU")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="of data jobs that can use a GPU: auto has one worker a GPU where there are any"
    )
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
    hub: str = Field("", description="a dataset of the hub, NAME or NAME@REVISION; read only if named here")
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
            return self.name or self.hub.partition("@")[0].rsplit("/", 1)[-1]
        plain = next((part for part in reversed(self.path.parts) if not set("*?[") & set(part)), "own")
        return plain.split(".", 1)[0] or "own"


class Speech(Data):
    format: Literal[
        "auto", "lhotse", "shar", "utterances", "webdataset", "parquet", "arrow", "table", "nemo", "folder"
    ] = "auto"
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
    every: int = Field(1, ge=1, description="10: one document in ten of each file, from all over it")
    max_documents: int | None = Field(100_000, ge=1, description="the first so many are taken, null: all")


class Variation(Section):
    """How what the voices say for training varies from document to document; held-out and probe speech never does."""

    speed_jitter: float = Field(0.0, ge=0, le=0.3, description="0.1: each document 0.9 to 1.1 times as fast")
    pitch_jitter: float = Field(
        0.0, ge=0, le=0.5, description="0.17: each document's pitch and formants 1/1.17 to 1.17 times as high"
    )
    noise: float = Field(
        0.0, ge=0, le=1, description="share of a Piper voice's own noise, seeded by document: 0 even, 1 all of it"
    )


class Corpus(Variation):
    speech: tuple[Speech, ...] = Field((), description="recordings with their text")
    text: tuple[Text, ...] = Field((), description="broad text (D_web)")
    plain_text: tuple[Text, ...] = Field(
        (), description="text against forgetting, streamed from disk (sequence.stream); none: D_web's own"
    )
    heldout_share: float = Field(0.0, ge=0, lt=0.5, description="share of your own speech kept for measuring")
    heldout_documents: int = Field(200, ge=1, description="at most so many documents of it")
    heldout_text: int = Field(0, ge=0, description="documents of `text` kept for measuring, said by heldout_voice")
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
        if self.heldout_text and not self.text:
            raise ValueError(
                f"heldout_text: got {self.heldout_text}, but there is no text to hold out; add corpus.text"
            )
        if not (self.heldout_per_domain or self.heldout_text) and not (self.heldout_share and self.own_speech):
            raise ValueError(
                "nothing to measure on: heldout_share needs speech; or set heldout_per_domain or heldout_text above 0"
            )
        titles = [data.title for data in self.user_data]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"two of speech, text and plain_text are called {twice[0]!r}; give each its own name")
        return self

    @property
    def unseen_voices(self) -> tuple[str, ...]:
        """The voices that nothing is trained on."""
        return (self.unseen_voice, *self.more_unseen_voices)

    @property
    def user_data(self) -> tuple[Data, ...]:
        """What is read from your own files, or from the hub."""
        return (*self.own_speech, *self.text, *self.plain_text)

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
    encode: Literal["spans", "recordings"] = Field(
        "spans",
        description="recordings: each once and whole, of which a span is a slice, so that a stream draws its layouts "
        "afresh each pass; for causal encoders",
    )
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
