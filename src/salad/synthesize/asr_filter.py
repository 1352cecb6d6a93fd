"""What an ASR hears in synthetic speech against what was said: garbled speech is set aside, with its CER."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from salad.engine import pick
from salad.text.error_rates import cer
from salad.types import Utterance


def split_by_cer(
    utterances: Sequence[Utterance], transcripts: Mapping[str, str], max_cer: float
) -> tuple[Sequence[Utterance], list[dict[str, str | float]]]:
    """Utterances at or under `max_cer`, and rows {id, reason, cer} for the others. transcripts: by id.

    An utterance without a transcript could not be read; it is in the quarantine already.
    """
    kept, rows = array("q"), list[dict[str, str | float]]()
    for number, utterance in enumerate(utterances):
        if utterance.id not in transcripts:
            continue
        error = cer(transcripts[utterance.id], utterance.text)
        if error <= max_cer:
            kept.append(number)
        else:
            rows.append({"id": utterance.id, "reason": f"CER {error:.3f}, at most {max_cer} is kept", "cer": error})
    return pick(utterances, kept), rows
