"""Held-out speech, the text LLM and a place to load checkpoints into: what every measurement of a run needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from salad.engine.machine import default_device
from salad.measure.controls import Spoken, others_frames
from salad.measure.voice_label import is_seen, voice_label
from salad.model import SaladForConditionalGeneration
from salad.model.teacher import Teacher
from salad.pipeline.run import Run
from salad.pipeline.speechlm import load_tokenizer, model_and_base, speech_examples
from salad.pipeline.stages.align import load_aligned, load_frames
from salad.pipeline.stages.corpus import load_documents
from salad.sequence.examples import text_examples
from salad.training.checkpoint import load_weights
from salad.training.loop import autocast
from salad.types import Document, Example


class HeldoutEvaluator:
    """`examples`: the speech that M is measured on; `texts`: what F is; `documents`: all that were held out."""

    def __init__(self, run: Run) -> None:
        recipe = run.recipe
        self.run, self.tokenizer = run, load_tokenizer(run)
        self.frozen = recipe.stage1.llm == "frozen"
        self.utterances = load_aligned(run, "heldout")
        self.document_of = {u.id: u.document_id or u.id for u in self.utterances}
        frames = load_frames(run, "heldout", self.utterances)
        self.examples = speech_examples(run, self.tokenizer, self.utterances, frames)
        unseen = recipe.corpus.unseen_voices
        self.examples = [replace(e, speaker=voice_label(e.speaker, unseen=e.speaker in unseen)) for e in self.examples]
        seen = {u.document_id: u for u in self.utterances if u.speaker not in unseen}
        documents = load_documents(run, "heldout")
        self.documents = [d for d in documents if d.id in seen]
        self.by_document = seen
        measured = _first_of_each(self.documents, recipe.evaluate.documents)
        self.examples = [e for e in self.examples if not is_seen(e.speaker) or e.id in {seen[i].id for i in measured}]
        self.texts = text_examples(self.tokenizer, [d for d in self.documents if d.id in measured])
        self.device = default_device()
        self.model, self.base = model_and_base(run, device=self.device)
        self.teacher = Teacher(self.base, cache=True)
        self.item_frames: dict[tuple[str, tuple[int, int]], tuple[np.ndarray, ...]] = {}

    def load(self, checkpoint: Path) -> SaladForConditionalGeneration:
        load_weights(checkpoint, self.model, averaged=True)  # what is saved as the model
        return self.model

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Without gradients, in the recipe's precision."""
        with torch.no_grad(), autocast(self.run.uses_bf16("score", self.device), self.device):
            yield

    def reader(self) -> Teacher:
        """P on text: the adapted model itself; the same as Q where the LLM is frozen."""
        return self.teacher if self.frozen else Teacher(self.model, cache=False)

    def fewer(self, number: int) -> list[Example]:
        """The examples of the first `number` documents of each domain, in the voices that were trained on."""
        kept = _first_of_each(self.documents, number)
        return [e for e in self.examples if is_seen(e.speaker) and self.document_of[e.id] in kept]

    def another(self) -> tuple[list[Example], dict[str, list[np.ndarray]]]:
        """Examples for which there is another document's recording, and its frames by example (see `others_frames`)."""
        spoken = [Spoken(self.document_of[e.id], e.domain, e.speaker, e.speech_frames) for e in self.examples]
        found = zip(self.examples, others_frames(spoken), strict=True)
        frames = {e.id: own for e, own in found if own is not None}
        return [e for e in self.examples if e.id in frames], frames


def _first_of_each(documents: Sequence[Document], number: int) -> set[str]:
    """Ids of the first `number` documents of each domain."""
    taken: dict[str, list[str]] = {}
    for document in documents:
        taken.setdefault(document.domain, []).append(document.id)
    return {i for ids in taken.values() for i in ids[:number]}
