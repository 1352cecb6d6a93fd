"""The figures of a run out of its rows of M: sums by stage and control, what was heard, and a row for each voice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from salad.measure.divergence import DocumentKL, difference, heard, summary
from salad.types import Estimate

UNSEEN = " (unseen)"  # behind the name of a voice that was never trained on
ORDER = ("init", "warm_start", "stage1", "stage2", "blind", "other", "deaf", "cascade")
NOT_HEARING = ("deaf", "blind")  # the lowest of their M is the M_ref of `heard`
Rows = dict[str, list[DocumentKL]]  # of each stage and control, document by document


@dataclass(frozen=True)
class Figures:
    """What follows from `rows`, of which `stage2` is the model and must be there.

    documents: the document that each row's id belongs to: its recordings are drawn together, and it counts once.
    resamples, seed: of the 95 % intervals.
    """

    rows: Rows
    documents: Mapping[str, str]
    resamples: int
    seed: int

    def misalignment(self) -> dict[str, Any]:
        """Summary of each; `stage2` inside another stage's: M of stage2 on the documents that it was measured on."""
        rows = self.rows
        out = {name: summary(rows[name], self.documents) for name in ORDER if name in rows}
        for name in ("init", "warm_start", "stage1"):
            if name in rows and len(rows[name]) < len(rows["stage2"]):
                ids = {row.id for row in rows[name]}
                out[name]["stage2"] = summary([row for row in rows["stage2"] if row.id in ids], self.documents)
        return out

    def heard(self) -> dict[str, Any]:
        """`heard`, over all documents, of each stage, and by domain."""
        domains = sorted({row.domain for row in self.rows["stage2"] if row.domain})
        by_domain = {d: self._share("stage2", lambda row, d=d: row.domain == d) for d in domains}
        stages = [name for name in ("init", "warm_start", "stage1", "stage2") if name in self.rows]
        return {
            "heard": self._share("stage2"),
            "heard_by_stage": {name: self._share(name) for name in stages},
            "heard_by_domain": {d: share for d, share in by_domain.items() if share},
        }

    def over(self, control: str) -> Estimate:
        """M of a control less M of the model, paired: the test of whether the recording itself told anything."""
        return difference(
            self.rows[control], self.rows["stage2"], documents=self.documents, resamples=self.resamples, seed=self.seed
        )

    def voices(self, errors: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One row a voice, those trained on first: M and what it is held against, heard, word and phone errors.

        errors: `VoiceErrors` of the voices whose words were heard.
        """
        found = {row.speaker for row in self.rows["stage2"] if row.speaker}
        out = []
        for voice in sorted(found, key=lambda v: (v.endswith(UNSEEN), v)):
            row: dict[str, Any] = {"voice": voice, "unseen": voice.endswith(UNSEEN)}
            for name in ("stage2", "blind", "other", "deaf", "cascade"):
                if own := [r for r in self.rows.get(name, ()) if r.speaker == voice]:
                    summed = summary(own, self.documents)
                    row[name] = {key: summed[key] for key in ("all", "se", "n_documents")}
            row["heard"] = self._share("stage2", lambda r, voice=voice: r.speaker == voice)
            for kind in ("wer", "strict_wer", "phone_error"):
                value = getattr(errors.get(voice), kind, None)
                row[kind] = asdict(value) if value else None
            out.append(row)
        return out

    def _share(self, name: str, keep: Callable[[DocumentKL], bool] = lambda row: True) -> dict[str, Any] | None:
        rows: dict[str, Sequence[DocumentKL]] = {
            key: [row for row in group if keep(row)] for key, group in self.rows.items()
        }
        share = heard(
            rows[name],
            {key: rows[key] for key in NOT_HEARING if rows.get(key)},
            rows.get("cascade"),
            documents=self.documents,
            resamples=self.resamples,
            seed=self.seed,
        )
        return asdict(share) if share else None
