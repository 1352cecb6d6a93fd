"""Manifests of JSON lines: NeMo's, and Lhotse's cuts (plain, or as Shar beside their audio)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from salad.config import Speech
from salad.data.readers.lines import broken_file, read_json_rows
from salad.data.readers.rows import AUDIO_FIELDS, SPEAKER_FIELDS, TEXT_FIELDS, Row, label, labels, locate, pick
from salad.data.readers.webdataset import tar_members
from salad.types import SaladError

__all__ = ["read_lhotse_rows", "read_nemo", "read_shar"]


def read_nemo(files: list[Path], entry: Speech) -> Iterator[Row]:
    """{"audio_filepath", "duration", "offset", "text", ...} a line; paths relative to the manifest or `audio_root`.

    Lines with an offset are parts of a long recording: their file.
    """
    for path, called in zip(files, labels(files), strict=True):
        before = f"{called}/" if len(files) > 1 else ""
        yield from read_json_rows(path, functools.partial(_nemo_row, path=path, entry=entry, before=before))


def _nemo_row(value: dict[str, Any], name: str, *, path: Path, entry: Speech, before: str) -> Iterator[Row]:
    given = pick(value, entry.audio_field, AUDIO_FIELDS)
    cut = value.get("offset") is not None
    offset_s = float(value.get("offset") or 0.0)
    row = Row(
        id=label(value.get("id")) or before + (f"{given}@{offset_s:.3f}" if cut else str(given)),
        text=pick(value, entry.text_field, TEXT_FIELDS),
        offset_s=offset_s,
        duration_s=None if value.get("duration") is None else float(value["duration"]),
        speaker=label(pick(value, entry.speaker_field, SPEAKER_FIELDS)),
        recording=str(pick(value, entry.recording_field, ()) or (before + str(given) if cut else "")),
        start_s=offset_s if cut else None,
        licence=str(value.get("license") or value.get("licence") or ""),
        language=str(value.get("lang") or value.get("language") or ""),
    )
    yield _placed(row, given, path.parent, entry)


def read_lhotse_rows(files: list[Path], entry: Speech) -> Iterator[Row]:
    """Every supervision of every cut. LibriHeavy's text is the first of `custom.texts` (with case and punctuation)."""
    for path in files:
        yield from read_json_rows(path, functools.partial(_cut_rows, path=path, entry=entry))


def read_shar(files: list[Path], entry: Speech) -> Iterator[Row]:
    """cuts.*.jsonl(.gz), each with its recording.*.tar: the audio of cut k lies in the tar as <cut id>.<format>."""
    for path in files:
        tar = path.with_name(
            path.name.removesuffix(".gz").removesuffix(".jsonl").replace("cuts", "recording", 1) + ".tar"
        )
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
    value: dict[str, Any],
    name: str,
    *,
    path: Path,
    entry: Speech,
    tar: Path | None = None,
    members: dict[str, tuple[int, int]] | None = None,
) -> Iterator[Row]:
    from lhotse import MonoCut
    from lhotse.serialization import deserialize_item

    if value.get("type") not in ("MonoCut", "MultiCut"):
        raise SaladError(f"cut {value.get('id')!r}: a {value.get('type')!r}, expected a MonoCut or a MultiCut")
    cut = deserialize_item(value)
    if not cut.supervisions:
        yield Row(id=cut.id, audio=str(path), problem=f"{name}: cut {cut.id!r} has no supervision, so no text")
    for n, supervision in enumerate(cut.supervisions):
        custom = supervision.custom or {}
        texts = custom.get("texts") or [None]
        # AlignmentItem.end rounds; the sum is exact. Times count from the cut's start, as the supervision's own do.
        items = (supervision.alignment or {}).get("word") or []
        words = [(i.symbol, i.start - supervision.start, i.start + i.duration - supervision.start) for i in items]
        recording = pick(value, entry.recording_field, ()) or supervision.recording_id
        row = Row(
            id=cut.id if len(cut.supervisions) == 1 else f"{cut.id}/{supervision.id or n}",
            text=pick(value["supervisions"][n], entry.text_field, ())
            if entry.text_field
            else supervision.text or texts[0],
            offset_s=max(0.0, (0.0 if tar else cut.start) + supervision.start),
            duration_s=supervision.duration,
            channel=cut.channel if isinstance(cut, MonoCut) and (cut.num_channels or 1) == 1 and cut.channel else None,
            speaker=supervision.speaker or "",
            recording=str(recording or ""),
            start_s=None if tar else cut.start + supervision.start,
            licence=str(custom.get("licence", "")),
            language=supervision.language or "",
            words=tuple(words),
        )
        if tar is None:
            yield _with_recording(row, cut, path, entry)
        elif cut.id in members:
            yield replace(row, audio=str(tar), part=("bytes", *members[cut.id]))
        else:
            yield row.broken(f"{name}: {tar.name} holds no audio of cut {cut.id!r}; is the tar cut off?")


def _with_recording(row: Row, cut: Any, path: Path, entry: Speech) -> Row:
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
    return _placed(row, source.source, path.parent, entry)


def _is_resampling(transform: Any) -> bool:
    name = transform.get("name") if isinstance(transform, dict) else type(transform).__name__
    return name == "Resample"


def _placed(row: Row, given: Any, folder: Path, entry: Speech) -> Row:
    try:
        return replace(row, audio=locate(given, entry.audio_root or folder, entry.trusted))
    except SaladError as error:
        return row.broken(str(error))
