"""What transformers, its Trainer, PEFT and servers expect of a model that hears."""

import base64
import copy
import shutil
import sys
import types
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
import soundfile
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

import salad
from salad.files import read_json
from salad.model import SaladProcessor
from salad.model.processor import AUDIO, placeholder_id
from salad.testing.listeners import RATE_HZ, save_corpus, save_listener, tokenizer
from salad.testing.models import VOCABULARY
from salad.types import SaladError

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune_ears.py"
PAGE = Path(__file__).parents[2] / "docs" / "api.md"


class Decoder:
    """What `datasets` 4 gives for a recording, as far as it is asked."""

    def __init__(self, data, rate_hz):
        self.samples = types.SimpleNamespace(data=data, sample_rate=rate_hz)

    def get_all_samples(self):
        return self.samples


def noise(seconds=1.0, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=int(seconds * RATE_HZ)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model that hears loudly enough that what is heard decides."""
    folder, _ = save_listener(tmp_path_factory.mktemp("saved"), rate="text", ctc=20)
    return folder


@pytest.fixture(scope="module")
def model(saved):
    return AutoModel.from_pretrained(saved).eval()


@pytest.fixture(scope="module")
def processor(saved):
    return AutoProcessor.from_pretrained(saved)


def user(*parts):
    return [{"role": "user", "content": [p if isinstance(p, dict) else {"type": "text", "text": p} for p in parts]}]


def test_a_copied_folder_loads_by_the_auto_classes_and_equals_ours(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForMultimodalLM.from_pretrained(folder).eval()
    ours = salad.load(saved)
    assert type(processor) is salad.SaladProcessor and type(model) is salad.SaladForConditionalGeneration
    inputs = processor(f"w3 {AUDIO} w4", [noise()])
    own = ours.processor(f"w3 {AUDIO} w4", [noise()])
    assert torch.equal(inputs["input_ids"], own["input_ids"])
    how = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **how), ours.model.generate(**own, **how))
    with pytest.raises(OSError, match="processor_config"):
        AutoProcessor.from_pretrained(folder).from_pretrained(tmp_path)


def test_one_call_makes_what_generate_takes_of_messages(processor, tmp_path):
    soundfile.write(tmp_path / "a b.wav", noise(), RATE_HZ, subtype="FLOAT")
    raw = (tmp_path / "a b.wav").read_bytes()
    coded = base64.b64encode(raw).decode()
    parts = [
        {"type": "audio", "audio": noise()},
        {"type": "audio", "path": str(tmp_path / "a b.wav")},
        {"type": "audio", "url": (tmp_path / "a b.wav").as_uri()},
        {"type": "audio", "url": f"data:audio/wav;base64,{coded}"},
        {"type": "audio", "url": f"data:audio/wav,{quote_from_bytes(raw)}"},
        {"type": "audio", "audio": raw},
        {"type": "input_audio", "input_audio": {"data": coded, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{coded}"}},
    ]
    wanted = processor(processor.apply_chat_template(user("w1 ", parts[0], " w2")), [noise()])
    for part in parts:
        got = processor.apply_chat_template(
            user("w1 ", part, " w2"), tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert torch.equal(got["input_ids"], wanted["input_ids"])
        assert torch.equal(got["frames"][0], wanted["frames"][0])
    assert torch.equal(
        processor.apply_chat_template(user(parts[0]), tokenize=True, return_dict=False)[0, -1:],
        got["input_ids"][0, -1:],
    )
    both = processor.apply_chat_template([user("w1 ", parts[0], " w2"), user("w3")], tokenize=True)
    assert both["input_ids"].shape[0] == 2 and torch.equal(both["input_ids"][0], wanted["input_ids"][0])
    assert isinstance(both.to("cpu", torch.float32)["frames"], list)


def test_a_recording_behind_a_url_is_fetched(processor, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "x.wav", noise(), RATE_HZ, subtype="FLOAT")
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return open(tmp_path / url.rsplit("/", 1)[1], "rb")

    monkeypatch.setattr("salad.model.recordings.urlopen", urlopen)
    part = {"type": "audio", "url": "https://example.org/x.wav"}
    got = processor.apply_chat_template(user(part), tokenize=True)
    assert asked == [part["url"]] and torch.equal(got["frames"][0], processor.frames_of(noise())[0])
    with pytest.raises(SaladError, match="y.wav cannot be fetched"):
        processor.apply_chat_template(user(part | {"url": "https://example.org/y.wav"}), tokenize=True)
    monkeypatch.setattr("salad.model.recordings.MAX_BYTES", 1000)
    with pytest.raises(SaladError, match="x.wav has over 1 kB"):
        processor.apply_chat_template(user(part), tokenize=True)


def test_the_llm_is_held_in_the_precision_it_is_loaded_in(saved, model, processor):
    low = AutoModel.from_pretrained(saved, dtype=torch.bfloat16).eval()
    cast = [copy.deepcopy(model).bfloat16(), copy.deepcopy(model).to("cpu", torch.float16), low]
    for other in cast:
        assert other.llm.dtype == other.dtype != torch.float32
        for part in ("adapter", "ctc"):  # neither cast nor rounded
            wanted = getattr(model, part).state_dict()
            assert all(torch.equal(held, wanted[key]) for key, held in getattr(other, part).state_dict().items())
    inputs = processor(f"w1 {AUDIO} w2", [noise()])
    assert {other(**inputs).logits.dtype for other in cast} == {torch.bfloat16, torch.float16}
    assert low.float().llm.dtype == torch.float32 and low.bfloat16().get_decoder() is low.llm.model
    with torch.no_grad():
        whole = model(**inputs).logits
        for given in (inputs, inputs.to("cpu", torch.bfloat16)):
            logits = low(**given).logits
            assert logits.dtype == torch.bfloat16 and torch.isfinite(logits).all()
            assert low.generate(**given, max_new_tokens=2, do_sample=False).shape[1] == inputs["input_ids"].shape[1] + 2
    own, read = logits[0, -1].float(), whole[0, -1]  # after start, w1, what was heard, w2
    assert float((own - read).norm() / read.norm()) < 0.1
    torch.testing.assert_close(logits[0, :2].float(), whole[0, :2], atol=0.05, rtol=0.05)  # before anything is heard


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "audio"}, 'expected "path", "url" or "audio"'),
        ({"type": "audio", "path": "x.wav", "audio": "y.wav"}, 'expected "path", "url" or "audio"'),
        ({"type": "audio", "url": "data:audio/wav;base64,?"}, "no base64"),
        ({"type": "audio", "path": "missing.wav"}, "missing.wav"),
    ],
)
def test_an_audio_part_that_holds_no_recording_is_refused(processor, part, message):
    with pytest.raises(SaladError, match=message):
        processor.apply_chat_template(user(part), tokenize=True)


def test_a_message_of_a_tool_call_says_nothing_and_masks_of_answers_are_refused(processor):
    call = {"role": "assistant", "content": None, "tool_calls": []}
    said = processor.apply_chat_template([*user("w1"), call, *user("w2")])
    assert said == processor.apply_chat_template([*user("w1"), {"role": "assistant", "content": ""}, *user("w2")])
    with pytest.raises(SaladError, match="got content None"):
        processor.apply_chat_template([{"role": "assistant", "content": None}])
    with pytest.raises(SaladError, match="return_assistant_tokens_mask"):
        processor.apply_chat_template(user("w1"), tokenize=True, return_assistant_tokens_mask=True)


@pytest.mark.parametrize(
    "given",
    [
        lambda x: torch.from_numpy(x),
        lambda x: x.astype(np.float64).tolist(),
        lambda x: list(x),
        lambda x: np.stack([x + 0.01, x - 0.01], axis=1),
        lambda x: torch.from_numpy(x)[None],
        lambda x: np.round(x * 32768).astype(np.int16),
        lambda x: np.round(x * 2.0**31).astype(np.int32),
        lambda x: {"array": x, "sampling_rate": RATE_HZ, "path": None},
        lambda x: Decoder(torch.from_numpy(x)[None], RATE_HZ),
    ],
    ids=[
        "tensor",
        "list",
        "list of numpy's numbers",
        "two channels",
        "one channel",
        "int16",
        "int32",
        "a row",
        "a decoder",
    ],
)
def test_samples_of_any_kind_are_one_recording(processor, given):
    wanted = processor(f"w1 {AUDIO}", [noise()])
    own = given(noise())
    nested = [[own]] if getattr(own, "ndim", 1) == 1 else [own]  # a list of tensors [n, m] is the frames of spans
    for audio in (own, [own], nested):
        got = processor(f"w1 {AUDIO}", audio)
        torch.testing.assert_close(got["frames"][0], wanted["frames"][0], atol=0.01, rtol=0.01)
    message = user({"type": "audio", "audio": given(noise())})
    assert len(processor.apply_chat_template(message, tokenize=True)["frames"]) == 1


def test_recordings_may_be_given_text_by_text_and_what_is_none_is_refused(processor):
    texts, (a, b, c) = [f"w1 {AUDIO}", f"{AUDIO} {AUDIO}", "w2"], [noise(7.0), noise(0.5, 1), noise(0.5, 2)]
    flat, each = processor(texts, [a, b, c]), processor(texts, [[a], [b, processor.frames_of(c)], []])
    assert torch.equal(flat["input_ids"], each["input_ids"]) and len(each["frames"]) == 4
    slow = {"array": a[::2].copy(), "sampling_rate": RATE_HZ // 2}
    assert len(processor(AUDIO, slow)["frames"]) == 2
    for wrong, message in (
        (a * 32768, "the array has samples of up to .* integers of 16 bits written as floats"),
        (a * 127, "the array has samples of up to .* integers of 8 bits written as floats"),
        (np.stack([a, 0.01 * noise(7.0, 3) - a]), "the array has 2 channels that cancel each other out"),
        (np.where(np.arange(len(a)) == 5, np.nan, a), "the array holds NaN or infinite samples"),
        (np.zeros((20, 16000), np.float32), r"shape \[20, 16000\]"),
        ([1, 2, 3], "samples of int64"),
        ({"array": a, "sampling_rate": float("nan")}, "sampling_rate: got nan, expected a number of Hz"),
        ({"array": a, "sampling_rate": "24000"}, "sampling_rate: got '24000', expected a number of Hz"),
        ({"array": a, "sampling_rate": -8000}, "says a rate of -8000 Hz, expected at least"),
        ({"sampling_rate": 8000}, 'expected "array", "bytes" or "path"'),
    ):
        with pytest.raises(SaladError, match=message):
            processor(AUDIO, wrong)


def test_samples_at_another_rate_are_resampled(processor):
    low = noise(1.0)[::2].copy()
    got = processor(AUDIO, [low], sampling_rate=RATE_HZ // 2)["frames"][0]
    assert abs(len(got) - 100) <= 1 and len(processor(AUDIO, [low])["frames"][0]) == pytest.approx(50, abs=1)


def test_the_placeholder_is_a_token_that_nobody_types_and_nobody_generates(model, processor):
    own = processor.tokenizer
    assert own.convert_tokens_to_ids(AUDIO) == processor.audio_token_id == model.config.audio_token_id == VOCABULARY
    assert placeholder_id(own) == VOCABULARY == placeholder_id(tokenizer())
    assert model.get_input_embeddings().weight.shape[0] == VOCABULARY  # it has no row: its logit does not exist
    prompt = processor.apply_chat_template(user(f"w1 {AUDIO} w2"))
    assert AUDIO in prompt and VOCABULARY not in processor(prompt)["input_ids"][0].tolist()
    assert processor.decode([1, VOCABULARY, 2]) == processor.decode([1, 2])


def test_the_placeholder_is_no_word_where_ids_have_a_gap():
    words = {f"w{i}": i for i in [*range(49), 50]}
    raw = Tokenizer(models.WordLevel(words, unk_token="w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="w0")
    assert len(own) == 50 and placeholder_id(own) == 51
    processor = SaladProcessor(own, "log-mel", placeholder_id(own), 0)
    ids = processor(f"w50 {AUDIO} w50", [noise(0.1)])["input_ids"][0].tolist()
    assert ids == [0, 50, 51, 50] and processor.decode([50]) == "w50"


def test_a_placeholder_inside_the_table_is_not_generated(saved, processor):
    model = AutoModel.from_pretrained(saved).eval()
    inputs = processor("w1 w2", ())
    first = int(model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1])
    model.config.audio_token_id = first
    assert int(model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1]) != first


def batch_of(processor, side):
    texts, sounds = [f"w1 {AUDIO} w2 w3", f"{AUDIO} w4 w5 w6 w7", "w8 w9"], [noise(1.0), noise(2.5, 1)]
    return processor(texts, sounds, padding_side=side), [(texts[0], sounds[:1]), (texts[1], sounds[1:]), (texts[2], [])]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_gives_what_its_rows_give_alone_padded_on_either_side(model, processor, side):
    batch, singles = batch_of(processor, side)
    assert 0 in batch["attention_mask"][2] and batch["attention_mask"][2][0 if side == "left" else -1] == 0
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        out = model(**batch, labels=labels.masked_fill(labels == VOCABULARY, -100))
        sums, count = 0.0, 0
        for row, (text, sounds) in enumerate(singles):
            one = processor(text, sounds)
            asked = one["input_ids"].masked_fill(one["input_ids"] == VOCABULARY, -100)
            alone = model(**one, labels=asked)
            own = out.logits[row][batch["attention_mask"][row].bool()]
            torch.testing.assert_close(own, alone.logits[0], atol=1e-5, rtol=1e-5)
            number = int((asked[:, 1:] != -100).sum())
            sums, count = sums + float(alone.loss) * number, count + number
        assert float(out.loss) == pytest.approx(sums / count, rel=1e-5)
        labels = labels.masked_fill(labels == VOCABULARY, -100)
        told = int((labels[:, 1:] != -100).sum())  # as Trainer counts: start tokens behind padding, too
        two = model(**batch, labels=labels, num_items_in_batch=2 * told)  # of this batch and another
        assert float(two.loss) == pytest.approx(sums / (2 * told), rel=1e-5)
    how = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    together = model.generate(**batch, **how)
    for row, (text, sounds) in enumerate(singles):
        assert torch.equal(together[row : row + 1, -5:], model.generate(**processor(text, sounds), **how)[:, -5:])


def test_the_loss_is_the_nll_of_the_tokens_behind_the_recording(model, processor):
    batch = processor(f"{AUDIO} w4 w5", [noise()])
    heard = int(batch["span_lengths"])
    labels = torch.tensor([[-100] * (1 + heard) + [4, 5]])
    assert batch["input_ids"].tolist() == [[0, *[VOCABULARY] * heard, 4, 5]]
    with torch.no_grad():
        out = model(**batch, labels=labels)
        scores = out.logits[0].log_softmax(-1)
        assert float(out.loss) == pytest.approx(-float(scores[-3, 4] + scores[-2, 5]) / 2, rel=1e-5)
        features = model.get_audio_features(batch["frames"])
    assert len(features) == 1 and out.logits.shape[1] == 3 + len(features[0]) == 3 + heard
    assert features[0].shape[1] == model.get_input_embeddings().weight.shape[1]
    assert model.get_audio_features([]) == [] and model(**batch).loss is None
    with pytest.raises(SaladError, match=r"labels: got \[1, 2\]"):
        model(**batch, labels=labels[:, :2])


def test_labels_that_the_model_leaves_out_do_not_make_the_loss_smaller(model, processor):
    """A Trainer counts labels before the model masks placeholders and padding."""
    batch, _ = batch_of(processor, "left")
    ids = batch["input_ids"]
    with torch.no_grad():
        counted = int((ids[:, 1:] != -100).sum())
        plain, divided = (model(**batch, labels=ids, num_items_in_batch=n).loss for n in (None, torch.tensor(counted)))
    assert float(divided) == pytest.approx(float(plain), rel=1e-5)


def trainer_of(model, processor, folder, **settings):
    rows = [{"text": f"{AUDIO} w4 w5 w6", "audio": noise(0.5, seed)} for seed in range(4)]

    def collate(rows):
        batch = processor([row["text"] for row in rows], [row["audio"] for row in rows])
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["input_ids"] == VOCABULARY, -100)}

    plain = {"remove_unused_columns": False, "report_to": [], "logging_steps": 1, "save_strategy": "no",
             "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 4}  # fmt: skip
    arguments = TrainingArguments(str(folder), **plain | settings)
    return Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collate, processing_class=processor
    )


def test_trainer_evaluates_saves_and_goes_on(saved, tmp_path):
    """With the best checkpoint at its end, from the first checkpoint as if it had not been stopped, and in bf16."""
    processor = AutoProcessor.from_pretrained(saved)
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1,
                "learning_rate": 0.01, "lr_scheduler_type": "constant", "load_best_model_at_end": True}  # fmt: skip
    first = trainer_of(AutoModel.from_pretrained(saved), processor, tmp_path / "run", **settings)
    first.train()
    losses = [row["eval_loss"] for row in first.state.log_history if "eval_loss" in row]
    assert losses[1] < losses[0] and first.evaluate()["eval_loss"] == pytest.approx(losses[1])
    processor.ears = first.model  # which were trained: as many placeholders as they hear now
    predicted = first.predict(first.eval_dataset)
    assert predicted.predictions.shape == (*predicted.label_ids.shape, VOCABULARY)
    resumed = trainer_of(AutoModel.from_pretrained(saved), processor, tmp_path / "run", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    own = resumed.model.state_dict()
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(own[name], value, atol=1e-5, rtol=1e-4)  # a batch's rows stand in another order
    first.save_model(str(tmp_path / "saved"))
    again = AutoModel.from_pretrained(tmp_path / "saved")
    assert AutoProcessor.from_pretrained(tmp_path / "saved").ears.config.rate == "text"
    low = trainer_of(again, processor, tmp_path / "low", bf16_full_eval=True).evaluate()["eval_loss"]
    assert low == pytest.approx(losses[1], abs=0.3)


def test_peft_and_trainer_train_it(saved, processor, tmp_path):
    model = AutoModel.from_pretrained(saved)
    student = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    trainer = trainer_of(student, processor, tmp_path, max_steps=12, learning_rate=0.05)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.5 * losses[0], losses
    student.save_pretrained(tmp_path / "lora")
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(saved), tmp_path / "lora").eval()
    inputs = processor(f"w1 {AUDIO} w2", noise())
    how = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(loaded.generate(**inputs, **how), student.eval().generate(**inputs, **how))
    merged = student.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModel.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        batch = trainer.data_collator(trainer.eval_dataset)
        assert float(again(**batch).loss) == pytest.approx(float(merged.eval()(**batch).loss), rel=1e-4)


def test_the_script_of_the_docs_reads_m_before_and_after(saved, tmp_path, monkeypatch, capsys):
    script = EXAMPLE.read_text(encoding="utf-8")
    assert f"```py\n{script}```" in PAGE.read_text(encoding="utf-8")
    assert len([line for line in script.splitlines() if line]) <= 30
    save_corpus(tmp_path / "corpus")
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, str(saved), str(tmp_path / "corpus"), str(tmp_path / "out"), "3"])
    exec(compile(script, str(EXAMPLE), "exec"), {"__name__": "example"})
    said = capsys.readouterr().out.splitlines()[-1]
    m = [
        read_json(tmp_path / "out" / w / "divergence.json")["all"]["misalignment"]["value"] for w in ("before", "after")
    ]
    assert said.startswith(f"M before {m[0]:.4f}, after {m[1]:.4f} nats") and m[0] != m[1]
