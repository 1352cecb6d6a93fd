"""transformers' common tests of processors, by their names; its pipeline; and names on a hub, from a cache of our own.

docs/transformers.md lists those that are left out, and why.
"""

import hashlib
import json
import shutil
import types

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline

import salad.model
from salad.model.processor import AUDIO, SaladProcessor
from salad.testing.listeners import RATE_HZ, save_listener, tokenizer
from salad.testing.models import VOCABULARY
from salad.types import SaladError


def noise(seconds=1.0, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=int(seconds * RATE_HZ)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_listener(tmp_path_factory.mktemp("saved"), rate="text", ctc=20)[0]


@pytest.fixture(scope="module")
def processor(saved):
    return AutoProcessor.from_pretrained(saved)


@pytest.fixture(scope="module")
def model(saved):
    return AutoModelForMultimodalLM.from_pretrained(saved).eval()


# --- ProcessorTesterMixin ---------------------------------------------------------------------------------


def test_as_many_placeholders_as_embeddings_before_the_model_runs(processor, model):
    batch = processor([f"w1 {AUDIO} w2", f"{AUDIO} {AUDIO}"], [noise(1.0), noise(13.0, 1), noise(0.3, 2)])
    heard = [len(span) for span in model.get_audio_features(batch["frames"])]
    assert batch["span_lengths"].tolist() == heard and len(heard) == 5  # 13 s are three spans
    assert (batch["input_ids"] == VOCABULARY).sum(1).tolist() == [heard[0], sum(heard[1:])]
    assert model(**batch).logits.shape[:2] == batch["input_ids"].shape
    again = SaladProcessor.from_pretrained(processor.tokenizer.name_or_path)
    again.ears = model
    assert torch.equal(again(f"w1 {AUDIO} w2", noise(1.0))["input_ids"][0], batch["input_ids"][0][-3 - heard[0] :])
    again.ears = None
    one = again(f"w1 {AUDIO} w2", noise(1.0))
    assert one["input_ids"].tolist() == [[0, 1, VOCABULARY, 2]] and one["span_lengths"].tolist() == [1]
    alone = {key: one[key] for key in ("input_ids", "frames")}
    torch.testing.assert_close(model(**alone).logits, model(**processor(f"w1 {AUDIO} w2", noise(1.0))).logits)
    how = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    given, more = processor(f"w1 {AUDIO} w2", noise(1.0)), one["input_ids"].shape[1]
    assert torch.equal(
        model.generate(**one, **how)[:, more:], model.generate(**given, **how)[:, given["input_ids"].shape[1] :]
    )


def test_processor_to_json_string(processor):
    told = json.loads(processor.to_json_string())
    assert told == processor.to_dict() and told["audio_token_id"] == VOCABULARY and told["encoder"] == "log-mel"
    assert "SaladProcessor" in repr(processor)


def test_processor_from_and_save_pretrained(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = SaladProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict() and again.ears is None  # no model lies beside it
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_chat_template_save_loading(tmp_path):
    own = tokenizer()
    own.chat_template = "{% for m in messages %}{{ m['content'] }} w9{% endfor %}"
    SaladProcessor(own, "log-mel", VOCABULARY, 0).save_pretrained(tmp_path)
    again = SaladProcessor.from_pretrained(tmp_path)
    assert again.chat_template == own.chat_template
    assert again.apply_chat_template([{"role": "user", "content": "w1"}]) == "w1 w9"


def test_the_chat_template_is_the_tokenizers_and_may_be_changed(saved, tmp_path):
    processor = AutoProcessor.from_pretrained(saved, chat_template="{{ messages[0]['content'] }} w8")
    messages = [{"role": "user", "content": "w1"}]
    assert processor.apply_chat_template(messages) == "w1 w8" and processor.chat_template.endswith(" w8")
    processor.chat_template = "w9 {{ messages[0]['content'] }}"
    assert processor.apply_chat_template(messages) == "w9 w1"
    assert processor.apply_chat_template(messages, "{{ messages[0]['role'] }}") == "user"
    processor.save_pretrained(tmp_path)
    assert SaladProcessor.from_pretrained(tmp_path).apply_chat_template(messages) == "w9 w1"


def test_two_calls_make_what_one_makes(processor):
    """The template opens the document: no start token stands before what it wrote, whatever stands beside it."""
    messages = [{"role": "user", "content": [{"type": "audio", "audio": noise()}, {"type": "text", "text": " w2"}]}]
    whole = processor.apply_chat_template(messages, tokenize=True)
    prompt = processor.apply_chat_template(messages)
    two = processor(text=prompt, audio=[noise()])
    assert torch.equal(two["input_ids"], whole["input_ids"])
    mixed = processor([prompt, f"{AUDIO} w3"], [noise(), noise()])
    assert mixed["attention_mask"].sum(1).tolist() == [whole["input_ids"].shape[1], 2 + int(mixed["span_lengths"][1])]
    assert processor(prompt, [noise()], add_start=True)["input_ids"].shape[1] == whole["input_ids"].shape[1] + 1


def test_a_collator_gets_no_header_behind_the_answer(processor):
    talk = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    assert processor.apply_chat_template(talk).endswith("w2<|im_end|>\n")
    assert processor.apply_chat_template(talk, add_generation_prompt=True).endswith("<|im_start|>assistant\n")


def test_ids_of_several_rows_become_several_strings(processor):
    ids = torch.tensor([[1, VOCABULARY, 2], [3, 4, 5]])
    assert processor.decode(ids) == ["w1 w2", "w3 w4 w5"] == processor.batch_decode(ids)
    assert processor.decode(ids[0]) == "w1 w2"


def test_saving_pushes_and_tells_the_files(processor, tmp_path, monkeypatch):
    asked = {}

    class Hub:
        def create_repo(self, name, **how):
            asked["repo"] = (name, how)
            return types.SimpleNamespace(repo_id=f"me/{name}")

    monkeypatch.setattr("salad.model.processor.hf_api", Hub)
    monkeypatch.setattr(
        SaladProcessor, "_upload_modified_files", lambda self, folder, repo, before, **how: asked.update(up=(repo, how))
    )
    files = processor.save_pretrained(tmp_path / "ears", push_to_hub=True, token="secret", private=True)
    assert asked["repo"] == ("ears", {"exist_ok": True, "token": "secret", "private": True})
    assert asked["up"] == ("me/ears", {"commit_message": None, "token": "secret"})
    assert {str(path) for path in (tmp_path / "ears").iterdir()} == set(files)
    with pytest.raises(SaladError, match="return_tensors: got 'np', expected 'pt'"):
        processor("w1", return_tensors="np")


def test_model_input_names(processor):
    batch = processor(f"w1 {AUDIO}", noise())
    assert list(batch) == processor.model_input_names


def test_unstructured_and_structured_kwargs_audio(processor):
    low, plain = noise(1.0)[::2].copy(), processor(f"w1 {AUDIO}", noise(1.0))
    flat = processor(f"w1 {AUDIO}", low, sampling_rate=RATE_HZ // 2, padding="max_length", max_length=40)
    nested = processor(
        f"w1 {AUDIO}",
        low,
        text_kwargs={"padding": "max_length", "max_length": 40},
        audio_kwargs={"sampling_rate": RATE_HZ // 2},
        common_kwargs={"return_tensors": "pt"},
    )
    assert flat["input_ids"].shape == nested["input_ids"].shape == (1, 40)
    assert abs(len(flat["frames"][0]) - len(plain["frames"][0])) <= 1
    assert torch.equal(flat["frames"][0], nested["frames"][0])
    assert flat["attention_mask"].sum() == 2 + int(flat["span_lengths"])


def test_doubly_passed_kwargs_and_a_prompt_that_would_be_cut(processor):
    with pytest.raises(SaladError, match="sampling_rate: got it"):
        processor(AUDIO, noise(), sampling_rate=8000, audio_kwargs={"sampling_rate": 8000})
    with pytest.raises(SaladError, match="truncation: got True"):
        processor(AUDIO, noise(), truncation=True, max_length=3)
    with pytest.raises(SaladError, match="max_length: got none"):
        processor("w1", padding="max_length")


def test_chat_template_jinja_kwargs(processor):
    messages = [{"role": "user", "content": "w1"}]
    asked = {"chat_template": "{{ messages[0]['content'] }} {{ extra }}", "extra": "w7"}
    made = processor.apply_chat_template(messages, tokenize=True, padding_side="right", processor_kwargs={}, **asked)
    assert made["input_ids"].tolist() == [[1, 7]]


def test_apply_chat_template_continues_the_last_message(processor):
    messages = [{"role": "user", "content": [{"type": "audio", "audio": noise()}]}]
    messages.append({"role": "assistant", "content": [{"type": "text", "text": "w5"}]})
    how = {"continue_final_message": True}
    assert processor.apply_chat_template(messages, **how).endswith("w5")
    assert processor.apply_chat_template(messages, tokenize=True, **how)["input_ids"][0, -1] == 5


def test_post_process_multimodal_output_leaves_placeholders_out(processor):
    ids = torch.tensor([[1, VOCABULARY, VOCABULARY, 2]])
    assert processor.post_process_multimodal_output(ids) == ["w1 w2"] == processor.batch_decode(ids)


# --- pipeline ---------------------------------------------------------------------------------------------


def test_the_pipeline_of_audio_and_text_works_from_a_saved_folder(saved, processor, model, tmp_path, caplog):
    pipe = pipeline("any-to-any", model=str(saved))
    assert "is not supported" not in caplog.text
    soundfile.write(tmp_path / "x.wav", noise(), RATE_HZ, subtype="FLOAT")
    parts = [{"type": "audio", "path": str(tmp_path / "x.wav")}, {"type": "text", "text": " w3"}]
    messages = [{"role": "user", "content": parts}]
    how = {"do_sample": False, "max_new_tokens": 4}
    inputs = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    ids = model.generate(**inputs, **how)
    wanted = processor.decode(ids[0, inputs["input_ids"].shape[1] :])
    (told,) = pipe(messages, generate_kwargs=how, return_full_text=False)
    assert told["generated_text"].strip() == wanted.strip() and wanted
    (told,) = pipe(messages, generate_kwargs=how)
    assert told["generated_text"][-1]["role"] == "assistant"
    both = pipe([messages, messages], generate_kwargs=how, return_full_text=False)
    assert [row[0]["generated_text"].strip() for row in both] == [wanted.strip()] * 2
    (told,) = pipe(text=f"w1 {AUDIO}", audio=noise(), generate_kwargs=how, return_full_text=False)
    inputs = processor(f"w1 {AUDIO}", noise())
    ids = model.generate(**inputs, **how)[0, inputs["input_ids"].shape[1] :]
    assert told["generated_text"].strip() == processor.decode(ids).strip()


# --- names on a hub ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub's cache with two revisions of me/ears: `main` at text rate, `old` with ears of fixed rate."""
    cache, made = tmp_path_factory.mktemp("hub"), {}
    for revision, options in {"main": {"rate": "text", "ctc": 20}, "old": {"rate": "fixed"}}.items():
        made[revision], _ = save_listener(tmp_path_factory.mktemp(revision), **options)
        commit = hashlib.sha1(revision.encode()).hexdigest()
        place = cache / "models--me--ears"
        shutil.copytree(made[revision], place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / revision).write_text(commit)
    return cache, made


@pytest.mark.parametrize("revision", ["main", "old"])
def test_a_name_on_the_hub_loads_its_revision_with_the_token(hub, revision, monkeypatch):
    cache, made = hub
    asked = []
    fetch = salad.model.processor.cached_file.__globals__["cached_files"]

    def spy(*args, **kwargs):
        if kwargs.get("cache_dir") == str(cache):
            names = kwargs["filenames"] if "filenames" in kwargs else args[1]
            asked.extend((name, kwargs.get("revision"), kwargs.get("token")) for name in names)
        return fetch(*args, **kwargs)

    monkeypatch.setitem(salad.model.processor.cached_file.__globals__, "cached_files", spy)
    where = {"revision": revision, "token": "secret", "cache_dir": str(cache), "local_files_only": True}
    processor = AutoProcessor.from_pretrained("me/ears", **where)
    model = AutoModelForMultimodalLM.from_pretrained("me/ears", **where).eval()
    ours = SaladProcessor.from_pretrained(made[revision])
    inputs, own = (p(f"w1 {AUDIO} w2", noise()) for p in (processor, ours))
    assert torch.equal(inputs["input_ids"], own["input_ids"]) and model.config.rate == ours.ears.config.rate
    assert model(**inputs).logits.shape[:2] == own["input_ids"].shape
    files = {"processor_config.json", "config.json", *(["model.safetensors"] if revision == "main" else [])}
    told = {(name, token) for name, _, token in asked}
    assert {(name, "secret") for name in files} <= told
    assert {asked_for for name, asked_for, _ in asked if name in files} == {revision}
    options = {"revision": revision, "token": "secret", "model_kwargs": {"cache_dir": str(cache)}}
    pipe = pipeline("any-to-any", model="me/ears", **options)
    assert pipe.model.config.rate == model.config.rate == pipe.processor.ears.config.rate
