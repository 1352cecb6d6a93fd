"""Tokens a second and time to the first token of `salad serve`, over HTTP: one client, sixteen, and four at random.

Its peer is itself, one request after the other. Questions are one of the human recordings and a few written words.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from bench import machine, set_threads

from salad import assets
from salad.audio import read_audio, write_flac
from salad.serve.served_model import DEFAULT_MODEL, ServedModel
from salad.serve.server import address, make_server
from salad.serve.settings import Settings

TOKENS, SECONDS, ARRIVALS = 32, 2.0, 6


def question(folder: Path) -> dict[str, Any]:
    samples, rate = read_audio(assets.get("human-speech") / "beckett.wav", 16_000, duration_s=SECONDS)
    write_flac(folder / "question.flac", samples, rate)
    data = base64.b64encode((folder / "question.flac").read_bytes()).decode()
    parts = [
        {"type": "input_audio", "input_audio": {"data": data, "format": "flac"}},
        {"type": "text", "text": " Go on:"},
    ]
    return {"model": "salad", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": TOKENS,
            "messages": [{"role": "user", "content": parts}]}  # fmt: skip


def ask(url: str, body: dict[str, Any]) -> tuple[float, int]:
    """Seconds to the first token, and tokens; (inf, 0) where the answer was lost."""
    begun, first, tokens = time.perf_counter(), float("inf"), 0
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=600) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if first == float("inf") and event.get("choices") and event["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - begun
            tokens = event.get("usage", {}).get("completion_tokens", tokens)
    return first, tokens


def main() -> None:
    set_threads()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        settings = Settings(port=held.getsockname()[1])
    server = make_server(ServedModel.load(DEFAULT_MODEL), settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    with tempfile.TemporaryDirectory() as folder:
        body = question(Path(folder))
    while not server.started:
        time.sleep(0.05)
    url = address(settings)
    ask(url, body)
    begun = time.perf_counter()
    one = [ask(url, body) for _ in range(2)]
    tokens_s_1 = sum(tokens for _, tokens in one) / (time.perf_counter() - begun)
    begun = time.perf_counter()
    with ThreadPoolExecutor(16) as clients:
        many = list(clients.map(lambda _: ask(url, body), range(16)))
    tokens_s_16 = sum(tokens for _, tokens in many) / (time.perf_counter() - begun)
    draws, mean_s = random.Random(0), 2 * TOKENS / tokens_s_16
    with ThreadPoolExecutor(4) as clients:
        waiting = []
        for _ in range(ARRIVALS):
            waiting.append(clients.submit(ask, url, body))
            time.sleep(draws.expovariate(1 / mean_s))
        four = [w.result() for w in waiting]
    server.should_exit = True
    thread.join()
    print(json.dumps({
        "what": "serve", "tokens_s_1": round(tokens_s_1, 2), "tokens_s_16": round(tokens_s_16, 2),
        "peer": "itself, one by one", "ratio": round(tokens_s_16 / tokens_s_1, 2),
        "ttft_p50_s_1": round(statistics.median(first for first, _ in one), 3),
        "ttft_p50_s_4": round(statistics.median(first for first, _ in four), 3),
        "lost": sum(not tokens for _, tokens in [*one, *many, *four]), "machine": machine(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
