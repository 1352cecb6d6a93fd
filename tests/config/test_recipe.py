"""Recipes: what is valid loads as written; everything else is refused with the key, the value and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from salad.config import load_recipe
from salad.config.base import Section
from salad.config.recipe import parse_yaml
from salad.types import SaladError

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_a_minimal_recipe_loads_with_defaults(recipe_values, write_recipe):
    recipe = load_recipe(write_recipe(recipe_values))
    assert recipe.stage1.steps == 4 and recipe.stage1.alpha == 1.0
    assert recipe.select.gamma == 5.0
    assert str(recipe.run_dir) == recipe_values["run_dir"]


def test_a_resolved_recipe_loads_to_itself(recipe_values, write_recipe):
    recipe = load_recipe(write_recipe(recipe_values))
    assert load_recipe(write_recipe(recipe.model_dump(mode="json"), "resolved.yaml")) == recipe


def test_a_recipe_cannot_be_changed(recipe_values, write_recipe):
    recipe = load_recipe(write_recipe(recipe_values))
    with pytest.raises(ValidationError, match="frozen"):
        recipe.stage1.steps = 5


def test_every_setting_says_what_it_does_in_a_sentence():
    def sections(above: type[Section]) -> set[type[Section]]:
        return {above}.union(*map(sections, above.__subclasses__()))

    found = {(part.__name__, key): field for part in sections(Section) for key, field in part.model_fields.items()}
    assert len(found) > 180
    wrong = [key for key, field in found.items() if len(said := field.description or "") < 15 or said[-1] != "."]
    assert not wrong, f"no sentence of what they do: {wrong}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_load(path):
    assert load_recipe(path).run_dir.parts[0] == "runs"


# --set


def test_overrides_reach_nested_keys_and_keep_the_rest(recipe_values, write_recipe):
    overrides = ["stage1.steps=9", "corpus.voices.shares.fourth=2", "select.gamma=0", "sequence.text_words=[2, 3]"]
    recipe = load_recipe(write_recipe(recipe_values), overrides)
    assert recipe.stage1.steps == 9 and recipe.stage2.steps == 2
    assert recipe.corpus.voices.shares == {"first": 0.5, "second": 0.5, "fourth": 2.0}
    assert recipe.select.gamma == 0.0
    assert recipe.sequence.text_words == (2, 3)


def test_what_voices_vary_is_set_for_each_section_and_off_by_default(recipe_values, write_recipe):
    overrides = ["corpus.pitch_jitter=0.17", "corpus.noise=1", "synthesize.speed_jitter=0.1"]
    recipe = load_recipe(write_recipe(recipe_values), overrides)
    own = recipe.corpus, recipe.synthesize
    assert [(s.speed_jitter, s.pitch_jitter, s.noise) for s in own] == [(0.0, 0.17, 1.0), (0.1, 0.0, 0.0)]
    for wrong in ("corpus.noise=2", "synthesize.pitch_jitter=-1", "corpus.speed_jitter=0.5"):
        with pytest.raises(SaladError, match=wrong.partition("=")[0]):
            load_recipe(write_recipe(recipe_values), [wrong])


def test_the_last_override_wins(recipe_values, write_recipe):
    assert load_recipe(write_recipe(recipe_values), ["seed=1", "seed=2"]).seed == 2


def test_a_value_may_hold_an_equals_sign(recipe_values, write_recipe):
    assert load_recipe(write_recipe(recipe_values), ["assets.llm=a=b"]).assets.llm == "a=b"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.integers(1, 10**9), lr=st.floats(1e-12, 1e3), seed=st.integers(-(2**31), 2**31))
def test_numbers_survive_an_override(recipe_values, write_recipe, steps, lr, seed):
    overrides = [f"stage1.steps={steps}", f"stage1.lr_llm={lr!r}", f"seed={seed}"]
    recipe = load_recipe(write_recipe(recipe_values), overrides)
    assert (recipe.stage1.steps, recipe.stage1.lr_llm, recipe.seed) == (steps, lr, seed)


@pytest.mark.parametrize("override", ["seed", "=3", ""])
def test_an_override_without_key_or_value_is_refused(recipe_values, write_recipe, override):
    with pytest.raises(SaladError, match=r"--set.*expected a\.b=value"):
        load_recipe(write_recipe(recipe_values), [override])


def test_an_override_below_a_plain_value_is_refused(recipe_values, write_recipe):
    with pytest.raises(SaladError, match=r"stage1\.steps\.x=1.*steps is a value, not a section"):
        load_recipe(write_recipe(recipe_values), ["stage1.steps.x=1"])


# What is refused


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("nonsense.key=1", "nonsense", ("corpus", "stage1", "warm_start")),
        ("stage1.stepz=1", "stage1.stepz", ("steps", "alpha", "lr_llm")),
        ("corpus.voices.share=1", "corpus.voices.share", ("shares",)),
    ],
)
def test_an_unknown_key_names_itself_and_the_known_ones(recipe_values, write_recipe, override, key, expected):
    with pytest.raises(SaladError) as caught:
        load_recipe(write_recipe(recipe_values), [override])
    message = str(caught.value)
    assert f"{key}: unknown key; expected one of" in message
    assert all(name in message for name in expected)


@pytest.mark.parametrize(
    ("override", "key", "got"),
    [
        ("stage1.steps=two", "stage1.steps", "'two'"),
        ("stage1.steps=1.5", "stage1.steps", "1.5"),
        ("stage1.steps=0", "stage1.steps", "0"),
        ("stage1.alpha=1.1", "stage1.alpha", "1.1"),
        ("stage1.lr_llm=.nan", "stage1.lr_llm", "nan"),
        ("stage1.lr_llm=.inf", "stage1.lr_llm", "inf"),
        ("precision=fp8", "precision", "'fp8'"),
        ("corpus.heldout_voice=3", "corpus.heldout_voice", "3"),
        ("sequence.text_words=[9, 3]", "text_words", r"\[9, 3\]"),
        ("sequence.text_words=[1, 2, 3]", "sequence.text_words", r"\[1, 2, 3\]"),
        ("corpus.voices.shares={}", "corpus.voices", "at least one voice"),
        ("corpus.voices.shares.first=0", "corpus.voices", "share above 0"),
        ("assets=3", "assets", "3"),
        ("seed=", "seed", "None"),
    ],
)
def test_a_bad_value_names_its_key_and_itself(recipe_values, write_recipe, override, key, got):
    with pytest.raises(SaladError, match=f"(?s){key}.*{got}"):
        load_recipe(write_recipe(recipe_values), [override])


def test_every_problem_is_reported_at_once(recipe_values, write_recipe):
    with pytest.raises(SaladError) as caught:
        load_recipe(write_recipe(recipe_values), ["stage1.steps=two", "select.gama=1", "seed=x"])
    assert all(key in str(caught.value) for key in ("stage1.steps", "select.gama", "seed"))


@pytest.mark.parametrize("missing", ["run_dir", "corpus", "stage1", "probe", "synthesize", "stage2"])
def test_a_missing_section_is_named(recipe_values, write_recipe, missing):
    del recipe_values[missing]
    with pytest.raises(SaladError, match=f"{missing}: missing"):
        load_recipe(write_recipe(recipe_values))


@pytest.mark.parametrize(
    "override", ["corpus.unseen_voice=second", "corpus.voices.shares.third=1", "synthesize.voices.shares.third=1"]
)
def test_an_unseen_voice_may_not_be_trained_on(recipe_values, write_recipe, override):
    with pytest.raises(SaladError, match="unseen_voice '(second|third)' must not"):
        load_recipe(write_recipe(recipe_values), [override])


def test_an_unseen_voice_may_not_probe(recipe_values, write_recipe):
    with pytest.raises(SaladError, match="unseen_voice 'third' must not speak in probe"):
        load_recipe(write_recipe(recipe_values), ["probe.voice=third"])


def test_the_aligners_settings_must_fit_together(recipe_values, write_recipe):
    path = write_recipe(recipe_values)
    with pytest.raises(SaladError, match="method: ctc needs model"):
        load_recipe(path, ["align.method=ctc"])
    with pytest.raises(SaladError, match="only method: given reads it, not whisper"):
        load_recipe(path, ["align.times=mfa"])
    assert load_recipe(path, ["align.method=ctc", "align.model=folder"]).align.min_score == 0.3


def test_stages_must_train_the_same_part_of_the_llm(recipe_values, write_recipe):
    with pytest.raises(SaladError, match=r"stage2.llm \(full\) must equal stage1.llm \(lora\)"):
        load_recipe(write_recipe(recipe_values), ["stage1.llm=lora"])


def test_a_text_rate_needs_the_warm_start(recipe_values, write_recipe):
    path = write_recipe(recipe_values)
    with pytest.raises(SaladError, match="warm_start.enabled"):
        load_recipe(path, ["model.rate=text"])
    assert load_recipe(path, ["model.rate=text", "warm_start.enabled=true"]).model.rate == "text"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SaladError, match=r"nowhere\.yaml does not exist"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_bad_yaml_says_where(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("stage1:\n  steps: [1\n", encoding="utf-8")
    with pytest.raises(SaladError, match=r"(?s)bad\.yaml is not YAML.*line 3"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("corpus: {held_out: 1}\nseed: 1\ncorpus: {held_out: 2}\n", "corpus", 3),
        ("stage1: {steps: 500, steps: 5}\n", "steps", 1),
        ("seed: 1\n'seed': 2\n", "seed", 2),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path, recipe_values, write_recipe, text, key, line):
    path = tmp_path / "twice.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SaladError, match=rf"(?s)twice\.yaml is not YAML.*'{key}' stands twice.*line {line}"):
        load_recipe(path)
    with pytest.raises(SaladError, match="'steps' stands twice"):
        load_recipe(write_recipe(recipe_values), ["stage1={steps: 500, steps: 5}"])


def test_a_key_may_stand_in_what_is_merged_too():
    text = "a: &a {x: 1, y: 2}\np: {q: &b {<<: *a, x: 3}}\nc: {<<: *b, y: 4}\nd: {1: i, '1': t}\n"
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_without_sections_is_refused(tmp_path, text):
    path = tmp_path / "flat.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SaladError, match="must hold sections"):
        load_recipe(path)


def test_yaml_cannot_build_objects(tmp_path):
    path = tmp_path / "object.yaml"
    path.write_text("seed: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(SaladError, match="not YAML"):
        load_recipe(path)


# base:


def test_a_recipe_inherits_from_its_base_and_wins(recipe_values, write_recipe):
    write_recipe(recipe_values, "below.yaml")
    above = write_recipe({"base": "below.yaml", "seed": 7, "stage1": {"alpha": 0.5}}, "above.yaml")
    recipe = load_recipe(above, ["stage2.steps=3"])
    assert recipe.seed == 7
    assert recipe.stage1.steps == 4 and recipe.stage1.alpha == 0.5
    assert recipe.stage2.steps == 3


def test_bases_chain_and_are_relative_to_the_recipe(recipe_values, write_recipe, tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    write_recipe(recipe_values, "one.yaml")
    write_recipe({"base": "../one.yaml", "seed": 1, "threads": 3}, "deep/two.yaml")
    three = write_recipe({"base": "deep/two.yaml", "seed": 2}, "three.yaml")
    monkeypatch.chdir(tmp_path / "deep")
    recipe = load_recipe(three)
    assert (recipe.seed, recipe.threads, recipe.stage1.steps) == (2, 3, 4)


def test_voices_replace_those_of_the_base(recipe_values, write_recipe):
    write_recipe(recipe_values, "below.yaml")
    above = write_recipe({"base": "below.yaml", "corpus": {"voices": {"shares": {"fourth": 1}}}}, "above.yaml")
    recipe = load_recipe(above)
    assert recipe.corpus.voices.shares == {"fourth": 1.0}
    assert recipe.corpus.heldout_voice == "first"


def test_a_missing_base_is_named(recipe_values, write_recipe):
    with pytest.raises(SaladError, match=r"nowhere\.yaml does not exist"):
        load_recipe(write_recipe({"base": "nowhere.yaml", **recipe_values}))


@pytest.mark.parametrize("base", [7, ["a.yaml"], {"a": 1}, False])
def test_a_base_that_is_no_path_is_refused(recipe_values, write_recipe, base):
    with pytest.raises(SaladError, match="base.*expected the path of another recipe"):
        load_recipe(write_recipe({"base": base, **recipe_values}))


def test_a_circle_of_bases_is_refused(write_recipe):
    write_recipe({"base": "two.yaml"}, "one.yaml")
    two = write_recipe({"base": "one.yaml"}, "two.yaml")
    with pytest.raises(SaladError, match=r"two\.yaml is its own base"):
        load_recipe(two)


def test_a_folder_or_a_binary_file_is_refused(tmp_path):
    with pytest.raises(SaladError, match="cannot be read: Is a directory"):
        load_recipe(tmp_path)
    binary = tmp_path / "weights.bin"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(SaladError, match=r"weights\.bin is not YAML"):
        load_recipe(binary)


def test_an_override_that_is_no_yaml_is_refused(recipe_values, write_recipe):
    with pytest.raises(SaladError, match=r"--set 'sequence\.text_words=\[1'.*not a YAML value"):
        load_recipe(write_recipe(recipe_values), ["sequence.text_words=[1"])


@pytest.mark.parametrize(
    ("recipe", "overrides", "expected"),
    [
        (
            "demo.yaml",
            ["model.ears=single", "stage1.spell_weight=0", "stage2.spell_weight=0"],
            "ctc_steps needs model.ears: symbols",
        ),
        (
            "salad-3b.yaml",
            ["stage2.shard=true", "stage2.optimizer=muon"],
            r"stage2\.shard needs stage2\.optimizer: adamw",
        ),
    ],
)
def test_settings_of_training_that_do_not_go_together_are_refused(recipe, overrides, expected):
    with pytest.raises(SaladError, match=expected):
        load_recipe(SHIPPED[0].parent / recipe, overrides)
