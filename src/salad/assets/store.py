"""The cache of checked assets: `get` (fetch once), `verify` (hash again), `fingerprint`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

from salad.assets.hub import hub_folder, is_hub_name
from salad.assets.pins import Asset, Kind
from salad.assets.registry import ASSETS
from salad.assets.sources import collect
from salad.files import sha256_file, sha256_json
from salad.locks import held
from salad.progress import progress
from salad.types import SaladError


def cache_dir() -> Path:
    """`$SALAD_CACHE`, or `salad` in `$XDG_CACHE_HOME` or ~/.cache."""
    if chosen := os.environ.get("SALAD_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser().absolute() / "salad"


def get(name_or_path: str | Path, *, kind: Kind | None = None) -> Path:
    """Folder of a known asset, fetched and checked where it is absent; a path to a folder comes back as it is.

    A known name goes before a folder of that name (write `./kokoro` for the folder), and a folder before a model of
    that name on the hub (OWNER/NAME; unpinned, fetched by the hub's client). `kind` refuses an asset of another kind;
    it says nothing about a user's own folder.
    """
    asset = ASSETS.get(str(name_or_path))
    if asset is None:
        return local_folder(name_or_path)
    if kind is not None and asset.kind != kind:
        fitting = ", ".join(sorted(other.name for other in ASSETS.values() if other.kind == kind))
        raise SaladError(f"asset {asset.name}: is of kind {asset.kind!r}, expected {kind!r}; use one of {fitting}")
    folder = asset_folder(asset)
    if not _is_whole(asset, folder):
        with building(folder, lambda: _is_whole(asset, folder)) as scratch:
            if scratch is not None:
                downloads = scratch / "downloads"
                downloads.mkdir()
                collect(asset, scratch / "files", downloads)
    return folder


def is_cached(name: str) -> bool:
    """Whether `get(name)` would return at once (names and sizes are looked at, hashes only by `verify`)."""
    asset = asset_named(name)
    return _is_whole(asset, asset_folder(asset))


def verify(name: str) -> list[tuple[str, str]]:
    """(file, "ok" | "missing" | "wrong hash: ...") for each file of a known asset; reads every byte again."""
    asset = asset_named(name)
    folder, rows = asset_folder(asset), []
    with progress(f"verify {name}", total=max(1, asset.num_bytes // 1_000_000), unit="MB") as bar:
        for file in asset.files:
            path = folder / file.name
            if not path.is_file():
                rows.append((file.name, "missing"))
            elif (got := sha256_file(path)) == file.sha256:
                rows.append((file.name, "ok"))
            else:
                mend = f"delete it and run `salad assets get {name}`"
                rows.append((file.name, f"wrong hash: {path} has sha256 {got}, expected {file.sha256}; {mend}"))
            bar.advance(file.num_bytes // 1_000_000)
    return rows


def fingerprint(name_or_path: str | Path) -> str:
    """sha256 over the pins of a known asset, or over the names and bytes of a local folder's files.

    Hidden files are left out, so a `.cache` beside the weights does not change it.
    """
    asset = ASSETS.get(str(name_or_path))
    if asset is not None:
        return asset.fingerprint
    folder = local_folder(name_or_path)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]  # download notes, .git
    rows = []
    with progress(f"fingerprint {folder.name}", total=len(names), unit="files") as bar:
        for name in names:
            stat = (folder / name).stat()
            path = (folder / name).absolute()
            rows.append([name.as_posix(), sha256_once(path, (stat.st_size, stat.st_mtime_ns))])
            bar.advance()
    return sha256_json(rows)


@lru_cache(maxsize=4096)
def sha256_once(path: Path, stamp: tuple[int, ...]) -> str:
    """Large weights are asked for by several stages of one run: hash them once while size and time (`stamp`) stay."""
    return sha256_file(path)


def asset_named(name: str) -> Asset:
    if name not in ASSETS:
        raise SaladError(f"asset: got {name!r}, expected one of {', '.join(sorted(ASSETS))}; use one of these names")
    return ASSETS[name]


def local_folder(name_or_path: str | Path) -> Path:
    folder = Path(name_or_path).expanduser()
    if is_hub_name(str(name_or_path)):
        return hub_folder(str(name_or_path))
    if not str(name_or_path) or not folder.is_dir():
        raise SaladError(
            f"asset: got {str(name_or_path)!r}, expected one of {', '.join(sorted(ASSETS))}, or the path of a local "
            "folder that holds the files, or OWNER/NAME of a model on the hub; correct the name or the path"
        )
    return folder


def asset_folder(asset: Asset) -> Path:
    return cache_dir() / "assets" / f"{asset.name}-{asset.fingerprint[:12]}"


def _is_whole(asset: Asset, folder: Path) -> bool:
    """All files there, in their sizes. A file that somebody deleted or cut is fetched again."""
    try:
        return all((folder / file.name).stat().st_size == file.num_bytes for file in asset.files)
    except OSError:
        return False


@contextmanager
def building(folder: Path, is_ready: Callable[[], bool]) -> Iterator[Path | None]:
    """Build `folder` aside: yields scratch space whose subfolder `files` becomes `folder` at the end, in one rename.

    Yields None where another process finished it while we waited for the lock. An error leaves nothing behind.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder.parent).close()
    except OSError as error:
        raise SaladError(
            f"cache: {folder.parent} cannot be written ({error}); set SALAD_CACHE to a folder of yours"
        ) from error
    with ExitStack() as stack:
        try:
            alone = stack.enter_context(held(folder.parent / f".{folder.name}.lock")) == "ours"
        except OSError:  # another user's lock file
            alone = False  # as where the disk has no locks: the last rename wins, which is as correct
        if is_ready():
            yield None
            return
        prefix = f".{folder.name}.building-"
        if alone:  # whoever left these was killed: nobody else builds while we hold the lock
            for stale in folder.parent.glob(f"{prefix}*"):
                shutil.rmtree(stale, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            (scratch / "files").mkdir()
            yield scratch
            if folder.exists():
                folder.rename(scratch / "replaced")  # an incomplete one
            try:
                (scratch / "files").rename(folder)
            except OSError:
                if not is_ready():  # without a lock another process may have been first: its files are as good
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
