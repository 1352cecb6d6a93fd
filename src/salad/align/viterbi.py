"""The best path of a known text through CTC emissions, exactly and in bounded memory."""

from __future__ import annotations

import numpy as np

from salad.types import SaladError

__all__ = ["ctc_path", "num_repeats"]

BLOCK = 512  # frames between two kept rows of scores
TORCHAUDIO_CELLS = 100_000_000  # frames x states; its back-pointers take a byte each


def ctc_path(scores: np.ndarray, targets: np.ndarray, *, own: bool = False) -> np.ndarray:
    """int64 [num_frames]: at each frame the index into `targets` that is spoken, or -1 where the blank is.

    scores: float32 [num_frames, num_classes], log-probabilities, class 0 the blank. targets: int [num_targets], no
    blanks. The path is one of highest summed score among those that read exactly `targets` (Graves et al. 2006).
    torchaudio's `forced_align` finds it where it is installed and the audio is not long, unless `own`. Raises SaladError
    where there are fewer frames than targets plus repeats: two equal characters need a blank between them.
    """
    targets = np.asarray(targets, dtype=np.int64)
    least = len(targets) + num_repeats(targets)
    if not len(targets) or len(scores) < least:
        raise SaladError(
            f"audio: {len(scores)} frames cannot hold {len(targets)} characters, {least - len(targets)} of them doubled "
            f"(expected at least {max(1, least)} frames and 1 character); does the text belong to the audio?"
        )
    scores = np.ascontiguousarray(scores, dtype=np.float32)
    if not own and len(scores) * (2 * len(targets) + 1) <= TORCHAUDIO_CELLS:
        path = _torchaudio_path(scores, targets)
        if path is not None:
            return path
    return _own_path(scores, targets)


def num_repeats(targets: np.ndarray) -> int:
    """Neighbours that are equal."""
    return int(np.count_nonzero(targets[1:] == targets[:-1]))


def _torchaudio_path(scores: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
    try:  # a wheel built for CUDA raises OSError where its libraries are not
        import torch
        from torchaudio.functional import forced_align
    except (ImportError, OSError, RuntimeError):
        return None
    labels, _ = forced_align(torch.from_numpy(scores)[None], torch.from_numpy(targets)[None], blank=0)
    spoken = labels[0].numpy()
    begins = (spoken != 0) & (np.diff(spoken, prepend=0) != 0)
    return np.where(spoken != 0, np.cumsum(begins) - 1, -1)


class _Trellis:
    """Scores of the best paths that end in each state, frame by frame.

    States alternate: blank 0, character 0, blank 1 ... character L - 1, blank L, and are kept apart:
    blank[j] = max(blank[j], character[j - 1]) + score of the blank;
    character[j] = max(character[j], blank[j], character[j - 1] unless it is the same class) + score of the class.
    """

    def __init__(self, targets: np.ndarray) -> None:
        self.targets = targets
        same = np.append(True, targets[1:] == targets[:-1])
        self.barred = np.where(same, -np.inf, 0).astype(np.float32)
        self._skip, self._own = np.empty((2, len(targets)), np.float32)

    def start(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blank = np.full(len(self.targets) + 1, -np.inf, np.float32)
        character = np.full(len(self.targets), -np.inf, np.float32)
        blank[0], character[0] = frame[0], frame[self.targets[0]]
        return blank, character

    def step(
        self, frame: np.ndarray, blank: np.ndarray, character: np.ndarray, to_blank: np.ndarray, to_char: np.ndarray
    ) -> None:
        """One frame on, from (blank, character) into (to_blank, to_char), which are other arrays."""
        np.add(character[:-1], self.barred[1:], out=self._skip[1:])
        np.maximum(character, blank[:-1], out=to_char)
        np.maximum(to_char[1:], self._skip[1:], out=to_char[1:])
        np.take(frame, self.targets, out=self._own, mode="clip")  # without `mode`, `out` is copied
        to_char += self._own
        np.maximum(blank[1:], character, out=to_blank[1:])
        to_blank[0] = blank[0]
        to_blank += frame[0]

    def choose(self, blank: np.ndarray, character: np.ndarray, state: int, first: int) -> int:
        """The state before `state` on its best path, out of the scores of states `first` on of the frame before."""
        j = state // 2
        options = [state, state - 1] if j or state % 2 else [state]
        if state % 2 and j and self.barred[j] == 0:
            options.append(state - 2)
        inside = [s for s in options if s >= first]
        return max(inside, key=lambda s: character[s // 2 - first // 2] if s % 2 else blank[s // 2 - first // 2])


def _own_path(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Forward once, keeping every BLOCK-th row; then back, forming again only what the path can have come through.

    In b frames a path climbs at most 2b states, so a block is formed again over BLOCK x 2 BLOCK states. Nothing else is
    stored: num_frames / BLOCK x states floats, and no back-pointers at all.
    """
    num_frames, num_targets = len(scores), len(targets)
    trellis = _Trellis(targets)
    now, then = trellis.start(scores[0]), trellis.start(scores[0])
    kept = {0: (now[0].copy(), now[1].copy())}
    for t in range(1, num_frames):
        trellis.step(scores[t], *now, *then)
        now, then = then, now
        if t % BLOCK == 0:
            # Only differences count; near 0 float32 keeps them. A row never reaches -inf where a path is left.
            highest = max(now[0].max(), now[1].max())
            now[0].__isub__(highest)
            now[1].__isub__(highest)
            kept[t] = now[0].copy(), now[1].copy()
    state = 2 * num_targets if now[0][-1] > now[1][-1] else 2 * num_targets - 1
    path = np.empty(num_frames, dtype=np.int64)
    for start in range((num_frames - 1) // BLOCK * BLOCK, -1, -BLOCK):
        end = min(start + BLOCK, num_frames - 1)  # its state is known
        low = max(0, state // 2 - (end - start) - 1)
        high = min(num_targets, state // 2 + 1)
        part = _Trellis(targets[low:high])
        blanks = np.empty((end - start + 1, high - low + 1), np.float32)
        characters = np.empty((end - start + 1, high - low), np.float32)
        blanks[0], characters[0] = kept[start][0][low : high + 1], kept[start][1][low:high]
        for t in range(start, end):
            part.step(scores[t + 1], blanks[t - start], characters[t - start], blanks[t - start + 1],
                      characters[t - start + 1])  # fmt: skip
        for t in range(end, start, -1):
            path[t] = state // 2 if state % 2 else -1
            state = trellis.choose(blanks[t - start - 1], characters[t - start - 1], state, 2 * low)
        path[start] = state // 2 if state % 2 else -1
    return path
