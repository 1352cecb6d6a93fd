"""`salad eval --speech`: the same items heard, and read from an ASR's transcript, beside what text gives."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from salad import assets
from salad.align.asr import RATE_HZ, Transcripts, load_asr
from salad.audio import resample, split_at_quiet
from salad.config import Evaluate
from salad.config.conditions import condition
from salad.evaluation.benchmark import Prepared, System
from salad.evaluation.degrade import REVISION
from salad.evaluation.prompt import Segment, Sound, segments
from salad.evaluation.recordings import (
    SHUFFLED,
    SILENCE,
    Recording,
    find_recordings,
    others,
    samples_of,
    speak_texts,
)
from salad.evaluation.sample import KnownAsr, SpokenInputs
from salad.evaluation.scorer_model import Reader
from salad.evaluation.task_items import TaskItem
from salad.files import sha256_json
from salad.model import load_encoder
from salad.model.encoders.base import Encoder
from salad.model.encoders.load import encoder_name
from salad.model.processor import MAX_SPAN_S
from salad.progress import console, progress
from salad.synthesize.voices import assets_of_voice
from salad.types import SaladError

CONTROLS = (SHUFFLED, SILENCE)
FORMS = ("context", "all")
RECORDINGS = "recordings"
ASR_PRECISION: str = Evaluate.model_fields["asr_precision"].default  # one default, here and in a run
PRECISIONS = ("float32", "int8")
SOUNDS = 64  # encoded recordings that are remembered: few-shot examples come again with every item


@dataclass(frozen=True)
class SpeechInput:
    """What is heard, and beside what.

    voices: who speaks the items, where there are no recordings. recordings: a folder of ID.wav, or of TASK/ID.flac.
    form: "context" speaks the question, "all" the options too. asr: the recogniser of the cascade; "" for none.
    conditions: such as "white:10" and "telephone", under which the items are heard once more. controls: "shuffled"
    hears another item's recording, "silence" hears none. audio_cache: where spoken items are kept; by default in the
    cache of weights. workers: that speak. asr_precision: float32 or int8, as `evaluate.asr_precision` of a run.
    """

    voices: tuple[str, ...] = ("piper-joe",)
    recordings: Path | None = None
    form: str = "context"
    asr: str = "whisper-tiny.en"
    conditions: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    audio_cache: Path | None = None
    workers: int = 1
    asr_precision: str = ASR_PRECISION

    def checked(self) -> SpeechInput:
        """With every condition in full. Raises SaladError for an unknown voice, form, control or condition."""
        for voice in self.voices:
            assets_of_voice(voice)
        for name, got, known in (
            ("--form", (self.form,), FORMS),
            ("--control", self.controls, CONTROLS),
            ("--asr-precision", (self.asr_precision,), PRECISIONS),
        ):
            if unknown := [value for value in got if value not in known]:
                raise SaladError(f"{name}: got {unknown[0]!r}, expected {' or '.join(known)}")
        if not self.voices and self.recordings is None:
            raise SaladError("--speech: nobody speaks; name --voices, or give a folder of --recordings")
        for name, values in (("--voices", self.voices), ("--noise", self.conditions), ("--control", self.controls)):
            if len(set(values)) < len(values):
                raise SaladError(f"{name}: got {', '.join(values)}, expected each once")
        return replace(self, conditions=tuple(dict.fromkeys(map(condition, self.conditions))))


Spoken = dict[tuple[str, str], Recording]  # by owner (task/id) and text


def with_speech(
    model: str,
    systems: list[System],
    tasks: Sequence[Prepared],
    speech: SpeechInput,
    seed: int,
    device: str,
    reads: bool,
) -> tuple[list[System], list[Prepared]]:
    """Add the systems that hear the items, or read a transcript; and the items that all voices can say.

    speech: checked. reads: whether the adapted model reads the items, too.
    """
    adapted = systems[-1]
    if not adapted.reader.hears:
        raise SaladError(f"--speech: {model} is a text LLM and cannot hear; give the folder of a SALAD model")
    if speech.asr and len(systems) < 2:
        raise SaladError(
            "--asr: a cascade needs the text LLM that MODEL started from; name it with --base, or give --asr none"
        )
    if not reads and len(systems) > 1:
        systems = systems[:-1]
    voices = {voice: _spoken(tasks, voice, speech, seed) for voice in _voices(speech)}
    tasks = [_sayable(prepared, voices) for prepared in tasks]
    encoder = load_encoder(encoder_name(assets.model_folder(model), adapted.reader.model.config.encoder), device=device)
    transcripts = None
    if speech.asr:
        transcripts = Transcripts(
            load_asr(speech.asr, device, speech.asr_precision), audio_cache(speech) / "transcripts"
        )
    trained, places = _trained_on(model), _places(list(voices))
    for voice, (spoken, _) in voices.items():
        known = "unknown" if trained is None or voice == RECORDINGS else "yes" if voice in trained else "no"
        for name in ("", *speech.conditions, *speech.controls):
            heard = _Heard(tasks, spoken, encoder, name, seed)
            inputs = SpokenInputs(voice, known, name, speech.form, heard.key)
            place = "/".join((places[voice], *([plain_name(name)] if name else ())))
            systems.append(_listener(place, adapted.reader, heard, inputs))
            if transcripts is not None and name not in speech.controls:
                systems.append(_cascade(place, systems[0].reader, heard, inputs, transcripts))
    _listen(systems, tasks)
    return systems, tasks


def _voices(speech: SpeechInput) -> tuple[str, ...]:
    return (*((RECORDINGS,) if speech.recordings else ()), *speech.voices)


def audio_cache(speech: SpeechInput) -> Path:
    return _writable((speech.audio_cache or assets.cache_dir() / "eval-speech").expanduser())


@cache
def _writable(folder: Path) -> Path:
    """The folder; or where nothing can be written to it, one for this user among the temporary files, and a word."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        instead = Path(tempfile.gettempdir()) / f"salad-eval-speech-{getattr(os, 'getuid', lambda: 0)()}"
        console.print(
            f"[yellow]--audio-cache: {folder} cannot be written to ({error.strerror}); what is spoken and transcribed "
            f"is kept in {instead}, name another folder if it should stay[/]",
            highlight=False,
        )
        instead.mkdir(mode=0o700, exist_ok=True)
        return instead


def _trained_on(model: str | Path) -> set[str] | None:
    """Voices of the run that made a model; None where nobody knows."""
    found = assets.recipe_behind(model)
    if found is None:
        return None
    parts = (found.get(part, {}) for part in ("corpus", "synthesize"))
    return {voice for part in parts for voice in part.get("voices", {}).get("shares", {})}


def _said(prepared: Prepared, items: Iterable[TaskItem]) -> list[Segment]:
    return [s for item in items for s in segments(prepared.task, item, "speech") if s.modality == "speech"]


def _spoken(tasks: Sequence[Prepared], voice: str, speech: SpeechInput, seed: int) -> tuple[Spoken, dict[str, str]]:
    """Recordings of all that items and examples say, and by owner why there is none."""
    said = [s for prepared in tasks for s in _said(prepared, (*prepared.shots, *prepared.items))]
    if voice != RECORDINGS:
        folder = audio_cache(speech) / plain_name(voice)
        by_text, why = speak_texts((s.text for s in said), voice, folder, seed=seed, workers=speech.workers)
        made = {(s.owner, s.text): by_text[s.text] for s in said if s.text in by_text}
        return made, {s.owner: why[s.text] for s in said if s.text in why}
    assert speech.recordings is not None
    parts: dict[str, set[str]] = {}
    for s in said:
        parts.setdefault(s.owner, set()).add(s.text)
    if several := [owner for owner, texts in parts.items() if len(texts) > 1]:
        raise SaladError(f"--recordings: item {several[0]} says several things; expected one recording of one text")
    by_owner, bad = find_recordings(speech.recordings, parts)
    if not by_owner:
        raise SaladError(
            f"--recordings: none of {len(bad)} items can be heard; the first one: {next(iter(bad.values()))}"
        )
    return {(s.owner, s.text): by_owner[s.owner] for s in said if s.owner in by_owner}, bad


def _sayable(prepared: Prepared, voices: dict[str, tuple[Spoken, dict[str, str]]]) -> Prepared:
    """Without the items and examples that one of the voices has no recording of: all systems take the same ones."""
    why = {owner: f"{reason}" for _, bad in voices.values() for owner, reason in bad.items()}

    def reason(item: TaskItem) -> str | None:
        return why.get(f"{prepared.task.task}/{item.id}")

    items = tuple(item for item in prepared.items if reason(item) is None)
    if not items:
        raise SaladError(f"speech: no item of {prepared.task.task} can be heard; {reason(prepared.items[0])}")
    skipped = [{"id": item.id, "reason": r} for item in (*prepared.shots, *prepared.items) if (r := reason(item))]
    shots = tuple(item for item in prepared.shots if reason(item) is None)
    return replace(prepared, items=items, shots=shots, skipped=(*prepared.skipped, *skipped))


class _Heard:
    """What is heard of each speech segment in one voice under one condition."""

    def __init__(self, tasks: Sequence[Prepared], spoken: Spoken, encoder: Encoder, name: str, seed: int) -> None:
        self._spoken, self._encoder, self._seed = spoken, encoder, seed
        self._name = "" if name == SHUFFLED else name
        self._instead = _shuffled(tasks, seed) if name == SHUFFLED else {}
        self._encoded = lru_cache(SOUNDS)(self._encode)
        rows = [[*self._key_of(s), s.owner, s.text] for p in tasks for s in _said(p, (*p.shots, *p.items))]
        self.key = sha256_json([encoder.fingerprint(), [seed, REVISION] if name else [], name, rows])

    def recording(self, segment: Segment) -> Recording:
        own = (segment.owner, segment.text)
        return self._spoken[self._instead.get(own, own)]

    def seconds(self, segment: Segment) -> float:
        slowest = min([1.0, *(float(p[6:]) for p in self._name.split("+") if p.startswith("speed:"))])
        return self.recording(segment).seconds / slowest

    def sound(self, segment: Segment) -> Sound:
        return self._encoded(self.recording(segment))

    def samples(self, recording: Recording, rate_hz: int) -> Any:
        """Under the condition, which the encoder's rate decides, so that an ASR hears the same."""
        wave = samples_of(recording, self._encoder.sample_rate_hz, self._name, self._seed)
        return resample(wave, self._encoder.sample_rate_hz, rate_hz)

    def heard_by(self, transcripts: Transcripts, segment: Segment) -> str:
        recording = self.recording(segment)
        key = ":".join([recording.sha256, str(self._encoder.sample_rate_hz), self._name, str(self._seed)])
        return transcripts.of(key, lambda: self.samples(recording, RATE_HZ))

    def _encode(self, recording: Recording) -> Sound:
        wave = self.samples(recording, self._encoder.sample_rate_hz)
        spans = self._encoder.encode(split_at_quiet(wave, self._encoder.sample_rate_hz, MAX_SPAN_S))
        return Sound(f"{recording.sha256}:{self._name}", tuple(spans))

    def _key_of(self, segment: Segment) -> tuple[str, ...]:
        return (self.recording(segment).sha256,)


def _shuffled(tasks: Sequence[Prepared], seed: int) -> dict[tuple[str, str], tuple[str, str]]:
    """(owner, text) -> that of another item of the same task; few-shot examples keep their own."""
    out = {}
    for prepared in tasks:
        says = {item.id: _said(prepared, [item]) for item in prepared.items}
        for own, other in others(list(says), seed).items():
            for at, segment in enumerate(says[own]):
                instead = says[other][min(at, len(says[other]) - 1)]
                out[segment.owner, segment.text] = (instead.owner, instead.text)
    return out


def _listen(systems: Sequence[System], tasks: Sequence[Prepared]) -> None:
    """Transcribe before anything is scored: what the ASR wrote counts for how many examples fit."""
    cascades = [system.transcript for system in systems if system.transcript]
    said = [segment for prepared in tasks for segment in _said(prepared, (*prepared.shots, *prepared.items))]
    with progress("transcribe", len(cascades) * len(said), "recordings") as bar:
        for transcript in cascades:
            for segment in said:
                transcript(segment)
                bar.advance()


def _listener(place: str, reader: Reader, heard: _Heard, inputs: SpokenInputs) -> System:
    return System(f"speech_adapted/{place}", reader, "speech", heard.sound, inputs, seconds=heard.seconds)


def _cascade(place: str, reader: Reader, heard: _Heard, inputs: SpokenInputs, transcripts: Transcripts) -> System:
    asr = KnownAsr(transcripts.asr.name, transcripts.asr.fingerprint)
    read: Callable[[Segment], str] = lambda segment: heard.heard_by(transcripts, segment)  # noqa: E731
    return System(f"cascade/{place}", reader, "text", None, replace(inputs, asr=asr), transcript=read)


def _places(voices: Sequence[str]) -> dict[str, str]:
    """What each voice is called in tables and folders: without its URL, and with a hash where two would be one."""
    names = {voice: plain_name(voice.partition("@")[0]) for voice in voices}
    times = Counter(names.values())
    return {v: name if times[name] == 1 else f"{name}-{sha256_json(v)[:6]}" for v, name in names.items()}


def plain_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)
