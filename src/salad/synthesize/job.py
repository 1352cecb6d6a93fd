"""`salad synthesize`: texts in, speech out, without a recipe; the functions are those of the pipeline's stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from salad import assets
from salad.align.transcribe import transcribe_all
from salad.config import Variation
from salad.data.manifest import load_spoken, write_lhotse, write_utterances
from salad.data.readers.text import read_local_text
from salad.engine import shards_in
from salad.files import read_json, read_jsonl, write_json, write_jsonl
from salad.synthesize.asr_filter import split_by_cer
from salad.synthesize.delivery import STEADY
from salad.synthesize.speak import assign_voices, speak_all, spoken_forms
from salad.synthesize.voices import assets_of_voice
from salad.synthesize.word_times import align_all
from salad.types import SaladError, Utterance


@dataclass(frozen=True)
class Synthesized:
    """What was spoken of what was given: documents, utterances and their hours, and what was set aside."""

    documents: int
    utterances: int
    hours: float
    quarantined: int


def parse_shares(voices: Sequence[str]) -> dict[str, float]:
    """["piper-joe", "kokoro:af_heart=0.5"] -> shares by voice (1 where none is given). Unknown voices are refused."""
    shares = {}
    for voice in voices:
        name, separator, share = voice.rpartition("=")
        try:
            name, value = (name, float(share)) if separator else (share, 1.0)
        except ValueError:
            name, value = voice, 1.0  # a URL may hold "="
        if not value > 0:
            raise SaladError(f"voice: {voice!r}: expected a share above 0, as in {name}=0.5")
        assets_of_voice(name)
        shares[name] = value
    return shares


def synthesize_texts(
    texts: Sequence[Path],
    out: Path,
    shares: dict[str, float],
    *,
    workers: int = 2,
    seed: int = 0,
    variation: Variation = STEADY,
    audio: str = "flac",
    word_times: bool = False,
    max_cer: float | None = None,
    asr: str = "whisper-tiny.en",
) -> Synthesized:
    """Speak every document of `texts` (text files, or JSON lines {text, id?, domain?}); returns counts and hours.

    Writes to `out`: audio under speech/, utterances.jsonl, cuts.jsonl.gz (Lhotse), spoken.jsonl ({id, spoken}: what was
    said for each word, where it is not what is written), quarantine.jsonl. The same call goes on where it was killed.
    What an ASR found lies in folders that its fingerprint names, so that another one's is not taken for it.
    """
    settings = {"voices": shares, "seed": seed, **variation.model_dump(), "audio": audio}
    note = out / "settings.json"
    held = {**STEADY.model_dump(), **read_json(note)} if note.exists() else settings
    if held != settings:
        raise SaladError(f"out: {out} holds speech made with {held}; give another folder, or remove it")
    unread: list[dict[str, str]] = []
    documents = read_local_text(texts, unread, "texts")
    if not documents:
        why = f" ({unread[0]['reason']})" if unread else ""
        raise SaladError(f"texts: {', '.join(map(str, texts))} hold no document{why}")
    heard_by = assets.fingerprint(asr)[:8] if word_times or max_cer is not None else ""  # no ASR's work is another's
    write_json(note, settings)
    folders = speak_all(
        assign_voices(documents, shares, seed),
        out / "speech",
        seed=seed,
        workers=workers,
        title="speak",
        variation=variation,
        audio=audio,
    )
    spoken, parts = load_spoken(folders), ["speech"]
    kept: Sequence[Utterance] = [utterance for utterance, _ in spoken]
    if word_times:
        parts.append(f"aligned-{heard_by}")
        kept = align_all(spoken, out / parts[-1], workers=workers, title="align", asset=asr, min_score=0.0)
    garbled: list[dict[str, str | float]] = []
    if max_cer is not None:
        parts.append(f"transcripts-{heard_by}")
        transcripts = transcribe_all(kept, out / parts[-1], asset=asr, workers=workers, title="transcribe")
        kept, garbled = split_by_cer(kept, transcripts, max_cer)
    shards = [shard / "quarantine.jsonl" for part in parts for shard in shards_in(out / part)]
    quarantined = [row | {"stage": "synthesize"} for row in unread]
    quarantined += [row for path in shards if path.exists() for row in read_jsonl(path)] + garbled
    write_jsonl(out / "quarantine.jsonl", [{"stage": "synthesize", **row} for row in quarantined])
    write_utterances(out / "utterances.jsonl", kept)
    write_lhotse(kept, out / "cuts.jsonl.gz")
    said = {name: forms for folder in folders for name, forms in spoken_forms(folder).items()}
    write_jsonl(out / "spoken.jsonl", [{"id": u.id, "spoken": said[u.id]} for u in kept if u.id in said])
    hours = sum(utterance.duration_s for utterance in kept) / 3600
    return Synthesized(len(documents), len(kept), hours, len(quarantined))
