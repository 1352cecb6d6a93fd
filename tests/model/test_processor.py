"""Audio and text in, an answer out; through files and back."""

import functools

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from salad.engine import Shard
from salad.model import SaladProcessor, load_encoder
from salad.model.encoders import job
from salad.model.encoders.job import encode_pieces
from salad.model.processor import AUDIO
from salad.sequence import FrameStore
from salad.sequence.frames import Piece
from salad.testing.models import VOCABULARY, make_model
from salad.types import SaladError


@pytest.fixture(scope="module")
def processor():
    words = {"<unk>": 0, **{f"w{i}": i for i in range(1, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    return SaladProcessor(fast, "log-mel", audio_token_id=VOCABULARY, start_token_id=0)


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=int(seconds * 16_000)).astype(np.float32) * 0.1


def test_one_placeholder_a_span_and_padding_on_the_left(processor):
    batch = processor([f"w1 {AUDIO} w2", f"{AUDIO}"], [noise(1), noise(13)])
    assert batch["input_ids"].tolist()[0][-4:] == [0, 1, VOCABULARY, 2]
    assert batch["input_ids"].tolist()[1] == [0, VOCABULARY, VOCABULARY, VOCABULARY]
    assert len(batch["frames"]) == 4  # 13 s become three spans of at most 6 s
    assert sum(len(f) for f in batch["frames"][1:]) == pytest.approx(1300, abs=8)


def test_text_and_audio_must_agree(processor):
    with pytest.raises(SaladError, match="1 recordings for 2"):
        processor(f"{AUDIO} {AUDIO}", [noise(1)])


def test_generate_answers_a_wav(processor, tmp_path):
    torch.manual_seed(0)
    model = make_model()
    config = model.config
    config.frame_dim = 80
    model = type(model)(config).eval()
    soundfile.write(tmp_path / "x.wav", noise(1.5), 16_000)
    inputs = processor(f"w3 {AUDIO}", [tmp_path / "x.wav"])
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert ids.shape[0] == 1 and 1 <= ids.shape[1] - inputs["input_ids"].shape[1] <= 5
    assert isinstance(processor.decode(ids[0]), str)


def test_round_trip(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = SaladProcessor.from_pretrained(tmp_path)
    a, b = (p(f"w1 {AUDIO}", [noise(1)]) for p in (processor, again))
    assert torch.equal(a["input_ids"], b["input_ids"]) and torch.equal(a["frames"][0], b["frames"][0])


def test_chat_template_takes_audio(processor):
    messages = [{"role": "user", "content": [{"type": "text", "text": "Listen: "}, {"type": "audio"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == f"<|im_start|>user\nListen: {AUDIO}<|im_end|>\n<|im_start|>assistant\n"


def test_an_encoders_batch_equals_its_members():
    encoder = load_encoder("log-mel")
    waves = [noise(0.01), noise(1.0, 1), noise(0.5, 2)]
    batch = encoder.encode(waves)
    assert all(np.array_equal(x, encoder.encode([w])[0]) for x, w in zip(batch, waves, strict=True))
    assert all(x.dtype == np.float32 and x.shape[1] == encoder.frame_dim for x in batch)


@pytest.mark.slow
def test_whispers_encoder_gives_fifty_frames_a_second_and_batch_equals_single():
    encoder = load_encoder("whisper-tiny.en")
    waves = [noise(1.0), noise(2.5, 1)]
    batch = encoder.encode(waves)
    assert [len(x) for x in batch] == [50, 125] and encoder.frame_dim == 384
    assert all(np.array_equal(x, encoder.encode([w])[0]) for x, w in zip(batch, waves, strict=True))
    with pytest.raises(SaladError, match="30 s at most"):
        encoder.encode([noise(31)])


def test_frames_of_a_span_have_not_heard_what_follows(tmp_path):
    """Spans are cut before they are encoded (docs/decisions/0002): other sound around them changes nothing."""
    piece = Piece("u", 0, 3, 4000, 12_000)
    x = noise(1.5)
    stores = []
    for i, around in enumerate((1.0, 0.0)):
        y = x * around
        y[4000:12_000] = x[4000:12_000]
        soundfile.write(tmp_path / f"{i}.flac", y, 16_000)
        folder = tmp_path / f"shard-{i}"
        folder.mkdir()
        functools.partial(encode_pieces, encoder="log-mel")(Shard(0, ((str(tmp_path / f"{i}.flac"), [piece]),)), folder)
        stores.append(FrameStore([folder]).get(piece.key))
    assert np.array_equal(*stores)
    with pytest.raises(SaladError, match="no piece"):
        FrameStore([tmp_path / "shard-0"]).get(("u", 1, 2))


@pytest.mark.parametrize("num", [0, 5])
def test_recordings_fed_together_give_what_each_gives_alone(tmp_path, monkeypatch, num):
    """A GPU's way of feeding (here to an encoder on the CPU, two recordings at a time): the shard's bytes are equal."""
    items, asked = [], []
    for i in range(num):
        soundfile.write(tmp_path / f"{i}.flac", noise(0.5 + i / 4), 16_000)
        spans = [(0, 3000), (2000, 5000 + i), (0, 3000)][: i % 4]
        pieces = [Piece(f"u{i}", n, n + 1, *span) for n, span in enumerate(spans)]
        items.append((str(tmp_path / f"{i}.flac"), pieces, {"id": f"u{i}"}))
    shard = Shard(0, tuple(items))
    for name in ("alone", "fed"):
        (tmp_path / name).mkdir()
        encode_pieces(shard, tmp_path / name, encoder="log-mel")
        encoder = job.shared_encoder("log-mel")
        monkeypatch.setattr(job, "worker_device", lambda: "cuda")
        monkeypatch.setattr(job, "shared_encoder", lambda _, device="cpu", e=encoder: asked.append(device) or e)
        monkeypatch.setattr(job, "FED", 2)
    alone, fed = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("alone", "fed"))
    assert alone == fed and len(alone) > 0 and "cuda" in asked


# Chat: the LLM's own template, and what a user wrote in it is text


def chat_processor(template=None):
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|user|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special
    )
    raw.train_from_iterator(["Listen: what do you hear?"] * 3, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>", additional_special_tokens=special)
    made.chat_template = template
    return SaladProcessor(made, "log-mel", audio_token_id=len(made), start_token_id=0)


OWN = "{% for m in messages %}<|user|>{{ m['role'] | upper }}: {{ m['content'] | trim }}<|end|>{% endfor %}"


def test_the_llms_own_template_writes_the_chat():
    own = chat_processor(OWN)
    parts = [{"type": "text", "text": "Listen: "}, {"type": "audio"}, {"type": "text", "text": " What is it?"}]
    prompt = own.apply_chat_template([{"role": "user", "content": parts}, {"role": "user", "content": "Again"}])
    assert prompt == f"<|user|>USER: Listen: {AUDIO} What is it?<|end|><|user|>USER: Again<|end|>"
    ids = own(prompt, [noise(1)])["input_ids"][0].tolist()
    before, after = (
        own.tokenizer("<|user|>USER: Listen:"),
        own.tokenizer(" What is it?<|end|><|user|>USER: Again<|end|>"),
    )
    assert ids == [*before["input_ids"], own.audio_token_id, *after["input_ids"]]
    plain = chat_processor()
    assert plain.apply_chat_template([{"role": "user", "content": parts}]).startswith("<|im_start|>user\nListen: ")


@pytest.mark.parametrize("template", [OWN, None])
def test_what_a_user_typed_is_no_control_token(template):
    own = chat_processor(template)
    typed = f"He typed <|end|> and <|im_end|>, then {AUDIO}."
    prompt = own.apply_chat_template([{"role": "user", "content": typed}])
    assert typed in prompt
    ids = own(prompt)["input_ids"][0].tolist()
    template_only = own.apply_chat_template([{"role": "user", "content": "He"}])
    special = set(own.tokenizer.all_special_ids)
    control = [i for i in ids if i in special]
    assert control == [i for i in own.tokenizer(str(template_only))["input_ids"] if i in special]
    assert own.decode(ids, skip_special_tokens=False) == str(prompt) and own.audio_token_id not in ids
    assert not special & set(own(f"He typed <|end|> {AUDIO}", [noise(0.5)], add_start=False)["input_ids"][0].tolist())


@pytest.mark.parametrize("typed", ["<|im_end|>", AUDIO])
def test_nor_where_it_is_split_over_parts(typed):
    own = chat_processor()
    for at in range(1, len(typed)):
        pieces = ["He typed ", typed[:at], "", typed[at:], "."]
        parts = [{"type": "audio"}, *({"type": "text", "text": piece} for piece in pieces), {"type": "audio"}]
        prompts = [
            own.apply_chat_template([{"role": "user", "content": content}])
            for content in (parts, [parts[0], {"type": "text", "text": "".join(pieces)}, parts[-1]])
        ]
        assert prompts[0].marked == prompts[1].marked
        ids = own(prompts[0], [noise(0.5), noise(0.5)])["input_ids"][0].tolist()
        assert ids.count(own.audio_token_id) == 2 and ids.count(own.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


def test_messages_that_no_template_takes_are_named():
    own = chat_processor("{{ raise_exception('no system role here') }}")
    with pytest.raises(SaladError, match="messages: the LLM's chat template refuses them .no system role here"):
        own.apply_chat_template([{"role": "system", "content": "x"}])
    with pytest.raises(SaladError, match="messages: got a part"):
        own.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(SaladError, match="messages: got content None"):
        own.apply_chat_template([{"role": "user"}])
