"""A Piper (VITS) voice with seeded noise and true speed that tells when it says each phone: its graph is patched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from salad.files import read_json
from salad.synthesize.delivery import number_of
from salad.synthesize.onnx_session import one_thread_session
from salad.synthesize.word_spans import word_spans
from salad.types import SaladError

DURATION_NOISE, FRAME_NOISE, STRETCH = "noise_w", "noise", "stretch"  # the patched graph's inputs
BRACKETS = re.compile(r"\[{2,}|\]{2,}")  # what stands between two is text, and no phonemes as Piper would have it
NOISE_PER_ID = 1024  # numbers drawn for the frames of a phoneme id: 5 of 192; it lasts 2 (mean of a sentence)


class PackageMissing(SaladError):
    """Nothing can be said as it was asked for on this machine: the job must stop, or it would lose every document."""


class PiperVoice:
    """A Piper voice on one thread.

    `noise` is a share of the voice's own: 0 is even and the same for every seed, 1 is as lively as its makers meant it.
    The noise comes from numpy, seeded by (seed, text): same text and seed, same samples, in any process and any order.
    Without the package onnx there is no noise, nothing tells times, and speed changes less than it says: Piper's own
    `length_scale` leaves sounds of one frame as they are.
    """

    def __init__(self, name: str, model_path: Path) -> None:
        from piper import PiperVoice as Engine
        from piper.config import PiperConfig

        self.name = name
        self._config = PiperConfig.from_dict(read_json(f"{model_path}.json"))
        self._session, self._patched = open_piper(model_path)
        self._engine = Engine(session=self._session, config=self._config)
        self.sample_rate_hz = self._config.sample_rate

    def speak(self, text: str, speed: float = 1.0, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
        """float32 [num_samples]; see `speak_timed`."""
        return self._speak(text, speed, noise, seed)[0]

    def speak_timed(
        self, text: str, speed: float = 1.0, *, noise: float = 0.0, seed: int = 0
    ) -> tuple[np.ndarray, list[tuple[float, float]] | None]:
        """Samples, and start and end in seconds of each whitespace word.

        None in place of the times where a word has no sound of its own, and where onnx is missing. Raises SaladError
        where nothing can be pronounced, and where noise is asked for without onnx.
        """
        samples, symbols, bounds_s = self._speak(text, speed, noise, seed)
        if bounds_s is None:
            return samples, None
        spans = word_spans(symbols, [" ".join(self._sentences(word)) for word in text.split()])
        return samples, None if spans is None else [(float(bounds_s[a]), float(bounds_s[b])) for a, b in spans]

    def _speak(self, text: str, speed: float, noise: float, seed: int) -> tuple[np.ndarray, str, np.ndarray | None]:
        """Samples, the symbols said, and where each starts, in seconds [num_symbols + 1]: the last one ends there."""
        if noise and not self._patched:
            raise PackageMissing(
                f"voice: noise for {self.name} needs the package onnx; pip install 'salad-speech[demo]'"
            )
        sentences = self._sentences(text)
        if not sentences:
            raise SaladError(f"text: {text[:80]!r} has no phonemes for {self.name}; remove it from the document")
        generator = np.random.default_rng(number_of(seed, text)) if noise else None
        pieces, bounds_s, before = [], [], 0
        for symbols in sentences:
            samples, frames = self._say_sentence(symbols, speed, noise, generator)
            pieces.append(samples)
            if frames is not None:
                ends_s = (before + np.cumsum(frames) / frames.sum() * len(samples)) / self.sample_rate_hz
                widths = [len(self._config.phoneme_id_map[symbol]) + 1 for symbol in symbols]
                bounds_s.append(ends_s[np.cumsum([1, *widths])])  # ids 0 and 1 open the sentence
            before += len(samples)
        # the space that joins two sentences lasts from the last symbol of one to the first of the next
        return np.concatenate(pieces), " ".join(sentences), np.concatenate(bounds_s) if bounds_s else None

    def _say_sentence(
        self, symbols: str, speed: float, noise: float, generator: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Samples at full scale, as Piper's own loop makes them, and how many frames each phoneme id lasts."""
        ids, config = self._engine.phonemes_to_ids(list(symbols)), self._config
        length = config.length_scale if self._patched else config.length_scale / speed
        scales = [noise * config.noise_scale, length, noise * config.noise_w_scale]
        inputs = {
            "input": np.array([ids], dtype=np.int64),
            "input_lengths": np.array([len(ids)], dtype=np.int64),
            "scales": np.array(scales, dtype=np.float32),
        }
        if self._patched:
            inputs[DURATION_NOISE] = _draw(generator, 2 * len(ids))
            inputs[FRAME_NOISE] = _draw(generator, NOISE_PER_ID * len(ids))
            inputs[STRETCH] = np.array(1 / speed, dtype=np.float32)
        audio, *frames = self._session.run(None, inputs)
        audio = audio.ravel()
        peak = np.abs(audio).max()
        samples = np.zeros_like(audio) if peak < 1e-8 else np.clip(audio / peak, -1.0, 1.0)
        return samples.astype(np.float32, copy=False), frames[0].ravel() if frames else None

    def _sentences(self, text: str) -> list[str]:
        """Symbols of each sentence that espeak finds in `text`, one character each; those the voice lacks are left
        out."""
        known, found = self._config.phoneme_id_map, self._engine.phonemize(BRACKETS.sub(lambda m: m[0][0], text))
        if text.rstrip().endswith(".."):  # espeak keeps the second stop, and says "dot" before whatever comes next
            self._engine.phonemize("a")
        said = ("".join(symbol for symbol in symbols if symbol in known) for symbols in found)
        return [symbols for symbols in said if symbols]


def open_piper(path: Path) -> tuple[Any, bool]:
    """A session on one thread, and whether its graph is patched (see `patch_piper`): where onnx is installed."""
    try:
        import onnx
    except ImportError:
        return one_thread_session(path), False
    model = onnx.load(path)
    patch_piper(model)
    return one_thread_session(model.SerializeToString()), True


def patch_piper(model: Any) -> None:
    """Let an onnx.ModelProto of Piper take noise and speed from outside and tell how long each id lasts, in place.

    Each of the two RandomNormalLike nodes gives way to an input, float32 [any number], whose numbers are laid along the
    tensor, from the start again where they end: `noise_w` (before the rounding of durations, [1, 2, num_ids]) and
    `noise` (after it, [1, width, num_frames]). The input `stretch`, float32 [], lengthens the rounded durations d:
    round(stretch * cumsum(d)) is where each id ends, so that 1 leaves them as they are, and the whole is longer by just
    that. These durations, in frames, become the second output. Raises SaladError where the graph has no such nodes.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, nodes = model.graph, list(model.graph.node)
    drawing = [place for place, node in enumerate(nodes) if node.op_type == "RandomNormalLike"]
    rounding = [place for place, node in enumerate(nodes) if node.op_type == "Ceil"]
    if len(drawing) != 2 or len(rounding) != 1 or not drawing[0] < rounding[0] < drawing[1]:
        raise SaladError(
            "voice: this is no graph of Piper's (expected one Ceil between two RandomNormalLike nodes); give a voice "
            "that piper-tts reads"
        )
    for name, number in (("salad_zero", 0), ("salad_one", 1), ("salad_last", -1)):
        graph.initializer.append(numpy_helper.from_array(np.array(number, dtype=np.int64), name))
    durations = nodes[rounding[0]].output[0]
    for place, name in zip(reversed(drawing), (FRAME_NOISE, DURATION_NOISE), strict=True):
        like, drawn = nodes[place].input[0], nodes[place].output[0]
        made = {part: f"salad_{name}_{part}" for part in ("shape", "size", "number", "places", "within", "laid")}
        nodes[place : place + 1] = [
            helper.make_node("Shape", [like], [made["shape"]]),
            helper.make_node("Size", [like], [made["size"]]),
            helper.make_node("Size", [name], [made["number"]]),
            helper.make_node("Range", ["salad_zero", made["size"], "salad_one"], [made["places"]]),
            helper.make_node("Mod", [made["places"], made["number"]], [made["within"]]),
            helper.make_node("Gather", [name, made["within"]], [made["laid"]]),
            helper.make_node("Reshape", [made["laid"], made["shape"]], [drawn]),
        ]
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"num_{name}"]))
    place = next(place for place, node in enumerate(nodes) if node.op_type == "Ceil")
    nodes[place : place + 1] = [
        helper.make_node("Ceil", list(nodes[place].input), ["salad_whole"]),
        helper.make_node("CumSum", ["salad_whole", "salad_last"], ["salad_end"]),
        helper.make_node("Sub", ["salad_end", "salad_whole"], ["salad_start"]),
        helper.make_node("Mul", ["salad_end", STRETCH], ["salad_far_end"]),
        helper.make_node("Mul", ["salad_start", STRETCH], ["salad_far_start"]),
        helper.make_node("Round", ["salad_far_end"], ["salad_new_end"]),
        helper.make_node("Round", ["salad_far_start"], ["salad_new_start"]),
        helper.make_node("Sub", ["salad_new_end", "salad_new_start"], [durations]),
    ]
    graph.input.append(helper.make_tensor_value_info(STRETCH, TensorProto.FLOAT, []))
    graph.output.append(helper.make_tensor_value_info(durations, TensorProto.FLOAT, None))
    del graph.node[:]
    graph.node.extend(nodes)


def _draw(generator: np.random.Generator | None, number: int) -> np.ndarray:
    if generator is None:
        return np.zeros(1, dtype=np.float32)
    return generator.standard_normal(number, dtype=np.float32)
