"""`salad doctor`: whether a model hears, and if not, which part from recordings to LLM fails, and the cure."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.align.silence import MIN_WORD_S
from salad.audio import read_audio, to_samples, to_seconds
from salad.data.inspect.audio_stats import measure_audio, spoilt
from salad.evaluation.saved_model import LoadedModel, MeasuredCorpus, read_corpus, trained_in
from salad.measure.controls import Silence, Spoken, others_frames
from salad.measure.divergence import deaf_ears, divergence, forgetting, speech_ears, summary
from salad.measure.hearing import heard_of_utterances, voice_errors
from salad.measure.oracle import symbol_ears, symbols_of_model, true_symbols
from salad.model.encoders.base import Encoder
from salad.model.teacher import Teacher
from salad.progress import progress
from salad.text.aligner_forms import spoken_pieces
from salad.types import Document, Example, SaladError, Utterance

PARTS = ("recordings", "alignment", "encoder", "lower part", "upper part", "LLM", "the whole")
LEGEND = (
    "M: how far what it expects next after hearing is from what the text LLM expects after reading, in nats a token. "
    "Deaf ears, silence and another's recording tell what M is where nothing of what is said can be heard."
)
LIMIT = 8  # utterances: a minute of one core for the demo's model
RATE_HZ = 16_000
SQUEEZED, LOUDER_DB, GAPS_S, BEYOND_S = 0.1, 3.0, 0.5, 0.1
SAME, APART = 1e-3, 0.01  # relative distances: of what must be equal, and of what must not
PHONES, WORDS = 0.5, 0.9  # error rates beyond which a part hears next to nothing
SHARE = 0.9  # of what a control costs, that hearing may cost at most
READS, FORGOTTEN = 0.5, 0.1  # of the log of the vocabulary; nats per token


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. figure: what was found; expected: what would do; cure: what to do if it fails."""

    part: str
    what: str
    ok: bool
    figure: str
    expected: str
    cure: str


def examine(place: Path, corpus: Path | None = None, *, teacher: str | None = None, device: str = "cpu") -> list[Check]:
    """Checks of a run directory, of a saved model (with `corpus`, aligned speech), or of aligned speech alone.

    In the order of PARTS: where one fails, those behind it may fail because of it. Raises SaladError where there is
    neither a model nor aligned speech.
    """
    model, speech = _find(place, corpus)
    found, loaded = read_corpus(speech), None
    if model is not None:
        loaded = LoadedModel(model, teacher, device)
        found = loaded.interleaved(found)
    step = max(1, len(found.utterances) // LIMIT)
    utterances = found.utterances[::step][:LIMIT]
    if not utterances:
        raise SaladError(f"doctor: {speech} holds no aligned utterance; run the align stage, or name --corpus")
    checks = _set_aside(found)
    with progress("doctor", len(PARTS), "parts") as bar:
        found_bad, readable = _recordings(utterances)
        checks += found_bad
        bar.advance(note="recordings")
        checks += _alignment(readable) if readable else []
        bar.advance(note="alignment")
        if loaded is not None and readable:
            for part in _model(loaded, readable):
                checks += part
                bar.advance()
    return sorted(checks, key=lambda check: PARTS.index(check.part))


def verdict(checks: Sequence[Check]) -> str:
    """That it hears; or what fails first and how to mend it, and what else fails, a line each."""
    failed = [check for check in checks if not check.ok]
    if not failed:
        heard = any(check.part == PARTS[-1] for check in checks)
        sound = "Recordings and alignment are sound; there is no model here to look at."
        return f"It hears: all {len(checks)} checks are right." if heard else sound
    first, *others = [f"{c.part}, {c.what} ({c.figure}; expected {c.expected}). {c.cure}" for c in failed]
    also = ["It fails too, perhaps because of that: " + other for other in others]
    return "\n".join([f"The first that fails: {first}", *also])


def table_of(checks: Sequence[Check]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    return ("part", "check", "figure", "expected", "result"), [
        (c.part, c.what, c.figure, c.expected, "ok" if c.ok else "FAILS") for c in checks
    ]


def _find(place: Path, corpus: Path | None) -> tuple[Path | None, Path]:
    """The saved model, if there is one, and the speech."""
    if not place.exists():
        raise SaladError(f"doctor: {place} does not exist; give a run directory, a saved model, or aligned speech")
    model = place if (place / "config.json").is_file() else trained_in(place)
    if model is None:
        return None, corpus or place
    run = next((f for f in (model, *model.parents) if (f / "align" / "heldout.jsonl").is_file()), None)
    own = corpus if corpus is not None or run is None else run / "align" / "heldout.jsonl"
    if own is None:
        raise SaladError(f"doctor: {place} has no recordings beside it; name aligned speech with --corpus")
    return model, own


def _set_aside(found: MeasuredCorpus) -> list[Check]:
    """What cannot be looked at is told, if there is any; the others are judged."""
    if not (aside := found.quarantined):
        return []
    total = len(aside) + len(found.utterances) + len(found.documents)
    reasons = Counter(row["reason"] for row in aside)
    figure = f"{len(aside)} of {total} set aside, the most {reasons.most_common(1)[0][0]}"
    cure = "Give longer recordings with word times, each with an id of its own."
    return [Check("recordings", "can be used", True, figure, "one or more", cure)]


def _recordings(utterances: Sequence[Utterance]) -> tuple[list[Check], list[Utterance]]:
    """The check, by the limits of `salad data inspect`, and the utterances whose recordings can be read."""
    bad: list[str] = []
    readable: list[Utterance] = []
    levels: list[float] = []
    for u in utterances:
        try:
            read_audio(u.audio)  # as the encoder does
            stats = measure_audio(u.audio)
        except SaladError as error:
            bad.append(str(error))
            continue
        readable.append(u)
        levels.append(stats.level_db)
        if found := [seen for _, (_, seen) in spoilt(stats)]:
            bad.append(f"{u.id}: {', '.join(found)}")
    median = f"median level {np.median(levels):.0f} dB, " if levels else ""
    cure = f"Export these recordings again ({'; '.join(bad[:2])}); `salad data inspect` names them all."
    figure = f"{median}{len(bad)} of {len(utterances)} spoilt"
    return [Check("recordings", "can be heard", not bad, figure, "none spoilt", cure)], readable


def _alignment(utterances: Sequence[Utterance]) -> list[Check]:
    words = [w for u in utterances for w in u.words if spoken_pieces(w.text)]
    squeezed = float(np.mean([w.end_s - w.start_s <= MIN_WORD_S + 1e-3 for w in words])) if words else 1.0
    cure = "The text does not belong to the sound, or a part of one is missing: check transcripts, align again."
    out = [
        Check("alignment", "words that last no time", squeezed <= SQUEEZED, f"{100 * squeezed:.1f} %",
              f"at most {100 * SQUEEZED:.0f} %", cure)
    ]  # fmt: skip
    inside, outside = np.zeros(2), np.zeros(2)  # energy and samples
    beyond = []  # for each word, whether it ends behind its recording
    for u in utterances:
        try:
            samples, _ = read_audio(u.audio, RATE_HZ)
        except SaladError:
            continue
        end_s = to_seconds(len(samples), RATE_HZ) + BEYOND_S
        beyond += [w.end_s > end_s for w in u.words]
        said = np.zeros(len(samples), bool)
        for w in u.words:
            said[to_samples(max(w.start_s, 0.0), RATE_HZ) : to_samples(max(w.end_s, 0.0), RATE_HZ)] = True
        power = np.square(samples, dtype=np.float64)
        inside += power[said].sum(), said.sum()
        outside += power[~said].sum(), (~said).sum()
    share = 100 * float(np.mean(beyond)) if beyond else 0.0
    cure = "Words end behind their recordings: give times in seconds, export the recordings whole, or align again."
    out.append(
        Check(
            "alignment", "words inside the recordings", not any(beyond), f"{share:.1f} % end behind them", "0 %", cure
        )
    )
    if inside[1] and outside[1] >= GAPS_S * RATE_HZ:
        louder = 10 * np.log10((inside[0] / inside[1] + 1e-20) / (outside[0] / outside[1] + 1e-20))
        cure = "Words lie where nothing is said: the times belong to other recordings, or were moved; align again."
        out.append(
            Check("alignment", "words louder than what is between them", louder >= LOUDER_DB, f"{louder:.1f} dB",
                  f"at least {LOUDER_DB:.0f} dB", cure)
        )  # fmt: skip
    return out


def _model(loaded: LoadedModel, utterances: Sequence[Utterance]) -> Iterator[list[Check]]:
    """Checks of encoder, lower part, upper part, LLM and the whole."""
    model = loaded.model
    yield _encoder(loaded.encoder, utterances)
    with tempfile.TemporaryDirectory(prefix="salad-doctor-") as scratch, torch.no_grad():
        examples = loaded.examples(utterances, loaded.encode(utterances, Path(scratch), workers=1))
        spoken = [Spoken(e.id, e.domain, e.speaker, e.speech_frames) for e in examples]
        instead = dict(zip([e.id for e in examples], others_frames(spoken), strict=True))
        yield [*_lower(model, examples, instead), *_errors(loaded, examples, utterances)]
        reader = Teacher(loaded.base if loaded.base is not None and loaded.frozen else model, cache=True)
        m = {"heard": _mean(divergence(model, reader, examples, speech_ears(model)))}
        m["deaf"] = _mean(divergence(model, reader, examples, deaf_ears(model)))
        yield _upper(loaded, reader, examples, utterances, m["deaf"])
        yield _llm(loaded, reader, examples, utterances)
        silence = Silence(loaded.encoder)
        still = speech_ears(model, lambda e: silence.like(e.speech_frames))
        m["silence"] = _mean(divergence(model, reader, examples, still))
        if all(instead.values()):
            other = speech_ears(model, lambda e: instead[e.id] or [])
            m["another's recording"] = _mean(divergence(model, reader, examples, other))
        yield _whole(m)


def _encoder(encoder: Encoder, utterances: Sequence[Utterance]) -> list[Check]:
    pieces = []
    for n, u in enumerate(utterances[:3]):
        samples, _ = read_audio(u.audio, encoder.sample_rate_hz)
        pieces.append(samples[: to_samples(0.7 + 0.6 * n, encoder.sample_rate_hz)])
    together = encoder.encode(pieces)
    alone = [encoder.encode([piece])[0] for piece in pieces]
    off = max(_distance(a, b) for a, b in zip(together, alone, strict=True))
    cure = "Frames depend on what is encoded beside them (padding, a mask, batch statistics): encode one by one."
    out = [Check("encoder", "batch = single", off <= SAME, f"{off:.2g}", f"at most {SAME:g}", cure)]
    if len(together) > 1:
        apart = _distance(*(span[: min(map(len, together[:2]))] for span in together[:2]))
        cure = "The encoder gives the same for any sound: its weights are not those of a trained encoder; fetch them."
        out.append(
            Check("encoder", "tells recordings apart", apart >= APART, f"{apart:.2g}", f"{APART:g} or more", cure)
        )
    return out


def _lower(model: Any, examples: Sequence[Example], instead: Mapping[str, Sequence[np.ndarray] | None]) -> list[Check]:
    """The part next to the frames: the lower part of ears in two parts, or the adapter."""
    device = model.get_input_embeddings().weight.device

    def heard(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        embeddings, lengths = model.speech_embeddings([torch.from_numpy(f).float().to(device) for f in frames])
        return [part.float().cpu().numpy() for part in embeddings.split(lengths)]

    own = [span for e in examples for span in e.speech_frames][:4]
    off = max(_distance(a, heard([span])[0]) for a, span in zip(heard(own), own, strict=True))
    cure = "What is heard depends on what is heard beside it (a mask, packing): training in batches learns that."
    out = [Check("lower part", "batch = single", off <= SAME, f"{off:.2g}", f"at most {SAME:g}", cure)]
    others = [(e.speech_frames, other) for e in examples if (other := instead[e.id])]
    pairs = [pair for frames, other in others for pair in zip(frames, other, strict=True)][:16]
    if pairs:
        moved = float(np.median([_distance(heard([a])[0], heard([b])[0]) for a, b in pairs]))
        cure = (
            "It gives the same whatever is heard: was it trained at all (warm_start.enabled, its learning rate, frozen"
            " ears), or did it collapse (lower lr_adapter, train the warm start longer)?"
        )
        out.append(
            Check("lower part", "depends on what is heard", moved >= APART, f"{moved:.2g}", f"{APART:g} or more", cure)
        )
    return out


def _errors(loaded: LoadedModel, examples: Sequence[Example], utterances: Sequence[Utterance]) -> list[Check]:
    """Phones wrong (the lower part), and words wrong (the upper part, or the adapter)."""
    spans = heard_of_utterances(loaded.model, loaded.tokenizer.decode, examples, utterances)
    if not spans:
        return []
    rows = voice_errors(spans, 200, loaded.seed)
    words = float(np.mean([row.wer.value for row in rows]))
    phones = [row.phone_error.value for row in rows if row.phone_error is not None]
    out = []
    if phones:
        wrong = float(np.mean(phones))
        cure = "Train the warm start longer, or on more speech, before the upper part is looked at."
        out.append(
            Check("lower part", "phones wrong", wrong <= PHONES, f"{100 * wrong:.0f} %",
                  f"at most {100 * PHONES:.0f} %", cure)
        )  # fmt: skip
    cure = "Train the upper part (spell) longer or on more text." if phones else "Train the warm start (CTC) longer."
    part = "upper part" if phones else "lower part"
    return [
        *out,
        Check(part, "words wrong", words <= WORDS, f"{100 * words:.0f} %", f"at most {100 * WORDS:.0f} %", cure),
    ]


def _upper(
    loaded: LoadedModel, reader: Teacher, examples: Sequence[Example], utterances: Sequence[Utterance], deaf: float
) -> list[Check]:
    """M with the true symbols in place of those heard; nothing where the ears are one part."""
    symbols = symbols_of_model(loaded.model)
    if symbols is None:
        return []
    said = {u.id: true_symbols(u.text, symbols, e) for u, e in zip(utterances, examples, strict=True)}
    ears = symbol_ears(loaded.model, lambda e: said[e.id], len(symbols))
    m = _mean(divergence(loaded.model, reader, examples, ears))
    cure = "Even true phones do not become words: train the upper part (spell) longer, or check its vocabulary."
    limit = 0.5 * deaf
    return [Check("upper part", "M with the true phones", m <= limit, f"{m:.2f} nats", f"at most {limit:.2f}", cure)]


def _llm(
    loaded: LoadedModel, reader: Teacher, examples: Sequence[Example], utterances: Sequence[Utterance]
) -> list[Check]:
    model = loaded.model
    rows = divergence(model, reader, examples, deaf_ears(model))
    texts = loaded.texts([Document(u.id, u.text, u.source, u.domain) for u in utterances])
    read = divergence(model, reader, texts, deaf_ears(model))
    nll = sum(r.nll for r in read) / max(1, sum(r.count for r in read))
    limit = READS * float(np.log(len(model.get_input_embeddings().weight)))
    cure = "The LLM cannot read its own text: its weights or its tokenizer are another's; name the right assets.llm."
    out = [Check("LLM", "reads text", nll <= limit, f"{nll:.2f} nats a token", f"at most {limit:.2f}", cure)]
    alone = [divergence(model, Teacher(reader.model, cache=False), [e], deaf_ears(model))[0] for e in examples[:3]]
    off = max(abs(a.kl / a.count - b.kl / b.count) for a, b in zip(alone, rows, strict=False) if a.count)
    cure = (
        "Documents packed together see each other: this LLM's attention ignores the packing; use another, or context."
    )
    out.append(Check("LLM", "packed = alone", off <= SAME, f"{off:.2g} nats", f"at most {SAME:g}", cure))
    if loaded.base is not None:
        f = 0.0 if loaded.frozen else _mean(forgetting(model, Teacher(loaded.base, cache=True), texts))
        cure = "It has forgotten text: raise stage1.text_share, lower the LLM's learning rate, or freeze it."
        out.append(Check("LLM", "F, forgetting", f <= FORGOTTEN, f"{f:.3f} nats", f"at most {FORGOTTEN:g}", cure))
    return out


def _whole(m: dict[str, float]) -> list[Check]:
    cures = {
        "deaf": "Speech makes it worse than no speech: it has not learned to hear yet; train stage1 on.",
        "silence": "It trains, but hears nothing: what it gains it gains from the text around; see the parts above.",
        "another's recording": "M falls, but any recording does as well: it hears that somebody speaks, and not what. "
        "Train the warm start until words are found, then stage1.",
    }
    return [
        Check("the whole", f"M against {name}", m["heard"] <= SHARE * m[name],
              f"{m['heard']:.2f} nats heard, {m[name]:.2f} {name}", f"at most {SHARE * m[name]:.2f}", cure)
        for name, cure in cures.items()
        if name in m
    ]  # fmt: skip


def _mean(rows: Sequence[Any]) -> float:
    return summary(rows).all


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """How far two arrays of rows are apart, relative to their size; 1 where they do not even have as many rows."""
    if one.shape != other.shape:
        return 1.0
    size = float(np.sqrt((np.square(one).sum() + np.square(other).sum()) / 2))
    return float(np.sqrt(np.square(one - other).sum())) / size if size else 0.0
