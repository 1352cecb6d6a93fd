"""The shipped ears behind a real port, through OpenAI's own client: a person speaks, the LLM answers."""

from __future__ import annotations

import base64

import openai
import pytest
import torch

from salad import assets
from salad.audio import read_audio
from salad.serve.served_model import DEFAULT_MODEL, ServedModel
from salad.serve.settings import Settings


@pytest.fixture(scope="module")
def model():
    return ServedModel.load(DEFAULT_MODEL)


@pytest.mark.slow
def test_a_spoken_line_is_heard_and_answered(model, served):
    data = (assets.get("human-speech") / "beckett.wav").read_bytes()
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": " Who wrote this?"}]}]
    with served(model, Settings()) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        whole = client.chat.completions.create(model=DEFAULT_MODEL, messages=messages, max_tokens=16)
        stream = client.chat.completions.create(model=DEFAULT_MODEL, messages=messages, max_tokens=16, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        heard = client.audio.transcriptions.create(
            model=DEFAULT_MODEL, file=("a.wav", data), response_format="verbose_json", timestamp_granularities=["word"]
        )
    plain = [{"type": "audio"}, {"type": "text", "text": " Who wrote this?"}]
    prompt = model.processor.apply_chat_template([{"role": "user", "content": plain}])
    read = model.processor(prompt, audio=[read_audio(data, 16_000)[0]], add_start=False)
    with torch.no_grad():
        ids = model.model.generate(**read, max_new_tokens=16, do_sample=False, eos_token_id=sorted(model.ends))
    assert (
        whole.choices[0].message.content == streamed == model.decode(ids[0, read["input_ids"].shape[1] :].tolist())
        and len(streamed.split()) > 4
    )
    assert "ever tried ever failed no matter" in heard.text and "fail better" in heard.text
    times = {w.word: (w.start, w.end) for w in heard.words}
    assert 0.2 < times["tried"][0] < times["matter"][0] < times["better"][1] < 10
