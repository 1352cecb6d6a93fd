"""`salad answer`: the same open prompts read and heard; answers, their overlap, how far their distributions part."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad import assets
from salad.data.readers.rows import locate, utf8
from salad.engine.memory import keep_freed_memory
from salad.evaluation.open_ended import Sampling, answer, answer_divergence, exact_match, token_f1
from salad.evaluation.saved_model import ModelFiles, load_saved
from salad.files import read_jsonl, sha256_file, writable_folder, write_json, write_jsonl
from salad.model import SaladProcessor
from salad.model.ends import ends_of
from salad.model.freeze import freeze
from salad.model.processor import AUDIO
from salad.model.splice import splice
from salad.progress import progress
from salad.records import to_json
from salad.sequence import token_ids
from salad.training.loop import autocast
from salad.types import SaladError

FIGURES = ("exact_match_text", "exact_match_speech", "f1_text", "f1_speech", "agreement", "agreement_f1",
           "kl_text_speech", "kl_speech_text")  # fmt: skip
BATCH = 8


@dataclass(frozen=True)
class MeanScore:
    """Mean over `n` prompts, and its standard error (None of one prompt)."""

    value: float
    se: float | None
    n: int


@dataclass(frozen=True)
class AnswerRow:
    """A line of answers.jsonl: what was written after reading and after hearing one prompt, and its figures."""

    id: str
    text: str
    speech: str
    exact_match_text: float | None
    exact_match_speech: float | None
    f1_text: float | None
    f1_speech: float | None
    agreement: float | None
    agreement_f1: float | None
    kl_text_speech: float | None
    kl_speech_text: float | None


@dataclass(frozen=True)
class PromptFile:
    path: str
    sha256: str
    n: int
    quarantined: int


@dataclass(frozen=True)
class AnswerFigures:
    """answers.json: means of the rows that have the figure."""

    model: ModelFiles
    prompts: PromptFile
    sampling: Sampling
    precision: str
    exact_match_text: MeanScore | None = None
    exact_match_speech: MeanScore | None = None
    f1_text: MeanScore | None = None
    f1_speech: MeanScore | None = None
    agreement: MeanScore | None = None
    agreement_f1: MeanScore | None = None
    kl_text_speech: MeanScore | None = None
    kl_speech_text: MeanScore | None = None


@dataclass(frozen=True)
class Prompt:
    """`template` holds one `<|audio|>`, where `text` is read or `audio` is heard."""

    id: str
    text: str
    audio: str
    template: str = AUDIO
    answers: tuple[str, ...] = ()


def load_prompts(path: Path, trusted: bool = False) -> tuple[list[Prompt], list[dict[str, str]]]:
    """Lines {id, text, audio, prompt?, answers?}: `audio` is a recording of `text`, relative to the file; `prompt`
    holds one `<|audio|>` where it goes (default: nothing else). Returns them and what was set aside;
    a recording outside the file's folder is, unless `trusted`."""
    try:
        rows = read_jsonl(path)
    except (OSError, ValueError) as error:
        raise SaladError(f"prompts: {path} cannot be read as JSON lines ({error})") from None
    prompts: dict[str, Prompt] = {}
    quarantined = []
    for number, row in enumerate(rows, 1):
        where = f"prompts: {path} line {number}"
        if not all(isinstance(row.get(k), (str, int)) and str(row[k]).strip() for k in ("id", "text", "audio")):
            raise SaladError(f'{where}: expected {{"id", "text", "audio"}}, each with something in it')
        template, answers = row.get("prompt") or AUDIO, row.get("answers") or []
        if not isinstance(template, str) or template.count(AUDIO) != 1:
            raise SaladError(f"{where}: prompt {template!r} holds {str(template).count(AUDIO)} {AUDIO}, expected one")
        if not isinstance(answers, list) or not all(
            isinstance(a, (str, int, float)) and str(a).strip() for a in answers
        ):
            raise SaladError(f"{where}: answers is {answers!r}, expected a list of texts, none of them empty")
        if (held := f"{row['text']}{template}{answers}") != utf8(held):
            raise SaladError(
                f"{where}: holds half of a letter (a lone surrogate), which no tokenizer reads; write it whole"
            )
        name = str(row["id"])
        try:
            audio = locate(row["audio"], path.parent, trusted)
        except SaladError as error:
            quarantined.append({"id": name, "reason": str(error)})
            continue
        if name in prompts:
            quarantined.append({"id": name, "reason": "its id was there before"})
        elif not os.path.isfile(audio):  # Path would raise for a name too long
            quarantined.append({"id": name, "reason": f"{audio} does not exist"})
        else:
            text = unicodedata.normalize("NFC", str(row["text"]))
            prompts[name] = Prompt(name, text, audio, template, tuple(map(str, answers)))
    if not prompts:
        why = f" ({quarantined[0]['reason']})" if quarantined else ""
        raise SaladError(f"prompts: {path} holds no prompt that can be used{why}")
    return list(prompts.values()), quarantined


def answer_prompts(
    model: Path,
    prompts: Path,
    out: Path,
    sampling: Sampling,
    *,
    bf16: bool = False,
    device: str = "cpu",
    trusted: bool = False,
) -> AnswerFigures:
    """Means over prompts with standard errors; writes answers.json, answers.jsonl and quarantine.jsonl to `out`.

    exact_match, f1: against the references, where there are any. agreement: the two answers against each other.
    kl_text_speech: nats per token by which the model that heard the prompt departs from the one that read it, on the
    answer of the reader; kl_speech_text the reverse, on the answer of the hearer.
    """
    keep_freed_memory()
    found, quarantined = load_prompts(prompts, trusted)
    writable_folder(out, "--out")
    speaking = load_saved(model).to(device)
    freeze(speaking, "frozen", bf16=bf16)  # its matrices would be cast at every new token
    processor = SaladProcessor.from_pretrained(assets.model_folder(model))
    end = processor.tokenizer.eos_token_id
    ends = ends_of(speaking, processor)
    rows = []
    with progress("answer", len(found), "prompts") as bar, torch.no_grad(), autocast(bf16, device):
        for start in range(0, len(found), BATCH):
            part = found[start : start + BATCH]
            read = [_embed(speaking, processor, p, heard=False) for p in part]
            heard = [_embed(speaking, processor, p, heard=True) for p in part]
            numbers = range(start, start + len(part))
            by_text, by_speech = (answer(speaking, x, sampling, ends, numbers) for x in (read, heard))
            forward = answer_divergence(speaking, read, heard, by_text, end)
            reverse = answer_divergence(speaking, heard, read, by_speech, end)
            for i, prompt in enumerate(part):
                texts = [processor.decode(ids).strip() for ids in (by_text[i], by_speech[i])]
                rows.append(_row(prompt, texts, forward[i], reverse[i]))
            bar.advance(len(part))
    found_of = {name: [v for row in rows if (v := getattr(row, name)) is not None] for name in FIGURES}
    figures = AnswerFigures(
        model=ModelFiles.of(model),
        prompts=PromptFile(str(prompts), sha256_file(prompts), len(rows), len(quarantined)),
        sampling=sampling,
        precision="bf16" if bf16 else "fp32",
        **{name: _mean_score(values) for name, values in found_of.items()},
    )
    write_jsonl(out / "answers.jsonl", map(asdict, rows))
    write_jsonl(out / "quarantine.jsonl", [{"stage": "answer", **row} for row in quarantined])
    write_json(out / "answers.json", to_json(figures))
    return figures


def _embed(model: Any, processor: SaladProcessor, prompt: Prompt, *, heard: bool) -> torch.Tensor:
    """The start token and the prompt, its text read or its recording heard: [positions, width]."""
    before, after = prompt.template.split(AUDIO)
    table = model.get_input_embeddings()

    def ids(text: str, *, start: bool = False) -> list[int]:
        return [processor.start_token_id] * start + token_ids(processor.tokenizer, text, after=not start)

    if not heard:
        return splice(table, [ids(before + prompt.text + after, start=True)])
    frames = processor.frames_of(prompt.audio)
    speech, _ = model.speech_embeddings([f.float().to(table.weight.device) for f in frames])
    # a span owns the space before its words
    return splice(table, [ids(before.rstrip(" "), start=True), speech, ids(after)])


def _row(prompt: Prompt, texts: Sequence[str], forward: tuple[float, int], reverse: tuple[float, int]) -> AnswerRow:
    answers = prompt.answers
    (kl, count), (back, back_count) = forward, reverse
    return AnswerRow(
        id=prompt.id,
        text=texts[0],
        speech=texts[1],
        exact_match_text=exact_match(texts[0], answers) if answers else None,
        exact_match_speech=exact_match(texts[1], answers) if answers else None,
        f1_text=token_f1(texts[0], answers) if answers else None,
        f1_speech=token_f1(texts[1], answers) if answers else None,
        agreement=exact_match(texts[1], texts[:1]),
        agreement_f1=token_f1(texts[1], texts[:1]),
        kl_text_speech=kl / count if count else None,
        kl_speech_text=back / back_count if back_count else None,
    )


def _mean_score(values: Sequence[float]) -> MeanScore | None:
    if not values:
        return None
    se = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return MeanScore(float(np.mean(values)), se, len(values))


def table_of(figures: AnswerFigures) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    cells: list[tuple[str, MeanScore | None]] = [(name, getattr(figures, name)) for name in FIGURES]
    return ("figure", "mean", "standard error", "prompts"), [
        (name, f"{c.value:.3f}", "-" if c.se is None else f"{c.se:.3f}", str(c.n)) for name, c in cells if c is not None
    ]
