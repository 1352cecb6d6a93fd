"""A tiny random model behind a real port."""

from __future__ import annotations

import faulthandler
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")

from salad.serve.served_model import ServedModel
from salad.serve.server import address, make_server
from salad.serve.settings import Settings
from salad.testing.listeners import save_listener


@contextmanager
def serving(model: ServedModel, settings: Settings) -> Iterator[str]:
    """The address of a server that listens on a free port of this machine."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        settings = replace(settings, port=held.getsockname()[1])
    server = make_server(model, settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(400):
        if server.started:
            break
        time.sleep(0.05)
    try:
        yield address(settings)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        if thread.is_alive():
            faulthandler.dump_traceback()  # of every thread: the log tells what the server waits for
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """Its words are w1 to w60; it says w-something until it is stopped."""
    folder, _ = save_listener(tmp_path_factory.mktemp("serve"), rate="text", ctc=40)
    return ServedModel.load(str(folder))


@pytest.fixture(scope="session")
def url(tiny: ServedModel) -> Iterator[str]:
    with serving(tiny, Settings()) as found:
        yield found


@pytest.fixture(scope="session")
def served() -> Callable[..., Any]:
    """`serving`, for a test that wants a server of its own."""
    return serving


@pytest.fixture(scope="session")
def post(url: str) -> Iterator[Callable[..., httpx2.Response]]:
    with httpx2.Client(base_url=url, timeout=60) as client:

        def send(body: Any, path: str = "/v1/chat/completions", **kwargs: Any) -> httpx2.Response:
            return client.post(path, **({"content": body} if isinstance(body, bytes) else {"json": body}), **kwargs)

        yield send


@pytest.fixture
def alone(tiny: ServedModel) -> Callable[..., str]:
    """What `model.generate` answers, outside the server."""

    def answer(messages: list[dict[str, Any]], audio: list[np.ndarray], max_new_tokens: int) -> str:
        prompt, add_start = tiny.processor.turns(messages)
        read = tiny.processor(prompt, audio=audio, add_start=add_start)
        with torch.no_grad():
            ids = tiny.model.generate(
                **read, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=sorted(tiny.ends), pad_token_id=0
            )
        return tiny.decode(ids[0, read["input_ids"].shape[1] :].tolist())

    return answer
