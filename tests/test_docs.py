"""What docs/api.md shows, run as one notebook; and its table of names."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

import salad
from salad.files import read_json, write_jsonl
from salad.testing.listeners import save_corpus

HOUSE = Path(__file__).parents[1]
PAGE = (HOUSE / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_table_names_all_of_the_door():
    spec = importlib.util.spec_from_file_location("draw_api", HOUSE / "scripts" / "draw_api.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert PAGE.endswith(f"## Names\n\n{script.table()}"), "run scripts/draw_api.py"
    assert script.table().count("\n| `salad.") == len(salad.__all__) - 1


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
