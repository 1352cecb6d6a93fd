"""Word times of what was said, told for what is written: each written word lasts as long as its spoken form."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from salad.align.utterances import align_utterances
from salad.data.deduplicate import sound_key
from salad.data.manifest import (
    Sentence,
    read_utterances,
    utterance_from_dict,
    utterance_to_dict,
    utterances_in,
    write_utterances,
)
from salad.engine import Made, Shard, run_shards
from salad.text.speakable import speakable, spoken_bounds
from salad.types import Utterance, Word

SHARD, SHARD_GIVEN = 8, 64  # utterances: an aligner takes a second for one, times that are there a millisecond


def align_spoken(shard: Shard, folder: Path, *, asset: str, min_score: float, **settings: Any) -> None:
    """`align_utterances` on the spoken forms: items, files and errors are the same, the text stays as written.

    Spoken forms are what our voices were given to say, with sentence times; recordings of others without them are
    aligned as they are written, for who knows how their numbers were read. A voice that told its words' times needs no
    aligner: they are kept. settings: of `align_utterances`.
    """
    items: list[tuple[dict[str, Any], Sequence[Sentence] | None]] = []
    written: dict[str, list[str]] = {}
    told: dict[str, Utterance] = {}
    for row, sentences in shard.items:
        if row.get("words") and sentences is not None:
            told[row["id"]] = utterance_from_dict(row)
            continue
        words = row["text"].split()
        if sentences is not None and (spoken := speakable(words)) != words:
            written[row["id"]] = words
            at = spoken_bounds(spoken)
            row = {**row, "text": " ".join(spoken)}
            sentences = [(at[start], at[end], *times) for start, end, *times in sentences]
        items.append((row, sentences))
    align_utterances(Shard(shard.index, tuple(items)), folder, asset=asset, min_score=min_score, **settings)
    if written or told:
        texts = {row["id"]: row["text"] for row, _ in shard.items}
        kept = read_utterances(folder / "utterances.jsonl")
        kept = [_as_written(u, texts[u.id], written[u.id]) if u.id in written else u for u in kept]
        order = {row["id"]: place for place, (row, _) in enumerate(shard.items)}
        kept = [*kept, *told.values()]
        write_utterances(folder / "utterances.jsonl", sorted(kept, key=lambda u: order.get(u.id, len(order))))


def align_all(
    spoken: Sequence[tuple[Utterance, Sequence[Sentence] | None]],
    folder: Path,
    *,
    workers: int,
    title: str,
    made_from: str | None = None,
    **settings: Any,
) -> Sequence[Utterance]:
    """Word times for every utterance, shard by shard; what is not fit for use is left in the shards' quarantine.

    They are read from their shards when they are asked for. settings: of `align_spoken`. made_from: names what the
    aligner is, contents of files too; given, what an earlier result has of the same sound is taken from it.
    """

    def key(item: tuple[dict[str, Any], Sequence[Sentence] | None]) -> str:
        return f"{made_from} {sound_key(item[0]['audio'])} {item!r}"

    items = Made(lambda pair: (utterance_to_dict(pair[0]), pair[1]), spoken)
    function = functools.partial(align_spoken, **settings)
    folders = run_shards(
        function,
        items,
        folder,
        shard_items=SHARD_GIVEN if settings.get("method") == "given" else SHARD,
        workers=workers,
        title=title,
        unit="utterances",
        quarantine=True,
        library="torch" if settings.get("method") == "ctc" else "ctranslate2",
        key=key if made_from is not None else None,
    )
    return utterances_in(path / "utterances.jsonl" for path in folders)


def _as_written(utterance: Utterance, text: str, words: Sequence[str]) -> Utterance:
    at = spoken_bounds(speakable(words))
    said = utterance.words
    times = tuple(
        Word(word, said[start].start_s, said[end - 1].end_s, fmean(one.score for one in said[start:end]))
        for word, start, end in zip(words, at, at[1:], strict=False)
    )
    return replace(utterance, text=text, words=times)
