"""The cells of a grid: which trainings there are, in the order in which a budget takes them, and how long one takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAIN = 0.5  # the share of the cells that carry a verdict: at it seeds differ in which half of the speech they hear
ALPHAS = (1.0, 0.0, 0.5, 0.25, 0.75)
SHARES = (0.125, 0.25, 0.5, 1.0)
GAMMAS, KS = (1.0, 10.0), (3, 10)  # ablations of active selection, beside the grid's own; gamma 0 buys as uniform does


@dataclass(frozen=True)
class Cell:
    """One training of one share of one kind of speech.

    speech: narrow; broad (random documents of D_web, spoken); or a purchase beside narrow speech: active, uniform,
    active-gammaG, active-kK; or simulated: the stage reads texts as ears would hear them, after a warm start on narrow
    speech.
    share: of the narrow or broad speech; the parts train for its square root of the recipe's steps, so that less speech
    is heard more often.
    ears: symbols (ours), log-mel (ours behind a filter bank, which never saw a transcript), single (one adapter with a
    CTC warm start onto the LLM's tokens), cold (the paper's form: one adapter, no warm start, no symbols).
    """

    speech: str
    alpha: float
    share: float
    seed: int = 0
    ears: str = "symbols"

    @property
    def name(self) -> str:
        extra = "" if self.ears == "symbols" else f"-{self.ears}"
        return f"{self.speech}-alpha{self.alpha:g}-share{self.share:g}-seed{self.seed}{extra}"

    @property
    def warm(self) -> bool:
        return self.ears != "cold"

    @property
    def buys(self) -> bool:
        """Whether a little speech was bought beside the narrow."""
        return self.speech not in ("narrow", "broad", "simulated")

    @property
    def kind(self) -> str:
        """The speech that its warm start hears."""
        return "broad" if self.speech == "broad" else "narrow"

    @property
    def effort(self) -> float:
        """Steps as a multiple of the recipe's."""
        return math.sqrt(self.share)

    @property
    def work(self) -> float:
        """About how long it trains, against a cell of ours on all the speech."""
        return self.effort * {"log-mel": 2.0, "cold": 1.5, "single": 1.5}.get(self.ears, 1.0)


def grid(seeds: int) -> list[Cell]:
    """All cells, those that the findings need most first: a budget cuts the end."""
    every, one = range(seeds), range(min(1, seeds))
    few = [share for share in SHARES if share != MAIN]
    cells = [Cell("narrow", alpha, MAIN, seed) for seed in every for alpha in (1.0, 0.0)]
    cells += [Cell("broad", alpha, MAIN, seed) for seed in every for alpha in (1.0, 0.0)]
    cells += [Cell(name, 1.0, MAIN, seed) for seed in range(seeds + 1) for name in ("active", "uniform")]
    cells += [Cell("narrow", 1.0, share, seed) for seed in range(min(2, seeds)) for share in few]
    cells += [Cell("narrow", 1.0, MAIN, ears="cold")]
    cells += [Cell("narrow", 1.0, share, ears="single") for share in (MAIN, 1.0, 0.25, 0.125)]
    cells += [Cell("narrow", 1.0, MAIN, ears="log-mel")]
    cells += [Cell("narrow", alpha, MAIN, seed) for seed in one for alpha in ALPHAS[2:]]
    cells += [Cell("narrow", 0.0, share, seed) for seed in range(min(2, seeds)) for share in few]
    cells += [Cell("broad", 1.0, share, seed) for seed in range(min(2, seeds)) for share in few]
    cells += [Cell("narrow", 1.0, share, seed, "single") for seed in every[1:] for share in SHARES]
    cells += [Cell("narrow", 1.0, MAIN, seed, ears) for seed in every[1:] for ears in ("cold", "log-mel")]
    cells += [Cell("narrow", alpha, MAIN, seed) for seed in every[1:] for alpha in ALPHAS[2:]]
    cells += [Cell("narrow", alpha, share, seed) for seed in every[2:] for share in few for alpha in (1.0, 0.0)]
    cells += [Cell("simulated", alpha, MAIN, seed) for seed in every for alpha in (1.0, 0.0)]
    for seed in every:
        cells += [Cell(f"active-gamma{gamma:g}", 1.0, MAIN, seed) for gamma in GAMMAS]
        cells += [Cell(f"active-k{k}", 1.0, MAIN, seed) for k in KS]
    return cells


class Times:
    """Seconds that a cell will take: training by its work, what every cell takes, and its warm start where no cell
    before it left one. guess_s: of a first cell, its warm start among it; see `Grid`.
    """

    def __init__(self, guess_s: float = 0.0) -> None:
        self.guess_s = guess_s
        self.seen: list[tuple[float, float]] = []
        self.warm: list[float] = []  # seconds for a work of 1

    def note(self, cell: Cell, seconds: float, warm_s: float = 0.0) -> None:
        self.seen.append((cell.work, seconds))
        if warm_s:
            self.warm.append(warm_s / cell.work)

    def expect_s(self, cell: Cell, warms: bool = False) -> float:
        if not self.seen:
            return self.guess_s
        warm_s = 1.15 * cell.work * max(self.warm, default=0.0) if warms else 0.0
        if len({work for work, _ in self.seen}) == 1:
            return warm_s + max(s for _, s in self.seen) * max(1.0, cell.work / self.seen[0][0])
        works, seconds = zip(*self.seen, strict=True)
        slope, level = np.polyfit(works, seconds, 1)
        return float(warm_s + 1.15 * max(level + max(slope, 0.0) * cell.work, min(s for _, s in self.seen)))
