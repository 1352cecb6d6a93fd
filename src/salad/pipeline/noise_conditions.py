"""The held-out speech once more, under noise or through a telephone line: what the model and the cascade still hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from salad.audio import read_audio, write_flac
from salad.evaluation.degrade import REVISION, disturbed
from salad.files import file_name
from salad.measure.divergence import divergence, speech_ears, summary
from salad.measure.hearing import HeardSpan, VoiceErrors, voice_errors
from salad.measure.results import Interval, NoiseFigures
from salad.pipeline.hearing import listen
from salad.pipeline.heldout import HeldoutEvaluator
from salad.pipeline.speech_jobs import encode, transcribe
from salad.pipeline.speechlm import speech_examples
from salad.progress import progress
from salad.types import Utterance

PLAIN = "as recorded"


def noise_rows(evaluator: HeldoutEvaluator) -> list[NoiseFigures]:
    """One row of each of `evaluate.noise`, behind one of the same recordings as they are: M, word and phone errors of
    the model's ears over spoken spans, and the word errors of the cascade's recogniser over whole documents.

    Trained voices, the first `noise_documents` of each domain. Call it within `evaluator.reading()`.
    """
    run, settings = evaluator.run, evaluator.run.recipe.evaluate
    if not settings.noise:
        return []
    wanted = {e.id for e in evaluator.fewer(settings.noise_documents)}
    utterances = [u for u in evaluator.utterances if u.id in wanted]
    rows = []
    for name in (PLAIN, *settings.noise):
        folder = run.folder("evaluate") / "noise" / f"{name.replace(':', '-')}-{REVISION}"
        noisy = utterances if name == PLAIN else _disturb(utterances, name, folder / "sound", run.recipe.seed)
        frames = encode(run, folder / "frames", noisy, f"encode ({name})", layouts=1)
        written = transcribe(
            run, folder / "transcripts", noisy, f"transcribe ({name})", precision=settings.asr_precision
        )
        examples = speech_examples(run, evaluator.tokenizer, noisy, frames)
        spans = [replace(s, speaker=name) for s in listen(evaluator, evaluator.model, examples)]
        errors, of_cascade = _errors(evaluator, spans), _errors(evaluator, _transcribed(noisy, written, name))
        measured = divergence(evaluator.model, evaluator.reader(), examples, speech_ears(evaluator.model))
        rows.append(
            NoiseFigures(
                condition=name,
                documents=len(noisy),
                misalignment=summary(measured).all,
                wer=Interval.of(errors.wer) if errors else None,
                phone_error=Interval.of(errors.phone_error) if errors and errors.phone_error else None,
                cascade_wer=Interval.of(of_cascade.wer) if of_cascade else None,
            )
        )
    return rows


def _disturb(utterances: Sequence[Utterance], name: str, folder: Path, seed: int) -> list[Utterance]:
    """The utterances with their sound changed and kept in `folder`; times of words stay."""
    out = []
    with progress(f"disturb ({name})", len(utterances), "recordings") as bar:
        for number, utterance in enumerate(utterances):
            path = folder / file_name(utterance.id, ".flac")
            if not path.exists():
                samples, rate_hz = read_audio(utterance.audio)
                changed = disturbed(samples, rate_hz, name, (seed, number))
                write_flac(path, changed, rate_hz)
            out.append(replace(utterance, audio=str(path)))
            bar.advance()
    return out


def _transcribed(utterances: Sequence[Utterance], written: dict[str, str], name: str) -> list[HeardSpan]:
    """Whole documents as the recogniser heard them; one that it set aside was heard as nothing."""
    return [
        HeardSpan(u.document_id or u.id, u.domain, name, tuple(u.text.split()), written.get(u.id, ""))
        for u in utterances
    ]


def _errors(evaluator: HeldoutEvaluator, spans: Sequence[HeardSpan]) -> VoiceErrors | None:
    found = voice_errors(spans, evaluator.run.recipe.evaluate.bootstrap, evaluator.run.recipe.seed)
    return found[0] if found else None
