"""Speaks documents and measures the model on them, token by token, against the original text LLM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from salad.data.manifest import read_utterances
from salad.engine import shards_in
from salad.engine.machine import default_device
from salad.files import read_jsonl
from salad.measure.divergence import deaf_ears, speech_ears, token_divergence, transcript_ears
from salad.model.teacher import Teacher
from salad.pipeline.probe_rows import ProbeRows, keep_rows, kept_rows
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import align, encode, speak, transcribe
from salad.pipeline.speechlm import load_tokenizer, model_and_base, speech_examples, transcript_tokens
from salad.select.explain import Evidence
from salad.text.error_rates import cer
from salad.training.checkpoint import latest_checkpoint
from salad.training.loop import autocast
from salad.types import Document, Utterance


def probed_speech(run: Run) -> list[tuple[Path, list[Utterance]]]:
    """The folder of each look of a probe, and its aligned recordings; what could not be measured is among them."""
    return [
        (look, [u for path in shards_in(look / "aligned") for u in read_utterances(path / "utterances.jsonl")])
        for look in sorted(run.folder("probe").glob("look-*"))
    ]


def kept_speech(run: Run) -> list[Utterance]:
    """Recordings of the probe that could be measured: bought by that, unless `select.keep_probed` is false."""
    if not run.recipe.select.keep_probed:
        return []
    usable = {row["id"] for row in read_jsonl(run.folder("probe") / "documents.jsonl")}
    return [u for _, own in probed_speech(run) for u in own if u.document_id in usable]


class Prober:
    """Speaks documents and measures the model before this round of Stage II on them, as often as it is asked.

    Every figure is KL of Q, the text LLM before any training, on the whole text (docs/decisions/0007)."""

    def __init__(self, run: Run) -> None:
        self.run, self.tokenizer = run, load_tokenizer(run)
        self.device = default_device()
        self._models: tuple[Any, Any] | None = None

    def measure(self, folder: Path, chosen: Sequence[tuple[Document, int]], title: str = "the probe") -> ProbeRows:
        """Probe documents, each with the cluster that it stands for; what cannot be used is left in quarantine."""
        run, voice = self.run, self.run.recipe.probe.voice
        spoken = speak(run, folder / "speech", [(document, voice) for document, _ in chosen], f"speak {title}")
        utterances = align(run, folder / "aligned", spoken, f"align {title}")
        cluster_of = {document.id: cluster for document, cluster in chosen}
        rows = kept_rows(folder, utterances, cluster_of)
        if rows is None:
            rows = self.measure_aligned(folder, utterances, cluster_of, title)
            keep_rows(folder, rows)
        return rows

    def measure_aligned(
        self, folder: Path, utterances: Sequence[Utterance], cluster_of: dict[str, int], title: str
    ) -> ProbeRows:
        """Measure recordings that are aligned already."""
        run = self.run
        frames = encode(run, folder / "frames", utterances, f"encode {title}", layouts=1)
        transcripts = transcribe(run, folder / "transcripts", utterances, f"transcribe {title}")
        if not utterances:
            return ProbeRows()
        model, base = self.load()
        examples = speech_examples(run, self.tokenizer, utterances, frames)
        tokens = transcript_tokens(self.tokenizer, utterances, examples, transcripts)
        teacher = Teacher(base, cache=True)
        with self.reading():
            by_ear = token_divergence(model, teacher, examples, speech_ears(model))
            by_asr = token_divergence(base, teacher, examples, transcript_ears(base, lambda e: tokens[e.id]))
            without = token_divergence(base, teacher, examples, deaf_ears(base))
        out = ProbeRows()
        for utterance, m, v, s in zip(utterances, by_ear, by_asr, without, strict=True):
            evidence = Evidence(cluster_of[utterance.document_id], m.kl, v.kl, s.kl, s.entropy)
            out.append(
                (utterance, evidence, cer(transcripts.get(utterance.id, ""), utterance.text), float(m.nll.sum()))
            )
        return out

    def load(self) -> tuple[Any, Any]:
        """The model so far, and the text LLM that it came from (the same object where that is frozen)."""
        if self._models is None:
            run = self.run
            run.use_threads()
            trained = run.folder("stage1") if run.round == 1 else run.rounds[-2].folder("stage2")
            self._models = model_and_base(run, latest_checkpoint(trained), self.device)
        return self._models

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Without gradients, in the recipe's precision."""
        with torch.no_grad(), autocast(self.run.uses_bf16("score", self.device), self.device):
            yield
