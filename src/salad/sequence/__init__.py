"""Interleave -> tokenise -> pair with the teacher -> pack -> batch."""

from salad.sequence.assemble import Packed, assemble, pair
from salad.sequence.frames import FrameStore, Piece
from salad.sequence.interleave import cut, interleave
from salad.sequence.pack import best_fit
from salad.sequence.tokens import TokenisedDocument, start_token_id, tokenise

__all__ = [
    "FrameStore",
    "Packed",
    "Piece",
    "TokenisedDocument",
    "assemble",
    "best_fit",
    "cut",
    "interleave",
    "pair",
    "start_token_id",
    "tokenise",
]
