"""Files that are whole or absent: atomic writes, the one reader of JSON lines, hashes, and names of files for ids."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import re
import tempfile
import unicodedata
import zlib
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from salad.types import SaladError

if TYPE_CHECKING:
    import numpy as np

JsonObject = dict[str, Any]  # of a file or a request that others made: what it holds is checked where it is read
PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\0": lzma.open, b"BZh": bz2.open}
DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
LONGEST_NAME = 200  # bytes; file systems allow 255, and notes beside a file add an ending
HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # lone surrogates that stand for no byte
BETWEEN = re.compile(r"[\s,]*")


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to, which is then renamed: a reader sees the old file or the new one.

    Nothing lies there yet, and an error leaves nothing behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.unlink(missing_ok=True)  # of a process of this number that was killed
        yield aside
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Written aside, flushed to disk, renamed: a reader sees the old file or the new one, never a part."""
    with written_aside(path) as aside, open(aside, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def writable_folder(path: Path, field: str) -> None:
    """Make the folder that results will be written to. Raises SaladError that names `field` where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise SaladError(
            f"{field}: {path} is no folder that can be written to ({error.strerror}); name another one"
        ) from None


def writable_file(path: Path, field: str) -> None:
    """Make the folder of a file that will be written. Raises SaladError that names `field` where that cannot be."""
    if path.is_dir():
        raise SaladError(f"{field}: {path} is a folder; name a file in it")
    writable_folder(path.parent, field)


def write_text(path: str | Path, text: str) -> None:
    """Atomic: a reader sees the old file or the new one, never a part."""
    with whole_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))  # half of a letter as JSON spells it


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """One line after the other, atomic; they are not held together."""
    with whole_file(path) as file:
        file.writelines(f"{line}\n".encode() for line in lines)


def write_tensors(path: str | Path, arrays: dict[str, np.ndarray], told: dict[str, str] | None = None) -> None:
    """Arrays as one safetensors file, atomic. told: what its header says besides."""
    from safetensors.numpy import save_file

    with written_aside(path) as aside:
        save_file(arrays, aside, told)


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Raises SaladError that names the file where that is no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SaladError(
            f"{path}: is not whole JSON ({error}); is it cut off? Copy it again, or remove it and make it again"
        ) from None


def write_jsonl(path: str | Path, rows: Iterable[JsonObject]) -> None:
    """One object a line, atomic. A name that ends in .gz is packed; the same rows give the same bytes."""
    lines = ((json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace") for row in rows)
    with whole_file(path) as file:
        if Path(path).suffix != ".gz":
            file.writelines(lines)
            return
        with gzip.GzipFile(
            filename="", fileobj=file, mode="wb", mtime=0
        ) as packed:  # its header holds no time, no name
            packed.writelines(lines)


def read_jsonl(path: str | Path) -> list[JsonObject]:
    """Every object of a file of JSON lines. Raises SaladError that names the file, and the line that is none."""
    return [row for _, row in json_objects(path)]


def json_objects(path: str | Path) -> Iterator[tuple[str, JsonObject]]:
    """("line 3", its object) of every line that is not empty; a name in .json may hold one array of objects instead.

    Raises SaladError that names the file, and the line that is no object.
    """
    for where, row in json_lines(path, errors="strict", arrays=Path(path).suffix == ".json"):
        if isinstance(row, SaladError):
            raise row
        if not isinstance(row, dict):
            raise SaladError(f"{path} {where}: expected one JSON object, got {row!r:.60}; correct or remove it")
        yield where, row


def json_lines(path: str | Path, *, errors: str = "surrogateescape", arrays: bool = True) -> Iterator[tuple[str, Any]]:
    """("line 3", its value) for every line that is not empty; with `arrays`, ("item 3", it) of a JSON array.

    A line that is no JSON has for its value a SaladError that names file and line: raise it, or set the line aside.
    Raises SaladError as `read_lines` does, after the lines that are whole.
    """
    lines = read_lines(path, errors=errors)
    first = True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if arrays and first and (line.lstrip().startswith("[") or line.strip() == "{"):  # one value over many lines
            yield from _items(path, "\n".join([line, *lines]).strip())
            return
        first = False
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            what = f"expected one JSON object, got {line.strip()[:60]!r} ({error}); correct or remove it"
            yield f"line {number}", SaladError(f"{path} line {number}: {what}")


def _items(path: str | Path, text: str) -> Iterator[tuple[str, Any]]:
    """The items of a JSON array, or objects that follow each other, each over as many lines as it likes."""
    decode, at, number = json.JSONDecoder().raw_decode, int(text.startswith("[")), 0
    while True:
        at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # every text matches
        if text[at:] == "]" * text.startswith("["):
            return
        try:
            value, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            raise SaladError(
                f"{path}: is not whole JSON after item {number} ({error}); is it cut off? Copy it again"
            ) from None
        number += 1
        yield f"item {number}", value


class AtHand(Sequence[Any]):
    """A sequence whose items are made when they are asked for: `_at(number)` makes one, a slice is a list of them."""

    def __getitem__(self, number: Any) -> Any:
        number = range(len(self))[number]
        return [self._at(one) for one in number] if isinstance(number, range) else self._at(number)

    @abstractmethod
    def _at(self, number: int) -> Any: ...


class Rows(AtHand):
    """Rows of JSON-lines files that `write_jsonl` wrote, read when they are asked for: in memory is where each begins.

    make: what a row becomes, given the file that it lies in (default: the row). `sizes`: rows of each file.
    """

    def __init__(self, paths: Iterable[Path], make: Callable[[dict[str, Any], Path], Any] = lambda row, _: row) -> None:
        self._paths, self._make = [os.fspath(path) for path in paths], make  # a Path takes four times as much
        self._starts, self._first = array("q"), array("q", [0])
        for path in self._paths:
            with open(path, "rb") as file:
                at = 0
                for line in file:
                    if line.strip():
                        self._starts.append(at)
                    at += len(line)
            self._first.append(len(self._starts))

    @property
    def sizes(self) -> list[int]:
        return [b - a for a, b in itertools.pairwise(self._first)]

    def __len__(self) -> int:
        return len(self._starts)

    def _at(self, number: int) -> Any:
        path = self._paths[bisect_right(self._first, number) - 1]
        with open(path, "rb") as file:
            file.seek(self._starts[number])
            return self._of(file.readline(), path)

    def __iter__(self) -> Iterator[Any]:
        for path in self._paths:
            with open(path, "rb") as file:
                yield from (self._of(line, path) for line in file if line.strip())

    def _of(self, line: bytes, path: str) -> Any:
        try:
            return self._make(json.loads(line), Path(path))
        except json.JSONDecodeError as error:
            raise SaladError(f"{path}: a line is no JSON ({error}); run the stage that wrote it again") from None


def read_lines(path: str | Path, *, errors: str = "surrogateescape") -> Iterator[str]:
    """Lines without their ends (LF, CRLF or CR), of a file that may be packed (gzip, xz, bzip2: told from its bytes).

    A byte order mark is left out, and says where a file is UTF-16 (Excel's "Unicode text"); else it is UTF-8, and bytes
    that are not become lone surrogates, or with errors="strict" SaladError. Raises SaladError where the file cannot be
    read, or is cut off, after the lines that are whole.
    """
    number = 0
    try:
        with _unpacked(path) as file:
            lines: Iterable[str] = (line.decode("utf-8", errors) for line in file)
            if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                lines = io.TextIOWrapper(file, "utf-16", newline="\n")
            for number, line in enumerate(lines, 1):
                whole = (line if number > 1 else line.removeprefix("\ufeff")).rstrip("\r\n")
                yield from whole.split("\r") if "\r" in whole else (whole,)  # as Macs of old end lines
    except DAMAGED as error:
        raise SaladError(
            f"{path}: is cut off or damaged in the middle, after {number} lines ({error}); copy it again"
        ) from None
    except UnicodeError as error:
        raise SaladError(f"{path} line {number + 1}: is not UTF-8 text ({error}); save it as UTF-8") from None
    except OSError as error:
        raise SaladError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None


@contextmanager
def _unpacked(path: str | Path) -> Iterator[io.BufferedReader]:
    with open(path, "rb") as raw:
        head = raw.peek(6)
        unpack = next((function for mark, function in PACKED.items() if head.startswith(mark)), None)
        if unpack is None:
            yield raw
            return
        with unpack(raw) as file:
            yield file


def first_bytes(path: str | Path, num_bytes: int) -> bytes:
    """The first bytes of a file, unpacked; of a damaged one, those that can be had."""
    head = b""
    with _unpacked(path) as file:
        try:
            while len(head) < num_bytes and (block := file.read1(num_bytes - len(head))):
                head += block
        except (*DAMAGED, OSError):
            pass
    return head


def file_name(name: str, suffix: str = "") -> str:
    """A name for the file of an id: percent-quoted; where it would be longer than disks allow, cut, with a hash."""
    name = HALF.sub(lambda half: f"\\u{ord(half[0]):x}", name)
    quoted = quote(name, safe=" ", errors="surrogateescape")
    if len(quoted) + len(suffix) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        quoted = f"{re.sub('%[0-9A-F]{0,1}$', '', quoted[:100])}-{digest}"
    return quoted + suffix


def existing(path: str | Path) -> str | Path:
    """The path, or the same with its accents in Unicode's other form (NFC, NFD) where only that is there.

    Names of files made on a Mac may come in NFD, and what names them in NFC, or the reverse.
    """
    if os.path.lexists(path):
        return path
    at = ""
    for part in Path(path).parts:
        forms = (os.path.join(at, form) for form in (part, *(unicodedata.normalize(f, part) for f in ("NFC", "NFD"))))
        found = next((form for form in forms if os.path.lexists(form)), None)
        if found is None:
            return path
        at = found
    return type(path)(at)


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a path stays inside a folder, by name; a link inside it was put there by its owner."""
    base = os.path.abspath(folder)
    return os.path.commonpath([base, os.path.abspath(path)]) == base


def num_bytes(folder: str | Path) -> int:
    """Bytes of the files in a folder that lie there alone (no hard links to files elsewhere); 0 where there is none."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(state.st_size for state in map(os.lstat, files) if state.st_nlink == 1)


def size_of(num: int) -> str:
    """Bytes for people to read: 3.2 GB."""
    power = min(5, (len(str(num)) - 1) // 3)
    return f"{num / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def sha256_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Fingerprint of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def hash64(text: str) -> bytes:
    """Eight bytes that tell texts apart in memory and in indices; of blake2b, which is fast."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()


def number64(text: str) -> int:
    """`hash64` as a number, as indices on disk hold it."""
    return int.from_bytes(hash64(text), "little")


def draw64(text: str) -> int:
    """A random number from 0 to 2**64 that only the text decides (sha256): what is chosen by it stays chosen."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
