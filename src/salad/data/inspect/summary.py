"""Figures of a whole data set from rows of single utterances, in one pass and little memory; then the worst by name."""

from __future__ import annotations

import heapq
import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from salad.data.inspect.audio_stats import CLIPPED_SHARE, SILENT_DB
from salad.data.inspect.result import DataAmount, Fault, FoundItem, Histogram, Looked, SourceAmount, SpeakerTime, Totals
from salad.data.inspect.text_checks import TEXT_CHECKS
from salad.data.readers.rows import AUDIO_SUFFIXES

WORST = 20  # named for each fault
MAX_SOURCES, TOP_SPEAKERS = 500, 12
RATE_FACTOR, RATE_DEVIATIONS = 2.0, 5.0  # words per second: this far from the median, and this many robust deviations
MIN_FOR_OUTLIERS = 8

# fault -> (what it is, what to do about it); audio first, then alignment, then text
FAULTS: dict[str, tuple[str, str]] = {
    "unreadable": ("audio missing or not decodable", "replace the file, or take its row out of the manifest"),
    "truncated": ("audio cut short", "copy the file again: its header tells more than it holds"),
    "row": ("manifest rows that cannot be read", "mend the line, or write the manifest again"),
    "silent": (f"silent (under {SILENT_DB:.0f} dB)", "leave it out: there is nothing to hear"),
    "cancels": ("channels that cancel when mixed", "keep one channel: one of them is inverted"),
    "clipped": (f"clipped (over {100 * CLIPPED_SHARE:g} % at full scale)", "record again at a lower level"),
    "duplicate_audio": ("the same sound more than once", "keep one; in training and held-out it is a leak"),
    "duplicate_id": ("ids used more than once", "give every utterance its own id"),
    "too_long": ("too long", "cut it at pauses, each part with its own text"),
    "too_short": ("too short", "leave it out"),
    "told_length": ("length differs from the manifest", "write the manifest again from the files"),
    "told_rate": ("sample rate differs from the manifest", "write the manifest again: times are wrong otherwise"),
    "extension": ("wrong extension", "rename it: the content is another format"),
    "words_per_s": ("words per second far from the others", "text of another recording, or much of it missing"),
    "word_times": ("word times out of order or outside the audio", "align again"),
    "text_missing": ("text missing or not UTF-8", "write what is said into a .txt of the same name"),
    **TEXT_CHECKS,
}

HISTOGRAMS = {
    "length": ("seconds", (0, 0.5, 1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 40, 60, 120, 300, 600, 3600)),
    "words_per_s": ("words per second", tuple(i / 4 for i in range(33))),
    "score": ("score, mean token probability", tuple(i / 20 for i in range(21))),
    "level": ("dB of full scale", tuple(range(-80, 1, 2))),
}

Rows = Callable[[], Iterable[Looked]]


@dataclass
class Count:
    """An `Amount` while it is counted."""

    utterances: int = 0
    seconds: float = 0.0

    def add(self, duration_s: float) -> None:
        self.utterances += 1
        self.seconds += duration_s


class Summary:
    """`add` each row of looked.jsonl, then `close` with a second look at them, then `result`.

    Eight columns of numbers are kept of an utterance, 4 or 8 bytes each; what must be named waits for the second look.
    """

    def __init__(self, place: Path) -> None:
        self.root = os.path.abspath(place if place.is_dir() else place.parent)
        self.rows, self.heard, self.aligned, self.words = 0, 0, 0, 0
        self.parts: dict[str, Count] = defaultdict(Count)
        self.sources: dict[tuple[str, str], Count] = defaultdict(Count)
        self.rates: dict[str, Count] = defaultdict(Count)
        self.channels: dict[str, Count] = defaultdict(Count)
        self.formats: dict[str, Count] = defaultdict(Count)
        self.faults = dict.fromkeys(FAULTS, 0)
        self.worst: dict[str, list[tuple[float, int, str, str]]] = {name: [] for name in FAULTS}
        self.values = {"length": array("f"), "words_per_s": array("f"), "score": array("f"), "level": array("f")}
        self.hashes = {name: array("Q") for name in ("id", "digest", "speaker")}
        self.speaker_s = array("f")
        self.num_speakers, self.speakers = 0, list[SpeakerTime]()

    def add(self, row: Looked) -> None:
        self.rows += 1
        for name, (badness, seen) in row.faults.items():
            self._fault(name, badness, self._name(row), seen)
        if row.words is None:
            return  # a manifest's row that could not be read
        self.hashes["id"].append(row.id_hash)
        self.words += row.words
        self.parts[row.part].utterances += 1
        if row.s is None:
            return  # audio that could not be read
        self.heard += 1
        self.aligned += row.aligned
        self.parts[row.part].seconds += row.s
        self.sources[self._source(row)].add(row.s)
        self.rates[f"{row.rate_hz} Hz"].add(row.s)
        self.channels[str(row.channels)].add(row.s)
        self.formats[row.format].add(row.s)
        self.values["length"].append(row.s)
        if row.words and row.s > 0:
            self.values["words_per_s"].append(row.words / row.s)
        if row.score is not None:
            self.values["score"].append(row.score)
        if row.level_db is not None:
            self.values["level"].append(row.level_db)
        if row.digest and "silent" not in row.faults:
            self.hashes["digest"].append(int(row.digest, 16))
        if row.speaker:
            self.hashes["speaker"].append(row.speaker_hash)
            self.speaker_s.append(row.s)

    def close(self, rows: Rows) -> None:
        """Find what only the whole set shows (repeats, outliers, the longest-heard speakers), and name it."""
        repeated = {name: _repeated(self.hashes[name]) for name in ("id", "digest")}
        rates = np.log(np.asarray(self.values["words_per_s"]).astype(np.float64) + 1e-9)
        self.middle = float(np.median(rates)) if len(rates) else 0.0
        spread = 1.4826 * float(np.median(np.abs(rates - self.middle))) if len(rates) else 0.0
        self.far = max(np.log(RATE_FACTOR), RATE_DEVIATIONS * spread) if len(rates) >= MIN_FOR_OUTLIERS else np.inf
        speakers, index = np.unique(np.asarray(self.hashes["speaker"]), return_inverse=True)
        seconds = np.bincount(index, weights=np.asarray(self.speaker_s), minlength=len(speakers))
        top = {int(speakers[i]): float(seconds[i]) for i in np.argsort(-seconds, kind="stable")[:TOP_SPEAKERS]}
        self.num_speakers = len(speakers)
        names: dict[int, str] = {}
        first: dict[tuple[str, int], str] = {}
        for row in rows():
            if row.words is None:
                continue
            if row.s is not None:
                if row.words and row.s > 0:
                    rate = row.words / row.s
                    if (distance := abs(np.log(rate + 1e-9) - self.middle)) > self.far:
                        seen = f"{rate:.2f} words/s; the median is {np.exp(self.middle):.2f}"
                        self._fault("words_per_s", distance, self._name(row), seen)
                if row.speaker and row.speaker_hash in top:
                    names[row.speaker_hash] = row.speaker
                if row.digest and "silent" not in row.faults:
                    self._again(first, repeated, "digest", int(row.digest, 16), row, "duplicate_audio")
            self._again(first, repeated, "id", row.id_hash, row, "duplicate_id")
        self.speakers = [SpeakerTime(names[key], round(s, 3)) for key, s in top.items()]

    def result(self) -> Totals:
        seconds = float(np.asarray(self.values["length"]).sum(dtype=np.float64))
        sources = sorted(self.sources.items(), key=lambda pair: -pair[1].seconds)
        return Totals(
            rows=self.rows,
            utterances=sum(part.utterances for part in self.parts.values()),
            heard=self.heard,
            hours=seconds / 3600,
            words=self.words,
            aligned=self.aligned,
            num_speakers=self.num_speakers,
            speakers=tuple(self.speakers),
            sources=tuple(SourceAmount(own.utterances, own.seconds, *names) for names, own in sources),
            rates=_amounts(self.rates),
            channels=_amounts(self.channels),
            formats=_amounts(self.formats),
            histograms={name: _histogram(name, values) for name, values in self.values.items()},
            faults={name: Fault(*FAULTS[name], count, self._named(name)) for name, count in self.faults.items()},
        )

    def _named(self, fault: str) -> tuple[FoundItem, ...]:
        return tuple(FoundItem(name, seen) for _, _, name, seen in sorted(self.worst[fault], reverse=True))

    def _fault(self, name: str, badness: float, item: str, seen: str) -> None:
        self.faults[name] += 1
        entry = (float(badness), -self.faults[name], item, seen)  # of equals, the first found stays
        if len(self.worst[name]) < WORST:
            heapq.heappush(self.worst[name], entry)
        else:
            heapq.heappushpop(self.worst[name], entry)

    def _again(
        self,
        first: dict[tuple[str, int], str],
        repeated: dict[str, set[int]],
        kind: str,
        key: int,
        row: Looked,
        fault: str,
    ) -> None:
        """Count a row whose `kind` was seen before; the first of each is what the others are compared with."""
        if key not in repeated[kind]:
            return
        if (before := first.get((kind, key))) is None:
            first[kind, key] = self._name(row)
        else:
            self._fault(fault, 1.0, self._name(row), f"as {before}")

    def _name(self, row: Looked) -> str:
        """The id, and the file where that says more; files under the place looked at by their relative path."""
        audio = row.audio
        if audio.startswith(self.root + os.sep):
            audio = audio[len(self.root) + 1 :]
        return row.id if not audio or audio == row.id else f"{row.id} ({audio})"

    def _source(self, row: Looked) -> tuple[str, str]:
        source = row.source or "not told"
        if os.path.splitext(source)[1].lower() in AUDIO_SUFFIXES and os.sep in source:
            source = os.path.dirname(source)  # each recording's own path: their folder is the source
        key = (source, row.licence or "not told")
        return key if key in self.sources or len(self.sources) < MAX_SOURCES else ("other sources", "not told")


def _amounts(counts: dict[str, Count]) -> dict[str, DataAmount]:
    return {name: DataAmount(own.utterances, own.seconds) for name, own in counts.items()}


def _repeated(values: array[int]) -> set[int]:
    """The values that are there more than once."""
    unique, counts = np.unique(np.asarray(values), return_counts=True)
    return set(unique[counts > 1].tolist())


def _histogram(name: str, values: array[float]) -> Histogram | None:
    """Counts between `edges`, with what lies outside them in `below` and `above`; None where nothing was measured."""
    data = np.asarray(values).astype(np.float64)
    if not len(data):
        return None
    unit, edges = HISTOGRAMS[name]
    bounds = np.asarray(edges, float)
    inside = data[(data >= bounds[0]) & (data <= bounds[-1])]
    quantiles = np.quantile(data, (0.01, 0.05, 0.5, 0.95, 0.99))
    return Histogram(
        unit=unit,
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(np.histogram(inside, bounds)[0].tolist()),
        below=int((data < bounds[0]).sum()),
        above=int((data > bounds[-1]).sum()),
        n=len(data),
        mean=float(data.mean()),
        min=float(data.min()),
        max=float(data.max()),
        **{f"p{p:02d}": float(q) for p, q in zip((1, 5, 50, 95, 99), quantiles, strict=True)},
    )
