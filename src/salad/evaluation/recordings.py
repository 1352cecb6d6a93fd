"""Recordings of what items say: given in a folder, or spoken by a voice and kept under a hash of what was said."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from salad import assets
from salad.audio import read_audio, to_seconds, write_flac
from salad.data.readers.rows import AUDIO_SUFFIXES
from salad.engine import Shard, run_shards
from salad.evaluation.benchmark_task import Say, Task
from salad.evaluation.degrade import disturbed
from salad.files import existing, file_name, read_jsonl, sha256_file, sha256_json, write_jsonl
from salad.synthesize.endpoint import EndpointDown
from salad.synthesize.speak import RATE_HZ, speak_document
from salad.synthesize.voices import assets_of_voice, library_of, load_voice
from salad.types import Document, SaladError

REVISION = 1  # counts the changes of how a text becomes samples: what was spoken before is spoken again
SILENCE = "silence"
SHUFFLED = "shuffled"  # what another item of the same task says
SHARD = 8


@dataclass(frozen=True)
class Recording:
    """`sha256`: of the file; `seconds`: how long it lasts."""

    path: Path
    sha256: str
    seconds: float


def speak_texts(
    texts: Iterable[str], voice: str, folder: Path, *, seed: int = 0, workers: int = 1
) -> tuple[dict[str, Recording], dict[str, str]]:
    """A recording of each text by `voice`, and for the texts that it cannot say the reason.

    Files lie in `folder` under a hash of text, voice, its weights and settings; what is there is not spoken again.
    """
    voice_key = [voice, [assets.fingerprint(name) for name in assets_of_voice(voice)], seed, REVISION]
    paths = {text: folder / _place(sha256_json([text, *voice_key])) for text in dict.fromkeys(texts)}
    missing = [(text, str(path)) for text, path in paths.items() if not path.is_file()]
    why: dict[str, str] = {}
    if missing:
        for name in assets_of_voice(voice):
            assets.get(name)  # once, before workers ask for it together
        function = functools.partial(_speak_shard, voice=voice, seed=seed)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".speaking-") as scratch:
            shards = run_shards(
                function,
                missing,
                Path(scratch),
                shard_items=SHARD,
                workers=workers,
                title=f"speak, {voice}",
                library=library_of([voice]),
            )
            why = {row["id"]: row["reason"] for path in shards for row in read_jsonl(path / "quarantine.jsonl")}
    found = {text: _opened(path) for text, path in paths.items() if text not in why}
    bad = {text: entry for text, entry in found.items() if isinstance(entry, str)}
    return {text: entry for text, entry in found.items() if isinstance(entry, Recording)}, {**why, **bad}


def _place(digest: str) -> Path:
    return Path(digest[:2]) / f"{digest}.flac"


def _speak_shard(shard: Shard, folder: Path, *, voice: str, seed: int) -> None:
    """For `run_shards`: items are (text, path). Writes quarantine.jsonl, rows {id: the text, reason}."""
    engine, failed = load_voice(voice), []
    for text, path in shard.items:
        document = Document(id=sha256_json(text), text=text, source="items")  # pauses depend on the text, not on the id
        try:
            said = speak_document(document, engine, seed=seed)
        except EndpointDown:
            raise
        except SaladError as error:
            failed.append({"id": text, "reason": f"{voice} cannot say it: {error}"})
            continue
        write_flac(path, said.samples, RATE_HZ)
    write_jsonl(folder / "quarantine.jsonl", failed)


def find_recordings(folder: Path, owners: Iterable[str]) -> tuple[dict[str, Recording], dict[str, str]]:
    """The recording of each owner (task/id) in `folder`, TASK/ID.wav or ID.wav (.flac, .mp3, ...); and what is wrong.

    A name is the id itself, or the id percent-quoted, as it must be where it holds a slash; endings may be written in
    capitals. Raises SaladError where there is no such folder.
    """
    if not folder.is_dir():
        raise SaladError(f"recordings: {folder} is no folder; give one with ID.wav (or .flac) for each item")
    found: dict[str, Recording] = {}
    why: dict[str, str] = {}
    for owner in dict.fromkeys(owners):
        task, _, own = owner.partition("/")
        names = _names(own)
        path = next((p for place in (folder / task, folder) for name in names if (p := _sound(place, name))), None)
        entry = _opened(path) if path else f"no recording: expected {names[0]}.wav or .flac in {folder}"
        if isinstance(entry, str):
            why[owner] = entry
        else:
            found[owner] = entry
    return found, why


def _names(own: str) -> tuple[str, ...]:
    """What the file of an id may be called, without its ending."""
    quoted = file_name(own)
    return (quoted,) if "/" in own or "\0" in own or own == quoted else (own, quoted)


def _sound(folder: Path, name: str) -> Path | None:
    """The file of that name with the first ending that is there, in small letters or in capitals."""
    endings = (written for suffix in AUDIO_SUFFIXES for written in (suffix, suffix.upper()))
    places = (existing(folder / f"{name}{ending}") for ending in endings)
    return next((Path(place) for place in places if os.path.isfile(place)), None)  # also where a name is too long


def _opened(path: Path) -> Recording | str:
    """The recording, heard to its end, or why it cannot be."""
    try:
        samples, rate_hz = read_audio(path)
    except SaladError as error:
        return str(error)
    return Recording(path, sha256_file(path), to_seconds(len(samples), rate_hz))


def samples_of(recording: Recording, rate_hz: int, condition: str = "", seed: int = 0) -> np.ndarray:
    """float32 samples under a condition (see `degrade`), or as much silence. Noise is drawn by the recording's hash."""
    samples, _ = read_audio(recording.path, rate_hz)
    if condition == SILENCE:
        return np.zeros_like(samples)
    return disturbed(samples, rate_hz, condition, (seed, int(recording.sha256[:16], 16))) if condition else samples


def others(ids: Sequence[str], seed: int) -> dict[str, str]:
    """For each id another one, each used once: one circle through all of them, so none keeps its own."""
    if len(ids) < 2:
        raise SaladError(f"control: shuffled needs two items or more in a task, got {len(ids)}")
    order = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def everything_spoken(task: Task) -> Task:
    """VoiceBench's form of a task: question and options are said, the letter is scored.

    A task that scores letters says its options already.
    """
    if task.options == "letters":
        return task
    said = re.sub(r"\s*$", "", "".join(part.say if isinstance(part, Say) else "" for part in task.prompt))
    options = "{% for choice in choices %}\n{{ letters[loop.index0] }}. {{ choice }}{% endfor %}"
    prompt = (Say(say=said + options), "\nAnswer:")
    return task.model_copy(update={"prompt": prompt, "options": "letters", "option_delimiter": " ", "metric": "acc"})
