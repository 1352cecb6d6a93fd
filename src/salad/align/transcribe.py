"""What an ASR hears in a recording."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from salad.align.silence import RATE_HZ
from salad.align.whisper import load_whisper
from salad.audio import read_audio
from salad.data.manifest import utterance_from_dict, utterance_to_dict
from salad.engine import Made, Shard, run_shards
from salad.files import read_jsonl, write_jsonl
from salad.types import SaladError, Utterance

SHARD = 2  # utterances


def transcribe_utterances(shard: Shard, folder: Path, *, asset: str, precision: str = "float32") -> None:
    """Transcribe each item (an utterance as dict), of any length; for `run_shards`.

    Writes transcripts.jsonl ({id, text}) and quarantine.jsonl ({id, reason}) for audio that cannot be read.
    """
    from salad.assets import get

    model_folder = get(asset)
    rows, failed = [], []
    for row in shard.items:
        utterance = utterance_from_dict(row)
        try:
            samples, _ = read_audio(utterance.audio, RATE_HZ)
        except SaladError as error:
            failed.append({"id": utterance.id, "reason": str(error)})
            continue
        rows.append({"id": utterance.id, "text": transcribe(samples, model_folder, precision=precision)})
    write_jsonl(folder / "transcripts.jsonl", rows)
    write_jsonl(folder / "quarantine.jsonl", failed)


def transcribe_all(
    utterances: Sequence[Utterance], folder: Path, *, asset: str, workers: int, title: str, precision: str = "float32"
) -> dict[str, str]:
    """Transcript of each utterance by id, shard by shard; what cannot be read is left in the shards' quarantine."""
    items = Made(utterance_to_dict, utterances)
    function = functools.partial(transcribe_utterances, asset=asset, precision=precision)
    folders = run_shards(
        function,
        items,
        folder,
        shard_items=SHARD,
        workers=workers,
        title=title,
        unit="utterances",
        quarantine=True,
        library="ctranslate2",
    )
    return {row["id"]: row["text"] for path in folders for row in read_jsonl(path / "transcripts.jsonl")}


def transcribe(samples: np.ndarray, folder: str | Path, *, threads: int = 1, precision: str = "float32") -> str:
    """Greedy English transcript of float32 [num_samples] at 16 kHz by the CTranslate2 Whisper in `folder`.

    Whisper's own timestamps stay on: they are how audio over 30 s is cut at a pause instead of inside a word.
    """
    segments, _ = load_whisper(Path(folder), threads, precision).transcribe(
        samples, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False, vad_filter=False
    )
    return " ".join(segment.text.strip() for segment in segments)
