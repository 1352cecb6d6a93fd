"""An exported folder, read by transformers where our package is absent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from typer.testing import CliRunner

import salad
from salad.cli import app
from salad.evaluation.saved_model import load_saved
from salad.files import read_json, write_text
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.model.encoders.load import load_encoder
from salad.pipeline import export
from salad.pipeline.export import export_model
from salad.testing.listeners import save_corpus, save_listener, tokenizer
from salad.testing.models import VOCABULARY, make_model
from salad.types import SaladError

ALONE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "salad":
            raise ImportError(name + " is refused")

sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor

torch.set_num_threads(1)
wave, *folders = sys.argv[1:]
found = []
for folder in folders:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)) is type(model)
    assert "salad" not in sys.modules
    inputs = processor("<|audio|> w3", [wave])
    processor.save_pretrained(folder + "-again")  # as Trainer does
    again = AutoProcessor.from_pretrained(folder + "-again", trust_remote_code=True)
    assert torch.equal(again("<|audio|>", [wave])["frames"][0], inputs["frames"][0])
    heard = model.hear(inputs["frames"]).token_ids.tolist()
    new = model.generate(**inputs, max_new_tokens=12, do_sample=False).tolist()
    found.append([heard, new, [frames.tolist() for frames in inputs["frames"]]])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> Path:
    """A small random Whisper, as transformers saves it."""
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def symbol_ears() -> SaladForConditionalGeneration:
    """Ears in two parts whose candidates the LLM judges, every token a random row of sounds."""
    config = make_model("text", dim=32).config
    config.ears, config.prior, config.stride = "symbols", 0.5, 1
    config.symbols = {"kind": "letters", "names": ["#", *"abcdefgh"], "language": "en-us"}
    config.ears_shape = {"depth": 4, "lower_layers": 1, "lower_width": 16, "upper_heads": 2, "upper_layers": 1,
                         "upper_width": 16}  # fmt: skip
    torch.manual_seed(0)
    made = SaladForConditionalGeneration(config)
    made.adapter.upper.sayable.fill_(True)
    made.adapter.upper.sounds.copy_(torch.randint(0, 9, made.adapter.upper.sounds.shape))
    return made.eval()


@pytest.fixture
def models(tmp_path, whisper) -> list[Path]:
    """One with a single adapter, and one with ears in two parts."""
    folders = [tmp_path / "single", tmp_path / "symbols"]
    for folder, made in zip(folders, (make_model("text", ctc=20, dim=32), symbol_ears()), strict=True):
        made.config.encoder, made.config.frame_rate_hz = str(whisper), 50.0
        names = {"llm": str(tmp_path / "llm"), "encoder": str(whisper)}
        made.config.origin = {"seed": 3, "assets": names, "sequence": {}}
        made.save_pretrained(folder)
        SaladProcessor(tokenizer(), str(whisper), VOCABULARY, 0).save_pretrained(folder)
    return folders


@pytest.fixture
def wave(tmp_path) -> Path:
    torch.manual_seed(1)
    soundfile.write(tmp_path / "a.wav", 0.1 * torch.randn(8 * 16_000).numpy(), 16_000)
    return tmp_path / "a.wav"


def heard_alone(folders: list[Path], wave: Path, home: Path) -> list:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(wave), *map(str, folders)], env=environment, cwd=home, capture_output=True,
        text=True, stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_they_hear_and_write_the_same_where_our_package_is_absent(models, wave, whisper, tmp_path):
    made, wanted = [export_model(model, tmp_path / f"{model.name}-out") for model in models], []
    for model in models:
        ours, processor = load_saved(model), SaladProcessor.from_pretrained(model)
        inputs = processor("<|audio|> w3", [wave])
        with torch.no_grad():
            heard = ours.hear(inputs["frames"]).token_ids.tolist()
        new = ours.generate(**inputs, max_new_tokens=12, do_sample=False).tolist()
        assert len(inputs["frames"]) == 2 and heard
        wanted.append([heard, new, [frames.tolist() for frames in inputs["frames"]]])
    assert heard_alone(made, wave, tmp_path) == wanted
    for out in made:
        for path in (out / "config.json", out / "processor_config.json", out / "README.md"):
            assert str(tmp_path) not in path.read_text() and str(whisper.parent) not in path.read_text()
        assert read_json(out / "config.json")["origin"]["assets"] == {"llm": "llm", "encoder": whisper.name}
        assert sorted(path.name for path in (out / "encoder").iterdir()) == [
            "config.json", "model.safetensors", "preprocessor_config.json",
        ]  # fmt: skip
    assert not list(tmp_path.glob(".*part"))


def test_the_command_takes_a_model_and_names_the_folder(tmp_path):
    model, _ = save_listener(tmp_path)
    done = CliRunner().invoke(app, ["export", str(model), "--to", str(tmp_path / "out"), "--dtype", "float16"])
    assert done.exit_code == 0 and done.output.strip().endswith("out"), done.output
    assert read_json(tmp_path / "out" / "config.json")["auto_map"]["AutoModel"].startswith("modeling_salad.")
    done = CliRunner().invoke(app, ["export", str(model), "--to", str(tmp_path / "out")])
    assert done.exit_code == 2 and "is not empty" in done.output
    for more, message in ((["--push"], "expected OWNER/NAME"), (["--public"], "add --push")):
        done = CliRunner().invoke(app, ["export", str(model), "--to", str(tmp_path / "new"), *more])
        assert done.exit_code == 2 and message in " ".join(done.output.split())
    assert not (tmp_path / "new").exists()


def test_two_exports_to_one_folder_do_not_meet(tmp_path, monkeypatch):
    model, _ = save_listener(tmp_path)
    write_code, inner = export._write_code, []

    def meanwhile(folder, held):
        if not inner:
            inner.append(None)
            inner[0] = export_model(model, tmp_path / "out")
        write_code(folder, held)

    monkeypatch.setattr(export, "_write_code", meanwhile)
    with pytest.raises(SaladError, match="out was filled while the model was exported; name a new folder"):
        export_model(model, tmp_path / "out")
    assert load_saved(inner[0]) is not None and not list(tmp_path.glob(".*part"))
    (tmp_path / "empty").mkdir()
    assert (export_model(model, tmp_path / "empty") / "config.json").is_file()


def test_our_own_package_reads_it_too(tmp_path):
    model, _ = save_listener(tmp_path)
    out = export_model(model, tmp_path / "out")
    ours, theirs = load_saved(model).state_dict(), load_saved(out).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert SaladProcessor.from_pretrained(out).encoder.name == "log-mel"


def test_our_own_door_hears_with_the_encoder_inside_and_saves_it(models, wave, whisper, tmp_path):
    """Which has no name that this machine knows."""
    out = export_model(models[0], tmp_path / "out")
    wanted = SaladProcessor.from_pretrained(models[0])("<|audio|>", [wave])
    shutil.rmtree(tmp_path / "single")
    ears = salad.load(out)
    again = salad.load(ears.save(tmp_path / "again"))
    for own in (ears, again):
        assert torch.equal(own.processor("<|audio|>", [wave])["frames"][0], wanted["frames"][0])
        assert own.loaded.encoder.fingerprint() == load_encoder(str(whisper)).fingerprint()
    assert (tmp_path / "again" / "processing_salad.py").is_file()
    assert read_json(tmp_path / "again" / "processor_config.json") == read_json(out / "processor_config.json")
    found = salad.divergence(again, save_corpus(tmp_path / "corpus", documents=2), tmp_path / "m", workers=1)
    assert found.misalignment > 0
    whole = export_model(tmp_path / "again", tmp_path / "whole")
    assert read_json(whole / "processor_config.json") == read_json(out / "processor_config.json")


def test_lora_is_merged(tmp_path):
    made = make_model(lora=2)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    made.save_pretrained(tmp_path / "model")
    SaladProcessor(tokenizer(), "log-mel", VOCABULARY, 0).save_pretrained(tmp_path / "model")
    out = load_saved(export_model(tmp_path / "model", tmp_path / "out", merge_lora=True))
    assert out.config.lora_rank == 0 and not [name for name in out.state_dict() if "lora" in name or "base_" in name]
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(out(ids).logits, made(ids).logits, rtol=1e-4, atol=1e-5)
        plain = load_saved(tmp_path / "model")
        for module in plain.llm.modules():
            if hasattr(module, "lora_B"):
                module.lora_B["default"].weight.zero_()
        assert not torch.allclose(out(ids).logits, plain(ids).logits, atol=1e-2)


def test_the_llm_is_held_in_the_dtype_and_the_ears_are_not(tmp_path):
    model, _ = save_listener(tmp_path)
    out = export_model(model, tmp_path / "out", dtype="bfloat16")
    found = SaladForConditionalGeneration.from_pretrained(out)
    assert {parameter.dtype for parameter in found.llm.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in found.adapter.parameters()} == {torch.float32}
    assert "held in bfloat16" in " ".join((out / "README.md").read_text().split())


def test_the_card_keeps_the_figures_and_says_how_to_load(tmp_path):
    model, _ = save_listener(tmp_path)
    assert "are not told" in (export_model(model, tmp_path / "bare") / "README.md").read_text()
    write_text(model / "README.md", "# m\n\n| speech encoder (frozen, not inside) | log-mel | none |\n| gap | 4 |\n")
    card = (export_model(model, tmp_path / "out") / "README.md").read_text()
    assert "| gap | 4 |" in card and "(frozen, inside)" in card and "trust_remote_code=True" in card


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"merge_lora": True}, "--merge-lora: the model has no LoRA"),
        ({"dtype": "int8"}, "--dtype: got 'int8', expected one of float32, bfloat16"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path, options, said):
    model, _ = save_listener(tmp_path)
    with pytest.raises(SaladError, match=said):
        export_model(model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    model, llm = save_listener(tmp_path)
    with pytest.raises(SaladError, match="exists and is not empty; name a new folder"):
        export_model(model, llm)
    with pytest.raises(SaladError, match="is no saved SALAD model"):
        export_model(llm, tmp_path / "out")
