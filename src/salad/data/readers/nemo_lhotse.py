"""Manifests of JSON lines: our own utterances, NeMo's, and Lhotse's cuts (plain, or as Shar beside their audio)."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from salad.config import Speech
from salad.data.manifest import utterance_from_dict
from salad.data.readers.rows import (
    AUDIO_FIELDS,
    Row,
    broken_file,
    described,
    label,
    labels,
    language_of,
    licence_of,
    number,
    part_of_file,
    pick,
    read_json_rows,
    times_fault,
    with_path,
)
from salad.data.readers.webdataset import tar_members
from salad.files import JsonObject
from salad.types import SaladError

OURS = (("recipe.json",), ("settings.json", "utterances.jsonl"))  # a run's folder; what `salad synthesize` wrote
TEXT_ALONE = "a text alone: this line names no audio"  # what `salad divergence` reads as a document
ROUND_S = 0.1  # so far may a supervision reach beyond a cut that was made for it


def read_utterance_rows(files: list[Path], entry: Speech) -> Iterator[Row]:
    """Utterances as `salad.data.manifest` writes them; of a line with text alone, a row whose `audio` is ""."""
    for path in files:
        yield from read_json_rows(
            path, functools.partial(_utterance_row, path=path, entry=entry, home=_home(entry, path))
        )


def _utterance_row(value: JsonObject, name: str, *, path: Path, entry: Speech, home: Path) -> Iterator[Row]:
    if "num_samples" not in value and not value.get("audio") and str(value.get("text") or "").strip():
        given = label(value.get("id")) or f"{path.stem}-{name.rpartition(':')[2]}"
        row = Row(given, text=value.get("text", ""), source=str(path), domain=label(value.get("domain")))
        yield row.broken(TEXT_ALONE)
        return
    own = utterance_from_dict(value)
    row = Row(
        id=own.id,
        text=own.text,
        duration_s=own.duration_s,
        file_s=own.duration_s,
        sample_rate_hz=own.sample_rate_hz,
        speaker=own.speaker,
        licence=own.licence,
        source=own.source,
        document_id=own.document_id,
        domain=own.domain,
        words=tuple(_timed(word.text, word.start_s, word.end_s, word.score) for word in own.words),
        score=None if math.isnan(own.score) else own.score,
    )
    if fault := times_fault(row):
        raise SaladError(fault)
    yield with_path(row, own.audio, path.parent, entry, home)


def _timed(text: str, start_s: float, end_s: float, score: float | None) -> tuple[Any, ...]:
    return (text, start_s, end_s) if score is None or math.isnan(score) else (text, start_s, end_s, score)


def _home(entry: Speech, manifest: Path) -> Path:
    """The folder that the audio of a manifest must lie in: the outermost of its own, the one named, and ours.

    In a run, and in what `salad synthesize` wrote, manifests name audio of folders beside their own.
    """
    named, above = entry.path, list(manifest.absolute().parents)
    known = [n for n, path in enumerate(above) if any(all((path / name).is_file() for name in mark) for mark in OURS)][
        :1
    ]
    if named is not None and named.is_dir() and named.absolute() in above:
        known.append(above.index(named.absolute()))
    return above[max(known, default=0)]


def read_nemo(files: list[Path], entry: Speech) -> Iterator[Row]:
    """{"audio_filepath", "duration", "offset", "text", ...} a line; paths relative to the manifest or `audio_root`.

    Lines with an offset are parts of a long recording: their file.
    """
    for path, called in zip(files, labels(files), strict=True):
        before = f"{called}/" if len(files) > 1 else ""
        yield from read_json_rows(path, functools.partial(_nemo_row, path=path, entry=entry, before=before))


def _nemo_row(value: JsonObject, name: str, *, path: Path, entry: Speech, before: str) -> Iterator[Row]:
    given = pick(value, entry.audio_field, AUDIO_FIELDS)
    called = name if given is None or isinstance(given, dict) else str(given)
    row = described(value, entry, before + called)
    if isinstance(given, dict):  # a row of `datasets` as JSON
        given = given.get("path")
    row = with_path(part_of_file(row, value, called, before), given, path.parent, entry)
    if "shard_id" in value and not row.problem and not os.path.exists(row.audio):
        row = row.broken(
            f"audio: {given!r} lies in shard {value['shard_id']} of NeMo's tarred form, which is not read; unpack "
            "audio_*.tar beside the manifest"
        )
    yield row


def read_lhotse(files: list[Path], entry: Speech) -> Iterator[Row]:
    """Every supervision of every cut. LibriHeavy's text is the first of `custom.texts` (with case and punctuation)."""
    for path in files:
        yield from read_json_rows(path, functools.partial(_cut_rows, path=path, entry=entry, home=_home(entry, path)))


def read_shar(files: list[Path], entry: Speech) -> Iterator[Row]:
    """cuts.*.jsonl(.gz), each with its recording.*.tar: the audio of cut k lies in the tar as <cut id>.<format>."""
    for path in files:
        tar = path.with_name(re.sub(r"\.jsonl(\.\w+)?$", "", path.name).replace("cuts", "recording", 1) + ".tar")
        members: dict[str, tuple[int, int]] = {}
        try:
            for name, offset, size in tar_members(tar):
                if not name.endswith((".json", ".nodata", ".nometa")):
                    members[name.rsplit(".", 1)[0]] = (offset, size)
        except SaladError as error:
            yield broken_file(tar, str(error))
        make = functools.partial(_cut_rows, path=path, entry=entry, tar=tar, members=members)
        yield from read_json_rows(path, make)


def _cut_rows(
    value: JsonObject,
    name: str,
    *,
    path: Path,
    entry: Speech,
    home: Path | None = None,
    tar: Path | None = None,
    members: dict[str, tuple[int, int]] | None = None,
) -> Iterator[Row]:
    from lhotse import MonoCut
    from lhotse.serialization import deserialize_item

    if value.get("type") not in ("MonoCut", "MultiCut"):
        raise SaladError(f"cut {value.get('id')!r}: a {value.get('type')!r}, expected a MonoCut or a MultiCut")
    cut = deserialize_item(value)
    recording, channel = cut.recording, None
    if isinstance(cut, MonoCut) and (cut.num_channels or 1) == 1 and cut.channel:
        channel = cut.channel
    base = Row(
        id=label(cut.id) or name,
        offset_s=0.0 if tar else cut.start,
        duration_s=cut.duration,
        file_s=cut.duration if tar else recording.duration if recording else None,
        sample_rate_hz=None if tar or recording is None or recording.transforms else recording.sampling_rate,
        channel=channel,
    )
    rows = [_supervised(base, cut, n, value, entry, tar is not None) for n in range(len(cut.supervisions))]
    for n, row in enumerate(rows or [base]):
        if tar is None:
            row = _with_recording(row, cut, path, entry, home)
        elif cut.id in (members or {}):
            row = replace(row, audio=str(tar), part=("bytes", *(members or {})[cut.id]))
            row = _inside(row, cut, n) if rows else row
        else:
            row = row.broken(f"{name}: {tar.name} holds no audio of cut {cut.id!r}; is the tar cut off?")
        if not rows and not row.problem:
            row = row.broken(f"text: {name}: cut {cut.id!r} has no supervision, so no text")
        yield row


def _supervised(base: Row, cut: Any, n: int, value: JsonObject, entry: Speech, apart: bool) -> Row:
    """The row of a cut's supervision. apart: the cut's audio is a file of its own."""
    supervision = cut.supervisions[n]
    custom = {**(cut.custom or {}), **(supervision.custom or {})}
    texts = custom.get("texts") or [None]
    # AlignmentItem.end rounds; the sum is exact. Times count from the cut's start, as the supervision's own do.
    items, start = (supervision.alignment or {}).get("word") or [], supervision.start
    return replace(
        base,
        id=base.id if len(cut.supervisions) == 1 else f"{base.id}/{supervision.id or n}",
        text=pick(value["supervisions"][n], entry.text_field, ()) if entry.text_field else supervision.text or texts[0],
        offset_s=max(0.0, base.offset_s + start),
        duration_s=supervision.duration,
        speaker=label(supervision.speaker),
        recording=str(pick(value, entry.recording_field, ()) or supervision.recording_id or ""),
        start_s=None if apart else base.offset_s + start,
        licence=licence_of(custom),
        language=label(supervision.language) or language_of(custom),
        source=label(custom.get("source")),
        document_id=label(custom.get("document_id")),
        domain=label(custom.get("domain")),
        words=tuple(_timed(i.symbol, i.start - start, i.start + i.duration - start, i.score) for i in items),
        score=number(custom.get("score")),
    )


def _inside(row: Row, cut: Any, n: int) -> Row:
    """The row of a cut with audio of its own; broken where the cut was made in the middle of what it says."""
    start, end = cut.supervisions[n].start, cut.supervisions[n].end
    if start > -ROUND_S and end < cut.duration + ROUND_S:
        return row
    return row.broken(
        f"its supervision ({start:.2f} to {end:.2f} s) goes beyond the cut, which is {cut.duration:.2f} s long; cut "
        "with keep_excessive_supervisions=False, or trim_to_supervisions() before to_shar"
    )


def _with_recording(row: Row, cut: Any, path: Path, entry: Speech, home: Path | None) -> Row:
    recording = cut.recording
    if recording is None:
        return row.broken(f"cut {cut.id!r}: has no recording (only features?); SALAD needs the audio")
    if any(not _is_resampling(t) for t in recording.transforms or ()):
        return row.broken(
            f"cut {cut.id!r}: its recording is changed on the fly; write it out with Lhotse's save_audios()"
        )
    source = recording.sources[0]
    if len(recording.sources) != 1 or source.type != "file":
        kinds = [s.type for s in recording.sources]
        return row.broken(
            f"cut {cut.id!r}: sources {kinds}, expected one file; commands and addresses are not followed"
        )
    return with_path(row, source.source, path.parent, entry, home)


def _is_resampling(transform: Any) -> bool:
    name = transform.get("name") if isinstance(transform, dict) else type(transform).__name__
    return name == "Resample"
