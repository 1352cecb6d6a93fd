"""What speech data holds and what is wrong with it: every recording heard once, in one pass.

Rows go to disk in blocks, worker processes hear the blocks, and this process keeps a few numbers of each utterance
(about 60 bytes) beside the worst cases by name.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from salad.data.inspect.audio_stats import AudioStats, measure_audio, spoilt
from salad.data.inspect.layout import count_quarantine, find_parts, read_parts
from salad.data.inspect.result import Inspection, LengthLimits, Looked, PartAmount
from salad.data.inspect.summary import Count, Summary
from salad.data.inspect.text_checks import failed_text_checks
from salad.data.readers.rows import Row, check_text, source_of, times_fault, to_row, utf8
from salad.engine import Shard, run_shards
from salad.files import number64, write_jsonl
from salad.records import from_json, to_json
from salad.types import SaladError

BLOCK_ROWS = 64
TOLD_SLACK_S, WORD_SLACK_S = 0.1, 0.1
SUFFIXES = {
    "WAV": {".wav"}, "WAVEX": {".wav"}, "FLAC": {".flac"}, "MP3": {".mp3"}, "OGG": {".ogg", ".oga", ".opus"},
}  # fmt: skip


def inspect_block(shard: Shard, folder: Path, *, decode: bool, min_s: float, max_s: float) -> None:
    """For `run_shards`: items are files of [part, row as dict] a line; writes looked.jsonl, one object an utterance."""
    rows = []
    for path in shard.items:
        with open(path, encoding="utf-8") as file:
            for part, row in map(json.loads, file):
                rows.append(_utf8(vars(_inspect_row(part, to_row(row), decode, min_s, max_s))))
        os.unlink(path)
    write_jsonl(folder / "looked.jsonl", rows)


def inspect_data(
    place: Path,
    *,
    decode: bool = True,
    workers: int = 1,
    min_s: float = 0.3,
    max_s: float = 120.0,
    trusted: bool = False,
) -> Inspection:
    """Everything that `salad data inspect` shows.

    The rows are those of `salad prepare`. decode=False reads headers alone: no level, clipping, silence or duplicate
    sound. trusted: manifests may name files outside their folder. Raises SaladError where there is nothing to look at;
    files that cannot be read are counted.
    """
    place = Path(place)
    parts = find_parts(place)
    summary = Summary(place)
    with tempfile.TemporaryDirectory(prefix="salad-inspect-") as temporary:
        blocks = list(_spool(read_parts(parts, place, trusted), Path(temporary)))
        if not blocks:
            raise SaladError(f"{place}: its manifests hold no rows; give a folder or a manifest with recordings")
        workers = min(workers, max(1, len(blocks) // 4))  # a process takes seconds to start
        function = functools.partial(inspect_block, decode=decode, min_s=min_s, max_s=max_s)
        folders = run_shards(
            function, blocks, Path(temporary) / "looked", shard_items=1, workers=workers,
            title="listen" if decode else "read headers", unit=f"blocks of {BLOCK_ROWS} files",
        )  # fmt: skip
        for row in _inspected(folders):
            summary.add(row)
        summary.close(lambda: _inspected(folders))
    amounts = ((part, summary.parts.get(_utf8(part.name), Count())) for part in parts)
    found = Inspection(
        **vars(summary.result()),
        place=str(place),
        parts=tuple(PartAmount(own.utterances, own.seconds, part.name, part.kind) for part, own in amounts),
        decoded=decode,
        limits=LengthLimits(min_s, max_s),
        quarantine=tuple(count_quarantine(place)),
    )
    return from_json(Inspection, _utf8(to_json(found)), place)


def _spool(rows: Iterable[tuple[str, Row]], folder: Path) -> Iterator[str]:
    left = ((part, asdict(row)) for part, row in rows)
    for number in itertools.count():
        if not (block := list(itertools.islice(left, BLOCK_ROWS))):
            return
        path = folder / f"block-{number:07d}.jsonl"
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, default=str) + "\n" for row in block)
        yield str(path)


def _inspected(folders: list[Path]) -> Iterator[Looked]:
    for folder in folders:
        with open(folder / "looked.jsonl", encoding="utf-8") as file:
            yield from (Looked(**row) for row in map(json.loads, file))


def _inspect_row(part: str, row: Row, decode: bool, min_s: float, max_s: float) -> Looked:
    """Figures of one utterance, and its faults."""
    faults: dict[str, tuple[float, str]] = {}
    problem = row.problem or times_fault(row)
    kind = problem.partition(":")[0]
    if kind not in ("", "text", "audio"):
        return Looked(part, row.id, {"row": (1.0, problem)})
    text, lacking = row.text if isinstance(row.text, str) else "", problem if kind == "text" else ""
    try:
        if text.strip() or not isinstance(row.text, str):
            check_text(row.text)
    except SaladError as error:
        lacking = lacking or str(error)
    if lacking:
        text, faults["text_missing"] = "", (1.0, lacking.removeprefix("text: "))
    else:
        faults.update({name: (1.0, seen) for name, seen in failed_text_checks(text).items()})
    out = Looked(
        part,
        row.id,
        faults,
        audio=row.audio,
        speaker=row.speaker,
        score=row.score,
        source=row.source,
        licence=row.licence,
        aligned=bool(row.words),
        words=len(text.split()),
        id_hash=number64(row.id),
        speaker_hash=number64(row.speaker),
    )
    try:
        if kind == "audio":
            raise SaladError(problem)
        source, name = source_of(row)
        start_s, duration_s = (0.0, None) if row.is_whole else (row.offset_s, row.duration_s)
        stats = measure_audio(source, start_s, duration_s, decode, name=name)
    except SaladError as error:
        faults["unreadable"] = (1.0, str(error).removeprefix("audio: "))
        return out
    faults.update(_audio_faults(row, stats, min_s, max_s))
    return replace(
        out,
        s=stats.duration_s,
        rate_hz=stats.sample_rate_hz,
        channels=stats.channels,
        format=stats.format,
        digest=stats.digest,
        level_db=None if math.isnan(stats.level_db) else stats.level_db,
    )


def _audio_faults(row: Row, stats: AudioStats, min_s: float, max_s: float) -> Iterator[tuple[str, tuple[float, str]]]:
    yield from spoilt(stats)
    if stats.duration_s > max_s:
        yield "too_long", (stats.duration_s, f"{stats.duration_s:.1f} s, over {max_s:g} s")
    if stats.duration_s < min_s:
        yield "too_short", (-stats.duration_s, f"{stats.duration_s:.3f} s, under {min_s:g} s")
    told_s = row.file_s if row.is_whole else None
    if told_s is not None and abs(told_s - stats.duration_s) > TOLD_SLACK_S:
        seen = f"{stats.duration_s:.2f} s, the manifest says {told_s:.2f} s"
        yield "told_length", (abs(told_s - stats.duration_s), seen)
    if row.sample_rate_hz is not None and row.sample_rate_hz != stats.sample_rate_hz:
        seen = f"{stats.sample_rate_hz} Hz, the manifest says {row.sample_rate_hz} Hz"
        yield "told_rate", (abs(stats.sample_rate_hz - row.sample_rate_hz), seen)
    suffix = Path(row.audio).suffix.lower()
    if not row.part and suffix not in SUFFIXES.get(stats.format, {suffix}):
        yield "extension", (1.0, f"named {suffix or 'without a suffix'}, holds {stats.format}")
    starts = [word[1] for word in row.words]
    late_s = max((word[2] for word in row.words), default=0.0) - stats.duration_s
    if late_s > WORD_SLACK_S:
        yield "word_times", (late_s, f"a word ends {late_s:.2f} s after the audio")
    elif starts != sorted(starts) or any(word[2] < word[1] for word in row.words):
        yield "word_times", (1.0, "words out of order")


def _utf8(value: Any) -> Any:
    """The text with what no file can hold (bytes of a name that are not UTF-8) written out."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, dict):
        return {_utf8(key): _utf8(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_utf8(item) for item in value]
    return value
