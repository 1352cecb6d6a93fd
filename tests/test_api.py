"""The public door: every name of `import salad`, and what ten lines of a notebook do with them."""

import importlib
import pkgutil
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from typer.testing import CliRunner

import salad
from salad.cli import app
from salad.files import read_json, write_json, write_jsonl
from salad.pipeline.lock import owned
from salad.testing.listeners import RATE_HZ, save_corpus, save_listener
from salad.types import SaladError

SETTINGS = {"text_words": [3, 5], "speech_words": [2, 4], "first": "speech"}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """RUN/stage2/model beside RUN/recipe.json, its text base, a corpus and items."""
    folder = tmp_path_factory.mktemp("run")
    model, llm = save_listener(folder, change=0.05, rate="text", ctc=20)
    shutil.copytree(model, folder / "stage2" / "model")
    shutil.rmtree(model)
    voices = {"voices": {"shares": {"a": 1.0}}}
    values = {"seed": 3, "assets": {"llm": str(llm), "encoder": "log-mel"}, "sequence": SETTINGS, "corpus": voices}
    write_json(folder / "recipe.json", values)
    save_corpus(folder / "corpus")
    rows = [{"id": f"q{i}", "context": f"w{i} w2", "choices": ["w3", "w4"], "answer": i % 2} for i in range(4)]
    write_jsonl(folder / "items.jsonl", rows)
    return folder


def noise(seconds=1.0, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=int(seconds * RATE_HZ)).astype(np.float32)


def test_importing_salad_loads_no_torch():
    code = "import sys, salad; dir(salad); import salad.api; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_stays_itself_whatever_was_imported():
    """A submodule once imported becomes an attribute of salad: none may bear the name of a function of the door."""
    for module in pkgutil.walk_packages(salad.__path__, "salad."):
        if not module.name.endswith("__main__"):
            with suppress(ModuleNotFoundError):  # of an extra that is not installed
                importlib.import_module(module.name)
    assert salad.__all__ == sorted(set(salad.__all__)) and set(salad.__all__) <= set(dir(salad))
    for name in salad.__all__:
        found = getattr(salad, name)
        assert name == "__version__" or (callable(found) and found.__doc__ and found.__name__ == name), name
    with pytest.raises(AttributeError, match="no attribute 'nobody'; it has .*load"):
        salad.nobody  # noqa: B018


def test_a_run_is_loaded_hears_and_answers(run_dir, tmp_path):
    model = salad.load(run_dir)
    assert model.folder == run_dir / "stage2" / "model" and model.loaded.seed == 3 and "log-mel" in repr(model)
    heard = model.transcribe(noise(8.0))  # two spans
    assert heard and set(heard.split()) <= {f"w{i}" for i in range(61)} | {"<|endoftext|>"}
    soundfile.write(tmp_path / "x.wav", noise(8.0), RATE_HZ, subtype="FLOAT")
    assert model.transcribe(tmp_path / "x.wav") == heard == model.transcribe((tmp_path / "x.wav").read_bytes())
    said = model.answer(noise(), "w5 w6", max_new_tokens=5)
    assert said and said == model.answer(noise(), "w5 w6", max_new_tokens=5)
    assert (
        model.answer(noise(), max_new_tokens=5) != said or model.answer(noise(2.0, 1), "w9", max_new_tokens=5) != said
    )
    own = model.answer(tmp_path / "x.wav", "w5", max_new_tokens=3)
    assert model.answer((tmp_path / "x.wav").as_uri(), "w5", max_new_tokens=3) == own  # the LLM has no chat template
    fixed, _ = save_listener(tmp_path / "fixed")
    with pytest.raises(SaladError, match="score no tokens"):
        salad.load(fixed).transcribe(noise())


def test_divergence_and_evaluation_are_what_the_commands_write(run_dir, tmp_path):
    found = salad.divergence(run_dir, run_dir / "corpus", tmp_path / "m", workers=1)
    assert found.figures == read_json(tmp_path / "m" / "divergence.json")
    assert found.misalignment == found.figures["all"]["misalignment"]["value"] > 0 and found.forgetting > 0
    assert found.table().splitlines()[2].startswith("| all | 4 |")
    scores = salad.evaluate(run_dir, run_dir / "items.jsonl", tmp_path / "e", limit=3, resamples=50)
    assert scores.figures == read_json(tmp_path / "e" / "figures.json")
    assert scores.table() == (tmp_path / "e" / "table.md").read_text() and "text_adapted" in str(scores.figures)
    assert read_json(tmp_path / "e" / "eval.json")["settings"]["limit"] == 3
    first = read_json(tmp_path / "e" / "figures.json")
    write_json(tmp_path / "e" / "speech.json", {"of": "what was heard before"})
    other = salad.evaluate(run_dir, run_dir / "items.jsonl", tmp_path / "e", limit=2, resamples=50)
    assert scores.figures == first != other.figures and not (tmp_path / "e" / "speech.json").exists()
    assert salad.evaluate(run_dir, run_dir / "items.jsonl", tmp_path / "e", infer_only=True).figures == {}


def test_every_measurement_takes_a_run_and_holds_its_folder(run_dir, tmp_path):
    """The run's corpus has one voice, and its file of prompts none: that is said once the model was found."""
    corpus, (out, held) = ("--corpus", run_dir / "corpus"), (tmp_path / "o", tmp_path / "held")
    prompts, tasks = ("--prompts", run_dir / "recipe.json"), ("--tasks", run_dir / "items.jsonl")
    asked = {"divergence": corpus, "retention": corpus, "answer": prompts, "eval": tasks}
    for name, refusal in (("retention", "two voices"), ("answer", "prompts: ")):
        done = CliRunner().invoke(app, [name, *map(str, [run_dir, *asked[name], "--out", out])])
        assert done.exit_code == 2 and refusal in done.output, done.output
    with owned(held):
        for name, options in asked.items():
            done = CliRunner().invoke(app, [name, *map(str, [run_dir, *options, "--out", held])])
            assert done.exit_code == 2 and "--out: " in done.output and "is in use by process" in done.output, name
        done = CliRunner().invoke(app, ["eval", "--score-only", "--out", str(held)])
        assert "is in use by process" in done.output


def test_run_takes_a_recipe_and_says_where_it_ran(recipe_values, write_recipe, monkeypatch):
    import salad.pipeline.run as pipeline

    calls = []
    monkeypatch.setattr(pipeline, "run_pipeline", lambda recipe, **more: calls.append((recipe, more)) or recipe.run_dir)
    path = write_recipe(recipe_values)
    where = salad.run(path, ["seed=7"], until="corpus")
    assert where == Path(recipe_values["run_dir"]) == salad.run(salad.load_recipe(path), until="align")
    assert calls[0][0].seed == 7 and [more["until"] for _, more in calls] == ["corpus", "align"]
    with pytest.raises(SaladError, match="overrides"):
        salad.run(salad.load_recipe(path), ["seed=7"])
    with pytest.raises(SaladError, match="stage2/model"):
        write_json(where / "recipe.json", yaml.safe_load(path.read_text()))
        salad.load(where)


def test_a_model_is_trained_on_through_the_door(run_dir, tmp_path):
    model = salad.load(run_dir)
    batch = model.examples(run_dir / "corpus", tmp_path / "frames")
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    model.model.requires_grad_(False).adapter.requires_grad_(True)
    task = salad.DistillTask(model.model, salad.Teacher(model.model, cache=True), [batch] * 2, alpha=1.0, context=512)
    schedule = salad.Schedule(steps=2, lr={"adapter": 1e-3}, warmup_steps=0)
    last = salad.train(model.model, task, schedule, tmp_path / "training", title="mine", bf16=False)
    assert last.name.endswith("000002")
    moved = {n.split(".")[0] for n, value in model.model.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {"adapter"}


# A saved model is whole


def test_a_model_that_was_moved_knows_where_it_comes_from(run_dir, tmp_path):
    model = salad.load(run_dir)
    shutil.move(model.save(tmp_path / "saved"), tmp_path / "elsewhere")
    written = read_json(tmp_path / "elsewhere" / "config.json")
    recipe = read_json(run_dir / "recipe.json")
    assert written["format_version"] == 2 and written["encoder"] == "log-mel"
    assert written["origin"] == {k: recipe[k] for k in ("seed", "assets", "sequence", "corpus")}
    moved = salad.load(tmp_path / "elsewhere")
    assert moved.loaded.seed == 3 and moved.loaded.sequence == model.loaded.sequence
    assert moved.loaded.teacher_name == recipe["assets"]["llm"]
    assert moved.transcribe(noise(3.0)) == model.transcribe(noise(3.0))
    assert moved.answer(noise(), "w1") == model.answer(noise(), "w1")
    there = salad.divergence(moved, run_dir / "corpus", tmp_path / "there", workers=1)
    here = salad.divergence(model, run_dir / "corpus", tmp_path / "here", workers=1)
    assert there.figures["all"] == here.figures["all"]


def test_a_moved_model_is_measured_without_the_llm_that_stayed_behind(run_dir, tmp_path):
    folder = salad.load(run_dir).save(tmp_path / "saved")
    values = read_json(folder / "config.json")
    values["origin"]["assets"]["llm"] = str(tmp_path / "gone" / "llm")
    write_json(folder / "config.json", values)
    found = salad.divergence(folder, run_dir / "corpus", tmp_path / "out", workers=1)
    assert found.misalignment > 0 and found.forgetting is None


def test_a_newer_format_is_refused_and_an_older_one_is_read(run_dir, tmp_path):
    folder = salad.load(run_dir).save(tmp_path / "saved")
    values = read_json(folder / "config.json")
    write_json(folder / "config.json", values | {"format_version": 3})
    with pytest.raises(SaladError, match="format_version 3, and this salad reads up to 2"):
        salad.load(folder)
    del values["format_version"], values["origin"]
    write_json(folder / "config.json", values)
    older = salad.load(folder)
    assert older.model.config.format_version == 2 and older.model.config.origin is None
    assert older.loaded.seed == 0  # nobody says


def test_a_model_of_the_hub_is_found_by_its_name(run_dir, tmp_path, monkeypatch):
    salad.load(run_dir).save(tmp_path / "hub" / "somebody" / "ears")
    monkeypatch.setenv("SALAD_ASSETS_DIR", str(tmp_path / "hub"))
    assert salad.load("somebody/ears").folder == tmp_path / "hub" / "somebody" / "ears"
    with pytest.raises(SaladError, match="somebody/else"):
        salad.load("somebody/else")
