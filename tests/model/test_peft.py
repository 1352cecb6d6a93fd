"""PEFT around a model whose ears are in two parts, and around one whose LLM carries trained LoRA."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from salad.model import SaladForConditionalGeneration
from salad.testing.models import DIM, VOCABULARY, make_model
from salad.types import SaladError

SHAPE = {"depth": 4, "lower_layers": 1, "lower_width": 16, "upper_heads": 2, "upper_layers": 1, "upper_width": 16}


def symbol_ears() -> SaladForConditionalGeneration:
    config = make_model("text").config
    config.ears, config.stride, config.ears_shape = "symbols", 1, SHAPE
    config.symbols = {"kind": "letters", "names": ["#", *"abcdefgh"], "language": "en-us"}
    torch.manual_seed(0)
    made = SaladForConditionalGeneration(config)
    made.adapter.upper.sayable.fill_(True)
    made.adapter.upper.sounds.copy_(torch.randint(0, 9, made.adapter.upper.sounds.shape))
    return made.eval()


def with_lora() -> SaladForConditionalGeneration:
    made = make_model(lora=2)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:  # as training leaves it
            torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def inputs() -> dict[str, object]:
    torch.manual_seed(3)
    return {"input_ids": torch.tensor([[1, VOCABULARY, 4, 5]]), "frames": [torch.randn(9, DIM)]}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**inputs()).logits
    return found


def test_ears_in_two_parts_train_whole_beside_lora():
    model = symbol_ears()
    wanted = logits(model)
    student = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["adapter"]))
    torch.testing.assert_close(logits(student), wanted)
    student(**inputs(), labels=inputs()["input_ids"]).loss.backward()
    trained = [name for name, p in student.named_parameters() if "modules_to_save" in name and p.grad is not None]
    assert any(".upper." in name for name in trained)
    assert len(model.resize_token_embeddings(VOCABULARY + 3).weight) == VOCABULARY + 3
    assert len(model.symbol_ears.upper.sayable) == VOCABULARY + 3


def test_lora_that_was_trained_is_not_replaced():
    model = with_lora()
    wanted = logits(model)
    with pytest.raises(SaladError, match="salad export MODEL --to OUT --merge-lora"):
        get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    student = get_peft_model(model, LoraConfig(r=2, target_modules="adapter.*_proj"))  # of the ears alone
    torch.testing.assert_close(logits(student), wanted)


def test_what_peft_merged_is_saved_without_lora(tmp_path):
    model = with_lora()
    wanted = logits(model)
    model.save_pretrained(tmp_path / "carries")
    assert SaladForConditionalGeneration.from_pretrained(tmp_path / "carries").config.lora_rank == 2
    merged = get_peft_model(model, LoraConfig(r=2, target_modules="adapter.*_proj")).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = SaladForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    assert again.config.lora_rank == 0 and not any("lora_" in name for name in again.state_dict())
    torch.testing.assert_close(logits(again), wanted, rtol=1e-4, atol=1e-5)
