"""What a saved model hears of a human voice: `python scripts/hear_human.py salad-smollm2-135m-ears`.

The two recordings of the asset `human-speech` whose text is known (Beckett, 11 s; Dickens, 44 s) are aligned by Whisper
and measured as `salad divergence` measures a corpus. Prints its table; everything it writes lies in --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from salad.align.utterances import align_utterance
from salad.align.whisper import load_aligner
from salad.assets import get
from salad.audio import read_audio
from salad.cli.common import print_table
from salad.data.manifest import write_utterances
from salad.evaluation.divergence import measure_divergence, table_of
from salad.study.cell_data import NATURAL
from salad.types import Utterance

ASR = "whisper-tiny.en"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a saved model's folder, or ears by name")
    parser.add_argument("--out", type=Path, default=Path("runs/hear-human"))
    arguments = parser.parse_args()
    folder, aligner, aligned = get("human-speech"), load_aligner(ASR), []
    for name, text in NATURAL.items():
        path = folder / f"{name}.wav"
        samples, rate_hz = read_audio(path)
        whole = Utterance(name, text, str(path), rate_hz, len(samples), speaker=name, document_id=name)
        parts, _ = align_utterance(aligner, whole, None, arguments.out, asset=ASR, min_score=0.3)
        aligned += parts
    write_utterances(arguments.out / "utterances.jsonl", aligned)
    figures = measure_divergence(arguments.model, arguments.out / "utterances.jsonl", arguments.out, workers=1)
    header, lines = table_of(figures)
    print_table(header, lines)


if __name__ == "__main__":
    main()
