"""Rows of a data set: JSON lines, JSON, Parquet, or the hub's own Parquet copy of any data set."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from salad.types import SaladError

__all__ = ["hub_rows", "read_rows"]

PARQUET_COPY = "refs/convert/parquet"  # the branch that the hub keeps for each data set


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl, .json (a list) or .parquet file. Raises SaladError where it cannot be read, with the line."""
    if not path.is_file():
        raise SaladError(f"tasks: {path} is no file; correct the path")
    if path.suffix == ".parquet":
        return _parquet(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SaladError(f"tasks: {path} is not UTF-8 text ({error}); save it as UTF-8") from error
    rows: list[Any] = []
    lines = [(1, text)] if path.suffix == ".json" else enumerate(text.split("\n"), start=1)
    for number, line in lines:
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise SaladError(f"tasks: {path}, line {number} is no JSON ({error}); correct it") from error
    if path.suffix == ".json":
        rows = rows[0] if rows and isinstance(rows[0], list) else rows
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise SaladError(f"tasks: {path}, row {number} is {type(row).__name__}, expected an object of fields")
    return rows


def hub_rows(name: str, config: str, split: str) -> list[dict[str, Any]]:
    """One split (`*`: all of them) of a hub data set, from its Parquet copy. Uses the network."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        files = HfApi().list_repo_files(name, repo_type="dataset", revision=PARQUET_COPY)
        wanted = sorted(f for f in files if fnmatch(f, f"{config}/{split}/*.parquet"))
        if not wanted:
            raise SaladError(f"tasks: {name} has no Parquet files of {config}/{split}; give a local file")
        paths = [hf_hub_download(name, f, repo_type="dataset", revision=PARQUET_COPY) for f in wanted]
    except (HfHubHTTPError, RepositoryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise SaladError(f"tasks: {name} cannot be fetched from the hub ({error}); give a local file") from error
    return [row for path in paths for row in _parquet(Path(path))]


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise SaladError("tasks: a Parquet file needs pyarrow; run `pip install 'salad-speech[data]'`") from None
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise SaladError(f"tasks: {path} cannot be read as Parquet ({error})") from error
    keep = [name for name in table.column_names if name != "audio"]  # sound is read where it is wanted
    return table.select(keep).to_pylist()
