"""A few held-out recordings, cut short, with what the model writes after hearing them: something to listen to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salad.audio import read_audio, to_samples, write_flac
from salad.config import Sequence as Layout
from salad.files import file_name
from salad.measure.results import Clip, ClipSegment
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.model.processor import AUDIO
from salad.sequence.examples import draw_layout
from salad.types import Utterance

NUM_CLIPS, CONTINUATION_TOKENS, CLIP_S = 4, 28, 14.0


def clips_of(
    model: SaladForConditionalGeneration,
    base: SaladForConditionalGeneration,
    processor: SaladProcessor,
    utterances: Sequence[Utterance],
    transcripts: Mapping[str, str],
    folder: Path,
    *,
    unseen: Sequence[str],
    layout: Layout,
    seed: int,
) -> list[Clip]:
    """Clips for the page; their audio, at most CLIP_S seconds and a word, is written to `folder`.

    base: the text LLM before training, which goes on from the text. transcripts: of an ASR, by utterance.
    unseen: voices that were never trained on; the last clip is in one of them. layout, seed: of the interleaving shown.
    """
    clips = []
    for utterance in _spread(utterances, unseen):
        spans = draw_layout(utterance, 0, layout, seed)
        words = utterance.text.split()
        last = next((i for i, w in enumerate(utterance.words) if w.end_s > CLIP_S), len(words))
        context = " ".join(words[:last])
        audio = _cut(utterance, utterance.words[last - 1].end_s, folder)
        clips.append(
            Clip(
                title=utterance.document_id,
                domain=utterance.domain,
                voice=f"{utterance.speaker}{' (never trained on)' if utterance.speaker in unseen else ''}",
                audio=str(audio),
                segments=tuple(
                    ClipSegment(s.modality, " ".join(words[s.start_word : min(s.end_word, last)]))
                    for s in spans
                    if s.start_word < last
                ),
                base_continuation=_continue(base, processor, context, ()),
                speech_continuation=_continue(model, processor, AUDIO, (audio,)),
                cascade_transcript=transcripts.get(utterance.id, ""),
            )
        )
    return clips


def _spread(utterances: Sequence[Utterance], unseen: Sequence[str]) -> list[Utterance]:
    """Clips from different domains; the last one in the voice that was never trained on."""
    firsts = {u.domain: u for u in reversed(utterances) if u.speaker not in unseen}
    chosen = [firsts[d] for d in sorted(firsts)][:: max(1, len(firsts) // (NUM_CLIPS - 1))][: NUM_CLIPS - 1]
    return chosen + [u for u in utterances if u.speaker in unseen][:1]


def _cut(utterance: Utterance, end_s: float, folder: Path) -> Path:
    samples, rate_hz = read_audio(utterance.audio)
    path = folder / file_name(utterance.id, ".flac")
    write_flac(path, samples[: to_samples(end_s, rate_hz)], rate_hz)
    return path


def _continue(model: Any, processor: Any, text: str, audio: tuple[Path, ...]) -> str:
    inputs = processor(text, audio)
    ids = model.generate(
        **inputs, max_new_tokens=CONTINUATION_TOKENS, do_sample=False, pad_token_id=processor.tokenizer.eos_token_id
    )
    return str(processor.decode(ids[0])).strip()
