"""Speak, align, encode, transcribe: the chain that corpus, probe and synthesize share."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from salad import assets
from salad.align.transcribe import transcribe_all
from salad.config import Recipe, Variation
from salad.data.deduplicate import sound_key
from salad.data.manifest import spoken_in, utterance_from_dict, utterance_to_dict
from salad.engine import Made, shards_in
from salad.files import Rows, read_json, write_json, write_jsonl
from salad.model.encoders.base import Encoder
from salad.model.encoders.job import FlyFrames, encode_all, items_of, kind_of, shared_encoder
from salad.pipeline.fingerprints import READING, fingerprint, of_folder, section, versions
from salad.pipeline.run import Run
from salad.sequence import FrameShard, FrameStore, check_shard
from salad.sequence.frames import Decode
from salad.synthesize.delivery import STEADY
from salad.synthesize.speak import speak_all
from salad.synthesize.voices import assets_of_voice
from salad.synthesize.word_times import align_all
from salad.training.distributed import ProcessGroup
from salad.types import Document, SaladError, Utterance

SIZES = "rows.json"  # in the folder of aligned shards: rows of each


def speak(
    run: Run,
    folder: Path,
    spoken: Sequence[tuple[Document, str]],
    title: str,
    *,
    variation: Variation = STEADY,
    audio: str = "flac",
) -> Sequence[tuple[Utterance, Any]]:
    """Speak whole documents, varied where they are for training; utterances with their sentences' times, which are
    read when they are asked for. In the corpus stage, what its last result has of the same text is taken from it."""
    recipe = run.recipe
    own = folder.parent == run.folder("corpus")  # later stages finish without the rows of their shards
    folders = speak_all(
        spoken,
        folder,
        seed=recipe.seed,
        workers=recipe.engine.workers,
        title=title,
        variation=variation,
        audio=audio,
        made_from=spoken_by(voice for _, voice in spoken) if own else None,
    )
    return spoken_in(folders)


def without_times(spoken: Sequence[tuple[Utterance, Any]]) -> Sequence[Utterance]:
    """The utterances of what `speak` gives."""
    return Made(lambda pair: pair[0], spoken)


def align(run: Run, folder: Path, spoken: Sequence[tuple[Utterance, Any]], title: str) -> Sequence[Utterance]:
    """Word times for every utterance, read when they are asked for; what falls under the threshold is left in the
    shards' quarantine. In the align stage, what its last result has of the same sound and text is taken from it.
    """
    settings, made_from = run.recipe.align, None
    if settings.times is not None and not settings.times.is_dir():
        raise SaladError(
            f"align.times: {settings.times} is not a folder; give one that holds .TextGrid or .words.json files"
        )
    if folder.parent == run.folder("align"):
        made_from = aligned_with(run.recipe)
        restore_rows(folder, run.last_result("align") / folder.name)
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
        made_from=made_from,
    )


def spoken_by(voices: Iterable[str]) -> str:
    """What speech comes from beside its text, voice and seed: the voices' models.

    No versions of libraries: after an update what was spoken in weeks is as good as it was.
    """
    models = {asset for voice in voices for asset in assets_of_voice(voice)}
    return fingerprint([assets.fingerprint(name) for name in sorted(models)])


def aligned_with(recipe: Recipe) -> str:
    """What word times come from beside the sound and its text: the recipe's settings, models and files, versions."""
    settings = recipe.align
    models = [assets.fingerprint(name) for name in (recipe.assets.asr, settings.model) if name is not None]
    known = {name: version for name, version in versions().items() if name not in READING}
    return fingerprint([section(recipe, "align"), models, of_folder(settings.times), known])


def keep_sizes(folder: Path, aligned: Sequence[Utterance]) -> None:
    """Note how many rows each shard of `align` has: a finished stage keeps them in its manifest alone."""
    if isinstance(aligned, Rows):
        write_json(folder / SIZES, aligned.sizes)


def restore_rows(folder: Path, last: Path) -> None:
    """Give the shards of the last result of `folder`, which lie in `last`, back their rows out of its manifest."""
    manifest, shards = last.with_suffix(".jsonl"), shards_in(last)
    if all((shard / "utterances.jsonl").exists() for shard in shards):
        return
    sizes = read_json(last / SIZES) if (last / SIZES).exists() and manifest.exists() else []
    if len(sizes) != len(shards):
        (last / "plan.txt").unlink(missing_ok=True)  # nothing of it can be taken
        return
    rows = iter(Rows([manifest], lambda row, _: utterance_from_dict(row, folder.parent)))
    for shard, size in zip(shards, sizes, strict=True):
        own, path = itertools.islice(rows, size), shard / "utterances.jsonl"
        if path.exists():
            deque(own, maxlen=0)
        else:
            write_jsonl(path, (utterance_to_dict(utterance, folder / shard.name) for utterance in own))


def encode(
    run: Run, folder: Path, utterances: Sequence[Utterance], title: str, *, layouts: int, whole: bool = False
) -> FrameStore | FlyFrames:
    """Frames of the speech spans of `layouts` interleavings; `whole` adds the rest of the first, for the warm start.

    Shards in `folder` that another encoder made, or that are cut off or damaged, are encoded again. With
    `sequence.features: fly` nothing is written.
    """
    settings = run.recipe.sequence
    seed = run.recipe.seed
    if settings.features == "fly":
        return FlyFrames(encoder_of(run), settings, utterances, seed=seed, layouts=layouts, whole=whole)
    encoder, kind, _ = expected(run)

    def key(item: tuple[Any, ...]) -> str:
        return f"{encoder} {kind} {sound_key(item[0])} {item!r}"

    return encode_all(
        run.recipe.assets.encoder,
        items_of(encoder_of(run), utterances, settings, seed=seed, layouts=layouts, whole=whole),
        folder,
        stored=settings.stored,
        shard_items=run.recipe.engine.shard_items,
        workers=run.recipe.engine.workers,
        title=title,
        key=key,
    )


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
        for path in shards_in(folder):
            held += 0 if check_shard(path, *wanted) else FrameShard(path).num_utterances
        if held != num_utterances:
            encode(run, folder, utterances(), f"encode {folder.name} again", layouts=layouts, whole=whole)
    world.barrier()
    return shards_in(folder)


def encoder_of(run: Run) -> Encoder:
    """The recipe's encoder, loaded once in a process."""
    return shared_encoder(run.recipe.assets.encoder)


def expected(run: Run) -> tuple[str, str, Decode]:
    """Which shards of frames fit the recipe, and how to read them: fingerprint, kind, codes to frames."""
    encoder = encoder_of(run)
    return encoder.fingerprint(), kind_of(encoder, run.recipe.sequence.stored), encoder.frames_of_codes


class EncodeArguments(TypedDict):
    """Arguments of `encode` and `open_frames`."""

    layouts: int
    whole: NotRequired[bool]


def training_pieces(run: Run) -> EncodeArguments:
    """Which pieces of D_speech and D_active training hears: arguments of `encode` and `open_frames`."""
    return {"layouts": run.recipe.sequence.layouts, "whole": run.recipe.warm_start.enabled}


def transcribe(
    run: Run, folder: Path, utterances: Sequence[Utterance], title: str, *, precision: str = "float32"
) -> dict[str, str]:
    """Transcript of each utterance by the recipe's ASR, by id; `precision` of its weights: float32 or int8."""
    asset, workers = run.recipe.assets.asr, run.recipe.engine.workers
    return transcribe_all(utterances, folder, asset=asset, workers=workers, title=title, precision=precision)
