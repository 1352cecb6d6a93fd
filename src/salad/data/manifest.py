"""Manifests of utterances: our JSON lines and Lhotse's cuts. Audio paths: relative on disk, absolute in memory."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from salad.data.readers.rows import Row, check_text
from salad.files import JsonObject, Rows, read_jsonl, write_jsonl
from salad.types import SaladError, Utterance, Word

Sentence = tuple[int, int, float, float]  # start_word, end_word (excluded), start_s, end_s

CUSTOM = ("source", "licence", "domain", "document_id")
STRINGS = ("id", "text", "audio", "speaker", "source", "licence", "document_id", "domain")


def utterance_to_dict(utterance: Utterance, folder: str | Path | None = None) -> JsonObject:
    """A JSON object; `words` becomes [[text, start_s, end_s(, score)], ...] and a nan score null.

    With `folder` (where the manifest will lie) the audio path is written relative to it; the shards' temporary folder
    is a sibling of the final one, so paths survive its renaming.
    """
    return {
        "id": utterance.id,
        "text": utterance.text,
        "audio": _relative(utterance.audio, folder) if folder is not None else utterance.audio,
        "sample_rate_hz": utterance.sample_rate_hz,
        "num_samples": utterance.num_samples,
        "words": [_word_row(word) for word in utterance.words],
        "speaker": utterance.speaker,
        "source": utterance.source,
        "licence": utterance.licence,
        "document_id": utterance.document_id,
        "domain": utterance.domain,
        "score": None if math.isnan(utterance.score) else utterance.score,
    }


def utterance_from_dict(row: JsonObject, folder: str | Path | None = None) -> Utterance:
    """The inverse of `utterance_to_dict`. Raises SaladError that names a missing or unknown field, or one of no use."""
    values = dict(row)
    try:
        if other := [name for name in STRINGS if not isinstance(row.get(name, ""), str)]:
            raise TypeError(f"{other[0]}: expected a string, got {row[other[0]]!r:.40}")
        values["words"] = tuple(Word(*word) for word in row.get("words", ()))
        values["score"] = math.nan if row.get("score") is None else float(row["score"])
        values["audio"] = _absolute(row["audio"], folder) if folder is not None else row["audio"]
        return Utterance(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise SaladError(
            f"utterance {row.get('id')!r}: {error!r}; expected the fields of salad.types.Utterance"
        ) from None


def write_utterances(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """One JSON object a line, audio relative to the file's folder; atomic."""
    write_jsonl(path, (utterance_to_dict(utterance, Path(path).parent) for utterance in utterances))


def read_utterances(path: str | Path) -> list[Utterance]:
    """What `write_utterances` wrote, audio paths absolute."""
    return [utterance_from_dict(row, Path(path).parent) for row in read_jsonl(path)]


def summed(utterances: Iterable[Utterance], into: dict[str, Any]) -> Iterator[Utterance]:
    """The same utterances; after the last one, `into` tells their hours and the mean of their scores: of those that
    have one, for given word times often come without.
    """
    seconds, score, num = 0.0, 0.0, 0
    for utterance in utterances:
        seconds += utterance.duration_s
        if not math.isnan(utterance.score):
            score, num = score + utterance.score, num + 1
        yield utterance
    into |= {"hours": seconds / 3600, "mean_score": score / num if num else None}


def utterances_in(paths: Iterable[Path]) -> Rows:
    """Utterances of manifests that `write_utterances` wrote, read when they are asked for, audio paths absolute."""
    return Rows(paths, lambda row, path: utterance_from_dict(row, path.parent))


def spoken_in(folders: Iterable[Path]) -> Rows:
    """What `load_spoken` gives of these shards, read when it is asked for."""

    @functools.lru_cache(maxsize=1)
    def times(folder: Path) -> dict[str, list[Sentence]]:
        return _sentences(folder)

    def make(row: dict[str, Any], path: Path) -> tuple[Utterance, list[Sentence] | None]:
        return utterance_from_dict(row, path.parent), times(path.parent).get(row["id"])

    return Rows([folder / "utterances.jsonl" for folder in folders], make)


def load_spoken(folders: Iterable[str | Path]) -> list[tuple[Utterance, list[Sentence] | None]]:
    """Every utterance of the shards' folders, in order, with its sentences (None where sentences.jsonl has none)."""
    spoken: list[tuple[Utterance, list[Sentence] | None]] = []
    for folder in map(Path, folders):
        times = _sentences(folder)
        spoken += [(utterance, times.get(utterance.id)) for utterance in read_utterances(folder / "utterances.jsonl")]
    return spoken


def _sentences(folder: Path) -> dict[str, list[Sentence]]:
    return {row["id"]: [tuple(s) for s in row["sentences"]] for row in read_jsonl(folder / "sentences.jsonl")}


def write_lhotse(utterances: Sequence[Utterance], path: str | Path) -> None:
    """A Lhotse cut manifest (cuts.jsonl.gz): one MonoCut with one supervision for each utterance.

    Same utterances, same bytes (the gzip header holds no time and no name). Audio paths are relative to the manifest's
    folder: in Lhotse itself, read it with `CutSet.from_file(path).with_recording_path_prefix(folder)`.
    """
    write_jsonl(path, (_to_cut(utterance, Path(path).parent).to_dict() for utterance in utterances))


def to_utterance(row: Row) -> Utterance:
    """What a reader gives, as an utterance. Raises SaladError that says why where it cannot be one.

    It must be a whole recording in a file of its own. Words are kept where there is one for each word of the text.
    """
    if row.problem:
        raise SaladError(row.problem)
    if row.part or row.channel is not None or not row.is_whole or row.file_s is None or row.sample_rate_hz is None:
        raise SaladError(
            f"{row.id!r}: expected a text over a whole recording in one file, with its length and rate; for Lhotse "
            "cuts, trim_to_supervisions() and save_audios() make such"
        )
    check_text(row.text)
    words = tuple(Word(*word) for word in row.words)
    return Utterance(
        id=row.id,
        text=row.text,
        audio=row.audio,
        sample_rate_hz=row.sample_rate_hz,
        num_samples=round(row.file_s * row.sample_rate_hz),
        words=words if len(words) == len(row.text.split()) else (),
        speaker=row.speaker,
        source=row.source,
        licence=row.licence,
        document_id=row.document_id,
        domain=row.domain,
        score=math.nan if row.score is None else row.score,
    )


def _to_cut(utterance: Utterance, folder: Path) -> Any:
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    words = [
        AlignmentItem(
            word.text, word.start_s, word.end_s - word.start_s, None if math.isnan(word.score) else word.score
        )
        for word in utterance.words
    ]
    custom: JsonObject = {name: getattr(utterance, name) for name in CUSTOM if getattr(utterance, name)}
    if not math.isnan(utterance.score):
        custom["score"] = utterance.score
    source = AudioSource("file", [0], _relative(utterance.audio, folder))
    recording = Recording(
        utterance.id, [source], utterance.sample_rate_hz, utterance.num_samples, utterance.duration_s, [0]
    )
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=utterance.duration_s,
        channel=0,
        text=utterance.text,
        language="en",
        speaker=utterance.speaker or None,
        alignment={"word": words} if words else None,
        custom=custom or None,
    )
    return MonoCut(utterance.id, 0.0, utterance.duration_s, 0, supervisions=[supervision], recording=recording)


def _word_row(word: Word) -> list[Any]:
    row = [word.text, word.start_s, word.end_s]
    return row if math.isnan(word.score) else [*row, word.score]


def _relative(audio: str, folder: str | Path) -> str:
    return Path(os.path.relpath(os.path.abspath(audio), os.path.abspath(folder))).as_posix()


def _absolute(audio: str, folder: str | Path) -> str:
    # By name, not by following links: the inverse of relpath.
    return os.path.normpath(os.path.join(os.path.abspath(folder), audio))
