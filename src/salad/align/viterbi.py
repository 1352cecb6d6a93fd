"""The best path of a known text through CTC emissions, exactly and in bounded memory."""

from __future__ import annotations

import numpy as np

from salad.types import SaladError

BLOCK = 512  # frames between two kept rows of scores
WHOLE_CELLS = 4_000_000  # frames x states whose scores are all kept, in 16 MB
ROW_CELLS = 200_000  # frames x states that a step of the forward pass holds: what a cache can


def ctc_path(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """int64 [num_frames]: at each frame the index into `targets` that is spoken, or -1 where the blank is.

    scores: float32 [num_frames, num_classes], log-probabilities, class 0 the blank. targets: int [num_targets], no
    blanks. The path is one of highest summed score among those that read exactly `targets` (Graves et al. 2006). Raises
    SaladError where there are fewer frames than targets plus repeats: two equal characters need a blank between them.

    It goes forward once and keeps a row of scores now and then; then back, forming again only what the path can have
    come through. States alternate: blank, character 0, blank, character 1 ... blank. In b frames a path climbs at most
    2b of them, so a block is formed again over BLOCK x 2 BLOCK states. Kept are num_frames / BLOCK x states floats, and
    no back-pointers at all: the path back compares the scores themselves.
    """
    targets = np.asarray(targets, dtype=np.int64)
    least = len(targets) + num_repeats(targets)
    if not len(targets) or len(scores) < least:
        raise SaladError(
            f"audio: {len(scores)} frames cannot hold {len(targets)} characters, {least - len(targets)} of them "
            f"doubled (expected at least {max(1, least)} frames and 1 character); does the text belong to the audio?"
        )
    scores = np.ascontiguousarray(scores, dtype=np.float32)
    num_frames = len(scores)
    classes = np.zeros(2 * len(targets) + 1, dtype=np.int64)
    classes[1::2] = targets
    # What it costs to come from two states before: nothing, or everything to skip a blank that is needed.
    skips = np.full(len(classes), -np.inf, np.float32)
    skips[3::2][targets[1:] != targets[:-1]] = 0
    block = num_frames if num_frames * len(classes) <= WHOLE_CELLS else BLOCK
    first = np.full(len(classes), -np.inf, np.float32)
    first[:2] = scores[0, classes[:2]]
    kept = [first]
    for start in range(0, num_frames - block, block):
        last = _forward(scores[start : start + block + 1], classes, skips, kept[-1])
        kept.append(last - last.max())  # only differences count, and float32 keeps them near 0

    state = len(classes)  # one past the last, until the last block is formed
    path = np.empty(num_frames, dtype=np.int64)
    for start in range((len(kept) - 1) * block, -1, -block):
        num_steps = min(block, num_frames - 1 - start)
        low, high = max(0, state - 2 - 2 * num_steps), min(len(classes), state + 1)
        rows = np.empty((num_steps + 1, high - low + 2), np.float32)
        _forward(scores[start : start + num_steps + 1], classes[low:high], skips[low:high], kept.pop()[low:high], rows)
        if state == len(classes):
            state -= 1 + int(rows[-1, -2] >= rows[-1, -1])
        for t in range(num_steps, 0, -1):
            path[start + t] = state
            before = rows[t - 1, state - low : state - low + 3].tolist()  # of states - 2, - 1 and 0
            if before[0] > max(before[1:]) and skips[state] == 0:
                state -= 2
            elif before[1] > before[2]:
                state -= 1
        path[start] = state
    return np.where(path % 2 == 1, path // 2, -1)


def num_repeats(targets: np.ndarray) -> int:
    """Neighbours that are equal."""
    return int(np.count_nonzero(targets[1:] == targets[:-1]))


def _forward(
    scores: np.ndarray, classes: np.ndarray, skips: np.ndarray, first: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """Score of the best path to each of S states after the last of T frames, float32 [S], from that after the first:
    row[t, s] = max(row[t - 1, s], row[t - 1, s - 1], row[t - 1, s - 2] + skips[s]) + scores[t, classes[s]].

    scores [T, num_classes] (row 0 is not read); classes, skips, first [S]. `rows`, float32 [T, 2 + S], gets every row,
    behind two states that cannot be.
    """
    num_rows = max(1, min(len(scores) - 1, ROW_CELLS // len(classes)))
    own = np.empty((num_rows, len(classes)), np.float32)
    skipped = np.empty(len(classes), np.float32)
    buffer = np.empty((num_rows + 1, len(classes) + 2), np.float32) if rows is None else rows
    buffer[:, :2] = -np.inf
    buffer[0, 2:] = first
    last = buffer[0, 2:]
    for start in range(1, len(scores), num_rows):
        part = scores[start : start + num_rows]
        np.take(part, classes, axis=1, out=own[: len(part)], mode="clip")  # without `mode`, `out` is copied
        into = buffer[: len(part) + 1] if rows is None else rows[start - 1 : start + len(part)]
        for two, one, same, now, score in zip(
            into[:-1, :-2], into[:-1, 1:-1], into[:-1, 2:], into[1:, 2:], own, strict=False
        ):
            np.add(two, skips, out=skipped)
            np.maximum(one, same, out=now)
            np.maximum(now, skipped, out=now)
            np.add(now, score, out=now)
        last = into[-1, 2:].copy()
        if rows is None:
            buffer[0, 2:] = last
    return last
