"""Rows of a data set: JSON lines, JSON, Parquet, or the hub's own Parquet copy of any data set."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from salad.data.readers.arrow import table_rows
from salad.data.readers.columns import need_pyarrow
from salad.files import JsonObject, read_jsonl
from salad.types import SaladError

PARQUET_COPY = "refs/convert/parquet"  # the branch that the hub keeps for each data set


def read_rows(path: Path) -> list[JsonObject]:
    """Rows of a .jsonl, .json (a list) or .parquet file. Raises SaladError where it cannot be read, with the line."""
    if not path.is_file():
        raise SaladError(f"tasks: {path} is no file; correct the path")
    if path.suffix == ".parquet":
        return _parquet(path)
    try:
        return read_jsonl(path)
    except SaladError as error:
        raise SaladError(f"tasks: {error}") from None


def hub_rows(name: str, config: str, split: str) -> list[JsonObject]:
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


def _parquet(path: Path) -> list[JsonObject]:
    pyarrow = need_pyarrow()
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise SaladError(f"tasks: {path} cannot be read as Parquet ({error}); is it cut off? Copy it again") from error
    keep = [name for name in table.column_names if name != "audio"]  # sound is read where it is wanted
    table = table.select(keep)
    coarse = {field.name: field.type for field in table.schema if _holds_float32(field.type)}
    rows = (row for batch in table.to_batches() for row in table_rows(batch))
    return [{**row, **{name: _short(row[name], kind) for name, kind in coarse.items()}} for row in rows]


def _holds_float32(kind: Any) -> bool:
    """Whether an Arrow type is float32, or a list or a struct with one in it."""
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return str(kind) == "float" or any(map(_holds_float32, inner))


def _short(value: Any, kind: Any) -> Any:
    """The value with each float32 as it was written: 0.1, not 0.10000000149011612."""
    if isinstance(value, dict):
        return {name: _short(own, kind.field(name).type) for name, own in value.items()}
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_short(own, kind.value_type) for own in value]
    return float(str(np.float32(value))) if str(kind) == "float" and value is not None else value
