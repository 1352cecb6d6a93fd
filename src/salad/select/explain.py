"""Why a cluster's M is high: a bad voice, hard content, or a domain that is missing (docs/decisions/0007).

The paper buys speech where M(c) is high. But M(c) is high for three reasons, and speech mends one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from salad.types import Cluster, SaladError

RIDGE = 0.02  # of a predictor's own variance: keeps coefficients finite where a probe is tiny
PRIOR_DOCUMENTS = 4.0  # a cluster's own variance counts like its documents; the pooled one like this many


@dataclass(frozen=True)
class Evidence:
    """One probe document, token by token (float [count] each, nats).

    All KL of Q, the text LLM before any training, on the whole text (docs/decisions/0007), also where the LLM trains.
    heard: KL to the model with its ears (M). transcript: the same with the cascade's transcript in place of the sound.
    stakes: the same with the spoken words left out, by the text LLM alone: how far it disagrees with itself when it
    does not know them. entropy: of the teacher on the whole text.
    """

    cluster: int
    heard: np.ndarray
    transcript: np.ndarray
    stakes: np.ndarray
    entropy: np.ndarray


@dataclass(frozen=True)
class Parts:
    """M(c) = voice + difficulty + domain, in nats per token, with standard errors over documents."""

    cluster: int
    documents: int
    misalignment: float
    misalignment_se: float
    voice: float
    difficulty: float
    domain: float
    domain_se: float


def explain(evidence: Sequence[Evidence]) -> tuple[list[Parts], dict[str, float]]:
    """The parts of every cluster that has documents, and the coefficients of what is hard.

    For token t of document i in cluster c: what the ASR cannot read either is the voice's, v_t = min(m_t, cascade_t).
    The rest is r_t = d_c + a (h_t - mean h) + b (s_t - mean s) + e_t with a, b >= 0, where h is the teacher's entropy
    and s the stakes. a and b come from differences *within* clusters alone, so that a missing domain
    cannot pass for hard content; difficulty(c) = a (h_c - mean h) + b (s_c - mean s), which is negative for
    easy content, and domain(c) = M(c) - voice(c) - difficulty(c). All are in nats a token. Raises SaladError where a
    document's values are not all there.
    """
    if not evidence:
        return [], {"entropy": 0.0, "stakes": 0.0}
    for one in evidence:
        if not len(one.heard) == len(one.transcript) == len(one.stakes) == len(one.entropy):
            raise SaladError(
                f"explain: a document of cluster {one.cluster} has arrays of different lengths ({len(one.heard)} "
                "values of `heard`); give one value of heard, transcript, stakes and entropy for every token"
            )
    groups: dict[int, list[Evidence]] = {}
    for one in evidence:
        if len(one.heard):
            groups.setdefault(one.cluster, []).append(one)
    h, s = (np.concatenate([getattr(e, name) for e in evidence]) for name in ("entropy", "stakes"))
    mean_h, mean_s = (float(x.mean()) if len(x) else 0.0 for x in (h, s))
    a, b = _slopes(list(groups.values()))

    heard = {c: [(e.heard.sum(), len(e.heard)) for e in own] for c, own in groups.items()}
    rest = {
        c: [((_without_voice(e) - a * (e.entropy - mean_h) - b * (e.stakes - mean_s)).sum(), len(e.heard)) for e in own]
        for c, own in groups.items()
    }
    m, d = _means(heard), _means(rest)
    parts = []
    for cluster, own in sorted(groups.items()):
        count = sum(len(e.heard) for e in own)
        voice = float(sum((e.heard - _without_voice(e)).sum() for e in own) / count)
        parts.append(
            Parts(
                cluster=cluster,
                documents=len(own),
                misalignment=m[cluster][0],
                misalignment_se=m[cluster][1],
                voice=voice,
                difficulty=m[cluster][0] - voice - d[cluster][0],
                domain=d[cluster][0],
                domain_se=d[cluster][1],
            )
        )
    return parts, {"entropy": a, "stakes": b}


def _without_voice(one: Evidence) -> np.ndarray:
    return np.asarray(one.heard - np.minimum(one.heard, one.transcript))


def _slopes(groups: Sequence[Sequence[Evidence]]) -> tuple[float, float]:
    """a, b >= 0 from tokens' distances to their cluster's mean."""
    rows, left = [], []
    for own in groups:
        x = np.stack([np.concatenate([e.entropy for e in own]), np.concatenate([e.stakes for e in own])], axis=1)
        r = np.concatenate([_without_voice(e) for e in own])
        rows.append(x - x.mean(axis=0))
        left.append(r - r.mean())
    x, r = np.concatenate(rows).astype(np.float64), np.concatenate(left).astype(np.float64)
    scale = np.sqrt((x**2).mean(axis=0))
    scale[scale == 0] = 1.0
    ridge = np.sqrt(RIDGE * len(x)) * np.eye(2)
    found, _ = nnls(np.concatenate([x / scale, ridge]), np.concatenate([r, np.zeros(2)]))
    return float(found[0] / scale[0]), float(found[1] / scale[1])


def _means(groups: dict[int, list[tuple[float, int]]]) -> dict[int, tuple[float, float]]:
    """Mean over tokens of each cluster and its standard error over documents.

    A cluster of few documents knows little of its own variance: it is drawn towards the pooled one.
    """
    means = {c: sum(total for total, _ in rows) / sum(n for _, n in rows) for c, rows in groups.items()}
    squares = {
        c: sum((total / n - means[c]) ** 2 * n for total, n in rows) / (sum(n for _, n in rows) / len(rows))
        for c, rows in groups.items()
    }
    freedom = sum(len(rows) - 1 for rows in groups.values())
    pooled = sum(squares.values()) / freedom if freedom else float("nan")
    out = {}
    for c, rows in groups.items():
        variance = (PRIOR_DOCUMENTS * pooled + squares[c]) / (PRIOR_DOCUMENTS + len(rows) - 1)
        out[c] = (float(means[c]), float(np.sqrt(variance / len(rows))))
    return out


def with_evidence(
    clusters: Sequence[Cluster], evidence: Sequence[Evidence], cers: Sequence[float], losses: Sequence[float]
) -> tuple[list[Cluster], dict[str, float]]:
    """Clusters with their parts, documents, CER and loss a token, and the slopes of `explain`.

    cers, losses: of each document of `evidence`, the CER of its speech and the model's loss summed over its tokens
    (nats). A cluster without a usable document keeps nan: nothing is known, so nothing is bought.
    """
    found, slopes = explain(evidence)
    parts, out = {p.cluster: p for p in found}, []
    for cluster in clusters:
        own = [i for i, e in enumerate(evidence) if e.cluster == cluster.id]
        cluster = replace(cluster, documents=len(own))
        if (part := parts.get(cluster.id)) is not None:
            names = ("misalignment", "misalignment_se", "voice", "difficulty", "domain", "domain_se")
            cluster = replace(
                cluster,
                cer=float(np.mean([cers[i] for i in own])),
                nll=sum(losses[i] for i in own) / sum(len(evidence[i].heard) for i in own),
                **{name: getattr(part, name) for name in names},
            )
        out.append(cluster)
    return out, slopes
