"""A base LLM without a chat template is served as `salad.load(...).answer` asks it: plain text, start token first."""

import numpy as np
import torch

import salad
from salad.serve.served_model import ServedModel
from salad.testing.listeners import save_listener

SOUND = np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1


def test_the_prompt_is_plain_behind_the_start_token(tiny):
    table = tiny.model.get_input_embeddings()
    talk = [{"role": role, "content": text} for role, text in (("system", "w1"), ("user", "w2 w3"), ("assistant", ""))]
    with torch.no_grad():
        assert torch.equal(tiny.prompt(talk, []), table(torch.tensor([0, 1, 2, 3])))


def test_the_server_and_the_library_ask_alike(tmp_path, monkeypatch):
    folder, _ = save_listener(tmp_path, rate="text", ctc=40)
    asked = []
    monkeypatch.setattr("salad.evaluation.open_ended.answer", lambda model, rows, *more: asked.extend(rows) or [[1]])
    salad.load(folder).answer(SOUND, "w5 w6")
    content = [{"type": "audio"}, {"type": "text", "text": " w5 w6"}]
    served = ServedModel.load(str(folder))
    with torch.no_grad():
        torch.testing.assert_close(served.prompt([{"role": "user", "content": content}], [SOUND]), asked[0])


def test_a_chat_template_opens_the_document_itself(tmp_path):
    folder, _ = save_listener(tmp_path)
    processor = ServedModel.load(str(folder)).processor
    processor.chat_template = "{% for m in messages %}{{ m['content'] }} w9{% endfor %}"
    prompt, add_start = processor.turns([{"role": "user", "content": "w1"}])
    assert (str(prompt), add_start) == ("w1 w9", False)
