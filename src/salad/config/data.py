"""Sections of a recipe about data: assets, data jobs, corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from salad.config.base import Section


class Assets(Section):
    """Models by name: one of `salad assets list`, the path of a local folder in the same layout, or OWNER/NAME on the
    hub. OWNER/NAME@REVISION takes that commit, tag or branch; assets/stage.json of the run keeps the commit."""

    llm: str = Field(
        "smollm2-135m-instruct", description="The text LLM: the student starts from it, and it stays the teacher."
    )
    encoder: str = Field(
        "whisper-tiny.en",
        description="The frozen speech encoder. `log-mel` needs no files; kyutai/mimi is the paper's, and `:codes8` "
        "behind it takes 8 codebooks in place of its latents.",
    )
    asr: str = Field(
        "whisper-tiny.en",
        description="The Whisper that finds word times (align.method: whisper), checks synthetic speech (CER), and "
        "writes the cascade's transcripts.",
    )
    embedder: str = Field(
        "all-minilm-l6-v2",
        description="The sentence embedder of stage cluster. The paper takes BAAI/bge-large-en-v1.5; the default "
        "comes with the package.",
    )


class Engine(Section):
    kind: Literal["local", "ray"] = Field(
        "local", description="Where data jobs run: in processes of this machine, or as tasks of a Ray cluster."
    )
    workers: int = Field(
        2,
        ge=1,
        description="Processes of a data job on the CPU. Each computes with one thread and holds its own models.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="What data jobs that can use a GPU run on. `auto` starts one worker a GPU where there are any; "
        "`cuda` is an error where there is none.",
    )
    tries: int = Field(
        3, ge=1, description="How many workers one item may kill before it is quarantined, or named by an error."
    )
    shard_items: int = Field(
        16, ge=1, description="Utterances in one shard of encoded speech. A kill loses at most the shards in flight."
    )


class Voices(Section):
    """Voices, and the share of the documents that each of them speaks."""

    shares: dict[str, float] = Field(
        description="Voice to share, above 0. Shares are relative: they need not sum to 1. A voice is `piper-joe`, "
        "`kokoro:NAME`, `kokoro-torch:NAME@FOLDER` or `openai:MODEL:VOICE@URL`."
    )

    @model_validator(mode="after")
    def _positive(self) -> Voices:
        if not self.shares or min(self.shares.values()) <= 0:
            raise ValueError("every voice needs a share above 0, and there must be at least one voice")
        return self


class Data(Section):
    """Data that is there already: a path (file, folder or pattern) or a name on the Hugging Face hub."""

    path: Path | None = Field(
        None,
        description="A file, a folder, or a pattern such as data/*.tar, relative to where the command runs. Give "
        "either this or `hub`.",
    )
    hub: str = Field(
        "", description="A dataset of the Hugging Face hub, NAME or NAME@REVISION. It is downloaded only if named here."
    )
    subset: str = Field("", description="The configuration of a hub dataset that has several.")
    split: str = Field(
        "train",
        description="The split to read of a hub dataset, a saved `datasets` folder, or a folder of parquet files.",
    )
    name: str = Field(
        "",
        description="What figures, ids and the data card call this source. Empty: the last part of the path or of the "
        "hub name. Two sources must not share a name.",
    )
    licence: str = Field(
        "", description="The licence as its owners state it. It is copied into the data card and the model card."
    )
    text_field: str = Field(
        "",
        description="The field that holds the text, if its name is unusual; a.b reaches inside. Empty: text, "
        "sentence, transcription and the like.",
    )

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
    ] = Field("auto", description="How the data is laid out. `auto` detects it from what the files hold.")
    audio_field: str = Field(
        "",
        description="The field that holds the audio or its path. Empty: audio_filepath, audio, file_name, path and "
        "such.",
    )
    speaker_field: str = Field(
        "",
        description="The field that names the speaker. Empty: speaker, speaker_id, client_id or spk, where there is "
        "one.",
    )
    recording_field: str = Field(
        "", description="The field that names the book or recording that a row is a part of. Rows of one are joined."
    )
    audio_root: Path | None = Field(
        None, description="The folder that a manifest's audio paths start from. Null: the manifest's own folder."
    )
    language: str = Field(
        "",
        description="A language as the data writes it, such as en. Rows of another language are quarantined. Empty: "
        "all.",
    )
    max_hours: float | None = Field(
        None, gt=0, description="Hours of audio after which reading stops. Null: everything is read."
    )
    trusted: bool = Field(
        False,
        description="Lets a manifest name audio outside its own folder and `audio_root`. Check who wrote it first.",
    )


class Text(Data):
    format: Literal["auto", "jsonl", "parquet", "text"] = Field(
        "auto", description="How the text is laid out. `auto` detects it from what the files hold."
    )
    domain_field: str = Field(
        "", description="The field that names a document's domain. Empty: `domain`, or else the name of the source."
    )
    every: int = Field(
        1, ge=1, description="Takes one document in so many, from all over each file. 1 takes every one."
    )
    max_documents: int | None = Field(
        100_000,
        ge=1,
        description="Documents after which reading stops. Null: all of them. Without sequence.stream, plain text is "
        "held in memory while it is trained on.",
    )


class Variation(Section):
    """How what the voices say for training varies from document to document; held-out and probe speech never does."""

    speed_jitter: float = Field(
        0.0, ge=0, le=0.3, description="0.1 lets each document be spoken 0.9 to 1.1 times as fast. 0: all alike."
    )
    pitch_jitter: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="0.17 gives each document's pitch and formants 1/1.17 to 1.17 times their height. 0: all alike.",
    )
    noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of a Piper voice's own random variation, seeded by document. 0 is even, 1 is all of it; "
        "other voices have none.",
    )


class Corpus(Variation):
    speech: tuple[Speech, ...] = Field((), description="Recordings of yours with their text: D_speech.")
    text: tuple[Text, ...] = Field((), description="Broad text, of which speech may be bought: D_web.")
    plain_text: tuple[Text, ...] = Field(
        (), description="Text that is trained on against forgetting. Empty: D_web serves for that too."
    )
    heldout_share: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share of each source of `speech` that is kept for measuring: whole speakers where that fits the "
        "share, else whole recordings, else documents.",
    )
    heldout_documents: int = Field(
        200, ge=1, description="At most so many documents are held out of `speech`, divided evenly between its sources."
    )
    heldout_text: int = Field(
        0, ge=0, description="Documents of `text` that are kept for measuring, and spoken by the held-out voices."
    )
    min_utterance_s: float = Field(0.1, ge=0, description="Seconds; a shorter recording is quarantined.")
    max_utterance_s: float = Field(
        1200.0, gt=0, description="Seconds; a longer recording is quarantined without being decoded."
    )
    prepared: str = Field(
        "",
        description="A corpus that was written before, as an asset or a folder: it takes the place of the teacher's "
        "writing. Empty: the teacher writes.",
    )
    web_documents: int | None = Field(
        None, ge=0, description="Documents of the prepared corpus that D_web takes, at most. Null: all."
    )
    web_documents_per_topic: int = Field(
        3,
        ge=0,
        description="Documents of D_web that the teacher writes on each topic. It must be 0 where `prepared` is set.",
    )
    speech_documents: int = Field(
        120,
        ge=0,
        description="Narrow-domain documents that the training voices speak (D_speech): written by the teacher, or "
        "taken from the prepared corpus.",
    )
    heldout_per_domain: int = Field(
        4, ge=0, description="Written or prepared documents of each domain that are kept for measuring."
    )
    max_new_tokens: int = Field(
        110,
        ge=24,
        description="Tokens after which the teacher stops writing a document. A cut-off last sentence is dropped.",
    )
    min_words: int = Field(40, ge=16, description="Words; a document that the teacher wrote shorter is quarantined.")
    temperature: float = Field(
        0.7, gt=0, description="Sampling temperature of the teacher's writing. Lower is plainer, higher more varied."
    )
    top_k: int = Field(50, ge=1, description="The teacher's writing samples each token among so many likeliest ones.")
    batch: int = Field(48, ge=1, description="Documents that one worker writes at a time.")
    local_text: tuple[Path, ...] = Field(
        (), description="Text files (paragraphs), JSON lines ({text, id?, domain?}) or parquet that join D_web."
    )
    speech_folders: tuple[Path, ...] = Field(
        (), description="Folders of audio with a .txt beside each file: short for entries of `speech`."
    )
    voices: Voices = Field(description="Voices that speak D_speech, with their shares.")
    heldout_voice: str = Field(description="The voice that speaks every held-out document. It may be trained on.")
    unseen_voice: str = Field(
        description="A voice that is never trained on. It speaks `unseen_documents` of the held-out documents again."
    )
    more_unseen_voices: tuple[str, ...] = Field(
        (), description="Further voices that are never trained on, measured like `unseen_voice`."
    )
    unseen_documents: int = Field(
        10, ge=0, description="Held-out documents, spread over the domains, that each unseen voice speaks."
    )

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
