"""Tokens a second and time to the first token of `salad serve`: one client, sixteen, four at random, one who speaks.

Questions are one of the human recordings and a few written words. Its peers are itself, one request after the other,
and `transformers serve` on the same text LLM, with written questions (`--no-peer` leaves it out).
`--soak SECONDS` sends faults in their place.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
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
import numpy as np
import torch
from bench import in_turn, machine, set_threads
from serve_peer import compare
from serve_soak import soak
from websockets.sync.client import connect

from salad import assets
from salad.audio import read_audio, write_flac
from salad.serve.served_model import DEFAULT_MODEL, ServedModel
from salad.serve.server import address, make_server
from salad.serve.settings import Settings
from salad.serve.vad import CHUNK_MS, PAUSE_MS

TOKENS, SECONDS, ARRIVALS, ALONE = 32, 2.0, 20, 5
PATIENCE_S = 120.0
TURNS = (("beckett.wav", 1.3), ("two_cities.wav", 4.9), ("two_cities.wav", 6.4), ("two_cities.wav", 8.5))


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


def realtime(url: str, model: ServedModel) -> dict[str, Any]:
    """Somebody speaks in real time: seconds from the end of the last word, as the VAD has it, to the first token; of
    one LLM prefill as long; and the least that may be hoped for of the two."""
    firsts, prefills = [], []
    for name, seconds in TURNS:
        samples = read_audio(assets.get("human-speech") / name, 16_000, duration_s=seconds)[0]
        samples = np.concatenate([samples, np.zeros(3 * 16_000, np.float32)])
        data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        with connect(f"{url.replace('http', 'ws')}/v1/realtime") as socket:
            audio = {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}
            session = {"type": "realtime", "max_output_tokens": 4, "audio": audio}
            socket.send(json.dumps({"type": "session.update", "session": session}))
            begun = time.perf_counter()
            speaker = threading.Thread(target=_speak, args=(socket, data, begun))
            speaker.start()
            first, positions = _listen(socket, speaker, begun)
            speaker.join()
        firsts.append(first)
        prompt = torch.randn(1, positions, model.model.get_input_embeddings().weight.shape[1])
        with torch.no_grad():
            prefills.append(in_turn({"prefill": lambda p=prompt: model.model.decoder()(inputs_embeds=p)})["prefill"])
    first, prefill = statistics.median(firsts), statistics.median(prefills)
    return {"realtime_first_s": round(first, 3), "realtime_worst_s": round(max(firsts), 3),
            "realtime_each_s": [round(each, 2) for each in firsts],
            "prefill_s": round(prefill, 3), "realtime_goal_s": round(1.0 + prefill, 3)}  # fmt: skip


def _listen(socket: Any, speaker: threading.Thread, begun: float) -> tuple[float, int]:
    """Seconds from the end of the last word to the first token (to the end of an answer that has none), and the
    positions of the prompt, of the last turn."""
    end, first, positions, current = 0.0, None, 0, None
    while speaker.is_alive() or not positions:
        try:
            event = json.loads(socket.recv(timeout=0.5))
        except TimeoutError:
            if time.perf_counter() - begun > PATIENCE_S:
                raise
            continue
        since = time.perf_counter() - begun - end
        if event["type"] == "input_audio_buffer.speech_started":
            first, positions, current = None, 0, None
        elif event["type"] == "response.created":
            current = event["response"]["id"]
        elif event["type"] == "input_audio_buffer.speech_stopped":
            end = event["audio_end_ms"] / 1000 - math.ceil(PAUSE_MS / CHUNK_MS) * CHUNK_MS / 1000
        elif event["type"] == "response.output_text.delta" and event["response_id"] == current:
            first = since if first is None else first
        elif event["type"] == "response.done" and event["response"]["id"] == current:
            first = since if first is None else first
            positions = event["response"]["usage"]["input_tokens"]
    assert first is not None
    return first, positions


def _speak(socket: Any, data: bytes, begun: float) -> None:
    step = 2 * 16_000 // 20  # 50 ms
    for at in range(0, len(data), step):
        time.sleep(max(0.0, begun + (at + step) / 32_000 - time.perf_counter()))
        block = base64.b64encode(data[at : at + step]).decode()
        socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": block}))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--soak", type=float, metavar="SECONDS", help="faults instead; the issue's run has 600")
    arguments.add_argument("--realtime", action="store_true", help="the latency of /v1/realtime alone")
    arguments.add_argument("--no-peer", action="store_true", help="without `transformers serve`")
    asked = arguments.parse_args()
    set_threads()
    with tempfile.TemporaryDirectory() as folder:
        body = question(Path(folder))
    if asked.soak:
        print(json.dumps({"what": "serve --soak", **soak(body, asked.soak), "machine": machine()}))
        return
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        settings = Settings(port=held.getsockname()[1])
    model = ServedModel.load(DEFAULT_MODEL)
    server = make_server(model, settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    url = address(settings)
    ask(url, body)
    measured = {} if asked.realtime else throughput(url, body)
    if not asked.realtime and not asked.no_peer:
        measured |= compare(url, TOKENS)
    measured |= realtime(url, model)
    server.should_exit = True
    thread.join()
    print(json.dumps({"what": "serve", **measured, "machine": machine()}))


def throughput(url: str, body: dict[str, Any]) -> dict[str, Any]:
    begun = time.perf_counter()
    one = [ask(url, body) for _ in range(ALONE)]
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
    return {
        "tokens_s_1": round(tokens_s_1, 2), "tokens_s_16": round(tokens_s_16, 2),
        "ratio_to_one_by_one": round(tokens_s_16 / tokens_s_1, 2),
        "ttft_p50_s_1": round(statistics.median(first for first, _ in one), 3),
        "ttft_p50_s_4": round(statistics.median(first for first, _ in four), 3),
        "lost": sum(not tokens for _, tokens in [*one, *many, *four]),
    }  # fmt: skip


if __name__ == "__main__":
    main()
