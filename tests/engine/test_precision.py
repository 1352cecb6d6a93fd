"""float32 or bf16 is decided by timings, which a run takes once and keeps."""

import functools

import pytest
import torch

from salad.api import takes_bf16 as asked
from salad.config import Recipe
from salad.engine import precision
from salad.engine.precision import DecoderShape, Timing, decide, measure, summary, takes_bf16
from salad.files import read_json, write_json
from salad.pipeline import run as pipeline
from salad.pipeline import up_to_date
from salad.types import SaladError

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 300}  # fmt: skip
FASTER, SLOWER = Timing(1.0, 0.5), Timing(1.0, 1.6)


def timings(train=FASTER, score=FASTER, write=FASTER):
    return {"train": train, "score": score, "write": write}


def asking_refused():
    raise AssertionError("nobody may measure here")


def test_bf16_must_save_fifteen_per_cent():
    assert takes_bf16(1.15, 1.0) and takes_bf16(3.0, 1.0)
    assert not takes_bf16(1.14, 1.0) and not takes_bf16(1.0, 1.0) and not takes_bf16(1.0, 1.6)


def test_each_use_is_decided_by_its_own_timing_and_only_where_it_is_open():
    mixed = functools.partial(timings, write=SLOWER)
    assert decide("auto", "train", "cpu", mixed) and not decide("auto", "write", "cpu", mixed)
    assert decide("bf16", "write", "cpu", asking_refused) and not decide("fp32", "train", "cuda", asking_refused)
    assert decide("auto", "train", "cuda", asking_refused)
    assert summary(mixed()) == ("train bf16 (2 x as fast), score bf16 (2 x as fast), write fp32 (bf16 0.62 x as fast)")


@pytest.mark.parametrize("trained", [False, True])
def test_measuring_times_every_use_and_draws_no_number_of_the_trainings(trained):
    state = torch.get_rng_state()
    found = measure(DecoderShape.of(SMALL), 1, trained=trained)
    assert set(found) == {"train", "score", "write"}
    assert all(0 < t.fp32_s < 1 and 0 < t.bf16_s < 1 for t in found.values())
    assert torch.equal(state, torch.get_rng_state())


def test_the_shape_is_read_from_a_text_llm_and_from_a_model_that_hears():
    shape = DecoderShape.of(SMALL)
    assert (shape.head_dim, shape.kv_heads, shape.vocab) == (8, 2, 300)
    assert DecoderShape.of({"model_type": "salad", "llm_config": SMALL}) == shape


OWN_NAMES = {
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2},
    "gpt_bigcode": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_inner": 128},
    "bloom": {"hidden_size": 32, "n_head": 4, "n_layer": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "gpt_neo": {"hidden_size": 32, "num_heads": 4, "num_layers": 2, "attention_types": [[["global"], 2]]},
    "xglm": {"d_model": 32, "attention_heads": 4, "num_layers": 2, "ffn_dim": 128},
    "opt": {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 128},
}


@pytest.mark.parametrize("family", OWN_NAMES)
def test_the_shape_is_read_by_the_names_of_each_family(family):
    found = DecoderShape.of({"model_type": family, "vocab_size": 300, **OWN_NAMES[family]})
    assert (found.hidden, found.mlp, found.layers, found.heads, found.head_dim) == (32, 128, 2, 4, 8)
    assert (
        DecoderShape.of({"model_type": "salad", "llm_config": {"model_type": family, **OWN_NAMES[family]}}).hidden == 32
    )


@pytest.fixture
def run(recipe_values, tmp_path, monkeypatch):
    llm = tmp_path / "llm"
    write_json(llm / "config.json", SMALL)
    monkeypatch.setattr(pipeline.assets, "llm_folder", lambda name: llm)
    return pipeline.Run(Recipe.model_validate(recipe_values))


def other_precision(run, value):
    return pipeline.Run(run.recipe.model_copy(update={"precision": value}))


def test_a_run_keeps_what_it_decided_whatever_another_machine_would(run, monkeypatch):
    monkeypatch.setattr(precision, "measure", lambda *_, **__: timings(write=SLOWER))
    assert run.uses_bf16("train") and not run.uses_bf16("write")
    kept = read_json(run.dir / "assets" / "precision.json")
    assert kept["uses"]["write"] == {"bf16": False, "fp32_s": 1.0, "bf16_s": 1.6}
    assert {"cpu", "torch"} <= set(kept["machine"]) and kept["threads"] == run.recipe.threads
    before = up_to_date.stage_inputs("corpus", run.recipe)
    monkeypatch.setattr(precision, "measure", lambda *_, **__: timings(train=SLOWER))
    assert run.uses_bf16("train") and not run.uses_bf16("write")
    assert up_to_date.stage_inputs("corpus", run.recipe) == before
    assert other_precision(run, "bf16").uses_bf16("write") and not other_precision(run, "fp32").uses_bf16("train")


def test_precision_and_what_was_decided_are_in_the_fingerprint(run, monkeypatch):
    inputs = [
        up_to_date.stage_inputs("assets", other_precision(run, p).recipe)["precision"] for p in ("auto", "fp32", "bf16")
    ]
    assert len(set(inputs)) == 3
    old = up_to_date.stage_inputs("corpus", run.recipe)  # of a run from before anything was measured
    parts = []
    for found in (timings(), timings(train=SLOWER), timings(train=Timing(1.0, 0.6))):
        (run.dir / "assets" / "precision.json").unlink(missing_ok=True)
        monkeypatch.setattr(precision, "measure", lambda *_, found=found, **__: found)
        run.timings()
        parts.append(up_to_date.stage_inputs("corpus", run.recipe))
    assert up_to_date.changed_inputs(parts[0], parts[1]) == [up_to_date.MEASURED]
    assert up_to_date.changed_inputs(parts[0], parts[2]) == []  # other seconds, the same decision
    assert up_to_date.changed_inputs(old, parts[0]) == []
    assert up_to_date.MEASURED not in up_to_date.stage_inputs("corpus", other_precision(run, "fp32").recipe)


def test_a_command_outside_a_run_takes_precision(tmp_path, monkeypatch):
    write_json(tmp_path / "config.json", {"llm_config": SMALL})
    assert asked("bf16", "no-such-model", "cpu") and not asked("fp32", "no-such-model", "cuda")
    monkeypatch.setattr(precision, "measure", lambda *_, **__: timings(write=SLOWER))
    assert asked("auto", tmp_path, "cpu") and not asked("auto", tmp_path, "cpu", writes=True)
    with pytest.raises(SaladError, match="expected auto, fp32 or bf16"):
        asked("fp8", tmp_path, "cpu")
