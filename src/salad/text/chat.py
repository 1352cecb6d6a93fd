"""Chat templates of LLMs: those that take what is said as a string, and those that take a list of parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

WORD = "Zebra7"  # what no template says by itself
REFUSALS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)  # of a template that takes another form
_PARTS: WeakKeyDictionary[Any, dict[Any, bool]] = WeakKeyDictionary()


def as_it_takes(
    tokenizer: Any, messages: Sequence[Mapping[str, object]], template: str | None = None
) -> list[Mapping[str, object]]:
    """Messages whose content is a string, in the form in which the tokenizer's chat template (or `template`) writes
    their words: as they are, or as parts, [{"type": "text", "text": ...}]."""
    if not takes_parts(tokenizer, template):
        return [dict(message) for message in messages]
    return [{**message, "content": parts(str(message["content"]))} for message in messages]


def takes_parts(tokenizer: Any, template: str | None = None) -> bool:
    """Whether a template writes a user's words where they come as parts, and loses them where they are a string."""
    known = _PARTS.setdefault(tokenizer, {})
    key = template or str(getattr(tokenizer, "chat_template", None))
    if key not in known:
        known[key] = not _writes(tokenizer, WORD, template) and _writes(tokenizer, parts(WORD), template)
    return known[key]


def parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def writes_words(tokenizer: Any) -> bool:
    """Whether the tokenizer's own template writes a user's words in one of the two forms; what it raises comes
    through where it takes neither."""
    if takes_parts(tokenizer):
        return True
    turn = [{"role": "user", "content": WORD}]
    return WORD in tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)


def _writes(tokenizer: Any, content: Any, template: str | None) -> bool:
    turn = [{"role": "user", "content": content}]
    how = {} if template is None else {"chat_template": template}
    try:
        written = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False, **how)
    except REFUSALS:
        return False
    return WORD in written and "'text'" not in written  # a list written out as Python writes it is none
