"""Models of the Hugging Face hub by name, for a recipe that names one; and the setting behind a name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from salad.types import SaladError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
# Never pickled weights; the code of an exported model is copied when that is saved anew, and not run.
WANTED = ("*.safetensors", "*.json", "*.txt", "*.jinja", "model.bin", "*.model", "*_salad.py")
BUILT_IN = ("log-mel",)  # an encoder that needs no files


def split_setting(name: str) -> tuple[str, str]:
    """("kyutai/mimi", "codes8") of "kyutai/mimi:codes8"; the setting is "" where there is none.

    A folder whose own name holds a colon is taken as it is.
    """
    base, colon, setting = name.rpartition(":")
    if not colon or Path(name).expanduser().is_dir() or "/" in setting or "\\" in setting:
        return name, ""
    return base, setting


def is_hub_name(name: str) -> bool:
    """OWNER/NAME, or OWNER/NAME@REVISION; a folder of that path goes first."""
    return HUB_NAME.fullmatch(name) is not None and not Path(name).is_dir()


def hub_folder(name: str, *, download: bool = True) -> Path:
    """Folder of a hub model, OWNER/NAME or OWNER/NAME@REVISION: configuration, tokenizer, chat template, safetensors.

    First `$SALAD_ASSETS_DIR/OWNER/NAME` (or `OWNER/NAME@REVISION`: a folder without it may hold another one), then the
    hub's own cache, then (where `download`, and unless `$SALAD_ASSETS_SOURCE` is `local`) the hub.
    """
    repo, _, revision = name.partition("@")
    local = os.environ.get("SALAD_ASSETS_DIR")
    if local and (folder := Path(local).expanduser() / name).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    offline = not download or os.environ.get("SALAD_ASSETS_SOURCE") == "local"
    try:
        wanted = list(WANTED)
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=wanted, local_files_only=offline))
    except Exception as error:  # the hub client raises its own, httpx's and the system's errors
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise SaladError(
            f"asset: {name} cannot be had from the hub ({first}); check the name and the connection, give the path of "
            f"a local folder instead, or set SALAD_ASSETS_DIR to a folder that holds {name}/"
        ) from error


def hub_revision(folder: Path) -> str:
    """The commit that a folder of the hub's cache holds; "" for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else ""


def at_commit(name: str) -> str:
    """The name of a hub model with the commit that its cache holds, so that it stays the same model; any other as it
    is."""
    base, setting = split_setting(name)
    if not is_hub_name(base):
        return name
    try:
        commit = hub_revision(hub_folder(base, download=False))
    except SaladError:
        return name
    pinned = f"{base.partition('@')[0]}@{commit}" if commit else base
    return f"{pinned}:{setting}" if setting else pinned


def push_folder(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload a folder to the hub as OWNER/NAME, which is made (private, unless `public`) where it is not there yet.

    The hub's client finds the user's token as it always does (`hf auth login`, `HF_TOKEN`). Returns the address of the
    commit. Raises SaladError with the hub's first words where it does not take it.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(name, private=not public, exist_ok=True)
        made = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a SALAD model")
        return str(made.commit_url)
    except Exception as error:  # as above
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise SaladError(
            f"--push: the hub does not take {name} ({first}); log in with `hf auth login`, check the name, or export "
            "to a folder and upload it yourself"
        ) from error
