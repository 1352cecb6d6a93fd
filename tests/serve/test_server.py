"""The command as a process: it prints its address, and answers what it began before SIGTERM ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import httpx2
import pytest

from salad.evaluation.doctor import _find
from salad.evaluation.saved_model import model_place
from salad.serve.served_model import ServedModel
from salad.serve.server import address
from salad.serve.settings import Settings
from salad.testing.listeners import save_listener
from salad.types import SaladError


@pytest.mark.parametrize(
    "settings, wanted",
    [
        (Settings(), "http://127.0.0.1:8000"),
        (Settings(host="::1", port=1), "http://[::1]:1"),
        (Settings(ssl_certfile="a", ssl_keyfile="b"), "https://127.0.0.1:8000"),
    ],
)
def test_its_address(settings, wanted):
    assert address(settings) == wanted


def test_a_model_of_the_hub_is_served_by_its_name(tmp_path, monkeypatch):
    save_listener(tmp_path / "made")
    (tmp_path / "hub" / "somebody").mkdir(parents=True)
    (tmp_path / "made" / "model").rename(tmp_path / "hub" / "somebody" / "ears")
    monkeypatch.setenv("SALAD_ASSETS_DIR", str(tmp_path / "hub"))
    assert ServedModel.load("somebody/ears").names == ("somebody/ears", "salad")
    with pytest.raises(SaladError, match="somebody/else cannot be had from the hub"):
        ServedModel.load("somebody/else")


def test_of_a_run_every_door_takes_the_last_round(tmp_path):
    run = tmp_path / "demo"
    for number, folder in enumerate((run, run / "rounds" / "02")):
        made, _ = save_listener(tmp_path / str(number), rate="text", ctc=40 * number)
        (folder / "stage2").mkdir(parents=True)
        made.rename(folder / "stage2" / "model")
    (run / "recipe.json").write_text("{}")
    last = run / "rounds" / "02" / "stage2" / "model"
    assert model_place(run) == str(last) and _find(run, tmp_path)[0] == last
    served = ServedModel.load(str(run))
    assert served.model.ctc is not None and served.names[0] == "demo"


@pytest.mark.slow
def test_sigterm_drains(tmp_path):
    folder, _ = save_listener(tmp_path, rate="text", ctc=40)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = [sys.executable, "-m", "salad.cli", "serve", str(folder), "--port", str(port), "--asr", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        try:
            url = process.stdout.readline().strip()
            assert url == f"http://127.0.0.1:{port}"
            client = httpx2.Client(transport=httpx2.HTTPTransport(retries=10), timeout=60)
            body = {
                "model": "salad",
                "stream": True,
                "max_tokens": 400,
                "messages": [{"role": "user", "content": "w3"}],
            }
            with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                told = list(lines)
            assert told[-2:] == ["data: [DONE]", ""] and '"finish_reason": "length"' in told[-4]
            assert process.wait(timeout=60) in (0, -signal.SIGTERM)
            with pytest.raises(httpx2.ConnectError):
                httpx2.get(f"{url}/health")
        finally:
            process.kill()


def test_other_machines_want_a_key_on_the_command_line():
    from typer.testing import CliRunner

    from salad.cli import app

    told = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0"])
    assert told.exit_code == 2 and "--api-key" in told.output
