"""Texts and recordings that come from outside: checked at the door, nothing lost."""

import json

import numpy as np
import pytest
import soundfile

from salad.corpus.manifest import load_spoken
from salad.corpus.read import find_recordings, import_recordings, read_local_text
from salad.corpus.write import clean, prompts
from salad.engine import run_shards
from salad.files import read_jsonl
from salad.types import SaladError


def test_a_folder_with_broken_recordings_loses_nothing(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    tone = (0.1 * np.sin(np.arange(16_000) / 20)).astype(np.float32)
    for name in ("good", "silent-text", "no-text", "latin"):
        soundfile.write(own / f"{name}.wav", tone, 16_000)
    (own / "good.txt").write_text("a good  recording\n")
    (own / "silent-text.txt").write_text(" \n")
    (own / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (own / "corrupt.wav").write_bytes(b"RIFF....WAVEnonsense")
    (own / "corrupt.txt").write_text("a broken recording")
    found = find_recordings([own])
    items = [(str(p), f"own-{i}") for i, p in enumerate(found)]
    folders = run_shards(import_recordings, items, tmp_path / "out", shard_items=2, workers=1, title="t")
    kept = load_spoken(folders)
    aside = {row["id"]: row["reason"] for folder in folders for row in read_jsonl(folder / "quarantine.jsonl")}
    assert [u.text for u, _ in kept] == ["a good recording"]
    assert kept[0][0].num_samples == 16_000
    assert len(kept) + len(aside) == len(found) == 5
    reasons = {id.rsplit("/", 1)[1]: reason for id, reason in aside.items()}
    assert "cannot be decoded" in reasons["corrupt.wav"]
    assert "no no-text.txt or .lab" in reasons["no-text.wav"]
    assert "empty" in reasons["silent-text.wav"] and "UTF-8" in reasons["latin.wav"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SaladError, match="corpus.speech_folders: .*nowhere"):
        find_recordings([tmp_path / "nowhere"])


def test_local_text(tmp_path):
    (tmp_path / "a.txt").write_text("One paragraph\nof text.\n\n\nAnother.\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "A  row\u2028here", "domain": "d", "id": 7}) + "\n\n")
    documents = read_local_text([tmp_path / "a.txt", tmp_path / "b.jsonl"])
    assert [d.text for d in documents] == ["One paragraph of text.", "Another.", "A row here"]
    assert documents[2].id == "7" and documents[2].domain == "d"


@pytest.mark.parametrize("line", ["not json", '{"words": 3}', '{"text": 3}', "[]"])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(SaladError, match=r"corpus.local_text: .*b.jsonl line 2"):
        read_local_text([tmp_path / "b.jsonl"])


def test_clean_keeps_whole_sentences_of_prose():
    text = "**Title**\n\n1. The sea is *wide*.\n- It is deep, too!  It was on"
    assert clean(text) == "Title The sea is wide. It is deep, too!"
    assert clean("no end") == ""


def test_prompts_are_distinct_and_in_a_fixed_order():
    topics = {"stories": ["a dog", "a cat"], "physics": ["light"]}
    rows = prompts(topics, 2, "web", 0)
    assert rows == prompts(topics, 2, "web", 0) and len({r["id"] for r in rows}) == 6
    assert {r["domain"] for r in rows} == {"stories", "physics"}
    assert all(r["topic"] in r["prompt"] for r in rows)
