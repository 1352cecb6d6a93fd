"""Pieces of recordings that are made when they are asked for: the same as if all were held, whatever is kept."""

import random
import weakref
from types import SimpleNamespace

import pytest

from salad.engine import Joined, Made
from salad.files import write_json
from salad.pipeline import distillation, ears_data, speechlm
from salad.pipeline.ears_data import kept_back
from salad.pipeline.speechlm import Pieces
from salad.training import ears_tasks
from salad.training.distributed import ProcessGroup
from salad.training.ears_tasks import batch_indices
from salad.types import SaladError, Utterance


class Piece:
    def __init__(self, name):
        self.name = name


def utterances(num):
    return [
        Utterance(f"u{n}", " ".join(["word"] * (n % 4)), "", 16_000, 16_000, document_id=f"d{n}") for n in range(num)
    ]


def named(pieces):
    return [piece.name for piece in pieces]


def make(utterance):
    return [Piece(f"{utterance.id}/{n}") for n, _ in enumerate(utterance.text.split())]


@pytest.mark.parametrize("kept", [1, 3, 1000])
def test_pieces_are_those_of_all_utterances_in_order(monkeypatch, kept):
    monkeypatch.setattr(speechlm, "KEPT_UTTERANCES", kept)
    every = [piece.name for utterance in utterances(30) for piece in make(utterance)]
    pieces = Pieces(make, Made(lambda u: u, utterances(30)))
    assert len(pieces) == len(every) and named(pieces) == every
    places = random.Random(0).sample(range(len(every)), len(every))
    assert named(pieces[n] for n in places) == [every[n] for n in places]
    assert named(pieces[5:20]) == every[5:20] and pieces[-1].name == every[-1]
    with pytest.raises(IndexError):
        pieces[len(every)]


def test_of_many_recordings_a_few_are_in_memory(monkeypatch):
    monkeypatch.setattr(speechlm, "KEPT_UTTERANCES", 8)
    alive = weakref.WeakSet()

    def seen(utterance):
        own = make(utterance)
        alive.update(own)
        return own

    pieces, most = Pieces(seen, utterances(400)), 0
    for _ in pieces:
        most = max(most, len(alive))
    assert len(pieces) == 600 and most <= 9 * 3
    for n in random.Random(0).sample(range(600), 100):
        assert pieces[n]
        assert len(alive) <= 9 * 3


def test_what_the_ctc_loss_reads_beside_the_distillation_is_not_all_held(monkeypatch):
    asked = []
    monkeypatch.setattr(distillation, "ctc_spans", lambda tokenizer, own, *_: Pieces(lambda u: [asked.append(u)], own))
    run = SimpleNamespace(recipe=SimpleNamespace(sequence=None, seed=0))
    spans = distillation._ctc_spans(run, None, [(utterances(3), None), (utterances(2), None)])
    assert not asked and len(spans) == len(asked) == 5


def test_lanes_that_cannot_be_dealt_are_refused_before_a_model_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(ProcessGroup, "join", lambda: ProcessGroup(rank=0, size=16))
    monkeypatch.setattr(distillation, "load_tokenizer", lambda run: None)
    monkeypatch.setattr(distillation, "_placed", None)
    sequence = SimpleNamespace(context=2048, stream=True, lanes=8)
    run = SimpleNamespace(recipe=SimpleNamespace(sequence=sequence), use_threads=lambda: None)
    run.uses_bf16, run.folder = lambda use, device: False, lambda name: tmp_path / name
    with pytest.raises(SaladError, match="sequence.lanes: 8, but 16 processes train; set it to a multiple of 16"):
        distillation.train_stage(run, "stage1", SimpleNamespace(reshard=True), None, None)
    sequence.lanes, lanes = 16, {str(lane): {} for lane in range(8)}
    write_json(tmp_path / "stage1" / "checkpoint-000002" / "state.json", {"stream": {"lanes": lanes}})
    with pytest.raises(SaladError, match="sequence.lanes: 8, .* begun with that many, train with a number of"):
        distillation.train_stage(run, "stage1", SimpleNamespace(reshard=True), None, None)


def test_joined_is_its_parts_one_after_the_other():
    parts = [[1, 2], [], [3], Pieces(make, utterances(4))]
    joined = Joined(parts)
    assert len(joined) == 9 and list(joined)[:3] == [1, 2, 3] == [joined[n] for n in range(3)]
    assert (
        named(list(joined)[3:])
        == ["u1/0", "u2/0", "u2/1", "u3/0", "u3/1", "u3/2"]
        == named(joined[n] for n in range(3, 9))
    )
    assert joined[-1].name == "u3/2" and len(Joined([])) == 0


def test_an_order_of_very_many_is_drawn_as_far_as_it_is_needed(monkeypatch):
    whole = batch_indices(50, 20, 4, "seed")
    assert sorted(n for batch in whole for n in batch[:4])[:1] == [0] and all(len(batch) == 4 for batch in whole)
    assert len({n for batch in whole[:12] for n in batch}) == 48  # a pass without replacement
    monkeypatch.setattr(ears_tasks, "MANY", 49)
    asked = []
    sample = random.Random.sample
    monkeypatch.setattr(random.Random, "sample", lambda own, of, k: asked.append(k) or sample(own, of, k))
    part = batch_indices(10**12, 20, 4, "seed")
    assert asked == [80] and len({n for batch in part for n in batch}) == 80
    assert max(n for batch in part for n in batch) > 10**9


def test_noise_is_taken_from_a_bounded_number_of_documents(monkeypatch):
    monkeypatch.setattr(ears_data, "MOST_BACK", 5)
    trained, back = kept_back(Made(lambda u: u, utterances(200)), 0.2, seed=0)
    assert len(back) == 5 and len(trained) == 195 and not isinstance(trained, list)
    assert {u.id for u in trained} | {u.id for u in back} == {u.id for u in utterances(200)}
