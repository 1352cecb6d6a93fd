"""Speak, align, encode, transcribe: the chain that corpus, probe and synthesize share."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from salad.align.transcribe import transcribe_all
from salad.config import Variation
from salad.data.manifest import load_spoken
from salad.engine import Made, run_shards
from salad.model.encoders.base import Encoder
from salad.model.encoders.job import FlyFrames, encode_pieces, kind_of, shared_encoder
from salad.pipeline.run import Run
from salad.progress import console
from salad.sequence import FrameShard, FrameStore, check_shard
from salad.sequence.examples import all_pieces
from salad.sequence.frames import Decode
from salad.synthesize.delivery import STEADY
from salad.synthesize.speak import speak_all
from salad.synthesize.word_times import align_all
from salad.training.distributed import ProcessGroup
from salad.types import Document, Utterance


def speak(
    run: Run,
    folder: Path,
    spoken: Sequence[tuple[Document, str]],
    title: str,
    *,
    variation: Variation = STEADY,
    audio: str = "flac",
) -> list[tuple[Utterance, Any]]:
    """Speak whole documents, varied where they are for training; returns utterances with their sentences' times."""
    recipe = run.recipe
    folders = speak_all(
        spoken, folder, seed=recipe.seed, workers=recipe.engine.workers, title=title, variation=variation, audio=audio
    )
    return load_spoken(folders)


def align(run: Run, folder: Path, spoken: Sequence[tuple[Utterance, Any]], title: str) -> list[Utterance]:
    """Word times for every utterance; what falls under the threshold is left in the shards' quarantine."""
    settings = run.recipe.align
    return align_all(
        spoken,
        folder,
        workers=run.recipe.engine.workers,
        title=title,
        asset=run.recipe.assets.asr,
        min_score=settings.min_score,
        method=settings.method,
        model=settings.model,
        times=settings.times,
        listen=settings.listen,
    )


def encode(
    run: Run, folder: Path, utterances: Sequence[Utterance], title: str, *, layouts: int, whole: bool = False
) -> FrameStore | FlyFrames:
    """Frames of the speech spans of `layouts` interleavings; `whole` adds the rest of the first, for the warm start.

    Shards in `folder` that another encoder made, or that are cut off or damaged, are encoded again. With
    `sequence.features: fly` nothing is written.
    """
    settings = run.recipe.sequence
    pieces = functools.partial(all_pieces, settings=settings, seed=run.recipe.seed, layouts=layouts, whole=whole)
    if settings.features == "fly":
        return FlyFrames(encoder_of(run), pieces, utterances, stored=settings.stored)
    for shard in sorted(folder.glob("shard-*")):
        if why := check_shard(shard, *expected(run)[:2]):
            console.print(f"encoded again: {why}", highlight=False)
            shutil.rmtree(shard)
    items = Made(lambda u: (u.audio, pieces(u), {"id": u.id}), utterances)
    function = functools.partial(encode_pieces, encoder=run.recipe.assets.encoder, stored=settings.stored)
    folders = run_shards(
        function,
        items,
        folder,
        shard_items=run.recipe.engine.shard_items,
        workers=run.recipe.engine.workers,
        title=title,
        unit="utterances",
        library=encoder_of(run).library,
    )
    return FrameStore(folders, *expected(run))


def open_frames(
    run: Run,
    folder: Path,
    utterances: Sequence[Utterance],
    *,
    layouts: int,
    whole: bool = False,
    world: ProcessGroup | None = None,
) -> FrameStore | FlyFrames:
    """What `encode` left in `folder`, for a stage below it; see `reencode_stale`."""
    if run.recipe.sequence.features == "fly":
        return encode(run, folder, utterances, "", layouts=layouts, whole=whole)
    folders = reencode_stale(
        run, folder, len(utterances), lambda: utterances, layouts=layouts, whole=whole, world=world
    )
    return FrameStore(folders, *expected(run))


def reencode_stale(
    run: Run,
    folder: Path,
    num_utterances: int,
    utterances: Callable[[], Sequence[Utterance]],
    *,
    layouts: int,
    whole: bool = False,
    world: ProcessGroup | None = None,
) -> list[Path]:
    """The shards that `encode` left in `folder`. Where one is missing, stale or damaged, it is encoded again first.

    world: the processes that all open them; the first one mends. Audio and `utterances` are read only to mend.
    """
    world = world or ProcessGroup()
    if world.is_first:
        held, wanted = 0, expected(run)[:2]
        for path in sorted(folder.glob("shard-*")):
            held += 0 if check_shard(path, *wanted) else FrameShard(path).num_utterances
        if held != num_utterances:
            encode(run, folder, utterances(), f"encode {folder.name} again", layouts=layouts, whole=whole)
    world.barrier()
    return sorted(folder.glob("shard-*"))


def encoder_of(run: Run) -> Encoder:
    """The recipe's encoder, loaded once in a process."""
    return shared_encoder(run.recipe.assets.encoder)


def expected(run: Run) -> tuple[str, str, Decode]:
    """Which shards of frames fit the recipe, and how to read them: fingerprint, kind, codes to frames."""
    encoder = encoder_of(run)
    return encoder.fingerprint(), kind_of(encoder, run.recipe.sequence.stored), encoder.frames_of_codes


def training_pieces(run: Run) -> dict[str, Any]:
    """Which pieces of D_speech and D_active training hears: arguments of `encode` and `open_frames`."""
    return {"layouts": run.recipe.sequence.layouts, "whole": run.recipe.warm_start.enabled}


def transcribe(
    run: Run, folder: Path, utterances: Sequence[Utterance], title: str, *, precision: str = "float32"
) -> dict[str, str]:
    """Transcript of each utterance by the recipe's ASR, by id; `precision` of its weights: float32 or int8."""
    asset, workers = run.recipe.assets.asr, run.recipe.engine.workers
    return transcribe_all(utterances, folder, asset=asset, workers=workers, title=title, precision=precision)
