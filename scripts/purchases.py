"""Four ways to spend the same seconds of speech: uniform, the paper's active selection, coverage, and two prices.

    python scripts/purchases.py runs/demo --budget 0.3 --draws 4 --threads 2

The run must be finished up to `probe` (a finished demo is); it is read, never changed. A draw is a market: a random
half of D_web, the same for every arm, out of which each arm buys for the budget. All purchases are made first, and each
document is spoken once, into a cache that all cells share, as the recipe's `synthesize` would speak it. A cell trains
Stage II's two parts from Stage I before its decay: `--ctc-steps` of the lower part on D_speech and the purchase, then
`--spell-steps` of the upper part on text and on the same speech; no step goes through the LLM. It is measured on the
first `--documents` held-out documents of each domain in the trained voice. What the probe cost is counted for no arm.

Keeps OUT/cells/CELL.json, and skips what is there: a call that was cut short goes on. OUT/cells.jsonl holds all. Two
processes may share one OUT (a cell is held by a lock; `--only coverage,active-2` names cells). Ends with a table: each
arm less uniform, with Student's t interval over the draws and the interval over documents. Sixteen cells of the
defaults should take about an hour of two threads, a fifth of it for speaking.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salad.config import load_recipe
from salad.data.manifest import read_utterances, write_utterances
from salad.files import read_json, write_json, write_jsonl
from salad.locks import held
from salad.measure.divergence import DocumentKL, difference, divergence, speech_ears, summary
from salad.measure.hearing import voice_errors
from salad.measure.statistics import pooled_spread, replicate_reach
from salad.model.freeze import freeze
from salad.pipeline.buying import excluded, market_of, price, units_of_run
from salad.pipeline.ears import lower_part_again, upper_part_again
from salad.pipeline.ears_data import spell_documents
from salad.pipeline.hearing import listen
from salad.pipeline.heldout import HeldoutEvaluator
from salad.pipeline.run import Run
from salad.pipeline.speech_jobs import align, encode, open_frames, speak
from salad.pipeline.speechlm import build_model, load_tokenizer
from salad.pipeline.stages.align import load_aligned, load_frames
from salad.pipeline.stages.corpus import load_documents
from salad.progress import console
from salad.select.choose import choose
from salad.select.prices import spread_text
from salad.synthesize.speak import assign_voices
from salad.training.schedule import before_decay
from salad.types import SaladError, Utterance

ARMS: dict[str, dict[str, Any]] = {
    "uniform": {"score": "uniform"},
    "active": {"score": "misalignment", "gamma": 5.0, "rule": "raw"},  # the paper's
    "coverage": {"score": "coverage"},
    "two_prices": {"score": "two_prices"},
}
MOST = 0.2  # of D_web: with more than that, arms buy the same
MARGIN = 1.15  # bought by estimated seconds, then cut where the recordings reach the budget: equal seconds for all


def purchases(run: Run, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Of each cell: ids of what it buys, in the order of choice, and how often it reads each text (null: all alike)."""
    budget_s, settings = 3600 * arguments.budget, run.recipe.select
    market = market_of(run, excluded(run))
    web_s = sum(len(d.words) for d in market.documents) * market.seconds_per_word
    if budget_s > MOST * web_s * arguments.market:
        raise SaladError(
            f"--budget: got {arguments.budget} h, but a market has {web_s * arguments.market / 3600:.2f} h; at most a "
            "fifth of it tells arms apart"
        )
    units, prices = units_of_run(run), price(run, market)
    share = spread_text(market.clusters, prices.clusters)
    write_json(arguments.out / "prices.json", prices.row())
    cluster_of = dict(zip((d.id for d in market.documents), market.labels, strict=True))
    texts = [share[cluster_of[d.id]] if d.id in cluster_of else 1.0 for d in spell_documents(run)[0]]
    found: dict[str, dict[str, Any]] = {}
    for draw in range(arguments.draws):
        order = np.random.default_rng([run.recipe.seed, draw]).permutation(len(market.documents))
        away = {market.documents[i].id for i in order[round(arguments.market * len(order)) :]}
        this = replace(market, taken={*market.taken, *away})
        for arm, changes in ARMS.items():
            own = settings.model_copy(update={"draw": "clusters", **changes, "replicate": draw})
            _, bought = choose(
                own, this, budget_s=MARGIN * budget_s, seed=run.recipe.seed, prices=lambda: prices, units=lambda: units
            )
            found[f"{arm}-{draw}"] = {
                "ids": [d.id for d, _ in bought],
                "texts": texts if arm == "two_prices" else None,
            }
    return found


def prepared(run: Run, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The purchases, and what all of them buy as speech on disk; the first process makes them, others wait."""
    out = arguments.out
    with held(out / "prepare.lock"):
        path = out / "purchases.json"
        if not path.exists():
            write_json(path, purchases(run, arguments))
        found = read_json(path)
        if not (out / "spoken.jsonl").exists():
            wanted = {i for cell in found.values() for i in cell["ids"]}
            documents = [d for d in load_documents(run, "web") if d.id in wanted]
            console.print(f"{len(documents)} documents to speak for {len(found)} cells", highlight=False)
            settings = run.recipe.synthesize
            voices = assign_voices(documents, settings.voices.shares, run.recipe.seed)
            spoken = speak(run, out / "speech", voices, "speak purchases", variation=settings, audio=settings.audio)
            kept = align(run, out / "aligned", spoken, "align purchases")
            encode(run, out / "frames", kept, "encode purchases", layouts=1, whole=True)
            write_utterances(out / "spoken.jsonl", kept)
    return found


def within(spoken: Sequence[Utterance], budget_s: float) -> list[Utterance]:
    """The first recordings, in the order of choice, that stay within the budget."""
    ends = np.cumsum([u.duration_s for u in spoken])
    return list(spoken[: int(np.searchsorted(ends, budget_s, side="right"))])


class Cells:
    """Trains and measures; what cells share is loaded once."""

    def __init__(self, run: Run, arguments: argparse.Namespace) -> None:
        self.run, self.arguments, self.tokenizer = run, arguments, load_tokenizer(run)
        speech = load_aligned(run, "speech")
        self.speech = speech, load_frames(run, "speech", speech)
        spoken = read_utterances(arguments.out / "spoken.jsonl")
        self.frames = open_frames(run, arguments.out / "frames", spoken, layouts=1, whole=True)
        self.spoken = {u.document_id: u for u in spoken}
        self.setting = HeldoutEvaluator(run)

    def cell(self, name: str, purchase: Mapping[str, Any]) -> dict[str, Any]:
        arm, draw = name.rsplit("-", 1)
        bought = within([self.spoken[i] for i in purchase["ids"] if i in self.spoken], 3600 * self.arguments.budget)
        began_s = time.monotonic()
        checkpoint = self.trained(self.arguments.out / name, bought, purchase["texts"], seed=int(draw))
        trained_s = time.monotonic() - began_s
        found = self.measured(checkpoint)
        shutil.rmtree(self.arguments.out / name)  # figures are kept, not weights
        return {
            "cell": name, "arm": arm, "draw": int(draw), "documents_bought": len(bought),
            "seconds_bought": sum(u.duration_s for u in bought), "ids": [u.document_id for u in bought],
            "train_seconds": trained_s, "seconds": time.monotonic() - began_s, **found,
        }  # fmt: skip

    def trained(self, folder: Path, bought: Sequence[Utterance], texts: Sequence[float] | None, seed: int) -> Path:
        run, steps = self.run, self.arguments.spell_steps
        first, seed = run.recipe.stage1, run.recipe.seed + seed
        start = run.folder("stage1") / f"checkpoint-{before_decay(first.steps, first.decay_share):06d}"
        spoken = [self.speech, (bought, self.frames)]
        bf16 = run.uses_bf16("train")
        model = build_model(run)
        freeze(model, "frozen", bf16=bf16)
        ctc_steps = self.arguments.ctc_steps
        last = lower_part_again(run, model, self.tokenizer, spoken, ctc_steps, folder / "lower", start, seed)
        if not steps:
            return last
        spelling = run, model, self.tokenizer, spoken, steps, self.arguments.spell_lr
        return upper_part_again(*spelling, folder / "upper", last, seed, texts)

    def measured(self, checkpoint: Path) -> dict[str, Any]:
        setting, model = self.setting, self.setting.load(checkpoint)
        examples = setting.fewer(self.arguments.documents)
        with setting.reading():
            rows = divergence(model, setting.reader(), examples, speech_ears(model))
            (errors,) = voice_errors(listen(setting, model, examples), 1000, 0)
        found = summary(rows)
        return {
            "misalignment": found.all,
            "se": found.se,
            "documents": found.n_documents,
            "wer": errors.wer.value,
            "phone_error": errors.phone_error.value if errors.phone_error else None,
            "rows": [asdict(row) for row in rows],
        }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms as a table in Markdown: means over the draws, and each arm less uniform over the draws of both.

    The interval over draws is Student's t of the paired differences; that over documents draws documents, each with all
    its draws.
    """
    by_cell = {(row["arm"], row["draw"]): row for row in rows}
    lines = [
        "| arm | draws | seconds bought | M | less uniform: t over draws | over documents | phone error | less uniform "
        "| WER | less uniform |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm]
        if not own:
            continue
        draws = sorted(row["draw"] for row in own if ("uniform", row["draw"]) in by_cell)
        pairs = [(by_cell[arm, draw], by_cell["uniform", draw]) for draw in draws]
        alone = arm == "uniform" or not pairs
        cells = [arm, str(len(own)), f"{np.mean([row['seconds_bought'] for row in own]):.0f}"]
        for name, form in (("misalignment", "{:.3f}"), ("phone_error", "{:.2%}"), ("wer", "{:.2%}")):
            cells.append(form.format(np.mean([row[name] for row in own])))
            cells.append("" if alone else _paired([a[name] - b[name] for a, b in pairs], form))
            if name == "misalignment":
                cells.append("" if alone else _over_documents(pairs))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _paired(differences: Sequence[float], form: str) -> str:
    reach = replicate_reach(*pooled_spread([differences]), len(differences))
    value = float(np.mean(differences))
    say = form.replace("{:", "{:+")
    return f"{say.format(value)} [{say.format(value - reach)}, {say.format(value + reach)}]"


def _over_documents(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    own, other = (
        [DocumentKL(**{**row, "id": f"{n}/{row['id']}"}) for n, pair in enumerate(pairs) for row in pair[side]["rows"]]
        for side in (0, 1)
    )
    d = difference(own, other, documents={row.id: row.id.split("/", 1)[1] for row in own})
    return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a run, finished up to probe")
    parser.add_argument("--budget", type=float, default=0.3, help="hours of speech that each arm buys")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--market", type=float, default=0.5, help="share of D_web that each draw offers to all arms")
    parser.add_argument("--ctc-steps", type=int, default=100)
    parser.add_argument("--spell-steps", type=int, default=30)
    parser.add_argument("--spell-lr", type=float, default=7e-4)
    parser.add_argument("--documents", type=int, default=2, help="held-out documents of each domain")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="names that cells must begin with, such as coverage,active-2")
    parser.add_argument("--out", type=Path, default=None, help="default: RUN-purchases beside the run")
    arguments = parser.parse_args()
    arguments.out = arguments.out or arguments.run.with_name(f"{arguments.run.name}-purchases")
    own = [f"run_dir={arguments.run}", f"threads={arguments.threads}", f"engine.workers={arguments.threads}"]
    own += ["select.score=misalignment", "select.keep_probed=false"]
    run = Run(load_recipe(arguments.run / "recipe.json", own))
    run.use_threads()
    torch.set_flush_denormal(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    asked = {k: v for k, v in vars(arguments).items() if k not in ("run", "out", "threads", "only")}
    asked["run"] = str(arguments.run.resolve())
    settings = arguments.out / "settings.json"
    if settings.exists() and read_json(settings) != asked:
        raise SaladError(f"--out: {arguments.out} holds cells of {read_json(settings)}; give another folder")
    write_json(settings, asked)
    found, done = prepared(run, arguments), arguments.out / "cells"
    cells: Cells | None = None
    only = tuple(arguments.only.split(",")) if arguments.only else ("",)
    for name, purchase in sorted(found.items(), key=lambda item: item[0].rsplit("-", 1)[::-1]):
        if not name.startswith(only):
            continue
        with held(arguments.out / f"{name}.lock", wait=False) as got:
            if got == "taken" or (done / f"{name}.json").exists():
                continue
            cells = cells or Cells(run, arguments)
            row = cells.cell(name, purchase)
            write_json(done / f"{name}.json", row)
            print(json.dumps({k: v for k, v in row.items() if k not in ("rows", "ids")}), flush=True)
    rows = [read_json(path) for path in sorted(done.glob("*.json"))]  # those of other processes, too
    write_jsonl(arguments.out / "cells.jsonl", rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
