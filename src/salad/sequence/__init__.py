"""Interleave -> tokenise -> pair with the teacher -> pack -> batch."""

from salad.sequence.assemble import Packed, assemble, pair
from salad.sequence.frames import FrameShard, Piece, check_shard, write_frames
from salad.sequence.interleave import cut, interleave
from salad.sequence.pack import best_fit
from salad.sequence.store import Frames, FrameStore
from salad.sequence.tokens import TokenisedDocument, start_token_id, token_ids, tokenise

__all__ = [
    "FrameShard",
    "FrameStore",
    "Frames",
    "Packed",
    "Piece",
    "TokenisedDocument",
    "assemble",
    "best_fit",
    "check_shard",
    "cut",
    "interleave",
    "pair",
    "start_token_id",
    "token_ids",
    "tokenise",
    "write_frames",
]
