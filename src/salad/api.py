"""What the door does in ten lines of a notebook: load, transcribe, answer, measure, run. The commands call it too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salad import assets, markdown
from salad.files import JsonObject, read_json
from salad.records import to_json
from salad.types import Example, SaladError

if TYPE_CHECKING:
    import numpy as np

    from salad.config import Recipe
    from salad.evaluation.divergence import DivergenceFigures
    from salad.evaluation.saved_model import LoadedModel
    from salad.evaluation.spoken_benchmark import SpeechInput
    from salad.model import SaladForConditionalGeneration, SaladProcessor

    Audio = str | Path | bytes | np.ndarray


class Model:
    """A saved model that hears: `model` and `processor` are transformers' own kind, `folder` is where they lie.

    Audio everywhere: a path, a file's bytes, or mono float samples at the rate of the encoder, `sample_rate_hz`.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from salad.evaluation.saved_model import LoadedModel
        from salad.model import SaladProcessor

        self.loaded: LoadedModel = LoadedModel(folder, device=device)
        self.folder = self.loaded.folder
        self.model: SaladForConditionalGeneration = self.loaded.model
        self.processor: SaladProcessor = SaladProcessor.from_pretrained(self.folder)
        self.processor.ears = self.model  # which are at hand: it need not read them once more

    def __repr__(self) -> str:
        shape = self.model.config
        return (
            f"<salad.Model {self.folder.name}: {shape.encoder} -> {shape.ears} ears -> {shape.llm_config.model_type}>"
        )

    @property
    def sample_rate_hz(self) -> int:
        return self.processor.encoder.sample_rate_hz

    def transcribe(self, audio: Audio) -> str:
        """The words that the ears hear, before the LLM says anything: the likeliest tokens of each span.

        Raises SaladError where the ears score no tokens: a model of fixed rate without a CTC head.
        """
        from salad.measure.hearing import heard_of_frames

        texts = heard_of_frames(self.model, self.processor.decode, self.processor.frames_of(audio))
        if texts is None:
            raise SaladError(
                f"model: the ears of {self.folder} were trained without the warm start, so they score no tokens and "
                "cannot transcribe; ask the LLM for the words with answer()"
            )
        return " ".join(text for text in texts if text)

    def answer(self, audio: Audio, text: str = "", *, max_new_tokens: int = 64, **sampling: Any) -> str:
        """What the model writes after hearing `audio` and then reading `text`, as the user's turn of a chat.

        Where the LLM has no chat template of its own, what it writes on from both. sampling: `top_k` (0: greedy),
        `temperature` and `seed` of `salad.evaluation.open_ended.Sampling`.
        """
        import torch

        from salad.evaluation.open_ended import Sampling, answer
        from salad.model.ends import ends_of
        from salad.model.recordings import audio_parts, recording_of

        processor = self.processor
        parts = [{"type": "audio", "audio": audio}, *([{"type": "text", "text": f" {text}"}] if text else [])]
        messages: list[Any] = [{"role": "user", "content": parts}]
        prompt, add_start = processor.turns(messages)
        heard = [recording_of(part) for part in audio_parts(messages)]
        inputs = processor(prompt, heard, add_start=add_start).to(self.model.device)
        with torch.no_grad():
            rows = self.model.expand(**inputs)
        ids = answer(self.model, rows, Sampling(max_new_tokens, **sampling), ends_of(self.model, processor))[0]
        return str(processor.decode(ids)).strip()

    def examples(self, corpus: str | Path, out: str | Path = Path("runs/frames"), *, workers: int = 1) -> list[Example]:
        """Interleaved examples of an aligned corpus for `salad.DistillTask`; frames are kept in `out`.

        Who has `out` already is waited for.
        """
        from salad.evaluation.saved_model import read_corpus
        from salad.pipeline.lock import owned

        spoken = read_corpus(Path(corpus)).utterances
        with owned(Path(out), wait=True):
            return self.loaded.examples(spoken, self.loaded.encode(spoken, Path(out), workers=workers))

    def save(self, folder: str | Path) -> Path:
        """The whole model in a folder of its own, which may be moved: weights, processor and where they come from."""
        config = self.model.config
        config.origin = config.origin or assets.origin_of(assets.recipe_behind(self.folder))
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        return Path(folder)


@dataclass(frozen=True)
class Divergence:
    """Nats per token of a model on a corpus; `figures` is divergence.json, `folder` where it and its rows lie."""

    folder: Path
    measured: DivergenceFigures

    @property
    def figures(self) -> JsonObject:
        """divergence.json."""
        return dict(to_json(self.measured))

    @property
    def misalignment(self) -> float:
        """M (eq. 2): what the model loses by hearing in place of reading; nan where the corpus has no speech."""
        cell = self.measured.all.misalignment
        return math.nan if cell is None else cell.value

    @property
    def forgetting(self) -> float | None:
        """F (eq. 3); None where the text LLM is not known."""
        cell = self.measured.all.forgetting
        return None if cell is None else cell.value

    def rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and lines: all, then each domain and each voice."""
        from salad.evaluation.divergence import table_of

        return table_of(self.measured)

    def table(self) -> str:
        """The same as a table of Markdown."""
        return "\n".join(markdown.table(*self.rows()))


@dataclass(frozen=True)
class Evaluation:
    """Scores of multiple-choice tasks; `folder` holds samples and results, `markdown` is their table.

    figures: figures.json as it was written then, for the next evaluation in the folder writes its own: accuracies, gaps
    and their intervals by system and task; {} where nothing was scored (infer_only).
    """

    folder: Path
    markdown: str
    figures: JsonObject

    def table(self) -> str:
        """Accuracy, gap and controls of each task and system with 95 % intervals, as a table of Markdown."""
        return self.markdown


def load(source: str | Path, *, device: str = "cpu") -> Model:
    """A saved model by its folder, a run's directory, the name of ears in `salad assets list`, or OWNER/NAME[@REVISION]
    on the hub (`HF_TOKEN` of the environment opens a private one). Raises SaladError where there is none.
    """
    return Model(Path(model_place(source)), device)


def model_place(source: str | Path | Model) -> str:
    """What the measuring functions take as a model: a known name as it is, else a folder; a run's is its last round's.

    OWNER/NAME on the hub is fetched where it is a SALAD model, and stays a name where it is a text LLM.
    """
    from salad.evaluation.saved_model import model_place

    return str(source.folder) if isinstance(source, Model) else model_place(source)


@contextmanager
def measuring(model: str | Path | Model, out: str | Path, *, wait: bool = False) -> Iterator[str]:
    """What a measurement begins with: the place of its model, and its folder `out` held against other processes."""
    from salad.pipeline.lock import owned

    place = model_place(model)
    with owned(Path(out), wait=wait, field="--out"):
        yield place


def divergence(
    model: str | Path | Model,
    corpus: str | Path,
    out: str | Path = Path("runs/divergence"),
    *,
    teacher: str | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    workers: int = 2,
    trusted: bool = False,
    wait: bool = False,
) -> Divergence:
    """M (eq. 2), its controls, the teacher's divergence and F (eq. 3) of a saved model on aligned speech, nats a token.

    corpus: utterances with word times, such as a run's align/heldout.jsonl, or a folder that holds them. out: where
    divergence.json and a row for each document are written. teacher: the text LLM that the model came from, where the
    model does not say. precision: fp32, bf16, or auto, which times both. workers: processes that encode the speech.
    trusted: a manifest may name files outside its folder. wait: for another process that writes to `out`. Raises
    SaladError where there is one, the model does not hear, or no utterance can be used. See
    `salad.evaluation.divergence.measure_divergence`.
    """
    from salad.evaluation.divergence import measure_divergence

    with measuring(model, out, wait=wait) as place:
        bf16 = takes_bf16(precision, place, device)
        figures = measure_divergence(
            Path(place), Path(corpus), Path(out), teacher=teacher, bf16=bf16, device=device, workers=workers,
            trusted=trusted,
        )  # fmt: skip
    return Divergence(Path(out), figures)


def evaluate(
    model: str | Path | Model,
    tasks: str | Path | Sequence[str | Path],
    out: str | Path = Path("runs/eval"),
    *,
    speech: SpeechInput | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    base: str | None = None,
    data: str | Path | None = None,
    hub: bool = False,
    start: str | None = None,
    infer_only: bool = False,
    wait: bool = False,
    **settings: Any,
) -> Evaluation:
    """Accuracy on multiple-choice tasks by a model and its text base; with `speech` the items are heard, too.

    tasks: names of benchmarks, NAME=FILE, or files of items. out: where samples, results and tables are written, as
    lm-eval lays them out; items that were scored before are not scored again. precision: fp32, bf16, or auto, which
    times both. base: the text LLM, where the model does not say. data: a folder with NAME.jsonl of the tasks. hub:
    fetch items that are not here. start: what a prompt begins with, "document" (the start token of training) or
    "tokenizer" (what the tokenizer puts there, as lm-eval does). infer_only: score, and leave the tables to `salad eval
    --score-only`. wait: for another process that writes to `out`. settings: those of
    `salad.evaluation.benchmark.BenchmarkOptions`, such as num_fewshot and limit.
    Raises SaladError where a task, an item or the model cannot be used as asked.
    """
    from salad.evaluation.benchmark import BenchmarkOptions, run_eval

    specs = [str(task) for task in ([tasks] if isinstance(tasks, str | Path) else tasks)]
    with measuring(model, out, wait=wait) as place:
        table = run_eval(
            place,
            specs,
            Path(out),
            BenchmarkOptions(**settings),
            speech,
            base=base,
            data_dir=None if data is None else Path(data),
            hub=hub,
            start=start,
            bf16=takes_bf16(precision, place, device),
            device=device,
            infer_only=infer_only,
        )
        figures = {} if infer_only else dict(read_json(Path(out) / "figures.json"))
    return Evaluation(Path(out), table, figures)


def run(recipe: str | Path | Recipe, overrides: Iterable[str] = (), **options: Any) -> Path:
    """Run a recipe's stages; what is finished and unchanged is skipped. Returns the run directory, for `load`.

    recipe: a YAML file, or what `salad.load_recipe` made of one. overrides: `a.b=c` each. options: `until` (a stage),
    `only`, `reuse` and `wait` of `salad.pipeline.run.run_pipeline`.
    """
    if isinstance(recipe, str | Path):
        from salad.config import load_recipe

        recipe = load_recipe(recipe, tuple(overrides))  # before the pipeline: a typo answers at once
    elif tuple(overrides):
        raise SaladError("overrides: they change a recipe's file as it is read; give them to load_recipe")
    from salad.pipeline.run import run_pipeline

    return run_pipeline(recipe, **options)


def takes_bf16(precision: str, model: str | Path, device: str, *, writes: bool = False) -> bool:
    """Whether to multiply in bf16; `auto` times both on this CPU, once a process, with torch's threads.

    writes: the model writes more than it scores.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise SaladError(f"--precision: got {precision!r}, expected auto, fp32 or bf16")
    if precision != "auto":
        return precision == "bf16"
    import torch

    from salad.engine.precision import Timing, Use, decide, measured

    def timings() -> Mapping[Use, Timing]:
        folder = assets.model_folder(model)
        own = (lambda: folder) if (folder / "config.json").is_file() else (lambda: assets.llm_folder(model))
        return measured(own, torch.get_num_threads())

    return decide("auto", "write" if writes else "score", device, timings)
