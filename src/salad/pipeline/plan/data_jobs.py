"""Time a small shard of each data job on this machine, by a recipe's workers, as far as its models are here."""

from __future__ import annotations

import functools
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from salad.align.transcribe import transcribe_utterances
from salad.config import Recipe
from salad.data.manifest import load_spoken, read_utterances, utterance_to_dict
from salad.engine import Shard, run_shards
from salad.files import read_json, write_json
from salad.model.encoders.job import encode_pieces
from salad.pipeline.plan.card import Figure
from salad.pipeline.plan.steps import embedder
from salad.pipeline.plan.timing import is_here, measured
from salad.progress import console
from salad.select.embed import embed_documents
from salad.sequence.examples import all_pieces, recording_piece
from salad.sequence.frames import Piece
from salad.synthesize.speak import speak_documents
from salad.synthesize.voices import assets_of_voice, engine_of, library_of
from salad.synthesize.word_times import align_spoken
from salad.training.estimate import TOKENS_PER_WORD
from salad.types import Document, Utterance

SENTENCES = (
    "The river runs slowly past the old mill before it turns towards the sea.",
    "Most people who live in the valley have never asked where the water comes from.",
    "In spring the snow on the mountains melts, and the fields beside the road stand under water for days.",
    "A bridge of stone was built here when the market grew, and later a second one of iron.",
    "Engineers measured how much it moves when a heavy train crosses it at night.",
    "Their answer was smaller than anybody had expected, about the width of a hand.",
)
EACH, TEXTS = 5, 12  # documents a worker, of which the first one is its start; times that each is embedded


def time_jobs(recipe: Recipe, folder: Path, cores: int, busy: bool = False) -> dict[str, Figure]:
    """Rates, starts and memory of the workers of each job; what cannot run here is left out, and said.

    busy: count processor seconds of the workers, for other processes compute here.
    """
    workers = min(recipe.engine.workers, cores)
    figures: dict[str, Figure] = {}
    documents = [_document(i) for i in range(workers * EACH)]
    spoken: list[tuple[Utterance, Any]] = []
    for voice in dict.fromkeys((*recipe.corpus.voices.shares, *recipe.synthesize.voices.shares)):
        if not is_here(assets_of_voice(voice)):
            console.print(
                f"calibrate: {voice} is not here, so its speed is assumed; salad stage assets RECIPE fetches what a "
                "recipe needs",
                highlight=False,
            )
            continue
        items: list[Any] = [{"document": vars(d), "voice": voice, "licence": "", "simulated": True} for d in documents]
        job = _Job(f"speak {engine_of(voice).name}", folder / "speak", workers, busy)
        places = job.run(functools.partial(speak_documents, seed=0), items, library_of([voice]))
        spoken = load_spoken(places)
        seconds = [u.duration_s for u, _ in spoken]
        figures |= job.figures(seconds)
        size = sum(Path(u.audio).stat().st_size for u, _ in spoken) / sum(seconds)
        figures["speak bytes"] = measured(size, "bytes of a second that was spoken")
        words = sum(len(u.text.split()) for u, _ in spoken)
        figures["speak pace"] = measured(sum(seconds) / words, f"seconds of a word by {voice}")
        break
    if not spoken:
        return figures | _embedded(recipe, folder, documents, workers, busy)
    seconds = [u.duration_s for u, _ in spoken]
    asr, encoder = recipe.assets.asr, recipe.assets.encoder
    if all(u.words for u, _ in spoken):
        job = _Job("align told", folder / "told", workers, busy)
        told: list[Any] = [(utterance_to_dict(u), sentences) for u, sentences in spoken]
        job.run(functools.partial(align_spoken, asset=asr, min_score=0.0), told, "ctranslate2")
        figures |= job.figures(seconds)
    if recipe.align.method == "whisper" and is_here([recipe.align.model or asr]):
        settings: dict[str, Any] = {"asset": asr, "min_score": 0.0, "method": "whisper", "model": recipe.align.model}
        job = _Job("align whisper", folder / "align", workers, busy)
        items = [({**utterance_to_dict(u), "words": []}, sentences) for u, sentences in spoken]
        places = job.run(functools.partial(align_spoken, **settings), items, "ctranslate2")
        figures |= job.figures(seconds)
        aligned = [u for place in places for u in read_utterances(place / "utterances.jsonl")]
        if is_here([encoder]) and len(aligned) == len(spoken):
            items = [(u.audio, _pieces_to_encode(recipe, u), {"id": u.id}) for u in aligned]
            job = _Job(f"encode {encoder}", folder / "encode", workers, busy)
            job.run(functools.partial(encode_pieces, encoder=encoder), items, "torch")
            figures |= job.figures(seconds)
    if is_here([asr]):
        job = _Job("transcribe", folder / "transcribe", workers, busy)
        items = [utterance_to_dict(u) for u, _ in spoken]
        job.run(functools.partial(transcribe_utterances, asset=asr, precision="int8"), items, "ctranslate2")
        figures |= job.figures(seconds)
    return figures | _embedded(recipe, folder, documents, workers, busy)


def _embedded(
    recipe: Recipe, folder: Path, documents: Sequence[Document], workers: int, busy: bool
) -> dict[str, Figure]:
    name = recipe.assets.embedder
    if not is_here([name]):
        return {}
    texts = [document.text for document in documents for _ in range(TEXTS)]
    job = _Job("embed", folder / "embed", workers, busy)
    job.run(functools.partial(embed_documents, asset=name, batch=recipe.cluster.batch), texts, "torch")
    parameters, _ = embedder(name)
    return job.figures([2.0 * parameters * TOKENS_PER_WORD * len(text.split()) for text in texts])


def _pieces_to_encode(recipe: Recipe, utterance: Utterance) -> list[Piece]:
    """All of a recording, as `sequence.encode` has it encoded: whole, or in spans."""
    if recipe.sequence.encode == "recordings":
        return [recording_piece(utterance)]
    return all_pieces(utterance, recipe.sequence, seed=0, layouts=1, whole=True)


def _document(number: int) -> Document:
    said = [SENTENCES[(number + i) % len(SENTENCES)] for i in range(len(SENTENCES) - 1)]
    return Document(f"calibrate-{number}", " ".join(said), "calibrate")


class _Job:
    """A data job on `workers` processes at once, a shard each."""

    def __init__(self, name: str, folder: Path, workers: int, busy: bool = False) -> None:
        self.name, self.folder, self.workers, self.busy = name, folder, workers, busy
        self._shards: list[tuple[int, dict[str, float]]] = []
        self._wall_s = 0.0

    def run(self, function: Callable[[Shard, Path], None], items: Sequence[Any], library: Any) -> list[Path]:
        """The folders of what the function made, in the order of the items."""
        console.print(f"calibrate: {self.name}", highlight=False)
        each, start = len(items) // self.workers, time.monotonic()
        folders = run_shards(
            functools.partial(timed, function=function),
            items,
            self.folder,
            shard_items=each,
            workers=self.workers,
            title=self.name,
            fresh=True,
            library=library,
        )
        self._wall_s = time.monotonic() - start
        self._shards = [(each, read_json(path / "timing.json")) for path in folders]
        return [path / part for path in folders for part in ("first", "rest")]

    def figures(self, amounts: Sequence[float]) -> dict[str, Figure]:
        """amounts: the work in each item."""
        rates, firsts, at = [], [], 0
        first, rest = ("first_cpu_s", "rest_cpu_s") if self.busy else ("first_s", "rest_s")
        for each, timing in self._shards:
            rates.append(sum(amounts[at + 1 : at + each]) / timing[rest])
            firsts.append(timing[first] - amounts[at] / rates[-1])
            at += each
        inside = max(timing["first_s"] + timing["rest_s"] for _, timing in self._shards)
        before = statistics.mean(timing["before_cpu_s"] for _, timing in self._shards)
        start = max(0.0, before if self.busy else self._wall_s - inside) + max(0.0, statistics.mean(firsts))
        said = f"a shard of {self._shards[0][0]} on each of {self.workers} workers"
        return {
            f"{self.name} rate": measured(statistics.mean(rates), said),
            f"{self.name} start": measured(start, said),
            f"{self.name} worker": measured(max(timing["bytes"] for _, timing in self._shards), said),
        }


def timed(shard: Shard, folder: Path, *, function: Callable[[Shard, Path], None]) -> None:
    """The first item, which also loads what the function needs, and then the others; timing.json has the seconds of
    both, by the clock and of the processor (and those before it was called), and the peak of this process in bytes."""
    found: dict[str, float] = {"before_cpu_s": time.process_time()}
    for name, items in (("first", shard.items[:1]), ("rest", shard.items[1:])):
        (folder / name).mkdir()
        start, spent = time.perf_counter(), time.process_time()
        function(Shard(shard.index, items), folder / name)
        found |= {f"{name}_s": time.perf_counter() - start, f"{name}_cpu_s": time.process_time() - spent}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    write_json(folder / "timing.json", {**found, "bytes": peak})
