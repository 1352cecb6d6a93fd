"""`salad eval --questions`: whether a model answers a spoken question as its LLM answers the same question in text.

All answer freely and greedily, behind the same few written examples: the LLM reads the question, the model hears it,
the LLM reads what an ASR made of it (the cascade), and the model hears silence of the same length. An answer is its
first sentence; two are the same where `normalise_answer` makes them equal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad import assets
from salad.align.asr import RATE_HZ, Transcripts, load_asr
from salad.data.readers.rows import utf8
from salad.engine.memory import keep_freed_memory
from salad.evaluation.benchmark_task import FOLDER, Task, items_of
from salad.evaluation.open_ended import answer_alike, normalise_answer, token_f1
from salad.evaluation.recordings import SILENCE, Recording, find_recordings, samples_of, speak_texts
from salad.evaluation.results import markdown_table, percent_interval
from salad.evaluation.saved_model import LoadedModel
from salad.evaluation.spoken_benchmark import RECORDINGS, SpeechInput, audio_cache, plain_name
from salad.files import JsonObject, read_jsonl, writable_folder, write_json, write_jsonl
from salad.measure.results import Interval
from salad.measure.statistics import proportion
from salad.model import SaladForConditionalGeneration, SaladProcessor
from salad.model.ends import ends_of
from salad.model.freeze import freeze
from salad.model.processor import AUDIO, ChatPrompt
from salad.progress import console, progress
from salad.records import to_json
from salad.sequence.tokens import marked
from salad.text.sentences import split_sentences
from salad.training.loop import autocast
from salad.types import SaladError

EXAMPLES = (("What is the capital of France?", "Paris"), ("How many legs does a spider have?", "Eight"),
            ("Which animal barks?", "Dog"))  # fmt: skip
READ, HEARD, CASCADE = "read", "heard", "cascade"
TOKENS, BATCH = 12, 16
QUARANTINE = "questions-quarantine.jsonl"  # --tasks in the same folder has a quarantine.jsonl of its own
FORM = '{"id", "question", "answers": [...] or "answer"}, or a benchmark\'s {"id", "context", "choices", "answer"}'


@dataclass(frozen=True)
class Question:
    """`answers`: any of them is right; () where nobody says."""

    id: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class QuestionRow:
    """A line of questions.jsonl: what each system wrote (first sentences), and what the ASR heard."""

    id: str
    question: str
    right: tuple[str, ...]
    answers: Mapping[str, str]
    transcript: str | None = None


@dataclass(frozen=True)
class Followed:
    """Shares of questions with 95 % intervals (Wilson). same: answers that are the reading LLM's; f1: of their words,
    mean; right: answers that hold a right one, over the questions whose right answer is known."""

    same: Interval
    f1: float
    right: Interval | None


@dataclass(frozen=True)
class QuestionFigures:
    """questions.json: `systems` by what the LLM gets: read, heard, cascade, silence."""

    model: str
    fingerprint: str
    voice: str
    asr: str | None
    questions: int
    skipped: int
    precision: str
    systems: Mapping[str, Followed]

    def table(self) -> str:
        """Markdown, in per cent."""
        told = {READ: "the question in text", HEARD: "the question spoken", CASCADE: f"what {self.asr} heard of it",
                SILENCE: "silence as long"}  # fmt: skip
        rows = [
            [name, told[name], percent_interval(own.same), f"{own.f1:.2f}", percent_interval(own.right)]
            for name, own in self.systems.items()
        ]
        known = self.systems[READ].right
        header = ["system", "it gets", "same answer", "word F1", f"right, of {known.n if known else 0}"]
        return f"Spoken questions, {self.questions} in {self.voice}:\n\n{markdown_table(header, rows)}"


def load_questions(specs: Sequence[str], limit: int | None = None) -> tuple[list[Question], list[dict[str, str]]]:
    """Questions of files of ours (by name) and of JSONL files, the first `limit` of each; and what was set aside.

    A benchmark's item is a question where its context ends with a question mark; its answer is read as --tasks reads
    it: the number of a choice, its letter or its text. Raises SaladError for a file that
    cannot be read, a line without an id or a text, and where no question is left.
    """
    found: dict[str, Question] = {}
    skipped = []
    for spec in specs:
        path = FOLDER / f"{spec}.jsonl" if (FOLDER / f"{spec}.jsonl").is_file() else Path(spec).expanduser()
        try:
            rows = read_jsonl(path)
        except (OSError, ValueError) as error:
            raise SaladError(
                f"--questions: {spec} cannot be read ({error}); give salad_questions or a .jsonl"
            ) from None
        taken, (right, no_answer) = 0, _right_choices(rows, str(path))
        for number, row in enumerate(rows, 1):
            if odd := _odd(row):
                skipped.append({"stage": "questions", "id": str(row.get("id", number)), "reason": odd})
                continue
            own = _question(row, right.get(number), f"--questions: {path} line {number}")
            why = "its id was there before" if own.id in found else no_answer.get(number, "")
            if (held := "".join([own.id, own.text, *own.answers])) != utf8(held):
                why = "it holds half of a letter (a lone surrogate), which no tokenizer reads; write it whole"
            if "question" not in row and not own.text.endswith("?"):
                why = "its context is no question: it does not end with a question mark"
            if why:
                skipped.append({"stage": "questions", "id": own.id, "reason": why})
            elif limit is None or taken < limit:
                found[own.id] = own
                taken += 1
    if not found:
        first = f" ({skipped[0]['id']}: {skipped[0]['reason']})" if skipped else ""
        raise SaladError(
            f"--questions: {', '.join(specs)} hold no question that can be used{first}; expected lines {FORM}"
        )
    return list(found.values()), skipped


def _odd(row: JsonObject) -> str:
    """Why the right answer of a line cannot be told, where it only looks like one; "" where it does not."""
    listed, keyed = row.get("choices"), "answerKey" in row and row.get("answer") is None
    if row.get("answers") is None and (keyed or isinstance(listed, dict)):
        field = "choices" if isinstance(listed, dict) else "answerKey"
        return f"{field}: this is a line of another form; write choices as a list and answer as the number of one"
    for field in ("answers",) if isinstance(listed, list) else ("answers", "answer"):  # --tasks reads that of a list
        for told in row[field] if isinstance(row.get(field), list) else [row.get(field)]:
            if isinstance(told, bool) or (isinstance(told, float) and not math.isfinite(told)):
                return f"{field}: got {json.dumps(told)}, expected a text or a number; write what is right to say"
    return ""


def _right_choices(rows: Sequence[JsonObject], where: str) -> tuple[dict[int, str], dict[int, str]]:
    """Look at the lines that are a benchmark's items, by number: the right choice, or why there is none."""
    items = [
        {**row, "id": str(number), "context": row.get("question", row.get("context"))}
        for number, row in enumerate(rows, 1)
        if row.get("answers") is None and isinstance(row.get("choices"), list) and row.get("answer") is not None
    ]
    if not items:
        return {}, {}
    loaded = items_of(Task(task="questions"), items, where, some=False)
    for note in loaded.notes:
        console.print(f"--questions: {note}", highlight=False)
    right = {int(item.id): item.choices[item.answer] for item in loaded.items}
    return right, {int(row["id"]): row["reason"] for row in loaded.skipped}


def _question(row: JsonObject, right: str | None, where: str) -> Question:
    """right: a benchmark's answer, where it is known; without choices, an answer is a right text, or a list of them."""
    text, answers = row.get("question", row.get("context")), row.get("answers")
    if answers is None and row.get("choices") is None and row.get("answer") not in (None, ""):
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    if answers is None:
        answers = [] if right is None else [right]
    texts = [row.get("id"), text, *answers] if isinstance(answers, list) else []
    named = all(isinstance(t, (str, int)) for t in texts[:2]) and all(isinstance(t, (str, int, float)) for t in texts)
    if not texts or not named or not all(str(t).strip() for t in texts):
        raise SaladError(f"{where}: expected {FORM}, each with something in it")
    return Question(str(row["id"]), str(text).strip(), tuple(map(str, answers)))


def ask_spoken(
    model: Path,
    specs: Sequence[str],
    out: Path,
    speech: SpeechInput,
    *,
    base: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    bf16: bool = False,
    device: str = "cpu",
) -> QuestionFigures:
    """Ask, compare, and write questions.json, questions.jsonl and what was set aside to `out`.

    The first voice of `speech` asks, or its recordings (ID.wav or .flac). base: the text LLM, where the model does not
    say; where nobody does, the LLM inside the model reads.
    """
    keep_freed_memory()
    speech = speech.checked()
    questions, skipped = load_questions(specs, limit)
    writable_folder(out, "--out")
    voice = RECORDINGS if speech.recordings else speech.voices[0]
    spoken, why = _recordings(questions, voice, speech, seed)
    skipped += [{"stage": "questions", "id": key, "reason": reason} for key, reason in why.items()]
    questions = [question for question in questions if question.id in spoken]
    if not questions:
        raise SaladError(f"--questions: none of them can be heard; the first one: {next(iter(why.values()))}")
    loaded = LoadedModel(model, base, device)
    hears = loaded.model
    reads = hears if loaded.base is None or loaded.frozen else loaded.base
    for each in (hears, reads):
        freeze(each, "frozen", bf16=bf16)
    processor = SaladProcessor.from_pretrained(loaded.folder)
    processor.ears = None  # the model counts what it hears itself
    transcripts = _transcribed(spoken, speech, device, seed) if speech.asr else {}
    asked: dict[str, Callable[[Question], torch.Tensor]] = {
        READ: lambda q: _prompt(reads, processor, q.text),
        HEARD: lambda q: _prompt(hears, processor, _frames(processor, spoken[q.id], "", seed)),
        CASCADE: lambda q: _prompt(reads, processor, transcripts[q.id]),
        SILENCE: lambda q: _prompt(hears, processor, _frames(processor, spoken[q.id], SILENCE, seed)),
    }
    systems = [name for name in asked if name != CASCADE or speech.asr]
    written: dict[str, dict[str, str]] = {}
    with progress("answer", len(systems) * len(questions), "questions") as bar, torch.no_grad(), autocast(bf16, device):
        for name in systems:
            answers: list[str] = []
            for at in range(0, len(questions), BATCH):
                prompts = [asked[name](question) for question in questions[at : at + BATCH]]
                answers += _answered(hears if name in (HEARD, SILENCE) else reads, processor, prompts)
                bar.advance(len(prompts))
            written[name] = dict(zip((q.id for q in questions), answers, strict=True))
    rows = [
        QuestionRow(q.id, q.text, q.answers, {s: written[s][q.id] for s in systems}, transcripts.get(q.id))
        for q in questions
    ]
    figures = QuestionFigures(
        model=str(model),
        fingerprint=assets.fingerprint(model),
        voice=voice,
        asr=speech.asr or None,
        questions=len(rows),
        skipped=len(skipped),
        precision="bf16" if bf16 else "fp32",
        systems={system: followed(rows, system) for system in systems},
    )
    write_jsonl(out / "questions.jsonl", map(asdict, rows))
    write_jsonl(out / QUARANTINE, skipped)
    write_json(out / "questions.json", to_json(figures))
    return figures


def first_sentence(text: str) -> str:
    """The first sentence of the first line."""
    line = text.strip().partition("\n")[0]
    ends = split_sentences(line)
    return " ".join(line.split()[slice(*ends[0])]) if ends else ""


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in a text, word for word after `normalise_answer`."""
    own = f" {normalise_answer(text)} "
    return any(f" {normalise_answer(a) or a.lower()} " in own for a in answers)


def followed(rows: Sequence[QuestionRow], system: str) -> Followed:
    """How a system's answers stand to those of the LLM that read."""
    pairs = [(row.answers[system], row.answers[READ]) for row in rows]
    same = [float(normalise_answer(one) == normalise_answer(other)) for one, other in pairs]
    known = [float(holds(row.answers[system], row.right)) for row in rows if row.right]
    return Followed(
        Interval.of(proportion(same)),
        float(np.mean([token_f1(one, [other]) for one, other in pairs])),
        Interval.of(proportion(known)) if known else None,
    )


def _recordings(
    questions: Sequence[Question], voice: str, speech: SpeechInput, seed: int
) -> tuple[dict[str, Recording], dict[str, str]]:
    """The recording of each question by its id, and why there is none."""
    if voice == RECORDINGS:
        assert speech.recordings is not None
        owners = {f"questions/{q.id}": q.id for q in questions}
        found, bad = find_recordings(speech.recordings, owners)
        return {owners[name]: r for name, r in found.items()}, {owners[name]: r for name, r in bad.items()}
    folder = audio_cache(speech) / plain_name(voice)
    made, why = speak_texts((q.text for q in questions), voice, folder, seed=seed, workers=speech.workers)
    return {q.id: made[q.text] for q in questions if q.text in made}, {
        q.id: why.get(q.text, "it cannot be said") for q in questions if q.text not in made
    }


def _transcribed(spoken: Mapping[str, Recording], speech: SpeechInput, device: str, seed: int) -> dict[str, str]:
    asr = Transcripts(load_asr(speech.asr, device, speech.asr_precision), audio_cache(speech) / "transcripts")
    out = {}
    with progress("transcribe", len(spoken), "recordings") as bar:
        for key, recording in spoken.items():
            out[key] = asr.of(recording.sha256, partial(samples_of, recording, RATE_HZ, "", seed)).strip()
            bar.advance()
    return out


def _frames(processor: SaladProcessor, recording: Recording, system: str, seed: int) -> list[torch.Tensor]:
    """Frames of the recording's spans, or of silence."""
    rate_hz = processor.encoder.sample_rate_hz
    samples = samples_of(recording, rate_hz, SILENCE if system == SILENCE else "", seed)
    return processor.frames_of(samples)


def _answered(
    model: SaladForConditionalGeneration, processor: SaladProcessor, prompts: Sequence[torch.Tensor]
) -> list[str]:
    """The first sentence of each answer."""
    ends = ends_of(model, processor)
    return [first_sentence(processor.decode(ids)) for ids in answer_alike(model, prompts, TOKENS, ends)]


def _prompt(
    model: SaladForConditionalGeneration, processor: SaladProcessor, question: str | list[torch.Tensor]
) -> torch.Tensor:
    """[positions, width] of the examples and a question, read or heard, in the LLM's own chat template, or plain where
    it has none."""
    heard = [] if isinstance(question, str) else [question]
    if processor.tokenizer.chat_template:
        said: Any = question if isinstance(question, str) else [{"type": "audio"}]
        shots = (turn for q, a in EXAMPLES for turn in (("user", q), ("assistant", a)))
        turns = [{"role": role, "content": text} for role, text in shots]
        prompt = processor.apply_chat_template([*turns, {"role": "user", "content": said}], add_generation_prompt=True)
    else:
        last = marked(processor.tokenizer, question, (AUDIO,)) if isinstance(question, str) else AUDIO
        shown = "".join(f"Question: {asked}\nAnswer: {told}\n\n" for asked, told in EXAMPLES)
        prompt = ChatPrompt(f"{shown}Question: {last}\nAnswer:")
    own = processor(prompt, heard, add_start=not processor.tokenizer.chat_template).to(model.device)
    return model.expand(own["input_ids"], own["attention_mask"], own["frames"])[0]
