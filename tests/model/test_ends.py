"""Tokens that end an answer and stand in generation_config.json alone, as Phi-3's, Gemma's and Llama 3's do."""

import numpy as np
import pytest
import soundfile
import torch

from salad import api
from salad.evaluation import answers, spoken_questions
from salad.evaluation.open_ended import Sampling
from salad.files import read_jsonl, write_jsonl
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.model.ends import ends_of
from salad.serve.served_model import ServedModel
from salad.testing.listeners import RATE_HZ, save_listener
from salad.testing.models import VOCABULARY

MARKS = list(range(1, VOCABULARY))  # so that whatever is written first ends the answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    saved, _ = save_listener(tmp_path_factory.mktemp("ends"), rate="text", ctc=20)
    model = SaladForConditionalGeneration.from_pretrained(saved)
    model.llm.generation_config.eos_token_id = MARKS
    model.llm.generation_config.pad_token_id = 5
    fresh = SaladForConditionalGeneration.from_llm(model.llm, model.config)
    assert fresh.llm.generation_config.eos_token_id == MARKS
    fresh.ctc.token_ids.copy_(model.ctc.token_ids)
    fresh.save_pretrained(saved)
    return saved


def test_ends_of_the_llm_are_saved_and_read_again(folder):
    model, processor = ServedModel.load(str(folder)).model, SaladProcessor.from_pretrained(folder)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (MARKS, 5)
    assert ends_of(model, processor) == [0, *MARKS]
    assert ServedModel.load(str(folder)).ends == frozenset([0, *MARKS])
    assert model.generate(torch.tensor([[0, 7, 9]]), max_new_tokens=6, do_sample=False).shape == (1, 4)


def test_every_answer_ends_where_the_llm_ends_it(folder, tmp_path):
    model, processor = ServedModel.load(str(folder)).model, SaladProcessor.from_pretrained(folder)
    asked = model.get_input_embeddings()(torch.tensor([4, 8, 9])).detach()
    assert spoken_questions._answered(model, processor, [asked]) == [""]
    samples = 0.1 * np.random.default_rng(0).normal(size=RATE_HZ).astype(np.float32)
    assert api.load(folder).answer(samples, "w3", max_new_tokens=6) == ""
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ)
    write_jsonl(tmp_path / "p.jsonl", [{"id": "a", "text": "w4 w5", "audio": "a.wav"}])
    answers.answer_prompts(folder, tmp_path / "p.jsonl", tmp_path / "out", Sampling(6))
    row = read_jsonl(tmp_path / "out" / "answers.jsonl")[0]
    assert (row["text"], row["speech"]) == ("", "")
