"""What each piece of `model.ears: symbols` is worth, at equal seconds of training on this machine.

    python scripts/ears_ablation.py recipes/demo.yaml --seconds 120 --rows text,speech,kl_simulated --seeds 0,1,2

The recipe's run must be finished up to stage2: its speech, texts and lower part are used. Rows of the first kind train
the upper part from nothing behind the run's own lower part; rows of the second kind (phones, letters, single) train
everything from nothing, for twice the seconds. Prints and appends one JSON line a row and seed to --out: steps, M of
the held-out documents in the trained voice with its standard error, and word errors. M of each document is kept, so
that rows are compared paired. `--calibrate` first, on a machine at rest: it measures how many steps of each row fit a
second, and the rows then take that many, whatever else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from salad.config import Recipe, load_recipe
from salad.engine.memory import keep_freed_memory
from salad.files import read_json, read_jsonl, write_json
from salad.measure.divergence import divergence, speech_ears, summary
from salad.measure.hearing import voice_errors
from salad.model.ears import Lexicon
from salad.model.freeze import freeze
from salad.model.teacher import Teacher
from salad.pipeline.ears_data import (
    choose_symbols,
    lists_of,
    load_noise,
    noise_of,
    simulated_task,
    spell_documents,
    words_of_lists,
)
from salad.pipeline.hearing import listen
from salad.pipeline.heldout import HeldoutEvaluator
from salad.pipeline.run import Run
from salad.pipeline.speechlm import (
    build_model,
    ctc_spans,
    load_lexicon,
    load_symbols,
    load_tokenizer,
    speech_source,
    symbol_spans,
)
from salad.pipeline.stages.align import load_aligned, load_frames
from salad.pipeline.stages.synthesize import load_bought, load_bought_frames
from salad.sequence import Frames, tokenise
from salad.sequence.simulate import Noise
from salad.sequence.spelling import spell
from salad.study.ablation import difference_text
from salad.study.ablation import paired as paired_trainings
from salad.study.cell_figures import DocumentSum
from salad.study.cell_training import SINGLE
from salad.training.checkpoint import latest_checkpoint, load_weights
from salad.training.ears_tasks import HeardSpellTask, LowerTask, SpellTask
from salad.training.loop import autocast
from salad.training.optimizer import make_optimizer
from salad.training.tasks import CTCTask, DistillTask, Side, Together, plan_batches
from salad.types import SaladError, Utterance

KL_SHARE = 0.3  # of the seconds at the end, in which the KL is beside the spelling
KL_POSITIONS, MANY = 500, 100_000
UPPER = ("text", "no_pronunciation", "uniform_noise", "speech", "kl_simulated", "kl_speech")
WARM, FEW = 3, 15  # steps before, and while, a rate is measured
WHOLE = ("phones", "letters", "single")


class Rates:
    """Steps a second of each part of each row, in order: measured on the machine at rest, or read from the file."""

    def __init__(self, path: Path, measure: bool) -> None:
        self.path, self.measure = path, measure
        self.known: dict[str, list[float]] = {} if measure else read_json(path)
        self._row, self._taken = "", 0

    def begin(self, row: str) -> None:
        self._row, self._taken = row, 0
        if self.measure:
            self.known[row] = []

    def next(self) -> float:
        """The rate of the row's next part."""
        self._taken += 1
        return self.known[self._row][self._taken - 1]

    def keep(self, rate: float) -> None:
        self.known[self._row].append(rate)
        write_json(self.path, self.known)


@dataclass(frozen=True)
class Bench:
    """The run whose data are used, how long a part trains, and how many steps that is."""

    run: Run
    seconds: float
    seed: int
    rates: Rates

    def recordings(self) -> list[tuple[Sequence[Utterance], Frames]]:
        speech, bought = load_aligned(self.run, "speech"), load_bought(self.run)
        return [
            (speech, load_frames(self.run, "speech", speech)),
            (bought, load_bought_frames(self.run, bought)),
        ]


def timed(
    rates: Rates,
    model: Any,
    parameters: dict[str, torch.nn.Parameter],
    parts: Sequence[tuple[Any, float]],
    kind: str,
) -> int:
    """Train on each task for its seconds, one schedule over all of them; returns the number of steps.

    `rates` turns seconds into steps, so that what else runs while a row trains changes no figure. While they are
    measured, each task takes a few steps and its rate is kept.
    """
    optimizer = make_optimizer(
        kind,
        [{"params": list(parameters.values()), "lr": 2e-3, "base_lr": 2e-3}],
        {p: n for n, p in parameters.items()},
        0.01,
    )
    numbers = [WARM + FEW if rates.measure else max(1, round(seconds * rates.next())) for _, seconds in parts]
    step, total = 0, sum(numbers)
    for (task, _), number in zip(parts, numbers, strict=True):
        for index in range(number):
            if index == WARM:
                began = time.perf_counter()
            factor = min(1.0, (step + 1) / 20, (1 - step / total) / 0.4)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            packs = task.packs(index)
            targets = sum(task.count(pack) for pack in packs)
            for pack in packs:
                with autocast(True):
                    loss, _ = task.loss(pack)
                if loss is not None:
                    (loss / max(1, targets)).backward()
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
        if rates.measure:
            rates.keep(FEW / (time.perf_counter() - began))
    return step


def named(module: torch.nn.Module, prefix: str) -> dict[str, torch.nn.Parameter]:
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}


def upper_row(bench: Bench, row: str) -> tuple[Any, int]:
    """The upper part from nothing, behind the run's lower part."""
    run, tokenizer = bench.run, load_tokenizer(bench.run)
    model = build_model(run)
    fresh = {name: value.clone() for name, value in model.adapter.upper.state_dict().items()}
    load_weights(latest_checkpoint(run.folder("stage2")), model)
    model.adapter.upper.load_state_dict(fresh)
    freeze(model, "frozen", bf16=True)
    for parameter in model.adapter.lower.parameters():
        parameter.requires_grad_(False)
    if row == "no_pronunciation":
        known = load_lexicon(run)
        model.adapter.learn_lexicon(Lexicon(torch.zeros_like(known.sounds), known.traits, known.sayable))
    parts = spelling_parts(bench, model, tokenizer, row)
    return model, timed(bench.rates, model, named(model.adapter.upper, "adapter.upper"), parts, "muon")


def spelling_parts(
    bench: Bench, model: Any, tokenizer: Any, row: str, noise: Noise | None = None
) -> list[tuple[Any, float]]:
    run, symbols, seconds = bench.run, load_symbols(bench.run), bench.seconds
    documents, _ = spell_documents(run)
    texts = {d.id: spell(tokenizer, d.text, symbols) for d in documents}
    noise = noise or (Noise.uniform(len(symbols)) if row == "uniform_noise" else load_noise(run.folder("spell")))
    with_speech = row in ("speech", "kl_simulated", "kl_speech")

    def read(seed: int) -> SpellTask:
        return SpellTask(
            model,
            list(texts.values()),
            lists_of(words_of_lists(run, tokenizer), tokenizer, symbols, run.recipe.seed),
            noise,
            steps=MANY,
            batch=16 if with_speech else 32,
            seed=seed,
            words=run.recipe.sequence.speech_words,
            lists_share=run.recipe.spell.lists_share,
            rate=run.recipe.spell.error_rate,
        )

    def sides() -> list[Side]:
        if not with_speech:
            return []
        layout = run.recipe.sequence, run.recipe.seed
        recordings = bench.recordings()
        spans = [s for own, frames in recordings for s in symbol_spans(tokenizer, symbols, own, frames, *layout)]
        return [Side("heard", HeardSpellTask(model, spans, steps=MANY // 20, batch=16, seed=bench.seed), 1.0)]

    if not row.startswith("kl"):
        return [(Together(read(bench.seed), sides()), seconds)]
    if row == "kl_simulated":
        recipe = run.recipe
        kl = simulated_task(model, tokenizer, documents, texts, noise, recipe.spell, recipe.sequence, recipe.seed)
    else:
        sources = [
            speech_source(run, tokenizer, name, 0.5, own, frames, run.recipe.sequence.layouts)
            for name, (own, frames) in zip(("speech", "bought"), bench.recordings(), strict=True)
        ]
        plan = plan_batches(sources, run.recipe.spell.kl_steps, KL_POSITIONS, bench.seed)
        teacher = Teacher(model, cache=False, context=run.recipe.sequence.context)
        kl = DistillTask(model, teacher, plan, alpha=1.0, context=run.recipe.sequence.context)
    beside = sides()
    return [
        (Together(read(bench.seed), beside), (1 - KL_SHARE) * seconds),
        (Together(read(bench.seed + 1000), [*beside, Side("kl", kl, 1.0)]), KL_SHARE * seconds),
    ]


def whole_row(bench: Bench, row: str, out: Path) -> tuple[Bench, Any, int]:
    """Everything from nothing for twice the seconds, in a run directory of its own that borrows the data."""
    values = bench.run.recipe.model_dump(mode="json")
    values["model"]["ears"] = "single" if row == "single" else "symbols"
    values["model"]["symbols"] = "letters" if row == "letters" else "phones"
    values["run_dir"] = str(out / row)
    if row == "single":
        values["model"] |= SINGLE
        for stage in ("stage1", "stage2"):
            values[stage] |= {"spell_weight": 0.0, "ctc_steps": 0, "optimizer": "adamw"}
        values["warm_start"]["optimizer"] = "adamw"
    run = Run(Recipe(**values))
    run.recipe.run_dir.mkdir(parents=True, exist_ok=True)
    for stage in ("assets", "corpus", "align", "synthesize", "select"):
        link = run.recipe.run_dir / stage
        if not link.exists():
            os.symlink(bench.run.folder(stage).absolute(), link)
    own, tokenizer = replace(bench, run=run), load_tokenizer(run)
    layout = run.recipe.sequence, run.recipe.seed
    if row == "single":
        texts = [d.text for d in spell_documents(run)[0]] + [u.text for part, _ in own.recordings() for u in part]
        seen = {int(i) for text in texts for i in tokenise(tokenizer, text).token_ids}
        write_json(run.folder("warm_start") / "vocabulary.json", sorted(seen))
        model = build_model(run)
        freeze(model, "frozen", bf16=True)
        model.ctc.residual.requires_grad_(False)
        spans = [span for part, frames in own.recordings() for span in ctc_spans(tokenizer, part, frames, *layout)]
        task = CTCTask(model, spans, steps=MANY // 20, batch=16, seed=bench.seed)
        parameters = {**named(model.adapter, "adapter"), **named(model.ctc, "ctc")}
        parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        return own, model, timed(bench.rates, model, parameters, [(task, 2 * bench.seconds)], "adamw")
    symbols = choose_symbols(run, tokenizer, load_aligned(run, "speech"))
    model = build_model(run)
    freeze(model, "frozen", bf16=True)
    parts = own.recordings()
    spans = [s for part, frames in parts for s, _ in symbol_spans(tokenizer, symbols, part, frames, *layout)]
    lower = LowerTask(model, spans, steps=MANY // 20, batch=16, seed=bench.seed, by_word=60 / (MANY // 20))
    steps = timed(bench.rates, model, named(model.adapter.lower, "adapter.lower"), [(lower, bench.seconds)], "muon")
    for parameter in model.adapter.lower.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad(), autocast(True):
        noise = noise_of(run, model, tokenizer, symbols)
    parts = spelling_parts(own, model, tokenizer, "text", noise)
    return own, model, steps + timed(bench.rates, model, named(model.adapter.upper, "adapter.upper"), parts, "muon")


def measured(bench: Bench, model: Any, row: str, steps: int, documents: int) -> dict[str, Any]:
    setting = HeldoutEvaluator(bench.run)
    setting.model = model.eval()
    with setting.reading():
        examples = setting.fewer(documents)
        rows = divergence(model, setting.teacher, examples, speech_ears(model))
        spans = listen(setting, model, examples)
    errors = voice_errors(spans, 1000, 0)
    found = summary(rows)
    return {
        "row": row,
        "seed": bench.seed,
        "seconds": bench.seconds * (2 if row in WHOLE else 1),
        "steps": steps,
        "misalignment": found.all,
        "se": found.se,
        "documents": found.n_documents,
        "wer": errors[0].wer.value if errors else None,
        "phone_error": errors[0].phone_error.value if errors and errors[0].phone_error else None,
        "rows": [asdict(row) for row in rows],
    }


def paired(out: Path, first: str, second: str) -> str:
    """M of one row less M of another over the seeds that both have, as `salad ablate` tells it."""
    table = {
        (r["row"], r["seed"]): [DocumentSum(d["id"], d["domain"], d["kl"], d["count"]) for d in r["rows"]]
        for r in read_jsonl(out / "rows.jsonl")
    }
    seeds = sorted({seed for row, seed in table if row == first} & {seed for row, seed in table if row == second})
    if not seeds:
        return f"{first} less {second}: not run"
    found = paired_trainings([table[first, s] for s in seeds], [table[second, s] for s in seeds])
    return f"{first} less {second}, {len(seeds)} seeds: {difference_text(found)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="of an upper row; a whole row takes twice as many")
    parser.add_argument("--rows", default=",".join((*UPPER, *WHOLE)))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rates", type=Path, default=Path("runs/ears-ablation/rates.json"))
    parser.add_argument("--calibrate", action="store_true", help="measure --rates, on a machine at rest, and end")
    parser.add_argument("--threads", type=int, help="in place of the recipe's, where other jobs run beside")
    parser.add_argument("--documents", type=int, default=2, help="held-out documents of each domain")
    parser.add_argument("--out", type=Path, default=Path("runs/ears-ablation"))
    arguments = parser.parse_args()
    run = Run(load_recipe(arguments.recipe, ["spell.kl_steps=400"]))
    torch.set_num_threads(arguments.threads or run.recipe.threads)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rates = Rates(arguments.rates, arguments.calibrate)
    for seed in (int(s) for s in arguments.seeds.split(",")):
        for row in arguments.rows.split(","):
            bench = Bench(run, arguments.seconds, seed, rates)
            rates.begin(row)
            if row in WHOLE:
                own, model, steps = whole_row(bench, row, arguments.out)
            elif row in UPPER:
                own, (model, steps) = bench, upper_row(bench, row)
            else:
                raise SaladError(f"--rows: got {row!r}, expected some of {', '.join((*UPPER, *WHOLE))}")
            if arguments.calibrate:
                print(row, [f"{rate:.2f} steps/s" for rate in rates.known[row]], flush=True)
                continue
            found = measured(own, model, row, steps, arguments.documents)
            with open(arguments.out / "rows.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps({key: value for key, value in found.items() if key != "rows"}), flush=True)
    if arguments.calibrate:
        return
    for first, second in (("speech", "text"), ("kl_simulated", "speech"), ("kl_speech", "speech")):
        print(paired(arguments.out, first, second))


if __name__ == "__main__":
    main()
