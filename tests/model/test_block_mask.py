"""The block mask of documents laid end to end, from where they begin alone."""

import numpy as np
import pytest
import torch

from salad.model.attention import block_mask


@pytest.mark.parametrize("seed", range(6))
def test_blocks_are_those_of_the_mask_of_every_pair(seed):
    """Seen in part and seen whole, in the same order, for documents shorter and longer than a block."""
    rng = np.random.default_rng(seed)
    longest = (20, 130, 700)[seed % 3]
    starts = [0, *np.cumsum(rng.integers(1, longest, int(rng.integers(1, 9)))).tolist()]
    ours = block_mask(starts, torch.device("cpu"))
    every = block_mask(starts, torch.device("cpu"), [(0, 0)] * (len(starts) - 1))  # made pair by pair
    assert ours.shape == every.shape and torch.equal(ours.to_dense(), every.to_dense())
    for name in ("kv", "full_kv", "q", "full_q"):
        counts, wanted = (getattr(mask, f"{name}_num_blocks") for mask in (ours, every))
        assert torch.equal(counts, wanted), name
        indices, places = (getattr(mask, f"{name}_indices") for mask in (ours, every))
        for row, number in enumerate(counts[0, 0].tolist()):
            assert torch.equal(indices[0, 0, row, :number], places[0, 0, row, :number]), name
