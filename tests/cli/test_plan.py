"""`salad plan`: the paper's recipes are laid out without memory, and the table's counts are the model's."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from salad.cli import app
from salad.config import load_recipe
from salad.config.paper import TASKS
from salad.training.estimate import make_plan, meta_model
from salad.training.schedule import before_decay

RECIPES = Path(__file__).parents[2] / "recipes"
PAPER = ["salad-3b.yaml", "salad-7b.yaml", "salad-3b-lora.yaml"]
# Parameters of the published text LLMs.
QWEN = {"salad-3b.yaml": 3_085_938_688, "salad-7b.yaml": 7_615_616_512, "salad-3b-lora.yaml": 3_085_938_688}


@pytest.mark.parametrize("name", PAPER)
def test_counts_equal_the_model_on_the_meta_device(name):
    settings = load_recipe(RECIPES / name)
    model, plan = meta_model(settings), make_plan(settings)
    assert all(p.is_meta for p in model.parameters())
    assert sum(n for n, _ in plan.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert plan.parameters["llm layers"][0] + plan.parameters["llm embeddings and head"][0] == QWEN[name]
    assert plan.parameters["adapter"][0] == pytest.approx(122e6, rel=0.02)


def test_the_paper_s_settings():
    for name, adapter, llm in (("salad-3b.yaml", 1e-3, 5e-5), ("salad-7b.yaml", 1e-4, 5e-6)):
        recipe = load_recipe(RECIPES / name)
        one, two = recipe.stage1, recipe.stage2
        assert (one.steps * one.positions, two.steps * two.positions) == (24e9, 1.9e9)
        assert (one.lr_adapter, one.lr_llm) == (two.lr_adapter, two.lr_llm) == (adapter, llm)
        assert one.warmup_steps == 500 and before_decay(one.steps, one.decay_share) == 0.8 * one.steps
        assert one.alpha == two.alpha == 1.0 and one.text_share == pytest.approx(1 / 3, abs=1e-3)
        assert not recipe.warm_start.enabled and recipe.model.rate == "fixed" and recipe.model.stride == 1
        assert (recipe.cluster.k, recipe.select.gamma, recipe.select.budget_share) == (128, 5, 0.01)
        # 141,612 hours of speech: the stage hears them between once and twice
        assert 1 < make_plan(recipe).stages[0].speech_hours / 141_612 < 2


def test_sharding_takes_memory_off_each_device():
    settings = load_recipe(RECIPES / "salad-3b.yaml")
    one, eight = make_plan(settings).memory, make_plan(settings, 8).memory
    layers = make_plan(settings).parameters["llm layers"][1]
    assert one["AdamW moments"] - eight["AdamW moments"] == (layers - layers // 8) * 8
    assert eight["teacher"] == one["teacher"]
    assert sum(make_plan(load_recipe(RECIPES / "salad-3b-lora.yaml")).memory.values()) < 40e9 < sum(one.values())


def test_memory_has_what_the_pass_holds_for_a_moment():
    """By hand, of a pack of 16,384 positions on a GPU: SCALE.md's terms that were left out."""
    settings = load_recipe(RECIPES / "salad-3b.yaml")
    memory, head = make_plan(settings, 8).memory, 151_936 * 2048
    assert memory["loss: logits of a chunk, gradient of the head"] == 1024 * 151_936 * (8 * 4 + 2) + 2 * 4 * head
    assert memory["loss: heads in bf16 parts"] == 5 * 2 * head == pytest.approx(3.1e9, rel=0.01)
    assert memory["activations of the adapter"] == pytest.approx(7000 * 430e3, rel=0.01)
    assert memory["activations of one layer, formed again"] == pytest.approx(16384 * 29.5 * 2048 * 2, rel=0.01)
    stage1 = settings.stage1.model_copy(update={"compile": True, "checkpoint_activations": False})
    other = make_plan(settings.model_copy(update={"stage1": stage1}), 8).memory
    assert other["activations of one layer, formed again"] == 0
    assert other["loss: logits of a chunk, gradient of the head"] == 1024 * 151_936 * 3 * 4 + 2 * 4 * head


def test_command():
    result = CliRunner().invoke(app, ["plan", str(RECIPES / "salad-3b.yaml"), "--devices", "8"])
    assert result.exit_code == 0, result.output
    total = sum(p.numel() for p in meta_model(load_recipe(RECIPES / "salad-3b.yaml")).parameters())
    assert f"{total:,}" in result.output and "H100" in result.output
    for said in ("arc_challenge", "up to 5", "400 documents of fineweb-edu", "select.near_duplicate\t"):
        assert said in result.output


def test_the_command_ends_with_what_is_not_the_papers():
    command = ["plan", str(RECIPES / "salad-3b.yaml")]
    plain, changed = (CliRunner().invoke(app, [*command, *more]).output for more in ([], ["--set", "cluster.k=64"]))
    assert "cluster.k" not in plain and "cluster.k\t128\t64\t" in changed


def test_an_llm_that_is_not_here_says_what_to_do():
    result = CliRunner().invoke(app, ["plan", str(RECIPES / "salad-3b.yaml"), "--set", "model.llm_config={}"])
    assert result.exit_code == 2 and "model_type" in result.output


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_measure_all_heldout_documents_and_buy_by_m_as_measured(name):
    recipe = load_recipe(RECIPES / name)
    assert recipe.evaluate.documents >= recipe.corpus.heldout_documents
    assert recipe.evaluate.documents >= recipe.corpus.heldout_text >= 400
    assert {*recipe.evaluate.tasks} == {*TASKS} == {*recipe.select.evaluation} and recipe.evaluate.num_fewshot == 5
    assert (recipe.select.rule, recipe.select.score, recipe.select.gamma) == ("raw", "misalignment", 5)


@pytest.mark.parametrize(("family", "inner"), [("gpt2", 128), ("opt", 96), ("bloom", 128), ("mpt", 128)])
def test_a_family_with_names_of_its_own_is_laid_out(family, inner):
    """GPT-2 says nothing of its MLP's width, OPT calls it ffn_dim; MPT's hidden size is d_model."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    own = {"ffn_dim": inner, "word_embed_proj_dim": 32} if family == "opt" else {}
    recipe = load_recipe(RECIPES / "salad-3b.yaml")
    llm = {"model_type": family, **sizes, **own}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"llm_config": llm})})
    pack = max(recipe.sequence.context, recipe.stage1.pack_positions)
    kept = 1 if recipe.stage1.checkpoint_activations else 8 + 4 * inner / 32
    assert make_plan(recipe).memory["activations of one pack"] == int(pack * 32 * 2 * kept * 2)
