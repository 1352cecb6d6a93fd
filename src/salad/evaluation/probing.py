"""What a model's states still tell of the speaker: a linear probe for voice and for speaking rate, layer by layer.

The probe is scikit-learn's ridge regression on standardised states, of classes (then the nearest class) or of a number;
its penalty is chosen within the training folds. Documents are kept apart: a text that was trained on is never
scored. Chance is what the same probe finds with the labels shuffled (Hewitt & Liang 2019 ask for such a control).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from salad.measure.results import Interval
from salad.measure.statistics import DRAWS_REFITTED, middle_95
from salad.model.llm import layer_states as llm_layer_states
from salad.model.modeling import SaladForConditionalGeneration
from salad.sequence import assemble, best_fit
from salad.types import Example, SaladError

PENALTIES = 10.0 ** np.arange(-3, 4)  # of the mean squared norm of a row
POSITIONS = 1024  # in one forward pass


@dataclass(frozen=True)
class Probed:
    """A probe's out-of-fold results. `value`: balanced accuracy of voices, or R^2 of a number; `chance`: its mean over
    shuffled labels, `chance_high` their 95th percentile. `draws`: the value over resampled documents, float [B]."""

    value: float
    chance: float
    chance_high: float
    draws: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        return middle_95(self.draws)


def layer_states(model: SaladForConditionalGeneration, examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """States averaged over each speech span, float32 [spans, width] by layer, spans in the examples' order.

    encoder: the frozen encoder's frames. adapter: its output, before anything is dropped. llm-00: what the LLM reads
    in place of the words. llm-01 ...: the output of each of its layers at the speech positions, in context (the last
    one after the final norm).
    """
    device = model.get_input_embeddings().weight.device
    found: dict[str, dict[int, np.ndarray]] = {}
    sizes = [1 + len(e.token_ids) for e in examples]
    first = np.cumsum([0, *(len(e.speech_frames) for e in examples)])
    for group in best_fit(sizes, max([POSITIONS, *sizes])):
        part = [examples[i] for i in group]
        spans = [int(first[i]) + k for i in group for k in range(len(examples[i].speech_frames))]
        frames = [torch.from_numpy(f).float().to(device) for e in part for f in e.speech_frames]
        if not frames:
            continue
        with torch.no_grad():
            adapted, all_lengths = model.adapter(frames)
            speech, lengths = model.speech_embeddings(frames)
            packed = assemble(part, lengths)
            ids, rows = (torch.from_numpy(x).to(device) for x in (packed.student_ids, packed.speech_rows))
            states = llm_layer_states(model.llm, model.merge(ids, speech, rows), packed.student_starts.tolist())
        means = {"encoder": [f.mean(0) for f in frames], "adapter": _means(adapted, all_lengths)}
        means |= {f"llm-{n:02d}": _means(layer[rows], lengths) for n, layer in enumerate(states)}
        for name, values in means.items():
            own = found.setdefault(name, {})
            own |= {span: value.float().cpu().numpy() for span, value in zip(spans, values, strict=True)}
    return {name: np.stack([own[i] for i in sorted(own)]) for name, own in found.items()}


def _means(states: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    return [part.mean(0) for part in states.split(list(lengths))]


def probe(
    states: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    groups: Sequence[str],
    *,
    recordings: Sequence[str] | None = None,
    folds: int = 5,
    shuffles: int = 20,
    resamples: int = DRAWS_REFITTED,
    seed: int = 0,
) -> Probed:
    """Probe `states` [n, d] for `labels`: strings are classes, floats a number. `groups`: the document of each row.

    Labels are shuffled by `recordings` where these have one label each (a voice), else row by row. Two calls with the
    same groups, resamples and seed draw the same documents: their `draws` are paired.
    Raises SaladError where there are fewer than three documents, one class alone, or no class with three rows.
    """
    labels, classes, most = np.asarray(labels), np.empty(0), len(groups)
    if labels.dtype.kind in "US":
        classes, labels = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise SaladError(
                f"retention: every span is of the voice {str(classes[0])!r}; a probe needs two voices or more: give a "
                "corpus with more"
            )
        most = int(np.bincount(labels).max())
    documents, group = np.unique(np.asarray(groups), return_inverse=True)
    if min(len(documents), most) < 3:
        raise SaladError(
            f"retention: the spans are of {len(documents)} documents, and at most {most} of one voice; a probe needs "
            "three documents or more, and a voice with three spans: give more speech"
        )
    rng = np.random.default_rng([seed, 1])
    shuffled = [_shuffle(labels, recordings, rng) for _ in range(shuffles)]
    columns = np.stack([labels, *shuffled])  # [1 + shuffles, n]
    fold = _folds(group, labels if len(classes) else None, min(folds, len(documents), most), seed)
    guesses = _out_of_fold(np.asarray(states, dtype=np.float64), columns, fold, len(classes))
    values = [_value(guess, column, None, len(classes)) for guess, column in zip(guesses, columns, strict=True)]
    rng = np.random.default_rng([seed, 2])
    draws = []
    for _ in range(resamples):
        weight = np.bincount(rng.integers(len(documents), size=len(documents)), minlength=len(documents))[group]
        draws.append(_value(guesses[0], labels, weight, len(classes)))
    by_chance = np.array(values[1:]) if shuffles else np.array([1 / len(classes) if len(classes) else 0.0])
    return Probed(values[0], float(by_chance.mean()), float(np.percentile(by_chance, 95)), np.array(draws))


def retention(after: Probed, before: Probed) -> Interval | None:
    """(after - chance) / (before - chance) with its 95 % interval over documents; None where before shows nothing.

    Their chances are averaged. 1: nothing was lost; 0: the probe finds no more than in shuffled labels.
    """
    if before.value <= max(before.chance_high, 0.0) or before.interval[0] <= max(before.chance, 0.0):
        return None
    chance = (after.chance + before.chance) / 2  # two estimates of one thing
    ratios = (after.draws - chance) / np.maximum(before.draws - chance, 1e-9)
    return Interval(float((after.value - chance) / (before.value - chance)), *middle_95(ratios))


def _shuffle(labels: np.ndarray, recordings: Sequence[str] | None, rng: np.random.Generator) -> np.ndarray:
    if recordings is None:
        return rng.permutation(labels)
    _, at, of = np.unique(np.asarray(recordings), return_index=True, return_inverse=True)
    return rng.permutation(labels[at])[of]


def _folds(group: np.ndarray, classes: np.ndarray | None, folds: int, seed: int) -> np.ndarray:
    """Fold of each row: whole documents, dealt out so that every fold gets some of each class."""
    kind = GroupKFold if classes is None else StratifiedGroupKFold
    deal = kind(folds, shuffle=True, random_state=seed % 2**32)
    fold = np.empty(len(group), dtype=int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # a rare voice cannot be in every fold
        for number, (_, held) in enumerate(deal.split(group, classes, group)):
            fold[held] = number
    return fold


def _out_of_fold(states: np.ndarray, columns: np.ndarray, fold: np.ndarray, num_classes: int) -> np.ndarray:
    """Guess of each row by a probe that saw no row of its fold: [columns, n]; all columns share the factorisations.

    Folds within the training rows choose the penalty, and say where the scores of each class lie: a row goes to the
    nearest class, so that a rare voice is not drowned.
    """
    out = np.zeros(columns.shape)
    for held in np.unique(fold):
        train, inner = fold != held, fold[fold != held]
        own = columns[:, train]
        inside = np.zeros((len(PENALTIES), *own.shape, num_classes or 1))
        for apart in np.unique(inner):
            fit = inner != apart
            inside[:, :, ~fit] = _fit(states[train][fit], own[:, fit], states[train][~fit], num_classes)
        centres = _centres(inside, own, num_classes) if num_classes else None
        guesses = _guess(inside, centres)
        errors = [[-_value(g, c, None, num_classes) for g, c in zip(each, own, strict=True)] for each in guesses]
        best = np.argmin(errors, axis=0)
        guesses = _guess(_fit(states[train], own, states[~train], num_classes), centres)
        out[:, ~train] = guesses[best, np.arange(len(columns))]
    return out


def _centres(scores: np.ndarray, columns: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean score of each class: [penalties, columns, classes, classes]; far away where a class has no row."""
    hot = np.eye(num_classes)[columns]
    count = hot.sum(1)[None, :, :, None]
    means = np.swapaxes(hot, 1, 2)[None] @ scores / np.maximum(count, 1)
    return np.where(count > 0, means, 1e6)


def _guess(scores: np.ndarray, centres: np.ndarray | None) -> np.ndarray:
    """[penalties, columns, rows] of scores [penalties, columns, rows, outputs]."""
    if centres is None:
        return scores[..., 0]
    nearest: np.ndarray = ((centres**2).sum(-1)[:, :, None] - 2 * scores @ np.swapaxes(centres, 2, 3)).argmin(-1)
    return nearest


def _fit(train: np.ndarray, columns: np.ndarray, test: np.ndarray, num_classes: int) -> np.ndarray:
    """Ridge scores of the test rows for every penalty: [penalties, columns, rows, classes or 1]."""
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    targets = _targets(columns, num_classes)  # [columns, rows, outputs]
    flat = np.concatenate(list(targets), axis=1)  # of all columns side by side
    scale = float((train**2).sum()) / len(train) or 1.0
    scores = [Ridge(penalty * scale).fit(train, flat).predict(test) for penalty in PENALTIES]
    return np.reshape(scores, (len(PENALTIES), len(test), len(columns), -1)).swapaxes(1, 2)


def _targets(columns: np.ndarray, num_classes: int) -> np.ndarray:
    """[columns, rows, outputs]: numbers as they are; of classes one output each, scaled by how rare it is."""
    if not num_classes:
        return columns[:, :, None].astype(np.float64)
    hot: np.ndarray = np.eye(num_classes)[columns]
    return np.asarray(hot / np.sqrt(hot.mean(1, keepdims=True).clip(min=1e-9)))


def _value(guess: np.ndarray, labels: np.ndarray, weight: np.ndarray | None, num_classes: int) -> float:
    weight = np.ones(len(labels)) if weight is None else weight
    if num_classes:
        total = np.bincount(labels, weights=weight, minlength=num_classes)
        right = np.bincount(labels, weights=weight * (guess == labels), minlength=num_classes)
        return float((right[total > 0] / total[total > 0]).mean())
    spread = np.average((labels - np.average(labels, weights=weight)) ** 2, weights=weight)
    if spread < 1e-12:  # nothing varies, so there is nothing to tell
        return 0.0
    return float(1 - np.average((labels - guess) ** 2, weights=weight) / spread)
