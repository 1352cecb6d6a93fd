"""The small alphabet between sound and spelling: phones by espeak; where it lacks a language, letters or sub-words."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from rapidfuzz.distance import Levenshtein

from salad.types import SaladError

BOUNDARY = 0  # the symbol between two words; class 0 of every alphabet (the CTC blank is not part of it)
CLAUSE_END = re.compile(r"[.,;:!?…—–)\]}\"”]+$")
UNSAID = re.compile(r"[^\w'’-]+|_")
KEPT_WORDS = 200_000  # phones of words kept in memory by one process

PIECES = 256  # sub-words of an alphabet, single letters among them
PIECE_LETTERS = 3  # at most: one token of the LLM ends at a symbol, so symbols should be shorter than tokens

Kind = Literal["phones", "letters", "subwords"]


class SymbolsRow(TypedDict):
    """An alphabet as a model's config.json holds it."""

    kind: Kind
    names: list[str]
    language: str


@dataclass(frozen=True)
class Symbols:
    """An alphabet of sounds, `names`, in which spoken words are written; names[BOUNDARY] stands between two words.

    kind: `phones` (espeak, of `language`), `letters` (lower case, marks of the script kept), or `subwords`: letters and
    the frequent runs of them, read greedily from a word's start, the longest first.
    """

    kind: Kind
    names: tuple[str, ...]
    language: str = "en-us"
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or not self.names or self.names[BOUNDARY] != "#":
            raise SaladError("symbols: names must be different, and the first one '#', the boundary of words")
        object.__setattr__(self, "_index", {name: i for i, name in enumerate(self.names)})

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def found_in(cls, words: Iterable[str], kind: Kind = "phones", language: str = "en-us") -> Symbols:
        """The alphabet that these spoken words need. Raises SaladError where espeak does not know the language."""
        if kind == "subwords":
            return cls(kind, ("#", *_pieces(words)), language)
        names: set[str] = set()
        for batch in _batches(words, 512):
            names.update(itertools.chain.from_iterable(_singles(batch, kind, language)))
        return cls(kind, ("#", *sorted(names)), language)

    def of_text(self, spoken: Sequence[str]) -> list[list[int]]:
        """Symbols of each spoken form, [num_forms] lists, as they sound one after the other.

        A form may hold several words, with BOUNDARY between them, or none at all ("—": an empty list). Phones are
        those of the clause ("the edge": ðɪ), parted into words by the phones of each word alone, for espeak says some
        words as one. What the alphabet does not hold is left out.
        """
        forms = [form.split() for form in spoken]
        flat = [word for form in forms for word in form]
        said = iter(phones_of(flat, self.language) if self.kind == "phones" else self._word_by_word(flat))
        out = []
        for form in forms:
            ids: list[int] = []
            for own in itertools.islice(said, len(form)):
                known = [self._index[name] for name in own if name in self._index]
                ids += [BOUNDARY, *known] if ids and known else known
            out.append(ids)
        return out

    def of_words(self, words: Sequence[str]) -> list[list[int]]:
        """Symbols of each word said alone, [num_words] lists."""
        return [[self._index[name] for name in own if name in self._index] for own in self._word_by_word(words)]

    def _word_by_word(self, words: Sequence[str]) -> list[list[str]]:
        if self.kind != "subwords":
            return _singles(words, self.kind, self.language)
        longest = max(map(len, self.names))
        return [_cut(letters_of(word), self._index, longest) for word in words]

    def to_dict(self) -> SymbolsRow:
        return {"kind": self.kind, "names": list(self.names), "language": self.language}

    @classmethod
    def from_dict(cls, row: SymbolsRow) -> Symbols:
        return cls(row["kind"], tuple(row["names"]), row["language"])


def letters_of(word: str) -> list[str]:
    """Lower-case letters and digits of a word, marks joined to their letter (NFC); what is neither is left out."""
    return [c for c in unicodedata.normalize("NFC", word).lower() if c.isalnum() or c == "'"]


def _pieces(words: Iterable[str]) -> list[str]:
    """Sub-words of these words: byte-pair encoding (Sennrich et al. 2016) over their letters, `PIECES` of them."""
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=PIECES, max_token_length=PIECE_LETTERS, show_progress=False)
    tokenizer.train_from_iterator(("".join(letters_of(word)) for word in words), trainer)
    return sorted(tokenizer.get_vocab())


def _cut(letters: Sequence[str], known: Mapping[str, int], longest: int) -> list[str]:
    """Letters as the longest known pieces, from the left; a letter that no piece begins with is left out."""
    out, at = [], 0
    while at < len(letters):
        ends = range(min(len(letters), at + longest), at, -1)
        piece = next((own for end in ends if (own := "".join(letters[at:end])) in known), "")
        if piece:
            out.append(piece)
        at += max(1, len(piece))
    return out


def phones_of(words: Sequence[str], language: str = "en-us") -> list[list[str]]:
    """Phones of each word as they sound in their clause, without stress.

    espeak joins words ("of the"); their phones are then laid along those of the words said alone by the fewest edits.
    """
    clauses: list[list[int]] = [[]]
    for i, word in enumerate(words):
        clauses[-1].append(i)
        if CLAUSE_END.search(word):
            clauses.append([])
    clauses = [clause for clause in clauses if clause]
    bare = [UNSAID.sub("", word) for word in words]
    singles = _singles(bare, "phones", language)
    texts = [" ".join(bare[i] for i in clause if bare[i]) for clause in clauses]
    said = _espeak_many(texts, language)
    out: list[list[str]] = [[] for _ in words]
    for clause, parts in zip(clauses, said, strict=True):
        own = [i for i in clause if singles[i]]
        if len(parts) == len(own):
            for i, part in zip(own, parts, strict=True):
                out[i] = list(part)
            continue
        flat = [phone for part in parts for phone in part]
        for i, part in zip(own, _parted(flat, [singles[i] for i in own]), strict=True):
            out[i] = part
    return out


def _parted(flat: list[str], singles: Sequence[Sequence[str]]) -> list[list[str]]:
    """`flat` cut into one part a word, by the fewest edits to the words said alone; a word left empty keeps its own."""
    alone = [phone for single in singles for phone in single]
    place = list(range(len(alone) + 1))  # of each phone said alone: where it is in `flat`
    for block in Levenshtein.opcodes(alone, flat):
        width, length = block.src_end - block.src_start, block.dest_end - block.dest_start
        for i in range(width):
            place[block.src_start + i] = block.dest_start + min(i, length)
    place[-1] = len(flat)
    bounds = [place[i] for i in itertools.accumulate([0, *map(len, singles)])]
    parts = [flat[start:end] for start, end in itertools.pairwise(bounds)]
    return [part or list(single) for part, single in zip(parts, singles, strict=True)]


def _singles(words: Sequence[str], kind: Kind, language: str) -> list[list[str]]:
    if kind == "letters":
        return [letters_of(word) for word in words]
    known = _known_phonemes(language)
    new = [word for word in dict.fromkeys(words) if word not in known]
    if len(known) + len(new) > KEPT_WORDS:
        known.clear()
        new = list(dict.fromkeys(words))
    for word, parts in zip(new, _espeak_many(new, language), strict=True):
        known[word] = [phone for part in parts for phone in part]
    return [known[word] for word in words]


@functools.cache
def _known_phonemes(language: str) -> dict[str, list[str]]:
    return {}


def _batches(words: Iterable[str], size: int) -> Iterable[list[str]]:
    words = iter(words)
    while batch := list(itertools.islice(words, size)):
        yield batch


def _espeak_many(texts: Sequence[str], language: str) -> list[list[list[str]]]:
    """For each text its parts as espeak says them, each a list of phones."""
    from phonemizer.separator import Separator

    wanted = [i for i, text in enumerate(texts) if any(map(str.isalnum, text))]
    out: list[list[list[str]]] = [[] for _ in texts]
    separator = Separator(phone=" ", word="|", syllable="")
    said = _phones_backend(language).phonemize([texts[i] for i in wanted], separator=separator, strip=True)
    for i, line in zip(wanted, said, strict=True):
        out[i] = [part.split() for part in line.split("|") if part.strip()]
    return out


@functools.cache
def _phones_backend(language: str) -> Any:
    return espeak(language, with_stress=False, language_switch="remove-flags", words_mismatch="ignore")


def espeak(language: str, **options: Any) -> Any:
    """phonemizer's backend; one a process is enough, as making it is slow. Raises SaladError where espeak is missing,
    or does not know the language."""
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise SaladError(
            "espeak: phones need phonemizer and espeakng-loader: pip install 'salad-speech[demo]' (ears: "
            "letters and subwords need neither)"
        ) from error
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    if language not in EspeakBackend.supported_languages():
        raise SaladError(f"symbols: espeak does not know the language {language!r}; choose letters or subwords for it")
    return EspeakBackend(language, **options)
