"""What one look of the probe measured, kept on disk: a probe that was killed does not measure a whole look again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open

from salad.files import write_tensors
from salad.select.explain import Evidence
from salad.types import Utterance

# (utterance, evidence, CER, the model's own loss summed) of each probe document that could be used
ProbeRows = list[tuple[Utterance, Evidence, float, float]]

FILE = "measured.safetensors"
PARTS = ("heard", "transcript", "stakes", "entropy")


def keep_rows(folder: Path, rows: ProbeRows) -> None:
    """Write FILE: the parts of all documents joined, float32 [tokens]; count int64, cer and nll float64 [documents]."""
    tensors = {part: np.concatenate([getattr(e, part) for _, e, *_ in rows]) for part in PARTS if rows}
    tensors["count"] = np.array([len(e.heard) for _, e, *_ in rows], np.int64)
    tensors["cer"], tensors["nll"] = (np.array([row[at] for row in rows], np.float64) for at in (2, 3))
    write_tensors(folder / FILE, tensors, {"ids": json.dumps([u.id for u, *_ in rows])})


def kept_rows(folder: Path, utterances: Sequence[Utterance], cluster_of: Mapping[str, int]) -> ProbeRows | None:
    """The rows in FILE; None where it is not there, or is of other utterances."""
    if not utterances or not (folder / FILE).exists():
        return None
    with safe_open(folder / FILE, "numpy") as file:
        if json.loads(file.metadata()["ids"]) != [u.id for u in utterances]:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    ends = np.cumsum(tensors["count"])[:-1]
    parts = zip(*(np.split(tensors[part], ends) for part in PARTS), strict=True)
    rows = zip(utterances, parts, tensors["cer"].tolist(), tensors["nll"].tolist(), strict=True)
    return [(u, Evidence(cluster_of[u.document_id], *own), cer, nll) for u, own, cer, nll in rows]
