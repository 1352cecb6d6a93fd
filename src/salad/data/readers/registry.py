"""Every kind of speech data, opened by one call: which reader reads which format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from salad.config import Speech
from salad.data.readers.arrow import hub_files, read_arrow, read_parquet
from salad.data.readers.detect import find_files
from salad.data.readers.folder import read_folder, read_tables
from salad.data.readers.nemo_lhotse import read_lhotse, read_nemo, read_shar, read_utterance_rows
from salad.data.readers.rows import Row
from salad.data.readers.webdataset import read_webdataset
from salad.types import SaladError

Reader = Callable[[list[Path], Speech], Iterator[Row]]

READERS: dict[str, Reader] = {
    "shar": read_shar,
    "lhotse": read_lhotse,
    "utterances": read_utterance_rows,
    "webdataset": read_webdataset,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "nemo": read_nemo,
    "table": read_tables,
    "folder": read_folder,
}


def open_source(entry: Speech) -> tuple[str, Iterator[Row]]:
    """The format of an entry, and its rows one at a time; what cannot be read is a row too, with its problem.

    `salad prepare`, `salad data inspect`, `salad divergence` and `salad retention` read speech by this alone. Raises
    SaladError where nothing known lies there.
    """
    if entry.path is None:
        return "hub", read_arrow(hub_files(entry.hub, entry.subset, entry.split), entry)
    found, files = find_files(entry.path, entry.format, entry.split, (entry.audio_field, entry.text_field))
    if entry.format == "auto" and entry.path.is_dir() and _several(found, files):
        names = ", ".join(file.name for file in files[:4]) + (" ..." if len(files) > 4 else "")
        kind = "manifests" if found == "nemo" else "tables"
        raise SaladError(f"corpus: {entry.path} holds several {kind} ({names}); give the path of one, or a pattern")
    return found, READERS[found](files, entry)


def _several(found: str, files: list[Path]) -> bool:
    """Whether there are several manifests, or a folder holds several tables that are not the parts of one: Common
    Voice keeps its splits so, beside what its listeners rejected."""
    if found == "nemo":
        return len(files) > 1
    names = {(file.parent, re.sub(r"\d+", "", file.name)) for file in files}
    return found == "table" and len({folder for folder, _ in names}) < len(names)
