"""The `salad` command: what a person sees, the exit codes, and that it answers quickly."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import salad.pipeline  # reads the real salad.pipeline.run before a fixture takes its place
from salad import __version__
from salad.assets import ASSETS
from salad.cli import app
from salad.config import load_recipe
from salad.files import write_json
from salad.pipeline import up_to_date
from salad.pipeline.fingerprints import versions
from salad.types import SaladError, Stopped

runner = CliRunner()


@pytest.fixture
def salad(monkeypatch):
    """Call the command in this process as `salad ARGUMENTS`; gives exit_code, stdout, stderr."""

    def call(*arguments: object):
        arguments = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["salad", *arguments])
        return runner.invoke(app, arguments)

    return call


@pytest.fixture
def pipeline(monkeypatch):
    """Stands where salad.pipeline.run stands: notes the calls, so that only the command itself is under test."""
    module = types.ModuleType("salad.pipeline.run")
    module.calls = []
    module.error = None

    def run_pipeline(recipe, only=None):
        module.calls.append((recipe, only))
        if module.error is not None:
            raise module.error

    module.run_pipeline = run_pipeline
    monkeypatch.setitem(sys.modules, "salad.pipeline.run", module)
    return module


def _user_error(result) -> str:
    """The message on stderr; fails unless it is one clear message with exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return result.stderr


# Help and version


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["run", "stage", "assets", "version"]),
        (["run", "--help"], ["RECIPE", "--set", "--debug"]),
        (["stage", "--help"], ["NAME", "RECIPE", "--set"]),
        (["assets", "--help"], ["list", "get", "verify"]),
        (["assets", "get", "--help"], ["NAME", "--all"]),
    ],
)
def test_help_names_what_there_is(salad, arguments, words):
    result = salad(*arguments)
    assert result.exit_code == 0
    assert all(word in result.stdout for word in words)


def test_help_does_not_load_the_heavy_libraries():
    code = (
        "import sys\nfrom salad.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'lhotse', 'scipy', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    )
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_says_what_decides_results(salad):
    lines = salad("version").stdout.splitlines()
    assert lines[0] == f"salad {__version__}"
    told = [line.split()[0] for line in lines]
    assert {"torch", "lhotse", "piper-tts", "sentence-transformers"} < set(told)
    assert {*versions()} - {"salad-speech"} <= set(told)  # all that a stage notes of what it ran with


def test_an_unknown_command_is_refused(salad):
    result = salad("fly")
    assert result.exit_code == 2 and "fly" in result.stderr


# run and stage


def test_run_hands_the_checked_recipe_to_the_pipeline(salad, pipeline, recipe_values, write_recipe):
    result = salad("run", write_recipe(recipe_values), "--set", "stage1.steps=9", "--set", "seed=3")
    assert result.exit_code == 0, result.output
    [(recipe, only)] = pipeline.calls
    assert (recipe.stage1.steps, recipe.seed, only) == (9, 3, None)


def test_stage_runs_one_stage(salad, pipeline, recipe_values, write_recipe):
    result = salad("stage", "corpus", write_recipe(recipe_values), "--set", "seed=3")
    assert result.exit_code == 0, result.output
    [(recipe, only)] = pipeline.calls
    assert (recipe.seed, only) == (3, "corpus")


def test_align_runs_the_align_stage(salad, pipeline, recipe_values, write_recipe):
    result = salad("align", write_recipe(recipe_values), "--set", "align.method=given", "--set", "align.times=mfa")
    assert result.exit_code == 0, result.output
    [(recipe, only)] = pipeline.calls
    assert (recipe.align.method, str(recipe.align.times), only) == ("given", "mfa", "align")


def test_train_runs_all_of_the_training_up_to_stage1(salad, pipeline, recipe_values, write_recipe):
    result = salad("train", write_recipe(recipe_values))
    assert result.exit_code == 0, result.output
    assert [only for _, only in pipeline.calls] == ["warm_start", "spell", "stage1"]


def test_overfitting_one_batch_needs_every_stage_above(salad, recipe_values, write_recipe, tmp_path):
    settings = ("model.ears=symbols", "model.rate=text", "warm_start.enabled=true")
    path = write_recipe(recipe_values)
    command = ("train", path, "--overfit-one-batch", *(part for each in settings for part in ("--set", each)))
    assert "stage stage1: corpus is not finished" in " ".join(_user_error(salad(*command)).split())
    recipe, parts = load_recipe(path, settings), {}
    for stage in ("assets", "corpus", "align", "warm_start"):
        parts |= up_to_date.stage_inputs(stage, recipe)
        write_json(tmp_path / "run" / stage / "stage.json", {"stage": stage, "inputs": parts, "status": "done"})
    assert "stage stage1: spell is not finished" in " ".join(_user_error(salad(*command)).split())


@pytest.mark.parametrize("command", [["run"], ["stage", "corpus"], ["align"]])
def test_an_unknown_key_exits_2_and_names_the_known_ones(salad, pipeline, recipe_values, write_recipe, command):
    message = _user_error(salad(*command, write_recipe(recipe_values), "--set", "nonsense.key=1"))
    assert "nonsense: unknown key; expected one of" in message
    assert all(section in message for section in ("corpus", "stage1", "stage2", "evaluate"))
    assert pipeline.calls == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stage1.steps=two", ["stage1.steps", "'two'", "integer"]),
        ("stage1.alpha=1.5", ["stage1.alpha", "1.5", "less than or equal to 1"]),
        ("select.gama=1", ["select.gama", "gamma"]),
        ("stage1", ["--set 'stage1'", "a.b=value"]),
        ("corpus.unseen_voice=second", ["unseen_voice 'second'", "must not be among the training voices"]),
    ],
)
def test_a_bad_override_exits_2_and_says_what_is_wrong(salad, pipeline, recipe_values, write_recipe, override, words):
    message = _user_error(salad("run", write_recipe(recipe_values), "--set", override))
    assert all(word in message for word in words)
    assert pipeline.calls == []


def test_a_missing_recipe_exits_2_and_names_it(salad, pipeline, tmp_path):
    assert "nowhere.yaml does not exist" in _user_error(salad("run", tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize("command", ["prepare", "run"])
@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("speech", [{"path": "nowhere/cuts.jsonl.gz"}], "corpus.speech: nowhere/cuts.jsonl.gz does not exist"),
        ("text", [{"path": "nowhere/*.parquet"}], r"corpus.text: nowhere/*.parquet does not exist"),
        ("speech_folders", ["nowhere"], "corpus.speech_folders: nowhere does not exist"),
    ],
)
def test_data_that_are_not_there_are_named_before_anything_is_fetched(
    salad, recipe_values, write_recipe, command, key, value, named
):
    recipe_values["corpus"][key] = value
    recipe_values["assets"] = {"encoder": "someone/not-here"}
    assert named in " ".join(_user_error(salad(command, write_recipe(recipe_values))).split())


def test_bad_yaml_exits_2_and_says_where(salad, pipeline, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("stage1: [\n", encoding="utf-8")
    message = _user_error(salad("run", path))
    assert "bad.yaml is not YAML" in message and "line 2" in message


def test_a_recipe_with_a_base_runs(salad, pipeline, recipe_values, write_recipe):
    write_recipe(recipe_values, "below.yaml")
    result = salad("run", write_recipe({"base": "below.yaml", "seed": 7}, "above.yaml"))
    assert result.exit_code == 0, result.output
    assert pipeline.calls[0][0].seed == 7


# Errors, interrupts, bugs


def test_an_error_of_the_pipeline_is_one_message(salad, pipeline, recipe_values, write_recipe):
    pipeline.error = SaladError("probe.voice: got 'nobody', expected one of first, second")
    message = _user_error(salad("run", write_recipe(recipe_values)))
    assert message == "Error: probe.voice: got 'nobody', expected one of first, second\n"


def test_debug_shows_where_an_error_was_raised(salad, pipeline, recipe_values, write_recipe):
    pipeline.error = SaladError("told")
    result = salad("run", write_recipe(recipe_values), "--debug")
    assert result.exception is pipeline.error


def test_a_training_that_sigterm_stopped_has_an_exit_code_of_its_own(salad, pipeline, recipe_values, write_recipe):
    pipeline.error = Stopped("stage1: stopped by SIGTERM")
    result = salad("run", write_recipe(recipe_values))
    assert result.exit_code == 75 and result.stderr == "Error: stage1: stopped by SIGTERM\n"


def test_ctrl_c_says_how_to_resume(salad, pipeline, recipe_values, write_recipe):
    pipeline.error = KeyboardInterrupt()
    path = write_recipe(recipe_values, "my recipe.yaml")
    result = salad("run", path, "--set", "seed=3")
    assert result.exit_code == 130
    assert f"The same command resumes: salad run '{path}' --set seed=3" in result.stderr
    assert "Traceback" not in result.output


def test_a_bug_keeps_its_traceback(salad, pipeline, recipe_values, write_recipe):
    pipeline.error = RuntimeError("a bug")
    assert salad("run", write_recipe(recipe_values)).exception is pipeline.error


# assets


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No asset anywhere, and no download."""
    monkeypatch.setenv("SALAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SALAD_ASSETS_SOURCE", "local")
    monkeypatch.delenv("SALAD_ASSETS_DIR", raising=False)


def test_assets_list_names_all(salad, empty_cache):
    result = salad("assets", "list")
    assert result.exit_code == 0, result.output
    header, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == list(ASSETS)
    assert {row[header.index("cached")] for row in rows} == {"no"}


@pytest.mark.parametrize("command", ["get", "verify"])
def test_an_unknown_asset_exits_2_and_names_the_known_ones(salad, empty_cache, command):
    message = _user_error(salad("assets", command, "nobody"))
    assert "'nobody'" in message
    assert all(name in message for name in ASSETS)


@pytest.mark.parametrize("arguments", [[], ["kokoro", "--all"]])
def test_get_needs_either_names_or_all(salad, empty_cache, arguments):
    assert "--all" in _user_error(salad("assets", "get", *arguments))


def test_get_that_may_not_download_says_so(salad, empty_cache):
    message = _user_error(salad("assets", "get", "kokoro"))
    assert "kokoro" in message and "SALAD_ASSETS_DIR" in message


def test_verify_exits_1_where_files_are_missing(salad, empty_cache):
    result = salad("assets", "verify", "kokoro")
    assert result.exit_code == 1
    rows = [line.split("\t") for line in result.stdout.splitlines()[1:]]
    assert [row[1] for row in rows] == [file.name for file in ASSETS["kokoro"].files]
    assert {row[2] for row in rows} == {"missing"}


def test_verify_without_names_looks_at_the_cache_only(salad, empty_cache):
    result = salad("assets", "verify")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1


def test_a_kept_local_copy_is_fetched_listed_and_verified(salad, empty_cache, tmp_path, monkeypatch):
    """The whole round trip on one tiny asset, pinned here; then a byte is changed."""
    from hashlib import sha256

    from salad.assets.pins import Archive, ArchiveMember, Asset, PinnedFile

    content = b"four"
    digest = sha256(content).hexdigest()
    part = ArchiveMember(Archive("pypi", "tiny", "1"), "tiny/weights.bin", digest, len(content))
    tiny = Asset("tiny", "llm", "four bytes", "CC0-1.0", (PinnedFile("weights.bin", digest, len(content), (part,)),))
    monkeypatch.setitem(ASSETS, "tiny", tiny)
    (tmp_path / "mine" / "tiny").mkdir(parents=True)
    (tmp_path / "mine" / "tiny" / "weights.bin").write_bytes(content)
    monkeypatch.setenv("SALAD_ASSETS_DIR", str(tmp_path / "mine"))

    got = salad("assets", "get", "tiny")
    assert got.exit_code == 0, got.output
    [_, (name, folder)] = [line.split("\t") for line in got.stdout.splitlines()]
    assert name == "tiny"
    weights = Path(folder) / "weights.bin"
    assert weights.read_bytes() == content
    assert any(line.startswith("tiny\tyes\t") for line in salad("assets", "list").stdout.splitlines())
    assert salad("assets", "verify", "tiny").exit_code == 0

    weights.write_bytes(b"five")
    broken = salad("assets", "verify")
    assert broken.exit_code == 1
    assert "wrong hash" in broken.stdout
