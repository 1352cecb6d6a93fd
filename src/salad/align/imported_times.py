"""Word times that others found: MFA's TextGrids, times in JSON (a TTS's own durations), tied to the text's words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from salad.align.silence import MIN_WORD_S
from salad.files import read_json
from salad.text.aligner_forms import spoken_pieces, tie
from salad.text.normalise import key
from salad.types import SaladError, Utterance, Word

UNKNOWN = {"<unk>", "unk", "spn", "[unk]"}  # MFA: something was said here that its dictionary lacks
SILENT = {"", "sil", "sp", "<eps>", "<sil>"}
LEAST_SHARE = 0.5  # of a word's letters that an import must hold


def given_words(utterance: Utterance, times: Path | None = None) -> tuple[Word, ...]:
    """One `Word` for each word of the text, from its own word times, or a .TextGrid or .words.json found by name.

    Looked for beside the audio, beside the recording it was made from (`source`), and anywhere in the folder `times`.
    Raises SaladError where there is none, or it does not hold the text.
    """
    if utterance.words:
        return tie_words(utterance.text, utterance.words, utterance.duration_s)
    for path in _candidates(utterance, times):
        if path.exists():
            found = read_textgrid(path) if path.suffix == ".TextGrid" else read_json_times(path)
            try:
                return tie_words(utterance.text, found, utterance.duration_s)
            except SaladError as error:
                raise SaladError(f"{path}: {error}") from None
    raise SaladError(
        f"words: no times for {utterance.id!r}; expected {Path(utterance.source or utterance.audio).stem}.TextGrid or "
        ".words.json beside the audio or in align.times"
    )


def _candidates(utterance: Utterance, times: Path | None) -> Iterable[Path]:
    for place in (utterance.audio, utterance.source):
        if place and (path := Path(place)).suffix:
            for suffix in (".TextGrid", ".words.json"):
                yield path.with_suffix(suffix)
                if times is not None:
                    yield times / path.parent.name / f"{path.stem}{suffix}"  # MFA: a folder for each speaker
                    yield times / f"{path.stem}{suffix}"


def read_textgrid(path: str | Path) -> list[Word]:
    """The "words" tier (MFA's; "speaker - words" too) of a Praat TextGrid, without its silences."""
    from praatio import textgrid
    from praatio.utilities.errors import PraatioException

    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="silence")
    except (OSError, UnicodeDecodeError, PraatioException, ValueError, IndexError, AttributeError) as error:
        raise SaladError(f"times: {path} is not a TextGrid ({error!r}); export it again") from error
    names = [name for name in grid.tierNames if name.lower().split(" - ")[-1] in ("word", "words")]
    if len(names) != 1:
        raise SaladError(
            f"times: {path} has tiers {', '.join(grid.tierNames)}, expected one named words; split a grid of several "
            "speakers"
        )
    entries = grid.getTier(names[0]).entries
    return [Word(label, start, end) for start, end, label in entries if label.strip().lower() not in SILENT]


def read_json_times(path: str | Path) -> list[Word]:
    """Words of a JSON list of [text, start_s, end_s] or {text, start_s, end_s}."""
    try:
        rows = read_json(path)
        rows = [(row["text"], row["start_s"], row["end_s"]) if isinstance(row, dict) else row for row in rows]
        return [Word(str(text), float(start_s), float(end_s)) for text, start_s, end_s in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SaladError(
            f"times: {path} cannot be read ({error!r}); expected a JSON list of [text, start_s, end_s]"
        ) from error


def tie_words(text: str, found: Sequence[Word], duration_s: float) -> tuple[Word, ...]:
    """One `Word` for each whitespace word of `text`, as written, in the times of the words in `found`.

    These may lack case and punctuation, part a word (well-known) or join two, spell out numbers, and hold <unk> for one
    word. A word that nothing is said of ("—") lasts MIN_WORD_S. Raises SaladError that names the words of the text
    without a time, words in `found` that the text lacks, and times that are not in order inside the audio.
    """
    words = text.split()
    times_s = [time_s for word in found for time_s in (word.start_s, word.end_s)]
    if not words or not all(0 <= time_s <= duration_s + 0.05 for time_s in times_s) or times_s != sorted(times_s):
        raise SaladError(
            f"times: {len(found)} words for a text of {len(words)} are not in order within the {duration_s:.2f} s of "
            "audio; do they belong to it?"
        )
    unknown = [word for word in found if word.text.strip().lower() in UNKNOWN]
    said = [word for word in found if word.text.strip().lower() not in UNKNOWN]
    digits = any(character.isdigit() for word in said for character in word.text)
    keys = [key(word) if digits else key("".join(spoken_pieces(word))) for word in words]
    heard = [key(word.text) for word in said]
    if keys == heard and all(keys) and not unknown:  # word by word
        return _fill(words, [(word.start_s, word.end_s, word.score) for word in said], duration_s)
    parts: list[list[tuple[int, float, float, float]]] = [[] for _ in words]  # num_letters, start_s, end_s, score
    extra = []
    for word, owners in zip(said, tie(keys, heard), strict=True):
        if owners and max(owners) < 0:
            extra.append(word.text)
        letter_s = (word.end_s - word.start_s) / max(1, len(owners))
        inside = sorted({owner for owner in owners if owner >= 0})
        for owner in inside:
            mine = [n for n, other in enumerate(owners) if other == owner]
            start_s = word.start_s if owner == inside[0] else word.start_s + mine[0] * letter_s
            end_s = word.end_s if owner == inside[-1] else word.start_s + (mine[-1] + 1) * letter_s
            parts[owner].append((len(mine), start_s, end_s, word.score))
    placed: list[tuple[float, float, float] | None] = []
    for name, own in zip(keys, parts, strict=True):
        enough = name and sum(part[0] for part in own) >= LEAST_SHARE * len(name)
        placed.append((own[0][1], own[-1][2], min(part[3] for part in own)) if enough else None)
    _place_unknown(placed, keys, unknown)
    missing = [word for word, name, place in zip(words, keys, placed, strict=True) if name and place is None]
    if missing:
        few = ", ".join(missing[:5])
        raise SaladError(f"words: {len(missing)} of {len(words)} have no time: {few}; give times for every word")
    if len(extra) > 0:
        few = ", ".join(extra[:5])
        raise SaladError(f"words: {len(extra)} are spoken but not in the text: {few}; add them to it")
    return _fill(words, placed, duration_s)


def _place_unknown(
    placed: list[tuple[float, float, float] | None], keys: Sequence[str], unknown: Sequence[Word]
) -> None:
    """An <unk> is the one word of the text that lacks a time between the same neighbours."""
    for word in unknown:
        after = next((n for n, place in enumerate(placed) if place and place[0] >= word.end_s - 1e-6), len(placed))
        before = max((n for n, place in enumerate(placed[:after]) if place), default=-1)
        free = [n for n in range(before + 1, after) if keys[n] and placed[n] is None]
        if len(free) == 1:
            placed[free[0]] = (word.start_s, word.end_s, math.nan)


def _fill(
    words: Sequence[str], placed: Sequence[tuple[float, float, float] | None], duration_s: float
) -> tuple[Word, ...]:
    """Words nobody says take MIN_WORD_S after the word before, at its cost where there is no pause."""
    result: list[Word] = []
    for n, (text, place) in enumerate(zip(words, placed, strict=True)):
        if place is not None:
            start_s = max(place[0], result[-1].end_s if result else 0.0)
            result.append(Word(text, start_s, max(min(place[1], duration_s), start_s), place[2]))
            continue
        limit_s = next((later[0] for later in placed[n:] if later), duration_s)
        end_s = result[-1].end_s if result else max(0.0, limit_s - MIN_WORD_S)
        start_s = min(end_s, limit_s - MIN_WORD_S) if result else end_s
        if result and start_s < end_s:
            start_s = max(start_s, (result[-1].start_s + end_s) / 2)
            result[-1] = replace(result[-1], end_s=start_s)
        result.append(Word(text, start_s, min(start_s + MIN_WORD_S, max(limit_s, start_s))))
    short = [word.text for word in result if word.end_s <= word.start_s]
    if short:
        raise SaladError(f"times: {', '.join(short[:5])} last 0 s; export them again")
    return tuple(result)
