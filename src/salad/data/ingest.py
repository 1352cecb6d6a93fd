"""Ingest: decode what the plan names, check it, join it, write mono 16 kHz FLAC. One document in memory at a time."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from salad.audio import copy_flac, to_samples, to_seconds, write_flac
from salad.data.ingest_plan import IngestLimits, Planned, PlannedRows
from salad.data.manifest import Sentence, write_utterances
from salad.data.plan_stamps import open_plan, stamp_of
from salad.data.readers.rows import Row, read_row, utf8
from salad.engine import Made, Shard, run_shards
from salad.files import write_jsonl
from salad.types import SaladError, Utterance, Word

RATE_HZ = 16_000
SHARD_DOCUMENTS = 64
MAX_GAP_S = 2.0  # more silence than this between two cuts may be speech that was cut out
MIN_GAP_S = -0.2  # cuts may overlap a little
JOIN_S = 0.3  # put between cuts that come from different files
MAX_WORDS_PER_S, PACE_SLACK_S = 8.0, 0.5  # nobody speaks faster; a short row may have lost its edges
SILENT = 1e-4  # a peak of three steps of 16 bits: digital silence, dithered or not


@dataclass
class _JoinedRows:
    """Rows that become one utterance: their samples one after the other, and where each begins and ends."""

    rows: list[Row] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    times: list[tuple[int, int]] = field(default_factory=list)  # first and last + 1 sample of each row
    num_samples: int = 0

    def add(self, rows: list[Row], samples: np.ndarray, times: list[tuple[int, int]]) -> None:
        """More rows, whose samples are `samples` and lie in them at `times`."""
        if self.parts:
            self.parts.append(np.zeros(to_samples(JOIN_S, RATE_HZ), np.float32))
            self.num_samples += len(self.parts[-1])
        self.rows += rows
        self.times += [(self.num_samples + start, self.num_samples + end) for start, end in times]
        self.parts.append(samples)
        self.num_samples += len(samples)

    @property
    def text(self) -> str:
        return " ".join(row.text for row in self.rows)


def ingest_documents(
    documents: Sequence[Planned],
    plan: Path,
    sources: dict[str, tuple[str, str]],
    limits: IngestLimits,
    folder: Path,
    *,
    workers: int,
    title: str,
) -> list[Path]:
    """Ingest these documents of a plan; the shards' folders in order.

    Finished shards stay, and those of the last result are taken, where their rows, the sizes and times of their files,
    and all settings are the same.
    """
    function = functools.partial(ingest, plan=str(plan), sources=sources, limits=limits)
    items = Made(lambda document: (document.number, document.source), documents)
    with open_plan(plan) as opened:
        planned = PlannedRows(opened)

        def key(item: tuple[int, str]) -> str:
            rows = planned.texts(item[0])
            files = sorted({json.loads(row).get("audio", "") for row in rows})
            return f"{limits} {sources[item[1]]} {item[1]} {rows} {[stamp_of(file) for file in files]}"

        return run_shards(
            function,
            items,
            folder,
            shard_items=SHARD_DOCUMENTS,
            workers=workers,
            title=title,
            unit="documents",
            key=key,
        )


def ingest(shard: Shard, folder: Path, *, plan: str, sources: dict[str, tuple[str, str]], limits: IngestLimits) -> None:
    """For `run_shards`: items are (number of a document in the plan, its source).

    sources: name -> (licence, language). Writes audio/*.flac, utterances.jsonl, sentences.jsonl (the times
    of rows that were joined) and quarantine.jsonl: every row that cannot be used is there with its reason.
    """
    kept, sentences, quarantined = [], [], list[dict[str, Any]]()
    with open_plan(Path(plan)) as opened:
        planned = PlannedRows(opened)
        for number, source in shard.items:
            before = len(quarantined)
            for n, joined in enumerate(_join(planned.rows(number), limits, quarantined)):
                path = folder / "audio" / f"{number:08d}-{n}.flac"
                _write(joined, path)
                utterance, times = _utterance(joined, source, sources[source][0], str(path))
                kept.append(utterance)
                if len(joined.rows) > 1:
                    sentences.append({"id": utterance.id, "simulated": False, "sentences": [list(s) for s in times]})
            for refused in quarantined[before:]:
                refused["source"] = source
                refused["reason"] = utf8(refused["reason"])
    write_utterances(folder / "utterances.jsonl", kept)
    write_jsonl(folder / "sentences.jsonl", sentences)
    write_jsonl(folder / "quarantine.jsonl", [{"stage": "corpus", **row} for row in quarantined])


def _write(joined: _JoinedRows, path: Path) -> None:
    """What was joined, as FLAC; a recording that is all of a FLAC of this rate is not encoded again."""
    (row, *more), samples = joined.rows, np.concatenate(joined.parts)
    if more or row.part or not copy_flac(row.audio, path, samples, RATE_HZ):
        write_flac(path, samples, RATE_HZ)


def _join(rows: list[Row], limits: IngestLimits, quarantined: list[dict[str, str]]) -> Iterator[_JoinedRows]:
    """Utterances of one document. What is refused goes to `quarantined`, and parts what stands on its two sides."""
    open_one = _JoinedRows()
    for run in _runs(rows):
        if run[0].problem:
            quarantined.append({"id": run[0].id, "reason": run[0].problem})
            blocks: Iterator[Any] = iter([None])
        else:
            blocks = _read(run, limits, quarantined)
        for block in blocks:
            if block is None:  # something is missing here
                if open_one.rows:
                    yield open_one
                open_one = _JoinedRows()
                continue
            own, samples, times = block
            seconds = to_seconds(open_one.num_samples + len(samples), RATE_HZ) + JOIN_S
            text = " ".join([open_one.text, *(row.text for row in own)])
            apart = bool(open_one.rows) and _same_audio(open_one.rows[-1], own[0])  # a long gap, or an overlap
            if open_one.rows and (apart or not limits.fits(seconds, text)):
                yield open_one
                open_one = _JoinedRows()
            open_one.add(own, samples, times)
    if open_one.rows:
        yield open_one


def _runs(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows that can be read at once: they follow each other in the same audio. A row with a problem stands alone."""
    run: list[Row] = []
    for row in rows:
        if run and not row.problem and not run[-1].problem and _follows(run[-1], row):
            run.append(row)
            continue
        if run:
            yield run
        run = [row]
    if run:
        yield run


def _same_audio(one: Row, other: Row) -> bool:
    return (one.audio, one.part, one.channel) == (other.audio, other.part, other.channel)


def _follows(one: Row, other: Row) -> bool:
    if one.duration_s is None or other.duration_s is None or not _same_audio(one, other):
        return False
    return MIN_GAP_S <= other.offset_s - (one.offset_s + one.duration_s) <= MAX_GAP_S


def _read(run: list[Row], limits: IngestLimits, quarantined: list[dict[str, str]]) -> Iterator[Any]:
    """(rows, samples, times) of a run, with the real silence between its rows; None where a row had to be left out."""
    if len(run) == 1:
        try:
            samples = _read_one(run[0], limits)
        except SaladError as error:
            quarantined.append({"id": run[0].id, "reason": str(error)})
            yield None
        else:
            yield run, samples, [(0, len(samples))]
        return
    try:
        yield _read_together(run, limits)
        return
    except SaladError:  # one row spoils it, or they are too long together
        usable = [_is_usable(row, limits) for row in run]
    if all(usable):
        yield from _read(run[: len(run) // 2], limits, quarantined)
        yield from _read(run[len(run) // 2 :], limits, quarantined)
        return
    start = 0
    for n, row in enumerate(run):
        if not usable[n]:
            if run[start:n]:
                yield from _read(run[start:n], limits, quarantined)
            yield from _read([row], limits, quarantined)
            start = n + 1
    if run[start:]:
        yield from _read(run[start:], limits, quarantined)


def _is_usable(row: Row, limits: IngestLimits) -> bool:
    try:
        _read_one(row, limits)
    except SaladError:
        return False
    return True


def _read_one(row: Row, limits: IngestLimits) -> np.ndarray:
    samples: np.ndarray = read_row(row, RATE_HZ, max_s=limits.max_s)
    seconds = to_seconds(len(samples), RATE_HZ)
    if seconds < limits.min_s:
        raise SaladError(
            f"audio: lasts {seconds:.3f} s, expected at least corpus.min_utterance_s {limits.min_s:g}; lower that to "
            "keep it"
        )
    _check_sound(row, samples)
    if not limits.fits(seconds, row.text):
        raise SaladError(
            f"audio: {seconds:.1f} s with {len(row.text.split())} words may take more than "
            f"sequence.context {limits.context} positions; cut the recording, each part with its text"
        )
    return samples


def _check_sound(row: Row, samples: np.ndarray) -> None:
    """Raise SaladError where a row holds no sound, or more words than anybody can say in it."""
    seconds, num_words = to_seconds(len(samples), RATE_HZ), len(row.text.split())
    if np.abs(samples).max(initial=0.0) < SILENT:
        raise SaladError(f"audio: {seconds:.2f} s of digital silence with {num_words} words; record or export it again")
    if num_words > MAX_WORDS_PER_S * (seconds + PACE_SLACK_S):
        raise SaladError(
            f"speed: {num_words} words in {seconds:.2f} s are {num_words / seconds:.1f} a second, expected at most "
            f"{MAX_WORDS_PER_S:g}; is the recording cut off, or the text another's?"
        )


def _read_together(run: list[Row], limits: IngestLimits) -> tuple[list[Row], np.ndarray, list[tuple[int, int]]]:
    first_s, last_s = run[0].offset_s, max(row.offset_s + (row.duration_s or 0.0) for row in run)
    text = " ".join(row.text for row in run)
    if any((row.duration_s or 0.0) < limits.min_s for row in run) or not limits.fits(last_s - first_s, text):
        raise SaladError("not as one")
    samples = read_row(run[0], RATE_HZ, max_s=limits.max_s, until_s=last_s)
    times, at = [], 0
    for row in run:
        start = max(at, to_samples(row.offset_s - first_s, RATE_HZ))
        at = min(len(samples), max(start + 1, to_samples(row.offset_s + (row.duration_s or 0.0) - first_s, RATE_HZ)))
        times.append((start, at))
    if any(end <= start for start, end in times):
        raise SaladError("not as one")
    for row, (start, end) in zip(run, times, strict=True):
        _check_sound(row, samples[start:end])
    return run, samples, times


def _utterance(joined: _JoinedRows, source: str, licence: str, path: str) -> tuple[Utterance, list[Sentence]]:
    rows = joined.rows
    sentences: list[Sentence] = []
    words: list[Word] = []
    word = 0
    for row, (start, end) in zip(rows, joined.times, strict=True):
        start_s, count = to_seconds(start, RATE_HZ), len(row.text.split())
        sentences.append((word, word + count, start_s, to_seconds(end, RATE_HZ)))
        word += count
        if len(row.words) == count:
            named = [(unicodedata.normalize("NFC", text), low_s, high_s) for text, low_s, high_s, *_ in row.words]
            words += [Word(text, start_s + low_s, start_s + high_s) for text, low_s, high_s in named]
    name = utterance_id(source, rows[0].id) + (f"+{len(rows) - 1}" if len(rows) > 1 else "")
    utterance = Utterance(
        id=name,
        text=joined.text,
        audio=path,
        sample_rate_hz=RATE_HZ,
        num_samples=joined.num_samples,
        words=tuple(words) if len(words) == word else (),
        speaker=rows[0].speaker,
        source=source,
        licence=rows[0].licence or licence,
        document_id=name,
        domain=source,
    )
    return utterance, sentences


def utterance_id(source: str, row_id: str) -> str:
    """A name that is safe in file names, with a hash where characters had to go: other rows get other names."""
    raw = f"{source}-{row_id}"
    safe = re.sub(r"[^A-Za-z0-9_.]+", "-", raw).strip("-.")[:100]
    return safe if safe == raw else f"{safe}-{hashlib.sha256(raw.encode()).hexdigest()[:8]}"
