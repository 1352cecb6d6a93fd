"""The figures of a run out of its rows of M: sums by stage and control, what was heard, and a row for each voice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from salad.measure.divergence import DocumentKL, difference, heard, summary
from salad.measure.hearing import VoiceErrors
from salad.measure.results import Interval, MeanKL, Share, VoiceFigures
from salad.measure.voice_label import is_seen
from salad.types import Estimate

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

    def misalignment(self) -> dict[str, MeanKL]:
        """Summary of each; `stage2` inside another stage's: M of stage2 on the documents that it was measured on."""
        rows = self.rows
        out: dict[str, MeanKL] = {name: summary(rows[name], self.documents) for name in ORDER if name in rows}
        for name in ("init", "warm_start", "stage1"):
            if name in rows and len(rows[name]) < len(rows["stage2"]):
                ids = {row.id for row in rows[name]}
                beside = summary([row for row in rows["stage2"] if row.id in ids], self.documents)
                out[name] = replace(out[name], stage2=beside)
        return out

    def heard(self, name: str = "stage2") -> Share | None:
        """`heard` of one stage, over all documents."""
        return self._share(name)

    def heard_by_stage(self) -> dict[str, Share | None]:
        return {name: self._share(name) for name in ("init", "warm_start", "stage1", "stage2") if name in self.rows}

    def heard_by_domain(self) -> dict[str, Share]:
        """What Stage II heard, by domain; a domain of which `heard` means nothing is left out."""
        domains = sorted({row.domain for row in self.rows["stage2"] if row.domain})
        shares = {d: self._share("stage2", domain=d) for d in domains}
        return {d: share for d, share in shares.items() if share}

    def over(self, control: str) -> Estimate:
        """M of a control less M of the model, paired: the test of whether the recording itself told anything."""
        return self._less(control, "stage2")

    def change(self, before: str) -> Estimate:
        """M of Stage II less M of the stage `before`, on the documents that both were measured on."""
        return self._less("stage2", before)

    def _less(self, first: str, second: str) -> Estimate:
        one, other = self.rows[first], self.rows[second]
        return difference(one, other, documents=self.documents, resamples=self.resamples, seed=self.seed)

    def voices(self, errors: Mapping[str, VoiceErrors]) -> list[VoiceFigures]:
        """One row a voice, those trained on first: M and what it is held against, heard, word and phone errors.

        errors: of the voices whose words were heard.
        """
        found = {row.speaker for row in self.rows["stage2"] if row.speaker}
        out = []
        for voice in sorted(found, key=lambda v: (not is_seen(v), v)):
            means = {}
            for name in ("stage2", "blind", "other", "deaf", "cascade"):
                if own := [r for r in self.rows.get(name, ()) if r.speaker == voice]:
                    summed = summary(own, self.documents)
                    means[name] = MeanKL(summed.all, summed.se, summed.n_documents)
            wrong = errors.get(voice)
            out.append(
                VoiceFigures(
                    voice=voice,
                    unseen=not is_seen(voice),
                    **means,
                    heard=self._share("stage2", speaker=voice),
                    wer=Interval.of(wrong.wer) if wrong else None,
                    strict_wer=Interval.of(wrong.strict_wer) if wrong else None,
                    phone_error=Interval.of(wrong.phone_error) if wrong and wrong.phone_error else None,
                )
            )
        return out

    def _share(self, name: str, **of: str) -> Share | None:
        """The share over the rows whose `domain` or `speaker` is the one given."""
        rows: dict[str, Sequence[DocumentKL]] = {
            key: [row for row in group if all(getattr(row, field) == value for field, value in of.items())]
            for key, group in self.rows.items()
        }
        return heard(
            rows[name],
            {key: rows[key] for key in NOT_HEARING if rows.get(key)},
            rows.get("cascade"),
            documents=self.documents,
            resamples=self.resamples,
            seed=self.seed,
        )
