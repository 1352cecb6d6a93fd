"""A run's examples behind PyTorch's and Hugging Face's own handles."""

import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import salad
from salad.config import load_recipe
from salad.data.manifest import read_utterances, write_utterances
from salad.files import write_json
from salad.pipeline.run import Run
from salad.pipeline.run_examples import RunExamples
from salad.pipeline.speech_jobs import encode
from salad.pipeline.speechlm import load_tokenizer, speech_examples
from salad.testing.listeners import save_corpus, save_listener
from salad.types import SaladError


@pytest.fixture
def run(recipe_values, write_recipe, tmp_path):
    """A run whose align stage is finished: five documents of noise, log-mel frames, a tiny LLM."""
    _, llm = save_listener(tmp_path / "made")
    values = recipe_values | {
        "assets": {"encoder": "log-mel", "llm": str(llm)},
        "engine": {"workers": 1, "shard_items": 2},
        "sequence": {"text_words": [1, 3], "speech_words": [2, 4], "layouts": 2},
    }
    run = Run(load_recipe(write_recipe(values)))
    utterances = read_utterances(save_corpus(tmp_path / "corpus", documents=5))
    folder = run.folder("align")
    encode(run, folder / "frames-speech", utterances, "t", layouts=2)
    write_utterances(folder / "speech.jsonl", utterances)
    write_json(folder / "stage.json", {"status": "done"})
    write_json(run.dir / "recipe.json", run.recipe.model_dump(mode="json"))
    return run


def same(a, b):
    frames = zip(a.speech_frames, b.speech_frames, strict=True)
    return (a.id, a.spans) == (b.id, b.spans) and all(np.array_equal(x, y) for x, y in frames)


def test_examples_are_those_that_training_reads_in_every_layout(run):
    examples, frames = salad.RunExamples(run.dir, layouts=2), RunExamples(run.recipe)._frames
    columns = [
        speech_examples(run, load_tokenizer(run), examples.utterances, frames, layout=layout) for layout in (0, 1)
    ]
    assert len(examples) == 10 and all(map(same, [examples[i] for i in range(10)], columns[0] + columns[1]))
    assert same(examples[-1], examples[9]) and [e.id for e in examples][:5] == [u.id for u in examples.utterances]
    with pytest.raises(IndexError, match="10 of 10"):
        examples[10]


def test_a_loader_with_workers_gives_each_once_and_a_seed_its_order(run, tmp_path):
    moved = shutil.copytree(run.dir, tmp_path / "moved")
    examples = RunExamples(moved)
    orders = []
    for workers in (0, 2):
        loader = DataLoader(
            examples, batch_size=2, shuffle=True, collate_fn=list, num_workers=workers,
            generator=torch.Generator().manual_seed(3),
        )  # fmt: skip
        batches = list(loader)
        orders.append([example.id for batch in batches for example in batch])
        assert [len(batch) for batch in batches] == [2, 2, 1] and all(e.speech_frames[0].size for e in batches[0])
    assert orders[0] == orders[1] and sorted(orders[0]) == [f"u{i}" for i in range(5)]


def test_rows_for_hugging_face(run):
    pytest.importorskip("datasets")
    examples = RunExamples(run.dir, layouts=2)
    rows = examples.to_datasets()
    assert len(rows) == 10 and rows[7]["id"] == examples[7].id and rows[7]["layout"] == 1
    assert rows[7]["token_ids"] == examples[7].token_ids.tolist() and rows.unique("domain") == ["domain-0", "domain-1"]
    assert [bool(s) for _, _, s in rows[7]["spans"]] == [s.modality == "speech" for s in examples[7].spans]
    assert rows[7]["spans"][-1][1] == len(rows[7]["token_ids"])


def test_what_cannot_be_given_is_refused(run, tmp_path):
    with pytest.raises(SaladError, match="layouts: got 3, but frames of speech were kept for 2"):
        RunExamples(run.dir, layouts=3)
    with pytest.raises(SaladError, match="part: got 'train', expected speech or heldout"):
        RunExamples(run.dir, "train")
    with pytest.raises(SaladError, match="holds no recipe.json"):
        RunExamples(tmp_path)
    write_json(run.folder("align") / "stage.json", {})
    with pytest.raises(SaladError, match="stage align: not finished"):
        RunExamples(run.dir)
