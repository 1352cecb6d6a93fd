"""Text to token ids, as characters: the name of a control token is none. And which tokens are which word's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from salad.types import SaladError, Span

GUARDS = ("\n", "a", ".")  # what may stand before a text that goes on: the first one that shares no token with it
OPEN, CLOSE = "\U000f0000", "\U000f0001"  # private-use characters around the name of a control token that a user wrote
BRACKETED = re.compile(r"<\S+>|\[\S+\]")
Encoded = tuple[list[int], list[tuple[int, int]]]  # token ids, and the characters that each stands for


@dataclass(frozen=True)
class TokenisedDocument:
    """token_ids: int64 [T]. Word w owns tokens word_starts[w] to word_starts[w + 1] (int64 [W + 1])."""

    token_ids: np.ndarray
    word_starts: np.ndarray

    def bounds(self, spans: Sequence[Span]) -> tuple[tuple[int, int], ...]:
        """First and last + 1 token of each span; spans that tile the words tile the tokens."""
        return tuple((int(self.word_starts[s.start_word]), int(self.word_starts[s.end_word])) for s in spans)


def tokenise(tokenizer: Any, text: str) -> TokenisedDocument:
    """Token ids of `text` and the first token of each whitespace word.

    A token belongs to the word that holds its last non-space character; a token of white space alone
    belongs to the word after it. So a span of words is a run of tokens, and the runs joined are exactly
    the tokens of the document. The name of a control token in the text is characters like
    any others. Raises SaladError for a tokenizer without character offsets (one that is not "fast"), or no word.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise SaladError(
            f"llm: its tokenizer {type(tokenizer).__name__} gives no character offsets; use a fast one (tokenizer.json)"
        )
    ids, offsets = _characters(tokenizer, text)
    word_ends = np.array([match.end() for match in re.finditer(r"\S+", text)], dtype=np.int64)
    if len(word_ends) == 0:
        raise SaladError("document: its text holds no words; remove it")
    owners = np.empty(len(ids), dtype=np.int64)
    for i, (start, end) in enumerate(offsets):
        piece = text[start:end]
        last = start + max(len(piece.rstrip()), 1)  # a token of white space alone counts where it starts
        owners[i] = np.searchsorted(word_ends, last, side="left")
    owners = np.maximum.accumulate(np.minimum(owners, len(word_ends) - 1))
    word_starts = np.searchsorted(owners, np.arange(len(word_ends) + 1), side="left")
    return TokenisedDocument(np.array(ids, dtype=np.int64), word_starts)


def token_ids(tokenizer: Any, text: str, *, special: bool = False, after: bool = False) -> list[int]:
    """Token ids of a text that somebody wrote; the name of a control token in it is characters.

    special: with what the tokenizer itself puts before a text; what it puts behind one (eos) would end it here. after:
    the text goes on after something that is no text (a recording), and gets the tokens that it has in the middle of a
    text: Llama 2's tokenizer, and others that put a space before whatever they are given, would begin it with a stray
    space.
    """
    if after and text:
        return _continued(tokenizer, text, _characters)[0]
    ids = _characters(tokenizer, text)[0]
    return [*_in_front(tokenizer), *ids] if special else ids


def marked(tokenizer: Any, text: str, more: Sequence[str] = ()) -> str:
    """The text with marks around the names of control tokens (and `more`) in it; `prompt_ids` takes them as characters.

    What a user wrote is marked before a chat template writes its own control tokens around it.
    """
    text = unmarked(text)
    return re.sub(_any_of([*_control(tokenizer).values(), *more]), f"{OPEN}\\g<0>{CLOSE}", text)


def unmarked(text: str) -> str:
    """The text without the marks of `marked`."""
    return text.replace(OPEN, "").replace(CLOSE, "")


def prompt_ids(tokenizer: Any, text: str, *, after: bool = False) -> list[int]:
    """Token ids of a prompt whose control tokens count, but for those between the marks of `marked`.

    after: as for `token_ids`.
    """
    if OPEN not in text and CLOSE not in text:
        return (_continued(tokenizer, text, _encode) if after and text else _encode(tokenizer, text))[0]
    ids: list[int] = []
    for piece, control in _parted(tokenizer, text):
        if control is None:
            inside = not _begins_anew(tokenizer, ids[-1]) if ids else after
            ids += token_ids(tokenizer, piece, after=inside)
        else:
            ids.append(control)
    return ids


def _parted(tokenizer: Any, text: str) -> Iterator[tuple[str, int | None]]:
    """The control tokens that stand outside marks, with their ids, and the runs of text between them, without marks
    and without the space that a control token takes (`lstrip`, `rstrip`: Phi-3's)."""
    ids = {name: i for i, name in _control(tokenizer).items()}
    added, run, takes_space = tokenizer.added_tokens_decoder, "", False
    for piece in re.split(f"({OPEN}[^{OPEN}{CLOSE}]*{CLOSE}|{_any_of(ids)})", text):
        if piece not in ids:
            run += piece
            continue
        own = added.get(ids[piece])
        run = run.lstrip() if takes_space else run
        run = run.rstrip() if own is not None and own.lstrip else run
        if run:
            yield unmarked(run), None
        yield piece, ids[piece]
        run, takes_space = "", own is not None and own.rstrip
    run = run.lstrip() if takes_space else run
    if run:
        yield unmarked(run), None


def _any_of(names: Sequence[str] | dict[str, int]) -> str:
    longest_first = sorted({*names} - {""}, key=len, reverse=True)
    return "|".join(map(re.escape, longest_first)) or "(?!)"  # which never matches


def _begins_anew(tokenizer: Any, control: int) -> bool:
    """Whether this tokenizer writes a text behind a control token as it writes one at the start."""
    name = _control(tokenizer).get(control, "")
    return _encode(tokenizer, f"{name}x")[0][1:] == _encode(tokenizer, "x")[0]


def _encode(tokenizer: Any, text: str, **how: Any) -> Encoded:
    """What the tokenizer itself makes of a text; no offsets where it has none."""
    how = {"add_special_tokens": False, **how}
    if not getattr(tokenizer, "is_fast", False):
        return list(tokenizer(text, **how)["input_ids"]), []
    encoded = tokenizer(text, return_offsets_mapping=True, **how)
    return list(encoded["input_ids"]), list(encoded["offset_mapping"])


def _in_front(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text."""
    for text in GUARDS[::-1]:
        own, whole = (_encode(tokenizer, text, add_special_tokens=special)[0] for special in (False, True))
        for at in range(len(whole) - len(own) + 1):
            if own and whole[at : at + len(own)] == own:
                return whole[:at]
    return _encode(tokenizer, "", add_special_tokens=True)[0]  # no text has tokens of its own


def _characters(tokenizer: Any, text: str) -> Encoded:
    """`_encode` without control tokens, by any kind of tokenizer.

    `split_special_tokens` passes by those that are declared so. A vocabulary that holds their names as pieces (a
    unigram model, one of whole words), and control tokens that are not declared, need more: the name is cut behind its
    first character.
    """
    ids, offsets = _encode(tokenizer, text, split_special_tokens=True)
    control = _control(tokenizer)
    if not offsets or control.keys().isdisjoint(ids):
        return ids, offsets
    unknown = getattr(tokenizer, "unk_token_id", None)
    for i, (start, end) in zip(ids, offsets, strict=True):
        name = text[start:end].strip()
        if i not in control or len(name) < 2 or (i == unknown and name != control[i]):
            continue
        cut = text.index(name, start) + 1
        left, left_at = _characters(tokenizer, text[:cut])
        right, right_at = _continued(tokenizer, text[cut:], _characters)
        return [*left, *right], [*left_at, *((a + cut, b + cut) for a, b in right_at)]
    return ids, offsets


def _continued(tokenizer: Any, text: str, encode: Callable[[Any, str], Encoded]) -> Encoded:
    """What `encode` makes of a text in the middle of another."""
    found = _behind_a_guard(tokenizer, text, encode) if _puts_a_space(tokenizer) else None
    return found or encode(tokenizer, text)


def _behind_a_guard(tokenizer: Any, text: str, encode: Callable[[Any, str], Encoded]) -> Encoded | None:
    for guard in reversed(GUARDS) if text[:1].isspace() else GUARDS:
        before, width = encode(tokenizer, guard)[0], len(guard)
        ids, offsets = encode(tokenizer, guard + text)
        number = len(before)
        apart = all(end <= width for _, end in offsets[:number])
        apart = apart and all(start >= width for start, _ in offsets[number:])
        told = bool(before) or text[:1].isalnum()  # behind a guard that is stripped a sign would be a word of its own
        if told and ids[:number] == before and apart:
            return ids[number:], [(start - width, end - width) for start, end in offsets[number:]]
    return None


_KNOWN: WeakKeyDictionary[Any, tuple[Any, dict[int, str]]] = WeakKeyDictionary()
_SPACES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _control(tokenizer: Any) -> dict[int, str]:
    """Control tokens by id: those declared special, and those in angles or brackets that the chat template writes."""
    template = getattr(tokenizer, "chat_template", None) or ""
    template = template if isinstance(template, str) else "".join(map(str, template.values()))
    state = (len(tokenizer), template)
    if tokenizer not in _KNOWN or _KNOWN[tokenizer][0] != state:
        names = {i: str(tokenizer.convert_ids_to_tokens(i)) for i in tokenizer.all_special_ids}
        for i, token in tokenizer.added_tokens_decoder.items():
            if token.special or (BRACKETED.fullmatch(token.content) and token.content in template):
                names[i] = token.content
        _KNOWN[tokenizer] = (state, names)
    return _KNOWN[tokenizer][1]


def _puts_a_space(tokenizer: Any) -> bool:
    """Whether a text alone has other tokens than in the middle of one: the tokenizer puts a space before it."""
    if tokenizer not in _SPACES:
        behind = {text: _behind_a_guard(tokenizer, text, _encode) for text in ("x", " x", ".")}
        _SPACES[tokenizer] = any(found and found[0] != _encode(tokenizer, text)[0] for text, found in behind.items())
    return _SPACES[tokenizer]


ENDOFTEXT = "<|endoftext|>"


def start_token_id(tokenizer: Any) -> int:
    """The token that opens a document: `<|endoftext|>` where the vocabulary has it, else bos, else eos.

    Raises SaladError where it has none of them.
    """
    token_id = tokenizer.convert_tokens_to_ids(ENDOFTEXT)  # the unknown token's where there is none
    if token_id is not None and tokenizer.convert_ids_to_tokens(token_id) == ENDOFTEXT:
        return int(token_id)
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise SaladError(
        "llm: its tokenizer has no <|endoftext|>, bos or eos token to open a document with; name one in its "
        "tokenizer_config.json"
    )
