"""The shipped ears behind a real port, through OpenAI's own client: a person speaks, the LLM answers."""

from __future__ import annotations

import base64

import numpy as np
import openai
import pytest
import torch

from salad import assets
from salad.audio import read_audio, resample
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
    prompt = model.processor.apply_chat_template([{"role": "user", "content": plain}], add_generation_prompt=True)
    read = model.processor(prompt, audio=[read_audio(data, 16_000)[0]])
    with torch.no_grad():
        ids = model.model.generate(**read, max_new_tokens=16, do_sample=False, eos_token_id=sorted(model.ends))
    assert (
        whole.choices[0].message.content == streamed == model.decode(ids[0, read["input_ids"].shape[1] :].tolist())
        and len(streamed.split()) > 4
    )
    assert "ever tried ever failed no matter" in heard.text and "fail better" in heard.text
    times = {w.word: (w.start, w.end) for w in heard.words}
    assert 0.2 < times["tried"][0] < times["matter"][0] < times["better"][1] < 10


@pytest.mark.slow
def test_a_person_speaks_and_is_answered(model, served):
    """/v1/realtime: the VAD finds the turn, and what it is told is what `generate` answers to it."""
    speech = read_audio(assets.get("human-speech") / "beckett.wav", 24_000, duration_s=4.4)[0]
    values = (np.concatenate([speech, np.zeros(24_000, np.float32)]) * 32767).astype("<i2")
    audio = {"input": {"transcription": {}, "turn_detection": {"silence_duration_ms": 800}}}
    with served(model, Settings()) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with client.realtime.connect(model=DEFAULT_MODEL) as talk:
            talk.session.update(session={"type": "realtime", "max_output_tokens": 16, "audio": audio})
            for at in range(0, len(values), 2400):
                talk.input_audio_buffer.append(audio=base64.b64encode(values[at : at + 2400].tobytes()).decode())
            found = [talk.recv()]
            while found[-1].type not in ("response.done", "error"):
                found.append(talk.recv())
    told = {event.type: event for event in found}
    start, stop = (told[f"input_audio_buffer.speech_{k}"] for k in ("started", "stopped"))
    samples = resample(values.astype(np.float32) / 32768, 24_000, 16_000)
    samples = samples[start.audio_start_ms * 16 : stop.audio_end_ms * 16]
    messages = [{"role": "user", "content": [{"type": "audio"}]}]
    prompt = model.processor.apply_chat_template(messages, add_generation_prompt=True)
    read = model.processor(prompt, audio=[samples])
    with torch.no_grad():
        ids = model.model.generate(**read, max_new_tokens=16, do_sample=False, eos_token_id=sorted(model.ends))
    answer = "".join(event.delta for event in found if event.type == "response.output_text.delta")
    written = model.decode(ids[0, read["input_ids"].shape[1] :].tolist())
    assert answer == written and len(answer.split()) > 4
    heard = told["conversation.item.input_audio_transcription.completed"].transcript
    assert "ever tried ever failed no matter" in heard
