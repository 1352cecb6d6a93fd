"""GGUF -> plain Hugging Face folder (config.json, model.safetensors in float32, tokenizer), once, cached."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path

from salad.assets.registry import ASSETS
from salad.assets.store import asset_folder, building, cache_dir, fingerprint, get, local_folder
from salad.progress import progress
from salad.types import SaladError

CONVERTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
# Written by from_pretrained for the GGUF reader; a plain Llama takes none of them.
NOT_OF_LLAMA = ("quantization_config", "_name_or_path", "architectures", "dtype", "transformers_version")


def llm_folder(name_or_path: str | Path) -> Path:
    """Hugging Face folder of a causal LLM: `AutoModelForCausalLM.from_pretrained` reads it without a network.

    Takes a known asset of kind "llm", a local Hugging Face folder (returned as it is), or a local folder with one GGUF
    file of Llama's kind. A GGUF is converted once; the result is cached beside the assets.
    """
    folder = get(name_or_path, kind="llm")
    asset = ASSETS.get(str(name_or_path))
    if (folder / "config.json").is_file():
        return folder
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) != 1:
        raise SaladError(
            f"llm: {folder} holds no config.json and {len(ggufs)} GGUF files, expected a Hugging Face folder or "
            "exactly one GGUF file; correct the path"
        )
    if asset is not None:
        converted = asset_folder(asset).with_name(f"{asset_folder(asset).name}-hf")
    else:
        converted = cache_dir() / "assets" / f"local-{fingerprint(local_folder(folder))[:12]}-hf"

    def is_ready() -> bool:
        return all((converted / name).is_file() for name in CONVERTED)

    if not is_ready():
        with building(converted, is_ready) as scratch:
            if scratch is not None:
                _convert(folder, ggufs[0].name, scratch / "files")
    return converted


def _convert(folder: Path, gguf_file: str, into: Path) -> None:
    """Write the Hugging Face folder `into`, reload it, and compare its logits with those of the GGUF."""
    if find_spec("gguf") is None:
        raise SaladError(
            "llm: a GGUF file needs the package gguf; run `pip install gguf`, or give a Hugging Face folder"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with progress(f"convert {gguf_file}", total=4, unit="steps") as bar, _without_bars():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
            bar.advance(note="tokenizer read")
            with redirect_stderr(io.StringIO()):  # the reader of GGUF draws a bar that no setting turns off
                loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.float32).eval()
        except (ValueError, KeyError, OSError, IndexError, NotImplementedError) as error:
            raise SaladError(
                f"llm: {folder / gguf_file} cannot be read as GGUF ({error}); get the file again"
            ) from error
        bar.advance(note="weights read")
        if loaded.config.model_type != "llama":
            raise SaladError(
                f"llm: {folder / gguf_file} is a {loaded.config.model_type!r} model, expected 'llama'; give the "
                "folder of the Hugging Face release instead"
            )
        # What from_pretrained returns here counts as quantized and refuses save_pretrained: move its weights over.
        values = {key: value for key, value in loaded.config.to_dict().items() if key not in NOT_OF_LLAMA}
        with torch.device("meta"):  # the weights come from the file, so none are drawn
            plain = LlamaForCausalLM(LlamaConfig(**values))
        plain.load_state_dict(loaded.state_dict(), assign=True)
        plain.tie_weights()
        plain.save_pretrained(into)
        tokenizer.save_pretrained(into)
        bar.advance(note="saved")
        reloaded = AutoModelForCausalLM.from_pretrained(into, dtype=torch.float32, local_files_only=True).eval()
        probe = torch.arange(16)[None] * 97 % loaded.config.vocab_size
        with torch.no_grad():
            same = torch.equal(loaded(probe).logits, reloaded(probe).logits)
        if not same:
            raise SaladError(
                f"llm: {gguf_file} changed in conversion (logits differ from those of the GGUF); this release of "
                "transformers reads it otherwise: use another, or give a Hugging Face folder"
            )
        bar.advance(note="checked")


@contextmanager
def _without_bars() -> Iterator[None]:
    """The bars and warnings of transformers are off: ours counts the steps. All is put back afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
