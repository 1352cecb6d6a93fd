"""Every encoder: a batch gives what its members give alone, one rule counts frames, codes and fingerprints hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from salad import assets
from salad.align.whisper import load_whisper
from salad.audio.units import num_frames
from salad.model.encoders.load import Encoder, load_encoder, shape_of
from salad.testing.forks import run_alone
from salad.testing.models import save_mimi
from salad.types import SaladError

SPEECH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def save_whisper(folder: Path, seed: int = 0) -> WhisperForConditionalGeneration:
    torch.manual_seed(seed)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        init_std=0.3,
    )
    model = WhisperForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return model


def save_speech(folder: Path, model: type, config: type, normalise: bool, **values: object) -> torch.nn.Module:
    torch.manual_seed(0)
    made = model(config(**SPEECH, **values)).eval()
    made.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)
    return made


SAVE = {
    "mimi": save_mimi,
    "whisper": save_whisper,
    "wav2vec2": lambda folder: save_speech(folder, Wav2Vec2ForCTC, Wav2Vec2Config, True, vocab_size=20, **LAYER_NORM),
    "wav2vec2-group": lambda folder: save_speech(folder, Wav2Vec2ForCTC, Wav2Vec2Config, True, vocab_size=20),
    "hubert": lambda folder: save_speech(folder, HubertModel, HubertConfig, True),
    "wavlm": lambda folder: save_speech(folder, WavLMModel, WavLMConfig, False),
}
NAMES = ["log-mel", *SAVE, "mimi:codes8"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    for name, save in SAVE.items():
        save(folder / name)
    return folder


def load(shelf: Path, name: str, device: str = "cpu") -> Encoder:
    return load_encoder(name if name == "log-mel" else str(shelf / name), device=device)


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loudness = rng.uniform(0.01, 0.3)
    return (rng.normal(size=num_samples) * loudness + 0.02).astype(np.float32)


def mixed(rate: int) -> list[np.ndarray]:
    """Equal pairs, lengths that share their number of frames, and sound too short for one."""
    lengths = [rate, rate // 2, rate, rate // 2 - 7, 1, int(1.3 * rate), int(1.3 * rate) - 1, 0, 37]
    return [noise(n, seed) for seed, n in enumerate(lengths)]


def assert_close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest value, or of 1."""
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_what_its_members_give_alone(shelf, name):
    encoder = load(shelf, name)
    waves = mixed(encoder.sample_rate_hz)
    together = encoder.encode(waves)
    for wave, frames in zip(waves, together, strict=True):
        alone = encoder.encode([wave])[0]
        assert frames.dtype == np.float32 and frames.shape == (encoder.num_frames(len(wave)), encoder.frame_dim)
        assert np.isfinite(frames).all()
        np.testing.assert_array_equal(frames, alone)
    backwards = encoder.encode(waves[::-1])[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(together, backwards, strict=True))
    assert encoder.encode([]) == []
    assert np.abs(together[0] - together[2]).max() > 0.01  # different sound is told apart


@pytest.mark.parametrize("name", list(SAVE))
def test_waveforms_of_equal_length_go_through_together(shelf, name):
    """As on a GPU: one call of the model for each number of frames; the same frames within rounding."""
    encoder = load(shelf, name)
    waves = mixed(encoder.sample_rate_hz)
    alone = encoder.encode(waves)
    encoder.batch_s = 300.0
    sizes = []
    entry = {"whisper": lambda: encoder._model.conv1, "mimi": lambda: encoder._convolutions}
    first = entry.get(name, lambda: encoder._model)()
    first.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for a, b in zip(alone, encoder.encode(waves), strict=True):
        assert_close(a, b)
    assert sum(sizes) == len(waves) and max(sizes) >= 2 and len(sizes) == len({len(frames) for frames in alone})


@pytest.mark.parametrize("name", NAMES)
def test_one_rule_counts_the_frames(shelf, name):
    encoder = load(shelf, name)
    rate = encoder.sample_rate_hz
    frame = round(rate / encoder.frame_rate_hz)
    lengths = [1, frame - 1, frame, frame + 1, 7 * frame, 7 * frame + 1, 8 * frame - 1, rate, rate + 399]
    got = [len(frames) for frames in encoder.encode([noise(n) for n in lengths])]
    assert got == [num_frames(n, rate, encoder.frame_rate_hz) for n in lengths] == [-(-n // frame) for n in lengths]
    shape = shape_of(encoder.name)
    assert (shape.frame_rate_hz, shape.frame_dim) == (encoder.frame_rate_hz, encoder.frame_dim)


@pytest.mark.parametrize("name", ["mimi", "mimi:codes8"])
def test_mimi_hears_nothing_of_later_frames(shelf, name):
    encoder = load(shelf, name)
    assert encoder.causal and encoder.sample_rate_hz == 24_000 and encoder.frame_rate_hz == 12.5
    wave = noise(30 * 1920)
    changed = wave.copy()
    changed[17 * 1920 :] = noise(13 * 1920, 9)
    a, b = encoder.encode([wave])[0], encoder.encode([changed])[0]
    np.testing.assert_array_equal(a[:17], b[:17])
    assert (np.abs(a[17:] - b[17:]).max(axis=1) > 1e-3).all()
    # so frames of a whole recording serve any span that starts at its beginning
    assert_close(encoder.encode([wave[: 17 * 1920]])[0], a[:17])


@pytest.mark.parametrize("name", ["log-mel", "whisper", "wav2vec2", "hubert", "wavlm"])
def test_what_is_called_not_causal_does_hear_later_frames(shelf, name):
    encoder = load(shelf, name)
    assert not encoder.causal
    wave = noise(16_000)
    frame = round(16_000 / encoder.frame_rate_hz)
    changed = wave.copy()
    changed[10 * frame :] = noise(16_000 - 10 * frame, 9)
    a, b = encoder.encode([wave])[0], encoder.encode([changed])[0]
    assert np.abs(a[:10] - b[:10]).max() > 1e-3


def test_mimi_is_transformers_mimi_on_whole_frames(tmp_path):
    model = save_mimi(tmp_path)
    wave = noise(20 * 1920)
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(wave)[None, None], num_quantizers=8).audio_codes[0].T.numpy()
    encoder = load_encoder(f"{tmp_path}:codes8")
    codes = encoder.encode_codes([wave])[0]
    np.testing.assert_array_equal(codes, expected)
    assert len(np.unique(codes)) > 20


def test_codes_round_trip(shelf):
    encoder = load(shelf, "mimi:codes8")
    assert encoder.num_codebooks == 8
    waves = mixed(encoder.sample_rate_hz)
    codes = encoder.encode_codes(waves)
    for wave, own, frames in zip(waves, codes, encoder.encode(waves), strict=True):
        assert own.dtype == np.uint16 and own.shape == (encoder.num_frames(len(wave)), 8) and own.max() < 64
        np.testing.assert_array_equal(own, encoder.encode_codes([wave])[0])
        np.testing.assert_array_equal(frames, encoder.frames_of_codes(own))
    assert encoder.frames_of_codes(codes[0][:0]).shape == (0, 32)
    # the first codebooks are the same however many are asked for, and more of them come nearer to the latents
    more = load(shelf, "mimi:codes12")
    np.testing.assert_array_equal(more.encode_codes(waves[:1])[0][:, :8], codes[0])
    assert not np.array_equal(more.encode(waves[:1])[0], encoder.encode(waves[:1])[0])
    with pytest.raises(SaladError, match=r"up to 64; .* takes \[T, 8\], each 0 to 63"):
        encoder.frames_of_codes(np.full((3, 8), 64, np.uint16))
    with pytest.raises(SaladError, match=r"takes \[T, 8\]"):
        encoder.frames_of_codes(codes[0][:, :7])


def test_long_sound_in_blocks_is_the_same_sound(shelf):
    whole, blocks = load(shelf, "mimi"), load(shelf, "mimi")
    blocks.BLOCK_S = 0.8
    assert whole.max_samples is None
    waves = [noise(61 * 1920 + 5), noise(61 * 1920 + 9, 1), noise(50 * 1920, 2)]
    for a, b in zip(whole.encode(waves), blocks.encode(waves), strict=True):
        assert_close(a, b)


def test_whisper_of_transformers_is_its_own_forward_where_that_goes(tmp_path):
    """At 30 s, the one length that transformers' forward takes."""
    model = save_whisper(tmp_path)
    encoder = load_encoder(str(tmp_path))
    wave = noise(480_000)
    mel = WhisperFeatureExtractor()(wave, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        expected = model.model.encoder(mel).last_hidden_state[0].numpy()
    got = encoder.encode([wave])[0]
    assert got.shape == expected.shape == (1500, 32)
    # the last window mirrors the end of the sound there and meets silence here; attention carries a little of it
    assert np.abs(got - expected)[:-2].max() < 0.02 * np.abs(expected).max()
    with torch.no_grad():
        same = encoder._forward(mel)[0].numpy()
    assert_close(same, expected)
    with pytest.raises(SaladError, match="30 s at most"):
        encoder.encode([noise(480_001)])


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2-group", "hubert", "wavlm"])
def test_wav2vec2_family_is_transformers_own_on_the_padded_sound(tmp_path, name):
    model = SAVE[name](tmp_path)
    wave = noise(9_000)
    extract = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    values = extract(wave, sampling_rate=16_000, return_tensors="pt")["input_values"]
    values = torch.nn.functional.pad(values, (0, 320 * 29 + 80 - 9_000))
    with torch.no_grad():
        expected = getattr(model, "wav2vec2", model)(values).last_hidden_state[0].numpy()
    assert_close(load_encoder(str(tmp_path)).encode([wave])[0], expected)


def test_whisper_through_ctranslate2_gives_the_frames_of_transformers(tmp_path):
    """The same weights through both; and a CTranslate2 folder is told from its files."""
    converters = pytest.importorskip("ctranslate2").converters
    from transformers import WhisperTokenizer

    words = ["<|endoftext|>", "<|startoftranscript|>", "<|transcribe|>", "<|nospeech|>", "<|notimestamps|>"]
    vocabulary = {word: i for i, word in enumerate(words + [f"w{i}" for i in range(45)])}
    save_whisper(tmp_path / "hf")
    WhisperTokenizer(vocab=vocabulary, merges=[]).save_pretrained(tmp_path / "hf")
    converters.TransformersConverter(str(tmp_path / "hf")).convert(str(tmp_path / "ct2"))
    ours, theirs = load_encoder(str(tmp_path / "ct2")), load_encoder(str(tmp_path / "hf"))
    assert type(ours).__name__ == "WhisperCT2" and type(theirs).__name__ == "Whisper"
    waves = [noise(16_000), noise(5_000, 1), noise(5_000, 2), noise(300, 3), noise(0)]
    for wave, a, b in zip(waves, ours.encode(waves), theirs.encode(waves), strict=True):
        assert a.shape == b.shape == (ours.num_frames(len(wave)), 32)
        np.testing.assert_array_equal(a, ours.encode([wave])[0])
        assert np.abs(a - b).max() < 0.02 * np.abs(b).max()
    before = ours.fingerprint()
    change_byte(tmp_path / "ct2" / "model.bin")
    with pytest.raises(SaladError, match=r"model.bin was changed after it was loaded"):
        ours.fingerprint()
    assert load_encoder(str(tmp_path / "ct2")).fingerprint() != before


def change_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_fingerprint_changes_with_a_weight_and_with_nothing_else(tmp_path):
    save_mimi(tmp_path / "a")
    first = load_encoder(str(tmp_path / "a"))
    before = first.fingerprint()
    assert len(before) == 64 and before == first.fingerprint() == load_encoder(str(tmp_path / "a")).fingerprint()

    (tmp_path / "a" / "README.md").write_text("notes")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = load_encoder(str(tmp_path / "b"))
    assert moved.fingerprint() == before
    codes = [load_encoder(f"{tmp_path / 'b'}:codes{n}").fingerprint() for n in (8, 9)]
    assert len({before, *codes}) == 3

    weights = tmp_path / "b" / "model.safetensors"
    values = load_file(weights)
    name = next(name for name in sorted(values) if "encoder_transformer" in name)
    values[name].view(-1)[0] += 1e-3
    save_file(values, weights, metadata={"format": "pt"})
    with pytest.raises(SaladError, match="changed after it was loaded"):
        moved.fingerprint()
    assert load_encoder(str(tmp_path / "b")).fingerprint() != before
    assert load_encoder("log-mel").fingerprint() == load_encoder("log-mel").fingerprint() != before


@pytest.mark.parametrize("name", ["log-mel", "mimi", "whisper", "wavlm"])
def test_sound_that_cannot_be_encoded_is_refused_by_name(shelf, name):
    encoder = load(shelf, name)
    good = noise(4_000)
    for bad in (np.nan, np.inf, -np.inf):
        broken = good.copy()
        broken[100] = bad
        with pytest.raises(SaladError, match="waveform 1 of 2 holds NaN or infinite samples"):
            encoder.encode([good, broken])
    with pytest.raises(SaladError, match=r"waveform 0 of 1 is float32 \[2, 4000\], expected mono"):
        encoder.encode([np.stack([good, good])])
    with pytest.raises(SaladError, match="is int16"):
        encoder.encode([(good * 32767).astype(np.int16)])
    if encoder.max_samples is not None:
        with pytest.raises(SaladError, match="s at most: cut it first"):
            encoder.encode([np.zeros(encoder.max_samples + 1, np.float32)])
    with pytest.raises(SaladError, match="gives no codes"):
        encoder.encode_codes([good])
    with pytest.raises(SaladError, match="gives no codes"):
        encoder.frames_of_codes(np.zeros((2, 8), np.uint16))


def test_names_that_lead_nowhere_say_what_is_expected(shelf, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(SaladError, match="holds a model of type 'bert'; expected .* hubert, mimi, wav2vec2"):
        load_encoder(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SaladError, match="holds no encoder we know"):
        load_encoder(str(tmp_path / "empty"))
    with pytest.raises(SaladError, match="asks for 13 codebooks, expected 1 to 12"):
        load(shelf, "mimi:codes13")
    with pytest.raises(SaladError, match="the setting 'latents', expected codesN"):
        load(shelf, "mimi:latents")
    with pytest.raises(SaladError, match="only Mimi gives codes; leave out ':codes8'"):
        load(shelf, "wavlm:codes8")
    with pytest.raises(SaladError, match="device: got 'tpu'"):
        load(shelf, "wavlm", device="tpu")
    with pytest.raises(SaladError, match="asset: got 'whisper-tiny.fr'"):
        load_encoder("whisper-tiny.fr")
    assert shape_of("kyutai/mimi:codes8") == shape_of("kyutai/mimi")


def test_weights_that_lack_are_never_drawn_at_random(tmp_path):
    SAVE["wavlm"](tmp_path)
    weights = tmp_path / "model.safetensors"
    values = load_file(weights)
    absent = "encoder.layers.1.feed_forward.output_dense.weight"
    del values[absent]
    save_file(values, weights, metadata={"format": "pt"})
    with pytest.raises(SaladError, match=f"lacks 1 weights of WavLMModel, such as {absent}"):
        load_encoder(str(tmp_path))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SaladError, match="cannot be loaded"):
        load_encoder(str(tmp_path))
    torch.save({}, tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(SaladError, match="holds no .safetensors file, and pickled weights are not read"):
        load_encoder(str(tmp_path))
    SAVE["wavlm"](tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(SaladError, match="holds no preprocessor_config.json"):
        load_encoder(str(tmp_path))


def test_frames_do_not_depend_on_who_asks(shelf):
    """Inside autocast and with gradients on, as in a training step."""
    encoder = load(shelf, "whisper")
    wave = noise(8_000)
    plain = encoder.encode([wave])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(encoder.encode([wave])[0], plain)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(encoder.encode([wave])[0], plain)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_hub_name_is_read_from_the_hubs_cache_or_the_users_folder(tmp_path, monkeypatch):
    """The hub client's own cache layout, offline, as the tests run."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("SALAD_ASSETS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SaladError, match="someone/tiny-mimi cannot be had from the hub"):
        load_encoder("someone/tiny-mimi:codes8")
    repo = tmp_path / "hub" / "models--someone--tiny-mimi"
    save_mimi(repo / "snapshots" / ("0" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    from_hub = load_encoder("someone/tiny-mimi:codes8")
    assert from_hub.name == "someone/tiny-mimi:codes8" and from_hub.num_codebooks == 8
    assert assets.get("someone/tiny-mimi@main") == assets.get("someone/tiny-mimi")
    assert len(assets.fingerprint("someone/tiny-mimi")) == 64
    asked = {"llm": "someone/tiny-mimi", "encoder": "someone/tiny-mimi@main:codes8"}
    told = assets.origin_of({"assets": asked})["assets"]
    assert told == {"llm": f"someone/tiny-mimi@{'0' * 40}", "encoder": f"someone/tiny-mimi@{'0' * 40}:codes8"}
    save_mimi(tmp_path / "mine" / "someone" / "tiny-mimi", seed=1)
    monkeypatch.setenv("SALAD_ASSETS_DIR", str(tmp_path / "mine"))
    assert load_encoder("someone/tiny-mimi:codes8").fingerprint() != from_hub.fingerprint()
    assert assets.get("someone/tiny-mimi@main") == repo / "snapshots" / ("0" * 40)  # the folder may hold another one
    assert assets.origin_of({"assets": {"llm": "someone/tiny-mimi"}})["assets"]["llm"] == "someone/tiny-mimi"
    save_mimi(tmp_path / "mine" / "someone" / "tiny-mimi@v2", seed=2)
    assert assets.get("someone/tiny-mimi@v2") == tmp_path / "mine" / "someone" / "tiny-mimi@v2"


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in NAMES if name != "log-mel"])
def test_a_gpu_gives_what_the_cpu_gives(shelf, name):
    cpu, gpu = load(shelf, name), load(shelf, name, device="cuda")
    waves = mixed(cpu.sample_rate_hz)
    if cpu.num_codebooks:  # a tie between two codes may go either way
        pairs = zip(cpu.encode_codes(waves), gpu.encode_codes(waves), strict=True)
        assert np.mean(np.concatenate([(a == b).ravel() for a, b in pairs])) > 0.99
        return
    for a, b in zip(cpu.encode(waves), gpu.encode(waves), strict=True):
        assert_close(b, a, 1e-4)
    for wave, together in zip(waves, gpu.encode(waves), strict=True):
        assert_close(together, gpu.encode([wave])[0])


def note_threads(path: Path, *, ready: Callable[[], None]) -> None:
    """torch's threads before and after each step of hearing by CTranslate2."""
    torch.set_num_threads(2)
    torch.ones(2000, 2000) @ torch.ones(2000, 2000)
    encoder, wave = load_encoder("whisper-tiny.en"), np.zeros(16_000, np.float32)
    found = [torch.get_num_threads()]
    encoder.encode([wave])
    found.append(torch.get_num_threads())
    listener = load_whisper(assets.get("whisper-tiny.en"))
    found.append(torch.get_num_threads())
    list(listener.transcribe(wave)[0])
    path.write_text(str([*found, torch.get_num_threads()]))


def test_loading_whisper_leaves_torch_its_threads(tmp_path):
    """CTranslate2 sets OpenMP's threads, which torch computes with: a training would go on with one."""
    run_alone(note_threads, tmp_path / "threads")
    assert (tmp_path / "threads").read_text() == "[2, 2, 2, 2]"
