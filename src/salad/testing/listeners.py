"""A tiny saved SpeechLM with the text LLM it came from, and a small aligned corpus of noise, for the measuring
commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from salad.data.manifest import write_utterances
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.testing.models import VOCABULARY, make_model
from salad.types import Utterance, Word

RATE_HZ = 16_000


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<|endoftext|>": 0, **{f"w{i}": i for i in range(1, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<|endoftext|>", eos_token="<|endoftext|>")


def save_listener(folder: Path, *, change: float = 0.0, rate: str = "fixed", ctc: int = 0) -> tuple[Path, Path]:
    """Folders of the model and of its text base; `change` is added to one matrix of the model's LLM (training)."""
    config = make_model(rate, ctc).config
    config.frame_dim = 80
    torch.manual_seed(0)
    model = SaladForConditionalGeneration(config).eval()
    if model.ctc is not None:
        model.ctc.token_ids.copy_(torch.arange(1, ctc + 1))
    model.llm.save_pretrained(folder / "llm")
    tokenizer().save_pretrained(folder / "llm")
    with torch.no_grad():
        model.llm.get_decoder().layers[0].mlp.down_proj.weight.add_(change)
    model.save_pretrained(folder / "model")
    SaladProcessor(tokenizer(), "log-mel", VOCABULARY, 0).save_pretrained(folder / "model")
    return folder / "model", folder / "llm"


def save_corpus(folder: Path, *, documents: int = 4, voices: tuple[str, ...] = ("a",), num_words: int = 30) -> Path:
    """Aligned utterances, every document in one voice in turn; a voice is a pitch of its own under noise."""
    rng, utterances = np.random.default_rng(0), []
    (folder / "audio").mkdir(parents=True)
    for i in range(documents):
        voice = i % len(voices)
        word_s = 0.08 + 0.02 * (i % 3)
        samples = 0.02 * rng.normal(size=int(num_words * word_s * RATE_HZ) + 800)
        times = np.arange(len(samples)) / RATE_HZ
        samples += 0.2 * np.sin(2 * np.pi * (200 + 700 * voice) * times)
        path = folder / "audio" / f"{i}.wav"
        soundfile.write(path, samples.astype(np.float32), RATE_HZ)
        text = [f"w{rng.integers(1, VOCABULARY)}" for _ in range(num_words)]
        words = tuple(Word(w, k * word_s, (k + 1) * word_s) for k, w in enumerate(text))
        utterances.append(
            Utterance(f"u{i}", " ".join(text), str(path), RATE_HZ, len(samples), words, voices[voice],
                      document_id=f"d{i}", domain=f"domain-{i % 2}", score=1.0)
        )  # fmt: skip
    write_utterances(folder / "utterances.jsonl", utterances)
    return folder / "utterances.jsonl"


def save_recogniser(folder: Path) -> Path:
    """A small Wav2Vec2ForCTC of random weights with its processor, which writes E, T and A."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    torch.manual_seed(1)
    config = Wav2Vec2Config(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, pad_token_id=0,
        feat_extract_norm="layer", do_stable_layer_norm=True, initializer_range=1.0,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).eval().save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    letters = {letter: n for n, letter in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "A"])}
    (folder / "letters.json").write_text(json.dumps(letters), encoding="utf-8")
    Wav2Vec2CTCTokenizer(str(folder / "letters.json")).save_pretrained(folder)
    return folder
