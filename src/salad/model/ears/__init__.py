"""Ears in two parts: frames -> symbols (phones or letters) -> what the LLM reads, at text rate."""

from salad.model.ears.lexicon import Lexicon
from salad.model.ears.symbol_ears import Candidates, SymbolEars

__all__ = ["Candidates", "Lexicon", "SymbolEars"]
