"""Folders in parts of at most so many MiB, for a machine that no network reaches; whole again there, hashes checked.

    python scripts/gpu/bundle.py pack bundles runs/reproduce-long=runs/reproduce-long cache=$HOME/.cache/salad
    python3 scripts/gpu/bundle.py unpack bundles here

`pack OUT NAME=FOLDER ...` writes OUT/part-000, ... and OUT/manifest.json. `--only PATTERN` (again and again) takes only
the files that fit one, `--without PATTERN` leaves some out. `unpack IN DEST` says which parts are still missing. Needs
Python alone. Same folders, same bytes.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

BLOCK = 2**20


class Parts(io.RawIOBase):
    """A stream written to OUT/part-000, part-001, ... of `limit` bytes each, with the hash of each."""

    def __init__(self, out: Path, limit: int) -> None:
        self.out, self.limit = out, limit
        self.rows: list[dict[str, str | int]] = []
        self.file: BinaryIO | None = None

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
        view, at = memoryview(data), 0
        while at < len(view):
            if self.file is None:
                self.name, self.hash, self.size = f"part-{len(self.rows):03d}", hashlib.sha256(), 0
                self.file = open(self.out / self.name, "wb")
            piece = view[at : at + self.limit - self.size]
            self.file.write(piece)
            self.hash.update(piece)
            self.size, at = self.size + len(piece), at + len(piece)
            if self.size == self.limit:
                self.end_part()
        return len(view)

    def end_part(self) -> None:
        if self.file is not None:
            self.file.close()
            self.rows.append({"name": self.name, "sha256": self.hash.hexdigest(), "bytes": self.size})
            self.file = None


def pack(
    out: Path, folders: dict[str, Path], limit: int, only: Sequence[str] = (), without: Sequence[str] = ()
) -> dict[str, object]:
    """Write the parts and the manifest; returns the manifest."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("part-*"):
        old.unlink()
    parts, num_files = Parts(out, limit), 0
    with tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT, dereference=True) as tar:
        for name, folder in sorted(folders.items()):
            for path in files_of(folder, only, without):
                info = tar.gettarinfo(path, arcname=f"{name}/{path.relative_to(folder).as_posix()}")
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.mtime = 0
                with open(path, "rb") as file:
                    tar.addfile(info, file)
                num_files += 1
    parts.end_part()
    manifest = {"parts": parts.rows, "files": num_files, "bytes": sum(int(row["bytes"]) for row in parts.rows)}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def files_of(folder: Path, only: Sequence[str], without: Sequence[str]) -> Iterator[Path]:
    if not folder.is_dir():
        raise SystemExit(f"{folder}: is no folder; correct NAME=FOLDER")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        wanted = not only or any(fnmatch.fnmatch(name, pattern) for pattern in only)
        if path.is_file() and wanted and not any(fnmatch.fnmatch(name, pattern) for pattern in without):
            yield path


class Joined(io.RawIOBase):
    """The parts as one stream; SystemExit where one's hash is not the manifest's."""

    def __init__(self, folder: Path, rows: list[dict[str, str]]) -> None:
        self.folder, self.left = folder, list(rows)
        self.file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        while True:
            if self.file is None:
                if not self.left:
                    return 0
                row = self.left.pop(0)
                self.file = open(self.folder / row["name"], "rb")
                if hashlib.file_digest(self.file, "sha256").hexdigest() != row["sha256"]:
                    raise SystemExit(f"{self.folder / row['name']}: damaged; carry it again")
                self.file.seek(0)
            number = self.file.readinto(buffer)
            if number:
                return number
            self.file.close()
            self.file = None


def unpack(folder: Path, dest: Path) -> int:
    """Extract all files into `dest`; returns how many. Raises SystemExit while parts are missing or damaged."""
    manifest = json.loads((folder / "manifest.json").read_text())
    missing = [row["name"] for row in manifest["parts"] if not (folder / row["name"]).is_file()]
    if missing:
        raise SystemExit(f"{len(missing)} parts are missing: {', '.join(missing)}")
    dest.mkdir(parents=True, exist_ok=True)
    number = 0
    with tarfile.open(fileobj=io.BufferedReader(Joined(folder, manifest["parts"]), BLOCK), mode="r|") as tar:
        for member in tar:
            path = dest / member.name  # by hand: Python's own filters came with 3.11.4
            source = tar.extractfile(member) if member.isfile() else None
            if source is None or not path.resolve().is_relative_to(dest.resolve()):
                raise SystemExit(f"{member.name}: expected a plain file under {dest}; bundles hold nothing else")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(source, file)
            path.chmod(member.mode & 0o755 | 0o600)
            number += 1
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("out", type=Path)
    packing.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    packing.add_argument("--mib", type=int, default=60)
    packing.add_argument("--only", action="append", default=[], metavar="PATTERN")
    packing.add_argument("--without", action="append", default=[], metavar="PATTERN")
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("dest", type=Path)
    given = parser.parse_args(arguments)
    if given.command == "pack":
        folders = {name: Path(os.path.expanduser(path)) for name, _, path in (f.partition("=") for f in given.folders)}
        manifest = pack(given.out, folders, given.mib * 2**20, given.only, given.without)
        print(f"{manifest['files']} files, {manifest['bytes']:,} bytes in {len(manifest['parts'])} parts")  # type: ignore[arg-type]
    else:
        print(f"{unpack(given.folder, given.dest)} files", file=sys.stdout)


if __name__ == "__main__":
    main()
