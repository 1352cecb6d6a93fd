"""Speak, align, encode, transcribe: the chain that corpus, probe and synthesize share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salad.align.transcribe import transcribe_utterances
from salad.corpus.manifest import load_spoken, read_utterances, utterance_to_dict
from salad.engine import run_shards
from salad.files import read_jsonl, write_jsonl
from salad.model.encode import encode_pieces
from salad.pipeline import Run
from salad.sequence import FrameStore
from salad.sequence.examples import draw_layout, pieces_of
from salad.synthesize.align import align_spoken
from salad.synthesize.speak import assign_voices, speak_all
from salad.types import Document, Utterance

__all__ = ["align", "assign_voices", "encode", "gather_quarantine", "speak", "transcribe"]

TRANSCRIBE_SHARD, ALIGN_SHARD = 2, 8


def speak(
    run: Run,
    folder: Path,
    spoken: Sequence[tuple[Document, str]],
    title: str,
    *,
    speed_jitter: float = 0.0,
    audio: str = "flac",
) -> list[tuple[Utterance, Any]]:
    """Speak whole documents; returns utterances with the times of their sentences."""
    recipe = run.recipe
    folders = speak_all(
        spoken,
        folder,
        seed=recipe.seed,
        workers=recipe.engine.workers,
        title=title,
        speed_jitter=speed_jitter,
        audio=audio,
    )
    return load_spoken(folders)


def align(run: Run, folder: Path, spoken: Sequence[tuple[Utterance, Any]], title: str) -> list[Utterance]:
    """Word times for every utterance; what falls under the threshold is left in the shards' quarantine."""
    items = [(utterance_to_dict(utterance), sentences) for utterance, sentences in spoken]
    settings = run.recipe.align
    function = functools.partial(
        align_spoken,
        asset=run.recipe.assets.asr,
        min_score=settings.min_score,
        method=settings.method,
        model=settings.model,
        times=settings.times,
        listen=settings.listen,
    )
    folders = run_shards(
        function,
        items,
        folder,
        shard_items=ALIGN_SHARD,
        workers=run.recipe.engine.workers,
        title=title,
        unit="utterances",
        set_aside=True,
    )
    return [utterance for path in folders for utterance in read_utterances(path / "utterances.jsonl")]


def encode(
    run: Run, folder: Path, utterances: Sequence[Utterance], title: str, *, layouts: int, whole: bool = False
) -> FrameStore:
    """Frames of the speech spans of `layouts` interleavings; `whole` adds the rest of the first, for the warm start."""
    recipe = run.recipe
    items = []
    for utterance in utterances:
        pieces = {}
        for layout in range(layouts):
            spans = draw_layout(utterance, layout, recipe.sequence, recipe.seed)
            with_text = whole and layout == 0
            own = pieces_of(utterance, spans, recipe.sequence, seed=recipe.seed, with_text=with_text)
            pieces |= {piece.key: piece for piece in own}
        items.append((utterance.audio, list(pieces.values())))
    function = functools.partial(encode_pieces, encoder=recipe.assets.encoder)
    folders = run_shards(
        function, items, folder, shard_items=ALIGN_SHARD, workers=recipe.engine.workers, title=title, unit="utterances"
    )
    return FrameStore(folders)


def transcribe(run: Run, folder: Path, utterances: Sequence[Utterance], title: str) -> dict[str, str]:
    """Transcript of each utterance by the recipe's ASR, by id."""
    items = [utterance_to_dict(utterance) for utterance in utterances]
    function = functools.partial(transcribe_utterances, asset=run.recipe.assets.asr)
    folders = run_shards(
        function,
        items,
        folder,
        shard_items=TRANSCRIBE_SHARD,
        workers=run.recipe.engine.workers,
        title=title,
        unit="utterances",
        set_aside=True,
    )
    return {row["id"]: row["text"] for path in folders for row in read_jsonl(path / "transcripts.jsonl")}


def gather_quarantine(folder: Path, more: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """One quarantine.jsonl for a stage, out of its shards' and `more`; returns its rows."""
    rows = [row for path in sorted(folder.rglob("shard-*/quarantine.jsonl")) for row in read_jsonl(path)]
    rows = [{"stage": folder.name, **row} for row in (*rows, *more)]
    write_jsonl(folder / "quarantine.jsonl", rows)
    return rows
