"""A recipe's speech entries, opened: which reader reads which format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from salad.config import Speech
from salad.data.readers.arrow import hub_files, read_arrow, read_parquet
from salad.data.readers.detect import find_files
from salad.data.readers.folder import read_folder, read_tables
from salad.data.readers.manifests import read_lhotse_rows, read_nemo, read_shar
from salad.data.readers.rows import Row
from salad.data.readers.webdataset import read_webdataset

__all__ = ["READERS", "open_source"]

READERS: dict[str, Callable[[list[Path], Speech], Iterator[Row]]] = {
    "shar": read_shar,
    "lhotse": read_lhotse_rows,
    "webdataset": read_webdataset,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "nemo": read_nemo,
    "table": read_tables,
    "folder": read_folder,
}


def open_source(entry: Speech) -> tuple[str, Iterator[Row]]:
    """The format of an entry, and its rows one at a time. Raises SaladError where nothing known lies there."""
    if entry.path is None:
        return "hub", read_arrow(hub_files(entry.hub, entry.subset, entry.split), entry)
    found, files = find_files(entry.path, entry.format, entry.split, (entry.audio_field, entry.text_field))
    return found, READERS[found](files, entry)
