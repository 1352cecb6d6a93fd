"""Arrow and parquet by column: batches of a stream or file of Arrow, and single cells that hold a recording."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salad.types import SaladError, first_line_of

FILE_MARK = b"ARROW1"  # of an Arrow file; a stream begins with its first message
END_BYTES = 8  # of the mark that a writer puts behind the last batch of a stream


class StreamEnd(SaladError):
    """A stream of Arrow ends without its end mark: its rows are whole, and there may have been more."""


def need_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SaladError("parquet and arrow files need pyarrow; pip install 'salad-speech[data]'") from None
    return pyarrow


def is_bytes(kind: Any) -> bool:
    """Whether a type of pyarrow's is of bytes, as the writers of today name it too (polars: large)."""
    return str(kind) in ("binary", "large_binary", "binary_view")


def is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def open_arrow(path: str | Path) -> tuple[Any, Iterator[Any]]:
    """The schema of an Arrow stream (as `datasets` writes) or Arrow file, and its batches, mapped into memory.

    Raises pyarrow's errors where it cannot be read. A stream that ends between two batches may be whole, as the format
    lets a writer leave its end mark out, or cut off: StreamEnd after its last batch says so.
    """
    pyarrow = need_pyarrow()
    mapped = pyarrow.memory_map(str(path))
    if mapped.read(len(FILE_MARK)) == FILE_MARK:
        file = pyarrow.ipc.open_file(mapped)
        return file.schema, (file.get_batch(n) for n in range(file.num_record_batches))
    mapped.seek(0)
    stream = pyarrow.ipc.open_stream(mapped)
    return stream.schema, _batches(stream, mapped, path)


def _batches(stream: Any, mapped: Any, path: str | Path) -> Iterator[Any]:
    end, rows = mapped.tell(), 0
    for batch in stream:
        yield batch
        end, rows = mapped.tell(), rows + batch.num_rows
    if mapped.tell() - end < END_BYTES:
        raise StreamEnd(
            f"{path}: has no end mark behind its {rows} rows, so that it is cut off, or its writer was stopped; copy "
            "it again, or write it again if they are not all"
        )


def read_cell(path: str, part: tuple[Any, ...], name: str) -> bytes:
    """The bytes in a cell: ("parquet", row_group, row, column) or ("arrow", row, column). `name` names it in errors.

    Raises SaladError where it holds none, or its file is damaged.
    """
    kind, *where, index, column = part
    pyarrow = need_pyarrow()
    try:
        whole = _parquet_group(path, *where, column) if kind == "parquet" else _arrow_column(path, column)
        value = whole[index].as_py()
    except (pyarrow.ArrowException, OSError, IndexError) as error:
        why = f"audio: {name} cannot be read ({first_line_of(error)}); is its file damaged? Copy it again"
        raise SaladError(why) from None
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise SaladError(f"audio: {name} holds no bytes; re-export the dataset with its audio inside")
    return data


@functools.lru_cache(maxsize=1)  # rows come in order, so that one row group is open at a time
def _parquet_group(path: str, group: int, column: str) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path).read_row_group(group, columns=[column]).column(column)


@functools.lru_cache(maxsize=4)
def _arrow_column(path: str, column: str) -> Any:
    """A column of an Arrow file of `datasets`, mapped into memory, not read; of one that is cut off, what is whole."""
    pyarrow = need_pyarrow()
    schema, batches = open_arrow(path)
    parts = []
    try:
        for batch in batches:
            parts.append(batch.column(column))
    except (pyarrow.ArrowException, OSError, StreamEnd):
        pass  # the reader of its rows has said so
    return pyarrow.chunked_array(parts, schema.field(column).type)
