"""Interleave -> tokenise -> pair with the teacher -> pack -> batch."""

from salad.sequence.assemble import assemble
from salad.sequence.frames import FrameShard, check_shard
from salad.sequence.pack import best_fit
from salad.sequence.store import Frames, FrameStore
from salad.sequence.tokens import start_token_id, token_ids, tokenise

__all__ = [
    "FrameShard",
    "FrameStore",
    "Frames",
    "assemble",
    "best_fit",
    "check_shard",
    "start_token_id",
    "token_ids",
    "tokenise",
]
