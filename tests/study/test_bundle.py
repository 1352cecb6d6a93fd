"""Bundles for a machine without a network: what was packed is whole again, and nothing damaged gets in."""

import hashlib
import importlib.util
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

spec = importlib.util.spec_from_file_location("bundle", Path(__file__).parents[2] / "scripts/gpu/bundle.py")
bundle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bundle)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 40_000), min_size=1, max_size=6), limit=st.integers(512, 50_000))
def test_parts_are_small_and_whole_again(tmp_path_factory, sizes, limit):
    folder = tmp_path_factory.mktemp("bundles")
    for n, size in enumerate(sizes):
        path = folder / "run" / f"part {n % 2}" / f"file-{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes((n + i) % 251 for i in range(size)))
    manifest = bundle.pack(folder / "out", {"runs/mine": folder / "run"}, limit)
    assert all(p.stat().st_size <= limit for p in (folder / "out").glob("part-*"))
    assert bundle.unpack(folder / "out", folder / "back") == len(sizes) == manifest["files"]
    assert tree(folder / "back" / "runs" / "mine") == tree(folder / "run")
    first = tree(folder / "out")
    bundle.pack(folder / "out", {"runs/mine": folder / "run"}, limit)
    assert tree(folder / "out") == first


def test_missing_and_damaged_parts_are_named_and_patterns_choose(tmp_path):
    for name in ("a/keep.jsonl", "a/model.safetensors", "b/keep.flac"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(b"x" * 2000)
    bundle.main(["pack", str(tmp_path / "out"), f"run={tmp_path / 'run'}", "--mib", "1", "--without", "*.safetensors"])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["files"] == 2
    bundle.pack(tmp_path / "out", {"run": tmp_path / "run"}, 4096, only=["a/*"])
    bundle.main(["unpack", str(tmp_path / "out"), str(tmp_path / "back")])
    assert set(tree(tmp_path / "back")) == {"run/a/keep.jsonl", "run/a/model.safetensors"}
    part = tmp_path / "out" / "part-001"
    data = part.read_bytes()
    part.write_bytes(b"y" + data[1:])
    with pytest.raises(SystemExit, match="part-001: damaged"):
        bundle.unpack(tmp_path / "out", tmp_path / "again")
    part.unlink()
    with pytest.raises(SystemExit, match="1 parts are missing: part-001"):
        bundle.unpack(tmp_path / "out", tmp_path / "again")
    with pytest.raises(SystemExit, match="is no folder"):
        bundle.pack(tmp_path / "out", {"run": tmp_path / "nowhere"}, 4096)


def test_links_are_packed_as_what_they_show(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_bytes(b"sound")
    (tmp_path / "run" / "b").symlink_to("a")
    (tmp_path / "run" / "c").hardlink_to(tmp_path / "run" / "a")
    bundle.pack(tmp_path / "out", {"run": tmp_path / "run"}, 4096)
    bundle.unpack(tmp_path / "out", tmp_path / "back")
    assert tree(tmp_path / "back" / "run") == dict.fromkeys("abc", b"sound")
    assert not (tmp_path / "back" / "run" / "b").is_symlink()


@pytest.mark.parametrize(
    "name, kind", [("../outside", tarfile.REGTYPE), ("/outside", tarfile.REGTYPE), ("in", tarfile.SYMTYPE)]
)
def test_nothing_is_written_outside(tmp_path, name, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(member)
    part = stream.getvalue()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000").write_bytes(part)
    row = {"name": "part-000", "bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"parts": [row], "files": 1}))
    with pytest.raises(SystemExit, match="expected a plain file under"):
        bundle.unpack(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "outside").exists()
