"""Your own data through the corpus stage: joined, held out, counted, and what is broken kept aside with its reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from layouts import (
    RATE_HZ,
    TEXTS,
    audiofolder,
    emilia,
    encoded,
    fineweb_edu,
    folder_with_texts,
    libriheavy,
    nemo,
    smollm_corpus,
    sound,
    web_rows,
    write_jsonl,
    write_tar,
)

from salad.corpus.manifest import load_spoken
from salad.files import read_json, read_jsonl
from salad.pipeline import Run
from salad.recipe import Recipe
from salad.stages import corpus
from salad.types import SaladError


@pytest.fixture
def prepare(recipe_values, tmp_path):
    """Run the corpus stage on `speech` entries alone (no weights are needed) and return the run."""

    def start(*speech, **changes):
        if not (tmp_path / "web.jsonl").exists():
            write_jsonl(tmp_path / "web.jsonl", web_rows(10))
        values = {
            **recipe_values,
            "assets": {"encoder": "log-mel"},
            "engine": {"workers": 1},
            "model": {"stride": 8},
            "corpus": {
                **recipe_values["corpus"],
                "web_documents_per_topic": 0,
                "speech_documents": 0,
                "heldout_per_domain": 0,
                "heldout_share": 0.2,
                "speech": list(speech),
                "text": [{"path": str(tmp_path / "web.jsonl"), "licence": "CC0"}],
                **changes.pop("corpus", {}),
            },
            **changes,
        }
        run = Run(Recipe.model_validate(values))
        return run, corpus.run(run)

    return start


def spoken(run, name="own"):
    return load_spoken(sorted((run.folder("corpus") / name).glob("shard-*")))


def test_libriheavy_is_joined_held_out_and_counted(prepare, tmp_path):
    entry = {"path": str(libriheavy(tmp_path / "lh")), "licence": "CC BY 4.0", "name": "libriheavy"}
    run, summary = prepare(entry)
    train, heldout = spoken(run), spoken(run, "own-heldout")
    assert len(train) == 2 and len(heldout) == 1
    assert {u.speaker for u, _ in train}.isdisjoint({u.speaker for u, _ in heldout})
    utterance, sentences = train[0]
    assert utterance.text == " ".join(TEXTS[k % 6] for k in range(int(utterance.speaker) - 100, int(utterance.speaker) - 96))
    assert [s[2:] for s in sentences] == [(0.0, 2.0), (2.5, 4.5), (5.0, 7.0), (7.5, 9.5)]
    assert sentences[-1][1] == len(utterance.text.split())
    assert abs(utterance.duration_s - 9.5) < 0.01 and utterance.licence == "CC BY 4.0"
    card = read_json(run.folder("corpus") / "data_card.json")
    assert card["speech"][0]["speakers"] == 3 and card["speech"][0]["heldout_by"] == "speaker"
    assert summary["speech_documents"] == 2 and summary["simulated"] is False
