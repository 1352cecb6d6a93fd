"""Ears apart from their LLM: an adapter's own weights, and the folder of the whole model made of both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad.assets.gguf import llm_folder
from salad.assets.hub import BUILT_IN, at_commit, split_setting
from salad.assets.registry import ASSETS
from salad.assets.store import asset_folder, building, cache_dir, fingerprint, get
from salad.files import read_json, sha256_json, write_json
from salad.types import SaladError

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter.safetensors"
EARS_FILES = (ADAPTER, "config.json", "processor_config.json", "recipe.json")
MADE_OF = "made-of.json"


def is_ears(folder: Path) -> bool:
    """Whether a folder holds ears without their LLM."""
    return all((folder / name).is_file() for name in EARS_FILES)


def model_folder(name_or_path: str | Path) -> Path:
    """Folder of a model: as it is, or of ears apart from their LLM, by name or folder, the two joined once and cached.

    What `SaladForConditionalGeneration.from_pretrained` reads. Raises SaladError for ears of an LLM of another shape.
    """
    asset = ASSETS.get(str(name_or_path))
    folder = Path(name_or_path).expanduser() if asset is None else get(asset.name)
    if not is_ears(folder):
        return folder
    if asset is None:
        joined = cache_dir() / "assets" / f"ears-{fingerprint(folder)[:12]}-model"
    else:
        joined = asset_folder(asset).with_name(f"{asset_folder(asset).name}-model")
    llm = read_json(folder / "recipe.json")["assets"]["llm"]
    wanted = sha256_json([fingerprint(name_or_path), fingerprint(llm)])

    def is_ready() -> bool:
        made = joined / MADE_OF
        return made.is_file() and read_json(made) == wanted

    if not is_ready():
        with building(joined, is_ready) as scratch:
            if scratch is not None:
                _join(folder, llm_folder(llm), scratch / "files", wanted)
    return joined


def recipe_behind(model: str | Path) -> dict[str, Any] | None:
    """What of its recipe a model was made by: as its own config.json tells (see `origin_of`); of an older model the
    recipe in its folder, or RUN/recipe.json beside RUN/stage2/model. None where there is neither.
    """
    folder = model_folder(model).absolute()
    own = folder / "config.json"
    if own.is_file() and (origin := read_json(own).get("origin")):
        return dict(origin)
    found = (path for path in (folder / "recipe.json", folder.parent.parent / "recipe.json") if path.is_file())
    path = next(found, None)
    return None if path is None else read_json(path)


def origin_of(recipe: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a saved model tells of its recipe, by the recipe's own names: seed, text LLM, encoder, interleaving, voices.

    A model of the hub is named with its commit, for what the hub calls main moves on, and a local one by its absolute
    path. All goes into the model's config.json, so that a folder may be moved away from its run.
    """
    if recipe is None:
        return None
    voices = {
        part: {"voices": recipe[part]["voices"]}
        for part in ("corpus", "synthesize")
        if "voices" in recipe.get(part, {})
    }
    given = {name: recipe.get("assets", {}).get(name) for name in ("llm", "encoder")}
    names = {name: _lasting(value) if isinstance(value, str) else value for name, value in given.items()}
    return {"seed": recipe.get("seed", 0), "assets": names, "sequence": recipe.get("sequence", {}), **voices}


def _lasting(name: str) -> str:
    """A model's name that means the same later and from another folder."""
    base, setting = split_setting(name)
    if base in ASSETS or base in BUILT_IN or not (path := Path(base).expanduser()).exists():
        return at_commit(name)
    return f"{path.absolute()}:{setting}" if setting else str(path.absolute())


def _join(ears: Path, llm: Path, into: Path, made_of: str) -> None:
    from safetensors.torch import load_file, save_file

    wanted, found = read_json(ears / "config.json")["llm_config"], read_json(llm / "config.json")
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if wanted.get(key) != found.get(key):
            raise SaladError(
                f"ears: {ears} were trained with an LLM whose {key} is {wanted.get(key)}, but {llm} has "
                f"{found.get(key)}; name the LLM of their training as assets.llm in their recipe.json"
            )
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(llm.glob("*.safetensors")):
        weights |= {f"llm.{key}": value.float() for key, value in load_file(path).items()}
    for key, value in load_file(ears / ADAPTER).items():
        weights[key] = value.float() if value.is_floating_point() else value
    save_file(weights, into / "model.safetensors", {"format": "pt"})
    for path in llm.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, into / path.name)
    for path in ears.iterdir():  # theirs go before the LLM's: a config.json of the whole model
        if path.is_file() and path.name != ADAPTER:
            shutil.copyfile(path, into / path.name)
    write_json(into / MADE_OF, made_of)
