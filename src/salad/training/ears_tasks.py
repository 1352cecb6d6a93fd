"""What the loop trains of ears in two parts: the lower one by CTC on symbols, the upper one from text alone."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from salad.engine import pick
from salad.model.modeling import SaladForConditionalGeneration
from salad.objective.ctc import ctc, ctc_fits
from salad.objective.spelling import spelling
from salad.sequence.simulate import Noise
from salad.sequence.spelling import SpelledText, moved, place
from salad.training.distributed import Figure
from salad.types import Example, SaladError

AROUND_S = 0.1  # of sound beside a word that its own CTC hears too
SAMPLED = 8192  # classes that a step compares beside its own
MASK_S, MASKS = 0.12, 2
MANY = 1 << 20  # pieces: an order of all of more would take gigabytes


@dataclass(frozen=True)
class SymbolSpan:
    """frames float [T, frame_dim] of a piece; symbols int64 [L] said in it; words: for each word that is said
    (first symbol, last + 1, start, end in seconds from the piece's beginning)."""

    frames: np.ndarray
    symbols: np.ndarray
    words: tuple[tuple[int, int, float, float], ...]


class LowerTask:
    """CTC of frames onto symbols. For the first `by_word` of the steps each word is found in its own time, which starts
    it twice as fast; then pieces as a whole, with parts of the frames masked.
    """

    def __init__(
        self,
        model: SaladForConditionalGeneration,
        spans: Sequence[SymbolSpan],
        *,
        steps: int,
        batch: int,
        seed: int,
        by_word: float = 0.15,
    ) -> None:
        self.model, self.lower = model, model.symbol_ears.lower
        possible = array("q", (number for number, span in enumerate(spans) if self._fits(span)))
        self.impossible = len(spans) - len(possible)
        if not possible:
            raise SaladError("warm_start: no piece of speech is long enough for its symbols; lower model.stride")
        self.spans: Sequence[SymbolSpan] = pick(spans, possible)
        self.seed, self.whole_from = seed, round(by_word * steps)
        self._rate_hz = model.config.frame_rate_hz / self.lower.stride * self.lower.up
        self._plan = batch_indices(len(possible), steps, batch, f"{seed}/lower")

    def _fits(self, span: SymbolSpan) -> bool:
        return ctc_fits(self.lower.num_positions(len(span.frames)), (span.symbols + 1).tolist())

    def packs(self, step: int) -> list[tuple[int, list[int]]]:
        return [(step, self._plan[step])]

    def count(self, pack: tuple[int, list[int]]) -> int:
        return sum(len(self.spans[i].symbols) for i in pack[1])

    def loss(self, pack: tuple[int, list[int]]) -> tuple[torch.Tensor, dict[str, Figure]]:
        step, chosen = pack
        spans = [self.spans[i] for i in chosen]
        device = self.lower.out_proj.weight.device
        rng = np.random.default_rng([self.seed, step])
        frames = [torch.from_numpy(self._masked(s.frames, rng)).to(device) for s in spans]
        scores, _, lengths = self.lower(frames)
        if step < self.whole_from:
            rows, sizes, classes = self._by_word(spans, lengths)
            loss, count = ctc(scores.index_select(0, rows.to(device)), sizes, classes)
        else:
            loss, count = ctc(scores, lengths, [(s.symbols + 1).tolist() for s in spans])
        size = sum(p.numel() for p in self.lower.parameters())
        return loss, {"positions": sum(lengths), "targets": count, "flops": 6.0 * size * sum(lengths)}

    def _by_word(
        self, spans: Sequence[SymbolSpan], lengths: Sequence[int]
    ) -> tuple[torch.Tensor, list[int], list[list[int]]]:
        rows, sizes, classes, at = [], [], [], 0
        for span, length in zip(spans, lengths, strict=True):
            for first, last, start_s, end_s in span.words:
                low = max(0, int((start_s - AROUND_S) * self._rate_hz))
                high = min(length, int((end_s + AROUND_S) * self._rate_hz) + 1)
                rows.append(torch.arange(at + low, at + high))
                sizes.append(high - low)
                classes.append((span.symbols[first:last] + 1).tolist())
            at += length
        return torch.cat(rows), sizes, classes

    def _masked(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A copy with MASKS stretches of zeros, each a quarter of the piece at most: where nothing is left to hear,
        norms of zeros make the gradient infinite."""
        frames = frames.astype(np.float32)
        longest = max(1, round(MASK_S * self.model.config.frame_rate_hz))
        for _ in range(MASKS):
            length = min(int(rng.integers(0, longest + 1)), len(frames) // 4)
            start = int(rng.integers(0, max(1, len(frames) - length)))
            frames[start : start + length] = 0.0
        return frames


class SpellTask:
    """The upper part from text alone: symbols with the noise of ears -> the tokens of the LLM.

    texts: what is read, cut into runs of `words` words; lists: texts of words in no order, which a share `lists_share`
    of each batch comes from. rate: the dial of mistakes is drawn from [0, rate] for each run. weights: how often
    each text is read, against the others; None: all alike.
    """

    def __init__(
        self,
        model: SaladForConditionalGeneration,
        texts: Sequence[SpelledText],
        lists: Sequence[SpelledText],
        noise: Noise,
        *,
        steps: int,
        batch: int,
        seed: int,
        words: tuple[int, int],
        lists_share: float = 0.3,
        rate: float = 1.5,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.model, self.noise, self.seed, self.rate = model, noise, seed, rate
        self.texts, self.lists, self.words = [t for t in texts if len(t.symbols)], [t for t in lists if len(t)], words
        self.shares = None
        if weights is not None:
            own = np.array([w for t, w in zip(texts, weights, strict=True) if len(t.symbols)], dtype=float)
            self.shares = own / own.sum()
        if not self.texts:
            raise SaladError("spell: no text to read; give corpus.text, or documents that the teacher writes")
        self.num_lists = round(batch * lists_share) if self.lists else 0
        self.num_texts = batch - self.num_lists
        self._sample = _ClassSample(model, seed)

    def packs(self, step: int) -> list[int]:
        return [step]

    def runs(self, step: int) -> list[SpelledText]:
        """The runs of words of a step, each with its own cut."""
        rng = np.random.default_rng([self.seed, step, 0])
        out = []
        for group, number, shares in ((self.texts, self.num_texts, self.shares), (self.lists, self.num_lists, None)):
            if not number:
                continue
            alike = shares is None
            for i in rng.integers(len(group), size=number) if alike else rng.choice(len(group), number, p=shares):
                text = group[i]
                length = min(len(text), int(rng.integers(self.words[0], self.words[1] + 1)))
                start = int(rng.integers(0, len(text) - length + 1))
                run = text.cut(start, start + length)
                if len(run.symbols) > 1:
                    out.append(run)
        return out

    def count(self, pack: int) -> int:
        return sum(len(run.token_ids) for run in self.runs(pack))

    def loss(self, pack: int) -> tuple[torch.Tensor, dict[str, Figure]]:
        rng = np.random.default_rng([self.seed, pack, 1])
        posteriors, targets = [], []
        for run in self.runs(pack):
            heard, where = self.noise.hear(run.symbols[:-1], rng, self.rate * rng.random())
            posteriors.append(heard)
            targets.append(place(run, np.append(where, len(heard)), len(heard) + 1))
        flat = torch.from_numpy(np.concatenate(posteriors)).to(self.model.symbol_ears.upper.symbol.device)
        return _spelling(self.model, flat, None, [len(one) for one in posteriors], targets, self._sample(pack))


class HeardSpellTask:
    """The upper part on real speech: what the lower part hears in pieces of known text, by the same loss.

    The lower part is not moved by it: its symbols must stay symbols for other voices.
    """

    def __init__(
        self,
        model: SaladForConditionalGeneration,
        spans: Sequence[tuple[SymbolSpan, SpelledText]],
        *,
        steps: int,
        batch: int,
        seed: int,
    ) -> None:
        self.model, self.spans = model, spans
        self._plan, self._sample = (
            batch_indices(len(spans), steps, batch, f"{seed}/heard"),
            _ClassSample(model, seed + 1),
        )

    def packs(self, step: int) -> list[int]:
        return [step]

    def count(self, pack: int) -> int:
        return sum(len(self.spans[i][1].token_ids) for i in self._plan[pack])

    def loss(self, pack: int) -> tuple[torch.Tensor, dict[str, Figure]]:
        spans = [self.spans[i] for i in self._plan[pack]]
        device = self.model.symbol_ears.upper.symbol.device
        with torch.no_grad():
            runs = self.model.symbol_ears.runs([torch.from_numpy(s.frames).float().to(device) for s, _ in spans])
        targets = []
        for (span, text), heard in zip(spans, runs.posteriors.argmax(-1).split(runs.lengths), strict=True):
            where = np.append(moved(span.symbols.tolist(), heard.tolist()), len(heard))
            targets.append(place(text, where, len(heard) + 1))
        return _spelling(self.model, runs.posteriors, runs.states, runs.lengths, targets, self._sample(pack))


class SimulatedBatches:
    """A plan of batches of text documents whose spoken spans are heard as `noise` has it: posteriors [n, S] in place of
    frames, drawn anew in each step."""

    def __init__(
        self, plan: Sequence[Sequence[Example]], texts: dict[str, SpelledText], noise: Noise, seed: int, rate: float
    ) -> None:
        self.plan, self.texts, self.noise, self.seed, self.rate = plan, texts, noise, seed, rate

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> list[Example]:
        rng = np.random.default_rng([self.seed, step, 2])
        return [self._with_noise(example, rng) for example in self.plan[step]]

    def _with_noise(self, example: Example, rng: np.random.Generator) -> Example:
        text, rate = self.texts[example.id], self.rate * rng.random()
        spans = [text.cut(s.start_word, s.end_word).symbols for s in example.spans if s.modality == "speech"]
        frames = tuple(self.noise.hear(own[: max(1, len(own) - 1)], rng, rate)[0] for own in spans)
        return replace(example, speech_frames=frames)


class _ClassSample:
    """The classes that a step compares beside its own."""

    def __init__(self, model: SaladForConditionalGeneration, seed: int) -> None:
        self._classes, self._seed = model.symbol_ears.upper.sayable.nonzero()[:, 0], seed

    def __call__(self, step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        order = torch.randperm(len(self._classes), generator=generator)[:SAMPLED]
        return self._classes[order.to(self._classes.device)]


def _spelling(
    model: SaladForConditionalGeneration,
    posteriors: torch.Tensor,
    states: torch.Tensor | None,
    lengths: Sequence[int],
    targets: Sequence[np.ndarray],
    sampled: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, Figure]]:
    upper, table = model.symbol_ears.upper, model.get_input_embeddings().weight
    query, emit, _, positions = upper(posteriors, states, lengths)
    wanted = torch.from_numpy(np.concatenate(list(targets))).to(table.device)
    loss, count, right = spelling(upper, query, emit, wanted, table, sampled)
    flops = 6.0 * sum(p.numel() for p in upper.parameters()) * sum(positions)
    return loss, {"positions": sum(positions), "targets": count, "right_sum": right, "flops": flops}


def batch_indices(number: int, steps: int, batch: int, seed: str) -> list[list[int]]:
    """`batch` of `number` for every step, without replacement in each pass; of very many only those that are needed."""
    rng, left, plan = random.Random(seed), list[int](), list[list[int]]()
    for step in range(steps):
        while len(left) < batch:
            left += rng.sample(range(number), number if number <= MANY else min(number, batch * (steps - step)))
        plan.append(left[:batch])
        del left[:batch]
    return plan
