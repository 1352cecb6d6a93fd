"""Where a recipe departs from the paper: every value of the paper that is changed shows, with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from salad.config import load_recipe
from salad.config.paper import OURS, VALUES, departures, measured

RECIPES = Path(__file__).parents[2] / "recipes"
NOT_TOLD = {setting for setting, (_, paper, _) in OURS.items() if "not said" in paper}


def departs(*overrides: str, name: str = "salad-3b.yaml"):
    return {d.setting: d for d in departures(load_recipe(RECIPES / name, overrides))}


@pytest.mark.parametrize("name", ["salad-3b.yaml", "salad-7b.yaml"])
def test_the_papers_recipes_depart_in_what_they_say_and_in_nothing_else(name):
    ours = {"align.min_score", "corpus.unseen_documents", "evaluate.items", "select.keep_probed"}
    ours |= {"select.near_duplicate", "select.overlap_words", "corpus.text (D_web)", "held out (M, F)"}
    assert departs(name=name).keys() - NOT_TOLD == ours


def test_one_gpu_departs_in_its_batches_and_lora_too():
    more = departs(name="salad-3b-lora.yaml").keys() - departs().keys()
    own = {"llm", "lr_llm", "positions", "steps x positions"}
    assert more == {f"{stage}.{name}" for stage in ("stage1", "stage2") for name in own}


@pytest.mark.parametrize(
    ("override", "setting", "paper", "ours"),
    [
        ("assets.llm=Qwen/Qwen2.5-3B-Instruct", "assets.llm", "Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-3B-Instruct"),
        ("assets.encoder=log-mel", "assets.encoder", "kyutai/mimi", "log-mel"),
        ("model.adapter_layers=6", "model.adapter_layers", "12", "6"),
        ("model.stride=2", "model.stride", "1", "2"),
        ("sequence.speech_words=[3, 9]", "sequence.speech_words", "5 to 15", "3 to 9"),
        ("sequence.context=4096", "sequence.context", "2048", "4096"),
        ("stage1.alpha=0.5", "stage1.alpha", "1", "0.5"),
        ("stage2.text_share=0.2", "stage2.text_share", "0.3333", "0.2"),
        ("stage1.steps=100", "stage1.steps x positions", "24 G", "0.1 G"),
        ("stage1.lr_llm=1.0e-4", "stage1.lr_llm", "5e-05", "0.0001"),
        ("stage2.decay_share=0.5", "stage2.decay_share", "1", "0.5"),
        ("stage1.ema=0.9", "stage1.ema", "none", "0.9"),
        ("cluster.k=64", "cluster.k", "128", "64"),
        ("select.gamma=0", "select.gamma", "5", "0"),
        ("select.rule=evidence", "select.rule", "raw", "evidence"),
        ("select.budget_share=0.02", "select.budget_share", "0.01", "0.02"),
        ("synthesize.max_cer=0.5", "synthesize.max_cer", "none", "0.5"),
        ("rounds.number=2", "rounds.number", "none", "2"),
        ("corpus.plain_text=[]", "corpus.plain_text", "SmolLM corpus", "D_web's own"),
        ("corpus.speech_documents=5", "corpus.speech", "LibriHeavy, Emilia YODAS-EN: 141,612 h", "5 documents"),
        ("evaluate.num_fewshot=0", "evaluate.num_fewshot", "5", "0"),
        ("evaluate.tasks=[piqa]", "evaluate.tasks", "storycloze", "piqa"),
        ("evaluate.noise=[white, telephone]", "evaluate.noise", "none", "white:10, telephone"),
    ],
)
def test_a_changed_value_of_the_paper_appears(override, setting, paper, ours):
    overrides = [override, *(["sequence.stream=false"] if setting == "rounds.number" else [])]
    found = departs(*overrides)
    assert setting not in departs()
    assert paper in found[setting].paper and ours in found[setting].ours and found[setting].why


def test_every_setting_of_the_table_is_one_of_a_recipe_and_says_what_for():
    every = departs(name="demo.yaml")
    assert len(every) > 30 and all(d.why and d.paper and d.ours for d in every.values())
    assert {"select.near_duplicate", "select.overlap_words", "select.max_cer", "align.method", "model.prior"} <= {
        *every
    }
    assert not {*VALUES} & {*OURS}
    for setting in {*VALUES, *OURS}:
        section, _, name = setting.partition(".")
        assert hasattr(getattr(load_recipe(RECIPES / "demo.yaml"), section), name.split(".")[0])


def test_the_demo_says_that_its_base_is_an_instruct_model():
    assert "an Instruct model" in departs(name="demo.yaml")["assets.llm"].why
    assert "assets.llm" not in departs() and "Instruct" in (RECIPES / "demo.yaml").read_text()


def test_what_is_measured_on_is_named():
    told = dict(measured(load_recipe(RECIPES / "salad-3b.yaml")))
    assert "400 documents of fineweb-edu, spoken by kokoro:af_heart" in told["held out"]
    assert "voicebench_mmsu" in told["tasks"] and told["examples before an item"].startswith("up to 5")
    few = dict(measured(load_recipe(RECIPES / "salad-3b.yaml", ["evaluate.tasks=[]"])))
    assert few["tasks"] == few["examples before an item"] == "none"
    assert "NOT" not in told["screened against"] and "the held-out texts, storycloze" in told["screened against"]
    other = dict(measured(load_recipe(RECIPES / "salad-3b.yaml", ["evaluate.tasks=[piqa, sciq]"])))
    assert other["screened against"].endswith("; NOT against sciq")
