"""Placeholders and what is heard at them, whatever a processor counted."""

import pytest
import torch
from torch import nn

from salad.model.prompt import IGNORED, read_prompt
from salad.types import SaladError

AUDIO, WIDTH = 9, 3


@pytest.fixture
def table():
    torch.manual_seed(0)
    return nn.Embedding(9, WIDTH)  # the placeholder has no row


def spans(*lengths):
    return [torch.full((n, WIDTH), 10.0 + i) for i, n in enumerate(lengths)]


def test_as_many_placeholders_as_embeddings_are_filled_where_they_stand(table):
    ids = torch.tensor([[1, AUDIO, AUDIO, 2], [AUDIO, 3, AUDIO, 4]])
    prompt = read_prompt(table, AUDIO, ids, None, spans(2, 1, 1), labels=ids.clone())
    assert prompt.ids is ids and prompt.mask is None
    assert prompt.embeddings[0, 1:3].eq(10).all() and prompt.embeddings[1, 0].eq(11).all()
    assert prompt.embeddings[1, 2].eq(12).all() and torch.equal(prompt.embeddings[1, 3], table.weight[4])
    assert prompt.labels.tolist() == [[1, IGNORED, IGNORED, 2], [IGNORED, 3, IGNORED, 4]]
    assert torch.equal(prompt.rows()[0], prompt.embeddings[0])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("counted", [None, [1, 1, 1]])
def test_rows_grow_and_shrink_to_what_was_heard_on_the_side_of_their_padding(table, side, counted):
    short = [0, AUDIO, 2] if side == "left" else [AUDIO, 2, 0]
    ids, mask = torch.tensor([[AUDIO, AUDIO, 1], short]), torch.tensor([[1, 1, 1], [i != 0 for i in short]]).long()
    prompt = read_prompt(table, AUDIO, ids, mask, spans(3, 1, 4), counted, labels=ids.masked_fill(mask == 0, IGNORED))
    kept = [row[own.bool()].tolist() for row, own in zip(prompt.ids, prompt.mask, strict=True)]
    assert (
        kept == [[AUDIO] * 4 + [1], [AUDIO] * 4 + [2]]
        and prompt.labels.gt(0).sum(1).tolist() == [1, 1]
        and prompt.labels[1].lt(1).sum() >= 4
    )
    assert prompt.mask[1, 0 if side == "left" else -1] == 0 == prompt.ids[1, 0 if side == "left" else -1]
    heard = [row[:, 0].tolist()[:4] for row in prompt.rows()]
    assert heard == [[10, 10, 10, 11], [12] * 4]
    fewer = read_prompt(table, AUDIO, torch.tensor([[1, AUDIO, AUDIO, AUDIO, 2]]), None, spans(1), [3])
    assert fewer.ids.tolist() == [[1, AUDIO, 2]]


def test_a_prompt_to_write_on_is_padded_on_the_left_and_holds_tokens_of_the_table(table):
    ids, mask = torch.tensor([[1, AUDIO, AUDIO, 2], [3, AUDIO, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    left = read_prompt(table, AUDIO, ids, mask, spans(2, 1)).on_the_left()
    assert left.ids.tolist() == [[1, AUDIO, AUDIO, 2], [0, 0, 3, AUDIO]] and left.mask[1].tolist() == [0, 0, 1, 1]
    assert left.read_ids().tolist() == [[1, 1, 1, 2], [0, 0, 3, 3]] and left.embeddings[1, 3].eq(11).all()
    first = read_prompt(table, AUDIO, torch.tensor([[AUDIO, AUDIO, 2]]), None, spans(2))
    assert first.read_ids().tolist() == [[0, 0, 2]] and first.on_the_left() is first


@pytest.mark.parametrize(
    ("ids", "lengths", "counted", "message"),
    [
        ([[1, AUDIO, AUDIO]], (3, 2, 1), None, "3 spans of 6 positions for 2 audio placeholders"),
        ([[1, AUDIO, AUDIO]], (2,), [3], "1 spans of 2 positions for 2"),
        ([[1, AUDIO, 2]], (), None, "0 spans of 0 positions for 1"),
        ([[AUDIO, 1, AUDIO]], (3,), [2], "the 2 placeholders of span 0 do not stand side by side"),
    ],
)
def test_spans_that_do_not_belong_to_the_placeholders_are_refused(table, ids, lengths, counted, message):
    with pytest.raises(SaladError, match=message):
        read_prompt(table, AUDIO, torch.tensor(ids), None, spans(*lengths), counted)
