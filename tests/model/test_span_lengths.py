"""How many placeholders a recording has is known before the model runs, from the ears of its folder alone."""

import pytest
import torch
from safetensors import safe_open

from salad.model.span_lengths import SpanCounter
from salad.testing.models import DIM, make_model


@pytest.mark.parametrize(("rate", "ctc"), [("fixed", 0), ("fixed", 30), ("text", 30)])
def test_the_folders_ears_count_what_the_model_hears(tmp_path, rate, ctc):
    model = make_model(rate, ctc)
    if ctc:
        torch.nn.init.constant_(model.ctc.blank.bias, 10.0)  # so that some positions are blank
    model.save_pretrained(tmp_path, max_shard_size="20KB" if ctc else "1GB")
    assert (tmp_path / "model.safetensors.index.json").is_file() == bool(ctc)
    frames = [torch.randn(n, DIM) for n in (5, 14, 31, 1)]
    counter = SpanCounter.beside(tmp_path)
    with torch.no_grad():
        heard = [len(span) for span in model.get_audio_features(frames)]
    assert counter.span_lengths(frames) == model.span_lengths(frames) == heard and counter.span_lengths([]) == []
    assert heard == [3, 7, 16, 1] if rate == "fixed" else 1 < heard[2] < 16
    if rate == "fixed":
        assert counter._ears == (None, None, None)  # it is arithmetic, and no weights were read


def test_of_the_llm_only_the_rows_are_read_that_are_scored(tmp_path, monkeypatch):
    make_model("text", 7).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as held:
        assert any(key.startswith("llm.") for key in held.keys())
    counter = SpanCounter(tmp_path)
    counter.span_lengths([torch.randn(9, DIM)])
    assert len(counter._ears[2]) == 7


def test_without_a_model_beside_it_there_is_no_counter(tmp_path):
    assert SpanCounter.beside(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert SpanCounter.beside(tmp_path) is None
