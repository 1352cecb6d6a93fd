"""Speaking documents with Kokoro (int8 ONNX) on CPU: P single-thread processes (ours) against kokoro-onnx's own loop on
the same texts, and against one process of ours. The floor: the network alone, were P processes P times as fast as one.

P: --workers, default the cores. `--documents N` speaks more. Where the package kokoro-onnx is not installed, the peer
is a plain loop over onnxruntime on all threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from bench import line, set_threads

from salad.assets import get
from salad.files import read_json
from salad.synthesize.speak import speak_document
from salad.synthesize.voices import KOKORO_HZ, KokoroVoice, load_voice, onnx_network
from salad.types import Document

VOICE = "kokoro:af_heart"
TEXTS = (
    "The river rose after three days of rain. By the evening the lower fields were under water.",
    "Bread needs flour, water, salt and time. A slow dough tastes better than a quick one.",
    "A comet is a ball of ice and dust. Near the sun it grows a tail that points away from the light.",
    "She closed the shop at noon and walked to the harbour, where the ferry was already waiting.",
)


def documents(num: int) -> list[Document]:
    return [Document(f"d{n}", TEXTS[n % len(TEXTS)], "bench") for n in range(num)]


def ours(texts: list[Document]) -> float:
    """Seconds of speech."""
    voice = load_voice(VOICE)
    return sum(len(speak_document(document, voice, seed=0).samples) for document in texts) / 16_000


def peer() -> tuple[str, Callable[[list[Document]], float]]:
    folder = get("kokoro")
    speaker = VOICE.partition(":")[2]
    style = np.fromfile(get("kokoro-voices") / "voices" / f"{speaker}.bin", dtype="<f4").reshape(-1, 1, 256)
    try:
        from kokoro_onnx import Kokoro
    except ImportError:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "kokoro.onnx"), providers=["CPUExecutionProvider"])
        vocab = read_json(folder / "vocab.json")["vocab"]
        plain = KokoroVoice("peer", onnx_network(session.run), vocab, style, british=False)
        return "onnxruntime loop, all threads", lambda texts: sum(len(plain.speak(d.text)) for d in texts) / KOKORO_HZ
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "voices.npz"
        np.savez(path, **{speaker: style})
        engine = Kokoro(str(folder / "kokoro.onnx"), str(path), vocab_config=str(folder / "vocab.json"))
    return "kokoro-onnx", lambda texts: sum(len(engine.create(d.text, speaker)[0]) for d in texts) / KOKORO_HZ


def network_alone(texts: list[Document]) -> Callable[[], Any]:
    """The floor: the same phonemes through the network, one thread."""
    voice = load_voice(VOICE)
    assert isinstance(voice, KokoroVoice)
    parts = [voice._tokens(sentence) for d in texts for sentence in d.text.replace(". ", ".\n").split("\n")]
    return lambda: [voice._speak_tokens(tokens, 1.0) for tokens in parts]


def timed_worker(texts: list[Document], start: Barrier, results: Any) -> None:
    ours(texts[:1])  # loaded and warm
    start.wait()
    begun = time.monotonic()
    ours(texts)
    results.put(time.monotonic() - begun)


def seconds_with(workers: int, texts: list[Document]) -> float:
    """Wall seconds until `workers` processes, started together, have each spoken all texts."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=timed_worker, args=(texts, start, results)) for _ in range(workers)]
    for process in processes:
        process.start()
    slowest = max(results.get() for _ in processes)
    for process in processes:
        process.join()
    return slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    set_threads()
    texts, workers = documents(arguments.documents), arguments.workers
    name, other = peer()
    ours_s, peer_s = ours(texts), other(texts)
    alone = network_alone(texts)
    times: dict[str, list[float]] = {"one": [], "many": [], "peer": [], "floor": []}
    for _ in range(arguments.rounds):  # in turn, so that a slow moment of the machine hits all of them
        times["one"].append(seconds_with(1, texts))
        times["many"].append(seconds_with(workers, texts))
        times["peer"].append(seconds(lambda: other(texts)))
        times["floor"].append(seconds(alone))
    one, many, plain, floor = (statistics.median(times[key]) for key in ("one", "many", "peer", "floor"))
    line(
        "synthesize",
        many / (workers * ours_s),
        f"{name}, one process, its own threads",
        plain / peer_s,
        floor / (workers * ours_s),
        abs(ours_s / peer_s - 1) < 0.2,
        unit="seconds of the machine for one second of speech",
        workers=workers,
        speech_per_s=round(workers * ours_s / many, 3),
        speech_per_s_one_worker=round(ours_s / one, 3),
        speech_per_s_peer=round(peer_s / plain, 3),
        scaling=round(one / many, 3),  # 1: P workers do P times the work of one; target 0.85
    )


def seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
