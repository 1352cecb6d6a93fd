"""What the ears heard: words with their times and how sure they were, and the forms in which it is told."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from salad.files import JsonObject
from salad.types import Word


@dataclass(frozen=True)
class Segment:
    """One span as it was cut and heard; a word's `score` is the least share that one of its tokens has."""

    start_s: float
    end_s: float
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


def words_of(
    decode: Callable[[Sequence[int]], str],
    ids: Sequence[int],
    times_s: Sequence[tuple[float, float]],
    sure: Sequence[float],
) -> tuple[Word, ...]:
    """Tokens -> words; see `grouped`. Ids below 0 are no tokens."""
    return tuple(
        Word(text, times_s[own[0]][0], times_s[own[-1]][1], round(min(sure[i] for i in own), 4))
        for text, own in grouped(decode, ids)
    )


def grouped(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Words and the places in `ids` of their tokens; a token whose text begins with white space begins a word."""
    kept = [i for i, token in enumerate(ids) if token >= 0]
    words: list[tuple[str, list[int]]] = []
    before, fresh = "", True
    for n, i in enumerate(kept, 1):
        text = decode([ids[k] for k in kept[:n]])
        piece, before = text[len(before) :], text
        fresh = fresh or piece[:1].isspace()
        for part in piece.split():
            if fresh:
                words.append((part, [i]))
            else:
                last, own = words[-1]
                words[-1] = last + part, [*own, i]
            fresh = True
        fresh = piece[-1:].isspace() or (fresh and not piece.strip())
    return words


def text_of(segments: Sequence[Segment]) -> str:
    return " ".join(segment.text for segment in segments if segment.words)


def verbose(segments: Sequence[Segment], duration_s: float, *, words: bool, spans: bool) -> JsonObject:
    """OpenAI's verbose_json, with the fields that are known here."""
    found: JsonObject = {"task": "transcribe", "duration": round(duration_s, 3), "text": text_of(segments)}
    if words:
        found["words"] = [
            {"word": w.text, "start": round(w.start_s, 3), "end": round(w.end_s, 3), "probability": w.score}
            for w in itertools.chain.from_iterable(s.words for s in segments)
        ]
    if spans:
        found["segments"] = [
            {"id": i, "start": round(s.start_s, 3), "end": round(s.end_s, 3), "text": s.text, "temperature": 0.0,
             "avg_logprob": _mean_log(s)}
            for i, s in enumerate(segments)
        ]  # fmt: skip
    return found


def _mean_log(segment: Segment) -> float | None:
    logs = [math.log(max(w.score or 0.0, 1e-9)) for w in segment.words]
    return round(sum(logs) / len(logs), 4) if logs else None


def srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered cues."""
    cues = [s for s in segments if s.words]
    return "".join(
        f"{i}\n{_clock(s.start_s, ',')} --> {_clock(s.end_s, ',')}\n{s.text}\n\n" for i, s in enumerate(cues, 1)
    )


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT; what was heard is no markup."""
    told = ((s, s.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")) for s in segments if s.words)
    cues = (f"{_clock(s.start_s, '.')} --> {_clock(s.end_s, '.')}\n{text}\n\n" for s, text in told)
    return "WEBVTT\n\n" + "".join(cues)


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
