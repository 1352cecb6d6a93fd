"""Frozen speech encoders by name."""

from __future__ import annotations

from pathlib import Path

from salad import assets
from salad.files import JsonObject, read_json
from salad.model.encoders.base import Encoder, EncoderShape
from salad.types import SaladError

CTRANSLATE2 = ("vocabulary.txt", "vocabulary.json")  # beside model.bin
MODEL_TYPES = ("hubert", "mimi", "wav2vec2", "wavlm", "whisper")
# Encoders whose shape is known before their files are here.
SHAPES = {
    "log-mel": EncoderShape(100.0, 80),
    "whisper-tiny.en": EncoderShape(50.0, 384),
    "kyutai/mimi": EncoderShape(12.5, 512),
}


def shape_of(name: str) -> EncoderShape:
    """Shape of a known encoder, or of a local folder by its config.json. Raises SaladError for others: load them."""
    base, _ = assets.split_setting(name)
    if base in SHAPES:
        return SHAPES[base]
    if (Path(base) / "config.json").is_file() and _model_type(Path(base), name) is not None:
        from transformers import AutoConfig

        from salad.model.encoders.huggingface import shape_of_config

        return shape_of_config(AutoConfig.from_pretrained(base, local_files_only=True))
    raise SaladError(
        f"assets.encoder: the shape of {name!r} is not known; expected one of {', '.join(SHAPES)}, or the path of a "
        "local folder with the encoder's config.json"
    )


def load_encoder(name: str, threads: int = 1, device: str = "cpu") -> Encoder:
    """Encoder by name: "log-mel" (no files), an asset, a hub name, or a local folder; `:codes8` asks for 8 codebooks.

    A folder's config.json tells what it holds: Mimi, Whisper, Wav2Vec2, HuBERT or WavLM through transformers; one with
    CTranslate2's model.bin is Whisper. `threads` is for CTranslate2; on a CPU the others run on one thread, so that a
    worker of one thread and the trainer hear the same. The folder of an exported model stands for the encoder inside
    it. `device`: "cpu", "cuda" or "cuda:N"; log-mel stays on the CPU.
    """
    if (told := _exported(Path(name).expanduser())) is not None:
        from salad.model.encoders.inside import FOLDER, encoder_inside

        _check_device(device)
        return encoder_inside(told["encoder_inside"], Path(name).expanduser() / FOLDER, told["encoder"], device)
    base, setting = assets.split_setting(name)
    if setting and not (setting.startswith("codes") and setting[5:].isdecimal()):
        raise SaladError(f"assets.encoder: {name!r} has the setting {setting!r}, expected codesN such as codes8")
    num_codebooks = int(setting[5:]) if setting else None
    if base in assets.BUILT_IN:
        from salad.model.encoders.log_mel import LogMel

        return _without_codes(LogMel(), name, num_codebooks)
    _check_device(device)
    folder = assets.get(base)
    model_type = _model_type(folder, name)
    if model_type is None:
        from salad.model.encoders.ctranslate2 import WhisperCT2

        return _without_codes(WhisperCT2(folder, name, threads, device), name, num_codebooks)
    if model_type == "mimi":
        from salad.model.encoders.mimi import Mimi

        return Mimi(folder, name, device, num_codebooks)
    from salad.model.encoders.huggingface import Wav2Vec2, Whisper

    encoder = Whisper if model_type == "whisper" else Wav2Vec2
    return _without_codes(encoder(folder, name, device), name, num_codebooks)


def encoder_name(model: Path, name: str) -> str:
    """What `load_encoder` takes for the encoder of a saved model: its folder where it lies inside, else its `name`."""
    return name if _exported(model) is None else str(model)


def _exported(model: Path) -> JsonObject | None:
    """processor_config.json of an exported model's folder; None for any other."""
    path = model / "processor_config.json"
    told = read_json(path) if path.is_file() else {}
    return told if "encoder_inside" in told else None


def _model_type(folder: Path, name: str) -> str | None:
    """`model_type` of config.json; None for a CTranslate2 folder."""
    if (folder / "model.bin").is_file() and any((folder / vocabulary).is_file() for vocabulary in CTRANSLATE2):
        return None
    config: dict[str, str] = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    found = config.get("model_type")
    if found not in MODEL_TYPES:
        what = f"a model of type {found!r}" if found else "no encoder we know"
        raise SaladError(
            f"assets.encoder: {name!r} holds {what}; expected a config.json whose model_type is one of "
            f"{', '.join(MODEL_TYPES)}, a CTranslate2 Whisper folder, or the name 'log-mel'"
        )
    return found


def _without_codes(encoder: Encoder, name: str, num_codebooks: int | None) -> Encoder:
    if num_codebooks is not None:
        raise SaladError(f"assets.encoder: {name!r}: only Mimi gives codes; leave out ':codes{num_codebooks}'")
    return encoder


def _check_device(device: str) -> None:
    import torch

    if device != "cpu" and not (device.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise SaladError(f"device: got {device!r}, expected 'cpu'" + ", or 'cuda' where there is a GPU")
