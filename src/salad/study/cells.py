"""The cells of a grid: which trainings there are, in the order in which a budget takes them, and how long one takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALPHAS = (1.0, 0.0, 0.5, 0.25, 0.75)
SHARES = (0.125, 0.25, 0.5, 1.0)
COLD_STEPS = 3  # times the steps where there is no warm start: at least the seconds that the two parts take


@dataclass(frozen=True)
class Cell:
    """speech: narrow, broad (random documents of D_web, spoken), active or uniform (narrow, and a little bought).

    share: of the speech and of the steps; the data and the tokens grow together, as in the paper.
    """

    speech: str
    alpha: float
    share: float
    seed: int = 0
    warm: bool = True
    rate: str = "text"
    stride: int = 4

    @property
    def name(self) -> str:
        extra = ("" if self.warm else "-cold") + ("" if self.rate == "text" else f"-fixed-stride{self.stride}")
        return f"{self.speech}-alpha{self.alpha:g}-share{self.share:g}-seed{self.seed}{extra}"

    @property
    def work(self) -> float:
        """Steps of training, in those of a share of 1 with a warm start."""
        return self.share * (1 if self.warm else COLD_STEPS)


def grid(seeds: int) -> list[Cell]:
    """All cells, those that the findings need most first, for every seed: a budget cuts the end."""
    cells: list[Cell] = []
    for seed in range(seeds):
        cells += [Cell("narrow", alpha, share, seed) for share in SHARES for alpha in (1.0, 0.0)]
        cells += [Cell("broad", alpha, 1.0, seed) for alpha in (1.0, 0.0)]
        cells += [Cell(name, 1.0, 1.0, seed) for name in ("active", "uniform")]
        if seed == 0:
            cells += [Cell(speech, 1.0, 1.0, warm=False, rate="fixed") for speech in ("broad", "narrow")]
    cells += [Cell("narrow", 1.0, 1.0, rate="fixed", stride=stride) for stride in (4, 8, 12)]
    for seed in range(seeds):
        cells += [Cell("broad", 1.0, share, seed) for share in SHARES[:-1]]
        cells += [Cell("narrow", alpha, share, seed) for share in SHARES[::-1] for alpha in ALPHAS[2:]]
        cells += [Cell("broad", 0.0, share, seed) for share in SHARES[:-1]]
    return cells


class Times:
    """Seconds that a cell will take: training by its work (the share of the steps), what every cell takes, and its warm
    start where no cell before it left one.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []
        self.warm: list[float] = []  # seconds for a share of 1

    def note(self, cell: Cell, seconds: float, warm_s: float = 0.0) -> None:
        self.seen.append((cell.work, seconds))
        if warm_s:
            self.warm.append(warm_s / cell.share)

    def expect_s(self, cell: Cell, warms: bool = False) -> float:
        if not self.seen:
            return 0.0
        warm_s = 1.15 * cell.share * max(self.warm, default=0.0) if warms else 0.0
        if len({work for work, _ in self.seen}) == 1:
            return warm_s + max(s for _, s in self.seen) * max(1.0, cell.work / self.seen[0][0])
        works, seconds = zip(*self.seen, strict=True)
        slope, level = np.polyfit(works, seconds, 1)
        return float(warm_s + 1.15 * max(level + max(slope, 0.0) * cell.work, min(s for _, s in self.seen)))
