"""The run's own data as sources of a stream: what speechlm.py gives as examples in memory, shard by shard."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salad.config import Sequence as Layout
from salad.config import Stage
from salad.data.manifest import utterance_from_dict, utterances_in
from salad.files import read_json, read_jsonl, write_jsonl
from salad.model.encoders.job import FlyFrames
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import encoder_of, expected, reencode_stale
from salad.sequence import Frames, FrameShard
from salad.sequence.examples import num_positions, speech_examples, text_examples
from salad.sequence.stream import LeftOut, Lines, ShardSource, Stream, StreamBatches
from salad.training.checkpoint import latest_checkpoint
from salad.training.distributed import ProcessGroup
from salad.types import Document, Example, Utterance


def open_stream(
    folder: Path, stage: Stage, settings: Layout, sources: Sequence[ShardSource], world: ProcessGroup, seed: int
) -> StreamBatches:
    """A stage's batches out of `sources`; what is left out goes to quarantine.jsonl in the stage's folder.

    settings: how many lanes fill a batch (see `lanes_of`), and how far a stream shuffles.
    """
    path = folder / "quarantine.jsonl"
    known: set[str] = set()

    def left_out(one: LeftOut) -> None:
        if one.id not in known:
            known.add(one.id)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"stage": folder.name, "id": one.id, "reason": one.reason}, ensure_ascii=False) + "\n"
                )

    stream = Stream(
        sources,
        positions=stage.positions,
        seed=seed,
        lanes=lanes_of(folder, settings),
        buffer=settings.buffer_shards,
        rank=world.rank,
        size=world.size,
        left_out=left_out,
    )
    return StreamBatches(stream, stage.steps)


def lanes_of(folder: Path, settings: Layout) -> int:
    """Lanes of a stage's stream: those that its newest checkpoint was begun with; the recipe's where there is none."""
    newest = latest_checkpoint(folder)
    state = read_json(newest / "state.json") if newest and (newest / "state.json").exists() else {}
    return len(state.get("stream", {}).get("lanes", ())) or settings.lanes


def count_left_out(folder: Path) -> int:
    """Documents that a stage's streams left out; a resumed stage may have met one twice."""
    path = folder / "quarantine.jsonl"
    rows = {row["id"]: row for row in read_jsonl(path)} if path.exists() else {}
    if rows:
        write_jsonl(path, rows.values())
    return len(rows)


def speech_shards(
    run: Run, tokenizer: Any, name: str, share: float, manifest: Path, frames: Path, world: ProcessGroup, whole: bool
) -> ShardSource:
    """Aligned utterances of `manifest`: beside the shards that `encode` left in `frames`, or encoded on the fly."""
    settings, layouts = run.recipe.sequence, run.recipe.sequence.layouts
    lines = Lines(manifest, run.recipe.engine.shard_items)
    if settings.features == "fly":
        fly = FlyFrames(encoder_of(run), settings, seed=run.recipe.seed, layouts=layouts, whole=whole)

        def frames_in(shard: int) -> Callable[[Utterance], Frames]:
            return fly.of

    else:
        whole_list = functools.partial(utterances_in, [manifest])
        folders = reencode_stale(run, frames, sum(lines.sizes), whole_list, layouts=layouts, whole=whole, world=world)
        wanted = expected(run)
        lines = Lines(manifest, [FrameShard(path, *wanted).num_utterances for path in folders])

        def frames_in(shard: int) -> Callable[[Utterance], Frames]:
            opened = FrameShard(folders[shard], *wanted)
            return lambda utterance: opened

    def read(shard: int) -> list[tuple[bytes, Callable[[Utterance], Frames]]]:
        frames_of = frames_in(shard)
        return [(line, frames_of) for line in lines.read(shard)]

    def build(document: tuple[bytes, Callable[[Utterance], Frames]], epoch: int) -> tuple[Example, int]:
        line, frames_of = document
        utterance = utterance_from_dict(json.loads(line), manifest.parent)
        layout = epoch % layouts if settings.encode == "spans" else epoch  # of a whole recording any span is there
        frames = _Once(frames_of(utterance))
        return _sized(run, speech_examples(tokenizer, [utterance], frames, settings, run.recipe.seed, layout)[0])

    return ShardSource(name, share, lines.sizes, read, build)


def text_shards(run: Run, tokenizer: Any, share: float, path: Path) -> ShardSource:
    """Plain-text documents of a JSON-lines file."""
    lines = Lines(path, run.recipe.engine.shard_items)

    def build(line: bytes, epoch: int) -> tuple[Example, int]:
        return _sized(run, text_examples(tokenizer, [Document(**json.loads(line))])[0])

    return ShardSource("text", share, lines.sizes, lines.read, build)


class _Once:
    """Frames copied out of their file in the stream's thread: the step that hears them does not wait for a disk."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def get(self, key: tuple[str, int, int]) -> np.ndarray:
        return np.array(self._frames.get(key))


def _sized(run: Run, example: Example) -> tuple[Example, int]:
    model, context = run.recipe.model, run.recipe.sequence.context
    positions = num_positions(example, model.stride, model.rate)
    longest = max(1 + len(example.token_ids), positions if model.rate == "fixed" else 0)
    if longest > context:
        raise LeftOut(example.id, f"takes {longest} positions, more than sequence.context {context}")
    return example, positions
