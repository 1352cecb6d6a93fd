"""The examples of a run as PyTorch and Hugging Face know them: a map-style `Dataset`, and a `datasets.Dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from salad.config import Recipe, load_recipe
from salad.pipeline.run import Run
from salad.pipeline.speechlm import load_tokenizer
from salad.pipeline.stages.align import load_aligned, load_frames
from salad.sequence.examples import speech_examples
from salad.types import Example, SaladError

if TYPE_CHECKING:
    import datasets


class RunExamples(torch.utils.data.Dataset[Example]):
    """Interleaved examples of a run's aligned speech, each built when it is asked for; frames are views of their files.

    `list(DataLoader(examples, batch_size=8, shuffle=True, collate_fn=list))` are batches for `salad.DistillTask`.
    run: a run's directory or its recipe; its align stage must be finished. part: `speech`, which is trained on, or
    `heldout`. layouts: interleavings of each utterance, one after the other: all utterances in the first, then again.
    Raises SaladError where the run is not so far, or keeps no frames of so many layouts.
    """

    def __init__(
        self, run: str | Path | Recipe, part: Literal["speech", "heldout"] = "speech", *, layouts: int = 1
    ) -> None:
        own = Run(run if isinstance(run, Recipe) else _recipe_of(Path(run)))
        own.done("align")
        if part not in ("speech", "heldout"):
            raise SaladError(f"part: got {part!r}, expected speech or heldout")
        most = own.recipe.sequence.layouts if part == "speech" else 1
        if not 1 <= layouts <= most:
            raise SaladError(f"layouts: got {layouts}, but frames of {part} were kept for {most}; ask for 1 to {most}")
        self.utterances, self.layouts = load_aligned(own, part), layouts
        self.tokenizer = load_tokenizer(own)
        self._frames = load_frames(own, part, self.utterances)
        self._sequence, self._seed = own.recipe.sequence, own.recipe.seed

    def __len__(self) -> int:
        return len(self.utterances) * self.layouts

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        layout, place = divmod(index % len(self), len(self.utterances))
        one = self.utterances[place : place + 1]
        return speech_examples(self.tokenizer, one, self._frames, self._sequence, self._seed, layout)[0]

    def to_datasets(self) -> datasets.Dataset:
        """The run's examples as rows of a `datasets.Dataset`; frames stay where they are.

        Columns: id, text, audio (a path, for `cast_column("audio", Audio())`), speaker, domain, layout, token_ids, and
        spans, each as first token, last token + 1, and 1 where it is spoken. Raises SaladError without the package.
        """
        try:
            from datasets import Dataset
        except ImportError:
            raise SaladError("to_datasets: the package datasets is not installed; run `pip install datasets`") from None
        rows = []
        for index in range(len(self)):
            example, utterance = self[index], self.utterances[index % len(self.utterances)]
            spans = zip(example.spans, example.token_bounds, strict=True)
            rows.append(
                {
                    "id": utterance.id,
                    "text": utterance.text,
                    "audio": str(utterance.audio),
                    "speaker": utterance.speaker,
                    "domain": utterance.domain,
                    "layout": index // len(self.utterances),
                    "token_ids": example.token_ids.tolist(),
                    "spans": [[int(a), int(b), int(span.modality == "speech")] for span, (a, b) in spans],
                }
            )
        return Dataset.from_list(rows)


def _recipe_of(path: Path) -> Recipe:
    """The recipe of a run's directory, wherever it was moved to, or of a recipe's file."""
    if not path.is_dir():
        return load_recipe(path)
    if not (path / "recipe.json").is_file():
        raise SaladError(f"run: {path} holds no recipe.json; give the directory of a run, or a recipe")
    return load_recipe(path / "recipe.json").model_copy(update={"run_dir": path})
