"""The job that speaks whole documents, sentence by sentence, and remembers when each sentence was said."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from salad.audio import resample, to_samples, to_seconds, write_flac, write_opus
from salad.config import Variation
from salad.data.manifest import Sentence, write_utterances
from salad.engine import Shard, kept_folder, run_shards
from salad.engine.run import DISK_FULL
from salad.files import file_name, read_json, read_jsonl, write_json, write_jsonl
from salad.synthesize.delivery import NEUTRAL, STEADY, Delivery, SpokenItem, delivery_of, number_of
from salad.synthesize.endpoint import EndpointDown
from salad.synthesize.piper import PackageMissing, PiperVoice
from salad.synthesize.voices import Voice, engine_of, library_of, load_voice
from salad.text.sentences import sayable, split_sentences
from salad.text.speakable import number_words, speakable, spoken_bounds
from salad.types import Document, SaladError, Utterance, Word

SHARD = 2  # documents
RATE_HZ = 16_000  # what the encoder and the ASR read
PAUSE_S = (0.15, 0.4)
EDGE_S = 0.1  # silence before the first and after the last sentence
MARGIN_S = 0.04  # kept around a sentence's speech when its own silence is cut
QUIET_DB = -50.0  # frames this far below the loudest one are no speech
SILENT_PEAK = 1e-3
PEAK = 0.95
WRITERS = {"flac": write_flac, "opus": write_opus}


@dataclass(frozen=True)
class SpokenDocument:
    """A document as sound: float32 [num_samples] at 16 kHz, its sentences, and the times of the document's words.

    `sentences` count words of the document's text; `words` is empty where the voice does not tell when it says what.
    """

    samples: np.ndarray
    sentences: list[Sentence]
    words: tuple[Word, ...] = ()


class WordRow(TypedDict):
    """A `Word`."""

    text: str
    start_s: float
    end_s: float
    score: float


class SaidNote(TypedDict):
    """What is kept beside the sound of a document: its samples, what was said for each word, sentences and words."""

    num_samples: int
    spoken: list[str]
    sentences: list[list[float]]
    words: list[WordRow]


def assign_voices(documents: Sequence[Document], shares: dict[str, float], seed: int) -> list[tuple[Document, str]]:
    """A voice for every document, by shares; slow voices first, so that no worker idles at the end."""
    names = sorted(shares)
    total = sum(shares.values())
    counts = {name: round(len(documents) * shares[name] / total) for name in names}
    pool = [name for name in names for _ in range(max(1, counts[name]))]
    order = random.Random(f"{seed}/voices").sample(range(len(documents)), len(documents))
    assigned = {i: pool[n % len(pool)] for n, i in enumerate(order)}
    spoken = ((document, assigned[i]) for i, document in enumerate(documents))
    return sorted(spoken, key=lambda pair: engine_of(pair[1]).fast)


def speak_all(
    spoken: Sequence[tuple[Document, str]],
    folder: Path,
    *,
    seed: int,
    workers: int,
    title: str,
    variation: Variation = STEADY,
    audio: str = "flac",
    made_from: str | None = None,
) -> list[Path]:
    """Speak (document, voice) pairs shard by shard (see `speak_documents`); returns the shards' folders.

    variation: of the documents' speed, pitch and noise (default: none). made_from: names what the voices are, contents
    of files too; given, one document more speaks one shard anew, and what an earlier result has is taken from it.

    Killed, it goes on where it was: at most one document of each worker is spoken again.
    """
    items: list[SpokenItem] = []
    for document, voice in spoken:
        how = delivery_of(document.id, voice, seed, variation).changes()
        plain = SpokenItem(document=vars(document), voice=voice, licence="", simulated=True)
        item = cast(SpokenItem, {**plain, **how})
        if audio != "flac":
            item["audio"] = audio
        items.append(item)
    function = functools.partial(speak_documents, seed=seed)
    return run_shards(
        function,
        items,
        folder,
        shard_items=SHARD,
        workers=workers,
        title=title,
        unit="documents",
        quarantine=True,
        library=library_of(voice for _, voice in spoken),
        key=(lambda item: f"{made_from} {seed} {item!r}") if made_from is not None else None,
    )


def utterance_id(document_id: str, voice: str) -> str:
    """voice: its full name. What stands behind "@", an address or a folder, is told as a hash."""
    name, at, _ = voice.partition("@")
    place = f"-{hashlib.sha256(voice.encode()).hexdigest()[:6]}" if at else ""
    return f"{document_id}--{name.replace(':', '-')}{place}"


def speak_documents(shard: Shard, folder: Path, *, seed: int) -> None:
    """Speak each item {"document": Document as dict, "voice", "licence", "simulated"}; for `run_shards`.

    An item may have "audio" ("flac" or "opus") and fields of `Delivery`. Writes audio/<utterance id>.flac (16 kHz),
    utterances.jsonl (with word times where the voice tells them), sentences.jsonl (rows {id, simulated, sentences:
    [[start_word, end_word, start_s, end_s], ...]}, and, where it differs from the text, spoken: what was said for each
    of its words) and, for documents that could not be spoken, quarantine.jsonl (rows {id, voice, reason}). An unknown
    voice, a missing package, or an endpoint that is down, stops the job with SaladError.
    """
    number_words()  # where it is missing no document would be said right
    kept = kept_folder(folder, shard)
    utterances, sentence_rows, failed = [], [], []
    for item in shard.items:
        document, voice = Document(**item["document"]), load_voice(item["voice"])
        name, suffix = utterance_id(document.id, item["voice"]), item.get("audio", "flac")
        path = folder / "audio" / file_name(name, f".{suffix}")
        try:
            said = _spoken_once(item, document, voice, kept / path.name, seed)
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(kept / path.name, path)
        except (EndpointDown, PackageMissing):
            raise
        except Exception as error:  # one bad document must not end a job of many hours; the reason is kept
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise  # no document's fault
            reason = str(error) if isinstance(error, SaladError) else repr(error)
            failed.append({"id": document.id, "voice": voice.name, "reason": reason})
            continue
        utterance = Utterance(
            id=name,
            text=document.text,
            audio=str(path),
            sample_rate_hz=RATE_HZ,
            num_samples=said["num_samples"],
            speaker=voice.name,
            source=document.source,
            licence=item["licence"],
            document_id=document.id,
            domain=document.domain,
        )
        if said["words"]:
            utterance = utterance.aligned(tuple(Word(**word) for word in said["words"]), 1.0)
        utterances.append(utterance)
        row = {"id": name, "simulated": item["simulated"], "sentences": said["sentences"]}
        sentence_rows.append(row if said["spoken"] == document.words else {**row, "spoken": said["spoken"]})
    write_utterances(folder / "utterances.jsonl", utterances)
    write_jsonl(folder / "sentences.jsonl", sentence_rows)
    write_jsonl(folder / "quarantine.jsonl", failed)


def _spoken_once(item: SpokenItem, document: Document, voice: Voice, audio: Path, seed: int) -> SaidNote:
    """Speak one document into `audio`, with a note beside it; what a killed attempt has said is not said again."""
    note = audio.with_name(f"{audio.name}.json")
    if not (note.exists() and audio.exists()):
        spoken = speakable(document.words)
        said = speak_document(document, voice, seed=seed, delivery=Delivery.of(item), spoken=spoken)
        WRITERS[audio.suffix[1:]](audio, said.samples, RATE_HZ)
        rows = {"sentences": [list(s) for s in said.sentences], "words": [vars(word) for word in said.words]}
        write_json(note, {"num_samples": len(said.samples), "spoken": spoken, **rows})
    found: SaidNote = read_json(note)
    return found


def speak_document(
    document: Document, voice: Voice, *, seed: int, delivery: Delivery = NEUTRAL, spoken: Sequence[str] | None = None
) -> SpokenDocument:
    """The document, sentence by sentence.

    spoken: what to say for each word of the text (default: `speakable` of them). Pauses come from a generator seeded by
    (seed, document id, voice): the order of documents does not matter. Raises SaladError where a sentence has no
    phonemes, is silent, or holds NaN.
    """
    rate_hz, words = delivery.rate_hz(voice.sample_rate_hz), document.words
    if not sayable(words):
        raise SaladError("text: has no word that can be said; remove the document")
    spoken = speakable(words) if spoken is None else spoken
    generator = np.random.default_rng(number_of(seed, document.id, voice.name))
    pieces = [_silence(EDGE_S, rate_hz)]
    num_samples, sentences, timed = len(pieces[0]), [], []
    runs = split_sentences(document.text)
    for n, (start, end) in enumerate(runs):
        samples, times = _speak(voice, " ".join(spoken[start:end]), delivery)
        first, last = speech_bounds(samples, rate_hz)
        before_s = to_seconds(num_samples, rate_hz)
        sentences.append((start, end, before_s, to_seconds(num_samples + last - first, rate_hz)))
        if times is not None:
            shift_s = before_s - to_seconds(first, rate_hz)
            timed += _word_times(words[start:end], spoken[start:end], times, shift_s, sentences[-1][2:])
        pause_s = generator.uniform(*PAUSE_S) if n + 1 < len(runs) else EDGE_S
        pieces += [samples[first:last], _silence(pause_s, rate_hz)]
        num_samples += last - first + len(pieces[-1])
    samples = resample(np.concatenate(pieces), rate_hz, RATE_HZ)
    loud = samples * min(1.0, PEAK / float(np.abs(samples).max()))
    return SpokenDocument(loud, sentences, tuple(timed) if len(timed) == len(words) else ())


def _speak(voice: Voice, text: str, delivery: Delivery) -> tuple[np.ndarray, Sequence[tuple[float, float]] | None]:
    """Samples at the delivery's rate, and the words' times in them."""
    settings: dict[str, float] = {} if delivery.voice_speed == 1.0 else {"speed": delivery.voice_speed}
    if delivery.noise and isinstance(voice, PiperVoice):
        settings |= {"noise": delivery.noise, "seed": delivery.seed}
    say = getattr(voice, "speak_timed", None)
    if say is None:
        return voice.speak(text, **settings), None
    samples, times = say(text, **settings)
    return samples, times and delivery.retimed(times, voice.sample_rate_hz)


def _word_times(
    words: Sequence[str],
    spoken: Sequence[str],
    times: Sequence[tuple[float, float]],
    shift_s: float,
    within_s: tuple[float, float],
) -> list[Word]:
    """The written words, each from the start of its first spoken word to the end of its last one; [] where a word has
    no sound of its own."""
    at = spoken_bounds(spoken)
    if at[-1] != len(times) or len(set(at)) != len(at):
        return []
    bounds = [(times[start][0] + shift_s, times[end - 1][1] + shift_s) for start, end in itertools.pairwise(at)]
    kept = np.clip(bounds, *within_s).tolist()
    return [Word(word, start_s, end_s, 1.0) for word, (start_s, end_s) in zip(words, kept, strict=True)]


def spoken_forms(folder: str | Path) -> dict[str, list[str]]:
    """What was said for each word, by utterance id, where it is not what is written; from a shard's sentences.jsonl."""
    return {row["id"]: row["spoken"] for row in read_jsonl(Path(folder) / "sentences.jsonl") if "spoken" in row}


def speech_bounds(samples: np.ndarray, rate_hz: int) -> tuple[int, int]:
    """First and last + 1 sample of a sentence's speech, with MARGIN_S of the silence around it.

    Raises SaladError where there is no speech at all, or NaN or infinity.
    """
    if not np.isfinite(samples).all():
        raise SaladError("audio: the voice returned NaN or infinite samples; try another voice")
    if samples.size == 0 or float(np.abs(samples).max()) < SILENT_PEAK:
        raise SaladError("audio: the voice returned silence; try another voice")
    hop = to_samples(0.01, rate_hz)
    padded = np.pad(samples, (0, -len(samples) % hop)).astype(np.float64)
    power = (padded.reshape(-1, hop) ** 2).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (QUIET_DB / 10))
    margin = to_samples(MARGIN_S, rate_hz)
    return max(0, int(loud[0]) * hop - margin), min(len(samples), int(loud[-1] + 1) * hop + margin)


def _silence(seconds: float, rate_hz: int) -> np.ndarray:
    return np.zeros(to_samples(seconds, rate_hz), dtype=np.float32)
