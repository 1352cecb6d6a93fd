"""One flat file out of our sources."""

from __future__ import annotations

import ast
import runpy

import pytest

from salad.pipeline.export import remote_code
from salad.pipeline.remote_code import flat_source


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return remote_code()


def test_it_imports_nothing_of_ours_and_is_the_same_each_time(files):
    assert remote_code() == files
    assert sorted(files) == ["modeling_salad.py", "processing_salad.py"]
    for text in files.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "salad" for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                assert not node.level and node.module.split(".")[0] != "salad"


def test_transformers_asks_for_no_package_that_hearing_does_not_need(files, tmp_path):
    from transformers.dynamic_module_utils import get_imports

    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert not {"peft", "av", "phonemizer", "rapidfuzz", "typer", "faster_whisper", "ctranslate2"} & set(
            get_imports(tmp_path / name)
        )


def test_definitions_of_one_name_stay_apart(tmp_path):
    """Both parts of the ears have a SHARPEN of their own."""
    roots = [("salad.model.adapter", "CTCHead"), ("salad.model.ears.symbol_ears", "SymbolEars")]
    text = flat_source(roots, "flat", without=("Lexicon.of_tokenizer", "Symbols.of_text", "Symbols.found_in",
                                               "Symbols.of_words", "Symbols._alone"))  # fmt: skip
    lines = text.splitlines()
    assert "SHARPEN = 4.0" in lines and "SHARPEN_symbol_ears = 2.0" in lines
    assert "SHARPEN_symbol_ears * scores" in text and "(SHARPEN * logits" in text


def test_a_local_name_hides_one_of_the_module(tmp_path, monkeypatch):
    """Of two modules that both bind `near`; in the second a parameter and an attribute have that name, too."""
    package = tmp_path / "salad_flat"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("salad.pipeline.remote_code.OURS", "salad_flat")
    (package / "one.py").write_text("near = 1\n\ndef first():\n    return near\n")
    (package / "two.py").write_text(
        "from salad_flat import one\nfrom salad_flat.one import first\n\nnear = 2\n\n"
        "class Kept:\n    near = 7\n    def ask(self, near):\n        return near, self.near, first()\n"
        "    def own(self):\n        return near, one.near\n"
    )
    (tmp_path / "flat.py").write_text(flat_source([("salad_flat.two", "Kept")], "flat"))
    kept = runpy.run_path(str(tmp_path / "flat.py"))["Kept"]()
    assert kept.ask(5) == (5, 7, 1) and kept.own() == (2, 1)
    with pytest.raises(NotImplementedError, match="has no absent"):
        flat_source([("salad_flat.two", "absent")], "flat")


def test_a_stub_says_why(tmp_path):
    text = flat_source(
        [("salad.model.encoders.load", "load_encoder")], "flat",
        stubs={("salad.model.encoders.load", "load_encoder"): "not here"},
    )  # fmt: skip
    (tmp_path / "flat.py").write_text(text)
    with pytest.raises(NotImplementedError, match="not here"):
        runpy.run_path(str(tmp_path / "flat.py"))["load_encoder"]("log-mel")
