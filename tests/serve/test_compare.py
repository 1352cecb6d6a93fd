"""The same question heard, read as heard, and read as a recogniser hears it; and what each word costs."""

from __future__ import annotations

from dataclasses import replace

import httpx2
import pytest
import torch

from salad.audio import read_audio
from salad.serve import compare
from salad.serve.errors import ApiError
from salad.serve.served_model import ServedModel
from salad.serve.settings import Settings
from salad.serve.word_gap import cost_of_words, pair_words
from salad.testing.listeners import save_listener
from salad.testing.sounds import audio_part, noise_file

SOUND = noise_file(2.0)
AUDIO = audio_part(SOUND)["input_audio"]
PATH = "/v1/salad/compare"


@pytest.fixture(scope="module")
def client(tiny, served):
    """A server with a recogniser that always hears w7 w8."""

    class Asr:
        def transcribe(self, samples):
            return "w7 w8"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "load_asr", lambda name: Asr())
        with served(tiny, Settings(asr="some")) as url, httpx2.Client(base_url=url, timeout=60) as found:
            yield found


def test_three_answers_to_one_question(client):
    told = client.post(PATH, json={"model": "salad", "audio": AUDIO, "text": " w5", "max_tokens": 6}).json()
    heard = told["heard"]["text"]
    assert len(heard.split()) == len(told["heard"]["words"]) > 0
    assert told["cascade"] == {"text": "w7 w8", "asr": "some"} and told["said"] is None

    def answered(content):
        body = {"model": "salad", "max_tokens": 6, "messages": [{"role": "user", "content": content}]}
        return client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]

    texts = {who: answer["text"] for who, answer in told["answers"].items()}
    assert texts["ears"] == answered([audio_part(SOUND), {"type": "text", "text": " w5"}])
    assert texts["reader"] == answered(f"{heard} w5")
    assert texts["cascade"] == answered("w7 w8 w5") != texts["reader"]


def test_only_the_answers_that_were_asked_for(client):
    told = client.post(PATH, json={"model": "salad", "audio": AUDIO, "answers": ["reader"], "max_tokens": 1}).json()
    assert list(told["answers"]) == ["reader"]
    assert client.get("/ready").json()["room"] == 80


def test_without_a_recogniser_there_is_no_cascade(post):
    told = post({"model": "salad", "audio": AUDIO, "max_tokens": 1}, PATH).json()
    assert told["cascade"] is None and list(told["answers"]) == ["ears", "reader"]


def test_m_by_word_is_the_divergence_behind_it(tiny, client):
    """Where the words are those that were heard, the two prompts differ by their embeddings alone."""
    samples = read_audio(SOUND, 16_000)[0]
    said = " ".join(w.text for w in tiny.hear(samples, 0.0).words)
    told = client.post(PATH, json={"model": "salad", "audio": AUDIO, "said": said, "answers": []}).json()["said"]
    assert [w["word"] for w in told] == [w["heard"] for w in told] == said.split()

    def logits(content, audio):
        written, add_start = tiny.processor.turns([{"role": "user", "content": content}])
        with torch.no_grad():
            return tiny.model(**tiny.processor(written, audio=audio, add_start=add_start)).logits[0].log_softmax(-1)

    ears = logits([{"type": "audio"}], [samples])
    eyes = logits([{"type": "text", "text": f"{said} "}], [])
    assert len(ears) == len(eyes)
    before = 1  # the start token
    kl = (eyes.exp() * (eyes - ears)).sum(-1)[before : before + len(told)]
    assert [w["m"] for w in told] == pytest.approx(kl.tolist(), abs=2e-3) and max(w["m"] for w in told) > 0.01


def test_words_that_were_missed_cost_nothing_that_is_known(tiny):
    samples = read_audio(SOUND, 16_000)[0]
    heard = [w.text for w in tiny.hear(samples, 0.0).words]
    with torch.no_grad():
        told = cost_of_words(tiny, samples, " ".join(["w60", "w59", *heard]))
    assert [w["heard"] for w in told] == [None, None, *heard] and told[0]["m"] is None


def test_ears_of_a_fixed_rate_hear_a_word_once(tmp_path, monkeypatch):
    served = ServedModel.load(str(save_listener(tmp_path, rate="fixed", ctc=40)[0]))
    hear = served.model.hear

    def lasting(frames):
        found = hear(frames)
        return replace(found, token_ids=torch.tensor([5, 6]).repeat_interleave(len(found.embeddings) // 2))

    monkeypatch.setattr(served.model, "hear", lasting)
    with torch.no_grad():
        told = cost_of_words(served, read_audio(SOUND, 16_000)[0], "w5 w60 w6")
    assert [w["heard"] for w in told] == ["w5", None, "w6"]


@pytest.mark.parametrize(
    "said, heard, pairs",
    [
        ("The water, runs", "the water runs", [0, 1, 2]),
        ("the water runs", "the runs", [0, None, 1]),
        ("the runs", "the water runs", [0, 2]),
        ("a b", "", [None, None]),
        ("- b", "- b", [0, 1]),
    ],
)
def test_pairs_of_words(said, heard, pairs):
    assert pair_words(said.split(), heard.split()) == pairs


def test_words_beyond_what_the_llm_reads_are_not_read(tiny, monkeypatch):
    monkeypatch.setattr(tiny.model, "hear", lambda *given: pytest.fail("heard"))
    with pytest.raises(ApiError, match="said: .*2048") as refused:
        cost_of_words(tiny, read_audio(SOUND, 16_000)[0], "w1 " * 3000)
    assert refused.value.status == 400 and refused.value.param == "said"


@pytest.mark.parametrize(
    "more, param",
    [
        ({"text": "w1 " * 50_000}, "text"),
        ({"said": "w1 " * 50_000}, "said"),
        ({"said": "w1 " * 3000}, "said"),
        ({"colour": 1}, "colour"),
        ({"said": " "}, "said"),
        ({"answers": ["me"]}, "answers[0]"),
        ({"audio": {}}, "audio.data"),
    ],
)
def test_refused_by_name(post, more, param):
    answer = post({"model": "salad", "audio": AUDIO, **more}, PATH)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
