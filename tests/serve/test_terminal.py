"""A conversation in a terminal: heard and read turns, and what came before stays."""

from __future__ import annotations

import contextlib
import sys
import types

import numpy as np
import pytest
from typer.testing import CliRunner

from salad.audio import read_audio
from salad.cli import app
from salad.serve.served_model import ServedModel
from salad.serve.terminal import Conversation
from salad.testing.listeners import save_listener
from salad.testing.sounds import noise_file
from salad.types import SaladError


@pytest.fixture
def recording(tmp_path):
    (tmp_path / "a.wav").write_bytes(noise_file())
    return tmp_path / "a.wav"


@pytest.fixture
def talk(tiny):
    made = Conversation(tiny, max_tokens=6)
    yield made
    made.close()


def test_turns_stay(talk, tiny, recording, alone):
    first = "".join(talk.ask("w5", [recording]))
    sound, _ = read_audio(recording, tiny.rate_hz)
    turn = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": " w5"}]}
    assert first == alone([turn], [sound], 6)
    second = "".join(talk.ask("w6"))
    turns = [turn, {"role": "assistant", "content": first}, {"role": "user", "content": "w6"}]
    assert second == alone(turns, [sound], 6)


def test_a_turn_that_fails_is_as_if_it_had_not_been(talk, tmp_path, alone):
    (tmp_path / "b.wav").write_bytes(b"none")
    with pytest.raises(SaladError, match=r"b\.wav"):
        list(talk.ask("", [tmp_path / "b.wav"]))
    with pytest.raises(SaladError, match="2048"):
        list(talk.ask("w1 " * 3000))
    assert "".join(talk.ask("w6")) == alone([{"role": "user", "content": "w6"}], [], 6)


def test_the_command(tmp_path, recording):
    folder = str(save_listener(tmp_path, rate="text", ctc=40)[0])
    served = ServedModel.load(folder)
    talk = Conversation(served, max_tokens=4)
    wanted = ["".join(talk.ask("", [recording])), "".join(talk.ask("w2 w3"))]
    talk.close()
    once = CliRunner().invoke(app, ["chat", folder, "--audio", str(recording), "--max-tokens", "4"])
    assert once.exit_code == 0 and once.stdout == wanted[0] + "\n"
    lines = CliRunner().invoke(app, ["chat", folder, "--max-tokens", "4"], input=f"{recording}\nw2 w3\n")
    assert lines.stdout.splitlines() == wanted


def test_a_line_longer_than_any_file_name_is_read(monkeypatch):
    class Talk:
        def ask(self, text, files=()):
            yield f"{len(text)} read, {len(files)} heard"

        def close(self):
            pass

    monkeypatch.setattr(ServedModel, "load", lambda *_, **__: None)
    monkeypatch.setattr("salad.serve.terminal.Conversation", lambda *_, **__: Talk())
    done = CliRunner().invoke(app, ["chat", "salad-smollm2-135m-ears"], input="word " * 1000 + "\n")
    assert done.exit_code == 0 and done.stdout == "4999 read, 0 heard\n"


class Microphone(types.ModuleType):
    """sounddevice with a microphone that plays `blocks`."""

    PortAudioError = OSError

    def __init__(self, blocks):
        super().__init__("sounddevice")
        self.blocks = blocks

    def InputStream(self, *, samplerate, channels, dtype, callback):
        assert (samplerate, channels, dtype) == (16_000, 1, "float32")
        for block in self.blocks:
            callback(block, len(block), None, None)
        return contextlib.nullcontext()


def test_the_microphone_is_heard_as_a_file_is(tmp_path, monkeypatch):
    folder = str(save_listener(tmp_path, rate="text", ctc=40)[0])
    sound = (0.1 * np.random.default_rng(0).normal(size=(16_000, 1))).astype(np.float32)
    talk = Conversation(ServedModel.load(folder), max_tokens=4)
    wanted = ["".join(talk.ask("", [sound[:, 0]])), "".join(talk.ask("w2 w3"))]
    talk.close()
    monkeypatch.setitem(sys.modules, "sounddevice", Microphone(np.split(sound, 10)))
    asked = ["chat", folder, "--max-tokens", "4", "--microphone"]
    told = CliRunner().invoke(app, asked, input="\n\nw2 w3\n")
    assert told.stdout.splitlines() == wanted and "Enter ends it" in told.stderr
    for module, why in ((Microphone([]), "gave nothing"), (None, "pip install sounddevice")):
        monkeypatch.setitem(sys.modules, "sounddevice", module)
        told = CliRunner().invoke(app, asked, input="\n\nw2 w3\n")
        assert why in told.stderr and len(told.stdout.splitlines()) == 1  # and the next line is answered
