"""docs/families.md: the families of tests/model/test_families.py, as the self-check finds them."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "model"))

from test_families import FAMILIES, make_llm  # noqa: E402

from salad.model.check import SelfCheck, check_llm  # noqa: E402

NAMES = ("future unseen", "logits", "embeddings", "packed = alone", "beyond the window")
HEAD = """# Which text LLMs can get ears

Every causal LLM of transformers that attends to tokens before can; the self-check reads a few tokens of it when it is
loaded and decides how. `salad assets check LLM` prints the same for an LLM of yours (name, folder or GGUF).

- **packed**: documents are laid end to end in one pass, and none sees another. This is the fast way.
- **one by one**: the family has an attention of its own, so each document is read alone: as exact, and slower.
- **refused**: no layer attends to tokens before, its layers look at the ids of tokens (Gemma 3n, Falcon-H1), or its
  attention is one that ours leaves a part out of (DeepSeek-V3.2).

The figures are those of small random models of each family (2 layers, width 64, float32). They give the greatest KL in
nats, at any position, between what the LLM says alone and what we read (at most 1e-05), and the scale of its embeddings
against ours. A dash: the family has no window, or cannot be packed. The tests train, score, save and load each of them
(`tests/model/test_families.py`); none of these figures says how well a real LLM of the family learns to hear.

| family | documents are read | future unseen | logits | embeddings | packed = alone | beyond the window |
|---|---|---|---|---|---|---|
"""
TAIL = """
A check that fails refuses the LLM, with its figure and the cure. These are refused: logits or embeddings that are not
the LLM's own; a position that sees the future; a tokenizer with more tokens than the table has rows; no token to start
a document with; a chat template that does not write one user's turn.
An LLM without a chat template is asked in plain text. Biases of the head, `logit_scale`, `logits_scaling`, soft caps,
scaled embeddings, sliding windows and attention sinks are applied. `python scripts/family_table.py` writes this page.
"""


def row(family: str, found: SelfCheck) -> str:
    figures = {check.name: check for check in found.checks}
    cells = [figures[name].found.removesuffix(" nats") if name in figures else "-" for name in NAMES]
    if found.how == "one by one":
        cells[3] = "-"
    if found.how == "refused":
        cells[0] = figures["attention"].found
    return f"| {family} | {found.how} | {' | '.join(cells)} |"


def main() -> None:
    found = {family: check_llm(make_llm(family)) for family in (*FAMILIES, "mamba")}
    rows = [row(family, one) for family, one in found.items()]
    (ROOT / "docs" / "families.md").write_text(HEAD + "\n".join(rows) + "\n" + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
