"""What README and the pages show: Python runs as one notebook, shell blocks in a small house, references are true."""

import functools
import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

import salad
from salad.cli import FIRST, app
from salad.config import Recipe
from salad.files import read_json, write_json, write_jsonl
from salad.testing.corpora import folder_with_texts
from salad.testing.listeners import save_corpus, save_listener

HOUSE = Path(__file__).parents[1]
README = (HOUSE / "README.md").read_text(encoding="utf-8")
PAGE = (HOUSE / "docs" / "api.md").read_text(encoding="utf-8")
OTHERS = ("log.md", "decisions/", "results/")  # notes of what was done, not what a reader is to do
STAYING = {"serving.md", "clusters.md"}  # their commands serve until they are stopped, or need a cluster
REASONS = {"needs a GPU", "needs a network", "takes more than 5 minutes"}
BLOCK = re.compile(r"(?:<!-- not run by a test: ([^>]*?) -->\s*)?^( *)```(\w*)\n(.*?)^ *```$", re.S | re.M)


def pages() -> dict[str, str]:
    docs = HOUSE / "docs"
    found = {str(page.relative_to(docs)): page.read_text(encoding="utf-8") for page in sorted(docs.rglob("*.md"))}
    return {"README.md": README} | {name: text for name, text in found.items() if not name.startswith(OTHERS)}


def shell_blocks() -> list[tuple[str, str, list[str]]]:
    """(page, why it is not run, its commands) of every block of shell."""
    found = []
    for name, text in pages().items():
        for reasons, _, language, block in BLOCK.findall(text):
            lines = block.replace("\\\n", " ").splitlines()
            lines = [line.strip().removeprefix(".venv/bin/") for line in lines if line.strip()]
            if language == "bash" or (not language and any(line.startswith("salad ") for line in lines)):
                found.append((name, reasons, lines))
    return found


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, HOUSE / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def commands() -> dict[str, typer.core.TyperCommand]:
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {own}": leaf for own, leaf in inner.items()} if inner else {name: command}
    return found


def check_command(line: str) -> None:
    """Raises where a line that begins with salad names a command, an option or a value that does not exist."""
    words = shlex.split(line.split(" #")[0])[1:]
    known = commands()
    depth = 2 if words and words[0] in {name.split()[0] for name in known if " " in name} else 1
    name = " ".join(words[:depth])
    assert name in known, f"{line}: there is no command {name!r}"
    if not {"--help", "-h"} & set(words):
        known[name].make_context(name, words[depth:])


def test_the_table_names_all_of_the_door():
    table = script("draw_api").table()
    assert PAGE.endswith(f"## Names\n\n{table}"), "run scripts/draw_api.py"
    assert table.count("\n| `salad.") == len(salad.__all__) - 1


def test_the_front_page_is_short_and_shows_what_the_library_page_shows():
    lines = README.splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 120
    ours, theirs = (re.findall(r"```python\n(.*?)```", text, re.S) for text in (README, PAGE))
    assert ours == theirs[:1], "README shows the first block of docs/api.md, which a test runs"
    for target in re.findall(r'(?:\]\(|src="|srcset=")((?!https?:)[^)"#]+)', README):
        assert (HOUSE / target).exists(), target


def test_every_command_shown_is_one_that_exists():
    shown = [(page, line) for page, _, lines in shell_blocks() for line in lines if line.startswith("salad ")]
    assert len(shown) > 30
    for page, line in shown:
        try:
            check_command(line)
        except Exception as error:
            pytest.fail(f"{page}: {line}: {error!r}")
    with pytest.raises(Exception, match="no-such"):
        check_command("salad run recipes/demo.yaml --no-such-option")


def test_what_a_sentence_names_exists():
    """Commands, and files of the house, that stand in a line of text or in a table."""
    known, seen = {word for name in commands() for word in (name, name.split()[0])}, 0
    for page, text in pages().items():
        for words in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)):
            command = re.match(r"salad ((?:data |assets |analyze )?[a-z]+)", words)
            assert not command or command[1] in known, f"{page}: {words}"
            file = re.match(r"(?:src|scripts|tests|recipes|benchmarks|examples)/[\w./-]+", words)
            assert not file or (HOUSE / file[0]).exists(), f"{page}: {words}"
            seen += bool(command or file)
    assert seen > 60


def test_what_is_not_run_says_why():
    for page, reasons, lines in shell_blocks():
        for reason in filter(None, re.split(r", and |, ", reasons)):
            assert reason in REASONS, f"{page}: {reason!r}, expected one of {sorted(REASONS)}"
        if not reasons and page not in STAYING:
            assert all(line.startswith(("salad ", "#")) for line in lines), f"{page}: a test cannot run {lines}"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The files that the pages' commands name: a finished run with a tiny model, recordings, items, texts, a recipe."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(HOUSE / "recipes", folder / "recipes")
    run = folder / "runs" / "demo"
    model, llm = save_listener(folder / "made", change=0.05, rate="text", ctc=20)
    shutil.copytree(model, run / "stage2" / "model")
    values = {
        "seed": 3,
        "assets": {"llm": str(llm), "encoder": "log-mel"},
        "sequence": {"text_words": [3, 5], "speech_words": [2, 4], "first": "speech"},
        "corpus": {"voices": {"shares": {"a": 1.0}}},
    }
    write_json(run / "recipe.json", values)
    save_corpus(folder / "aligned", documents=8, voices=("a", "b"))
    shutil.copytree(folder / "aligned", run / "align")
    shutil.copy(run / "align" / "utterances.jsonl", run / "align" / "heldout.jsonl")
    folder_with_texts(folder / "my-recordings")
    sounds = sorted((folder / "aligned" / "audio").glob("*.wav"))
    (folder / "my-answers").mkdir()
    for i in range(2):
        shutil.copy(sounds[i], folder / "my-answers" / f"q{i}.wav")
    rows = [{"id": f"q{i}", "context": f"w{i} w2", "choices": ["w3", "w4"], "answer": i} for i in range(2)]
    write_jsonl(folder / "my-questions.jsonl", rows)
    prompts = [{"id": "p", "text": "w5 w6", "audio": str(sounds[0]), "answers": ["w7"]}]
    write_jsonl(folder / "prompts.jsonl", prompts)
    write_jsonl(folder / "my-texts.jsonl", [{"id": "a", "text": "Bees make honey."}])
    recipe = next(block for block in re.findall(r"```yaml\n(.*?)```", pages()["guide/own-data.md"], re.S))
    (folder / "my.yaml").write_text("\n".join(line[4:] for line in recipe.splitlines()), encoding="utf-8")
    return folder


PREPARED = ("prepare", "align")  # of recordings of noise nothing can be aligned: a notebook runs them, of speech, in CI
RUN = [(page, lines) for page, reasons, lines in shell_blocks() if not reasons and page not in STAYING]


@pytest.mark.parametrize(("page", "lines"), RUN, ids=[f"{page}-{i}" for i, (page, _) in enumerate(RUN)])
def test_a_shell_block_runs(house, monkeypatch, page, lines):
    monkeypatch.chdir(house)
    for line in lines:
        words = shlex.split(line.split(" #")[0])[1:]
        if words[0] in PREPARED:
            check_command(line)
            continue
        monkeypatch.setattr(sys, "argv", ["salad", *words])
        done = CliRunner().invoke(app, words)
        # a doctor of ears that were never trained finds that they do not hear
        assert done.exit_code == (1 if words[0] == "doctor" else 0), f"{page}: {line}: {done.output}"
        assert done.stdout.strip()


def test_every_command_has_an_example_that_it_takes():
    found = commands()
    assert len(found) > 20
    for name, command in found.items():
        example = (command.epilog or "").removeprefix("Example: ")
        assert example.startswith(f"salad {name}"), f"{name}: {command.epilog!r}"
        check_command(example)
        for param in command.params:
            assert getattr(param, "help", None), f"{name}: {param.name} has no help"


def test_salad_alone_shows_three_commands_that_exist():
    said = CliRunner().invoke(app, []).stdout
    assert said.strip() == FIRST
    shown = [line.split("   ")[0].strip() for line in said.splitlines() if line.startswith("  salad ")]
    assert len(shown) == 3
    for line in shown:
        check_command(line)
    assert "<bool>" not in CliRunner().invoke(app, ["run", "--help"]).stdout


def test_the_references_name_every_setting_and_command():
    hooks = script("site_hooks")
    recipe, commands_page = hooks.recipe_reference(), hooks.cli_reference()
    for section, field in Recipe.model_fields.items():
        keys = getattr(field.annotation, "model_fields", {})
        assert not keys or f"## `{section}`\n" in recipe
        part = recipe.split(f"## `{section}`\n")[-1].split("\n## ")[0]
        assert all(f"\n| `{key}` |" in part for key in keys), section
    assert "|  |\n" not in recipe, "a setting says nothing of what it does"
    assert "| `gamma` | number (at least 0) | <code>5.0</code> |" in recipe
    assert all(f"## salad {name}\n" in commands_page for name in commands())
    assert "::: salad.api.load\n" in hooks.python_reference()
    front = hooks.front_page()
    assert "](guide/quick-start.md)" in front and "](../CONTRIBUTING.md)" in front and 'src="pictures/' in front


def test_a_list_and_a_fence_are_shown_as_such():
    hooks, page = script("site_hooks"), SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    mended = {
        "**Ways.**\n- one\nmore\n- two": "**Ways.**\n\n- one\nmore\n- two",
        "# Two\nways:\n1. one": "# Two\nways:\n\n1. one",
        "1. one\n\n   ```\n     x\n   ```\n\n   and\n\nEnd": "1. one\n\n    ```\n      x\n    ```\n\n    and\n\nEnd",
        "- one\n\n  and\n- two": "- one\n\n    and\n\n- two",
        "- one\n\n  | a |\n  |---|\n": "- one\n\n    | a |\n    |---|\n",
    }
    for text, wanted in mended.items():
        assert hooks.on_page_markdown(text, page) == wanted
    for whole in ("- one\n- two", "```\nWays:\n- one\n```", "| a |\n|---|\n| b |", "1. one\n2. two\n\n    more\n"):
        assert hooks.on_page_markdown(whole, page) == whole
    hooks.on_page_content("<p>1.5 nats</p><pre>- one</pre><ul><li><p>two</p></li></ul>", page)
    for wrong in ("<p>Ways:\n- one</p>", "<p>```\nsalad</p>", "<p>more\n3. three</p>", "<p>| a |\n|---|</p>"):
        with pytest.raises(ValueError, match="page.md"):
            hooks.on_page_content(wrong, page)


def test_every_page_of_a_stage_has_the_same_headings():
    from salad.pipeline.run import STAGES

    headings = ["What it does", "Input", "Output", "Settings", "Logged metrics"]
    for stage in STAGES:
        text = pages()[f"stages/{stage}.md"]
        assert text.startswith(f"# Stage: {stage}\n") and re.findall(r"^## (.*)$", text, re.M) == headings, stage


def test_the_pictures_are_those_that_the_script_draws():
    for file, svg in script("draw_pictures").drawn().items():
        assert (HOUSE / "docs" / "pictures" / file).read_text(encoding="utf-8") == svg, "run scripts/draw_pictures.py"


def test_the_notebooks_are_whole_and_hold_no_outputs():
    for notebook in sorted((HOUSE / "examples").glob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") for cell in cells), notebook.name
        compile(script("run_notebook").program(notebook), notebook.name, "exec")


@pytest.mark.slow
def test_the_lines_run_as_one_notebook_with_the_shipped_ears(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_corpus(tmp_path / "my-corpus", documents=2, num_words=12)
    rows = [{"id": f"q{i}", "context": "The sky is", "choices": ["blue", "soup"], "answer": 0} for i in range(2)]
    write_jsonl(tmp_path / "items.jsonl", rows)
    shutil.copytree(HOUSE / "recipes", tmp_path / "recipes")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 3 and len([line for line in blocks[0].splitlines() if line]) <= 11
    names = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    said = capsys.readouterr().out
    assert "failed" in said.splitlines()[0].lower(), said
    assert names["found"].forgetting == 0
    assert (tmp_path / "runs" / "mine" / "checkpoint-000002").is_dir() and names["run_dir"].is_dir()
    assert read_json(tmp_path / "my-model" / "config.json")["origin"]["assets"]["llm"] == "smollm2-135m-instruct"
    assert said.splitlines()[-1].strip()
