"""Lay examples out in one sequence without padding, and pair every student position with its teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from salad.types import Example, Pairs


@dataclass(frozen=True)
class Packed:
    """Examples laid end to end. S student positions, T teacher positions, B examples, N pairs.

    student_ids: int64 [S], the token at each position, -1 where a speech position stands.
    speech_rows: int64 [number of speech positions], where they stand, in the order of the adapter's output.
    student_starts, teacher_starts: int64 [B + 1], cumulative lengths; no example sees another.
    teacher_ids: int64 [T], start token and text of each document.
    pairs: positions in these sequences; its N targets are the text tokens of text spans.
    pair_owner: int64 [N], the example that each pair belongs to.
    """

    student_ids: np.ndarray
    speech_rows: np.ndarray
    student_starts: np.ndarray
    teacher_ids: np.ndarray
    teacher_starts: np.ndarray
    pairs: Pairs
    pair_owner: np.ndarray


def pair(example: Example, speech_lengths: Sequence[int]) -> tuple[np.ndarray, Pairs]:
    """The student's sequence of one example, and its pairs.

    `speech_lengths`: positions that each speech span takes, in order (0 leaves a span out: the deaf control). Returns
    student_ids int64 [S] (-1 at speech positions) and pairs relative to the example. Position 0 holds the
    start token on both sides, so token j of the document stands at j + 1 in the teacher's sequence.
    """
    student: list[np.ndarray] = [np.array([example.start_id], dtype=np.int64)]
    student_pos, teacher_pos = [], []
    length, lengths = 1, iter(speech_lengths)
    for span, (first, last) in zip(example.spans, example.token_bounds, strict=True):
        if span.modality == "speech":
            num = next(lengths)
            student.append(np.full(num, -1, dtype=np.int64))
        else:
            num = last - first
            student.append(example.token_ids[first:last])
            student_pos.append(np.arange(length - 1, length - 1 + num))
            teacher_pos.append(np.arange(first, last))
        length += num
    at = np.concatenate(teacher_pos) if teacher_pos else np.empty(0, dtype=np.int64)
    from_ = np.concatenate(student_pos) if student_pos else np.empty(0, dtype=np.int64)
    return np.concatenate(student), Pairs(from_, at, example.token_ids[at])


def assemble(examples: Sequence[Example], speech_lengths: Sequence[int]) -> Packed:
    """Lay out `examples` end to end; `speech_lengths` runs over all their speech spans in order."""
    lengths = list(speech_lengths)
    students, teachers, pairs, owners = [], [], [], []
    student_starts, teacher_starts = [0], [0]
    for index, example in enumerate(examples):
        num_spans = len(example.speech_tokens)
        student, own = pair(example, lengths[:num_spans])
        del lengths[:num_spans]
        pairs.append((own.student_pos + student_starts[-1], own.teacher_pos + teacher_starts[-1], own.target_ids))
        owners.append(np.full(len(own), index, dtype=np.int64))
        students.append(student)
        teachers.append(np.concatenate([[example.start_id], example.token_ids]))
        student_starts.append(student_starts[-1] + len(student))
        teacher_starts.append(teacher_starts[-1] + len(teachers[-1]))
    assert not lengths, "more speech lengths than speech spans"
    student_ids = np.concatenate(students)
    packed = Packed(
        student_ids=student_ids,
        speech_rows=np.flatnonzero(student_ids < 0),
        student_starts=np.array(student_starts, dtype=np.int64),
        teacher_ids=np.concatenate(teachers).astype(np.int64),
        teacher_starts=np.array(teacher_starts, dtype=np.int64),
        pairs=Pairs(*(np.concatenate(column) for column in zip(*pairs, strict=True))),
        pair_owner=np.concatenate(owners),
    )
    _check(packed)
    return packed


def _check(packed: Packed) -> None:
    """Invariant 1: the token after each side of a pair is the same text token."""
    pairs = packed.pairs
    assert np.array_equal(packed.student_ids[pairs.student_pos + 1], pairs.target_ids)
    assert np.array_equal(packed.teacher_ids[pairs.teacher_pos + 1], pairs.target_ids)
