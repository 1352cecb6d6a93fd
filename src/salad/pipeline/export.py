"""A trained model as one whole folder that loads by transformers alone: weights, encoder, remote code, card."""

from __future__ import annotations

import errno
import secrets
import shutil
import tempfile
from pathlib import Path

import torch
from torch import nn

from salad import __version__, assets, markdown
from salad.assets.hub import HUB_NAME, push_folder
from salad.evaluation.saved_model import saved_folder
from salad.files import read_json, write_json, write_text
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.model.encoders.inside import EncoderInside, put_inside
from salad.pipeline.model_card import licence_of
from salad.pipeline.remote_code import flat_source
from salad.types import SaladError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODELING, PROCESSING = "modeling_salad", "processing_salad"
MODEL = "SaladForConditionalGeneration"
# What only making ears needs, with packages that hearing does not.
WITHOUT = (
    "Lexicon.of_tokenizer", "Symbols.found_in", "Symbols.of_text", "Symbols.of_words", "Symbols._alone",
    "SaladForConditionalGeneration.from_llm", "Encoder.fingerprint", "Weights.hashes",
)  # fmt: skip
STUBS = {("salad.model.encoders.load", "load_encoder"): "an exported processor's encoder lies in its folder"}


def export_model(source: str | Path, to: str | Path, *, merge_lora: bool = False, dtype: str = "float32") -> Path:
    """A saved model (its folder, or ears by name), its encoder and its code in the new folder `to`.

    merge_lora: LoRA's weights go into those that they change, so that nobody needs peft. dtype: of the LLM; the ears
    stay in float32. Raises SaladError where `to` holds something, or there is no LoRA to merge.
    """
    to = Path(to).expanduser()
    if dtype not in DTYPES:
        raise SaladError(f"--dtype: got {dtype!r}, expected one of {', '.join(DTYPES)}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise SaladError(f"--to: {to} exists and is not empty; name a new folder")
    folder = saved_folder(source)
    model = SaladForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    if merge_lora:
        _merge_lora(model)
    model.llm.to(DTYPES[dtype])
    config = model.config
    config.origin = config.origin or assets.origin_of(assets.recipe_behind(folder))
    processor = SaladProcessor.from_pretrained(folder)
    scratch = to.with_name(f".{to.name}.{secrets.token_hex(4)}.part")  # another export may be under way
    scratch.mkdir(parents=True)
    try:
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
        held = put_inside(processor.encoder, scratch)
        _write_code(scratch, held)
        write_text(scratch / "README.md", _card(folder, to.name, model, held))
        scratch.rename(to)  # over an empty folder, too
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise SaladError(f"--to: {to} was filled while the model was exported; name a new folder") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return to


def export_to_hub(
    source: str | Path, name: str, *, merge_lora: bool = False, dtype: str = "float32", public: bool = False
) -> str:
    """Upload the exported model as OWNER/NAME; nothing stays on this machine. Returns the address of the commit."""
    if HUB_NAME.fullmatch(name) is None or "@" in name:
        raise SaladError(f"--to: got {name!r}, expected OWNER/NAME of a model on the hub, since --push uploads it")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name.rpartition("/")[2]
        return push_folder(export_model(source, folder, merge_lora=merge_lora, dtype=dtype), name, public=public)


def _write_code(folder: Path, held: EncoderInside) -> None:
    """Both files of remote code, and where transformers finds them."""
    for name, text in remote_code().items():
        write_text(folder / name, text)
    config = read_json(folder / "config.json")
    heads = ("AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM")
    config["auto_map"] = {"AutoConfig": f"{MODELING}.SaladConfig", **{head: f"{MODELING}.{MODEL}" for head in heads}}
    config["encoder"] = _public(config["encoder"])
    if config.get("origin"):
        names = config["origin"]["assets"]
        config["origin"]["assets"] = {part: name and _public(name) for part, name in names.items()}
    write_json(folder / "config.json", config)
    settings = read_json(folder / "processor_config.json")
    settings["auto_map"] = {"AutoProcessor": f"{PROCESSING}.SaladProcessor"}
    settings |= {"encoder": _public(settings["encoder"]), "encoder_inside": held}
    write_json(folder / "processor_config.json", settings)


def _public(name: str) -> str:
    """A known name as it is; of a path, which says nothing on another machine, the last part."""
    base, _ = assets.split_setting(name)
    known = base in assets.ASSETS or base in assets.BUILT_IN or assets.is_hub_name(base)
    return name if known else Path(name).name


def remote_code() -> dict[str, str]:
    """Name and text of the two files, generated from our sources."""
    title = f"Generated by salad {__version__} (Apache-2.0) from its own sources; do not edit."
    roots = {
        MODELING: [("salad.model.config", "SaladConfig"), ("salad.model.modeling", MODEL)],
        PROCESSING: [("salad.model.processor", "SaladProcessor")],
    }
    return {f"{name}.py": flat_source(own, title, without=WITHOUT, stubs=STUBS) for name, own in roots.items()}


def _merge_lora(model: SaladForConditionalGeneration) -> None:
    if not model.config.lora_rank:
        raise SaladError("--merge-lora: the model has no LoRA (lora_rank 0); leave the option out")
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.llm.named_modules()):
        if isinstance(module, LoraLayer) and isinstance(module, nn.Module):
            module.merge()
            above, _, own = name.rpartition(".")
            setattr(model.llm.get_submodule(above), own, module.base_layer)
    model.config.lora_rank = 0


def _card(folder: Path, name: str, model: SaladForConditionalGeneration, held: EncoderInside) -> str:
    """The card of the model that was exported, with its gap, controls and licences; and how the folder is loaded."""
    config, made = model.config, folder / "README.md"
    if made.is_file():
        text = made.read_text(encoding="utf-8").replace("(frozen, not inside)", "(frozen, inside)")
    else:
        llm = (config.origin or {}).get("assets", {}).get("llm") or "not told"
        parts = (("text LLM", _public(llm)), ("speech encoder (frozen, inside)", _public(config.encoder)))
        rows = "".join(f"{markdown.row((part, own, licence_of(own)))}\n" for part, own in parts)
        text = UNTOLD.format(name=name, rows=rows)
    dtype = str(next(model.llm.parameters()).dtype).removeprefix("torch.")
    return text.rstrip() + "\n" + LOADING.format(kind=held["kind"], dtype=dtype)


UNTOLD = """---
library_name: transformers
pipeline_tag: audio-text-to-text
license: other
---

# {name}

| part | name | licence |
|---|---|---|
{rows}
The gap, its controls, the training data and their licences are not told: the model that was exported has no card.
"""

LOADING = """
## Load it

The folder is whole: the encoder ({kind}) lies inside it, and so does the code, in two generated files, which need
transformers 5.17 or later, torch, safetensors, soundfile and soxr, but not the package that made them. The LLM is held
in {dtype}; figures on this page are those of the model as it was trained.

```python
from transformers import AutoModelForMultimodalLM, AutoProcessor

processor = AutoProcessor.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModelForMultimodalLM.from_pretrained("FOLDER", trust_remote_code=True)
parts = [{{"type": "audio", "path": "question.wav"}}]
messages = [{{"role": "user", "content": parts}}]
inputs = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
new = model.generate(**inputs, max_new_tokens=40, do_sample=False)
print(processor.batch_decode(new[:, inputs["input_ids"].shape[1] :])[0])
```
"""
