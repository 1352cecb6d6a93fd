r"""A run's next-sentence items as a task of its own: items.jsonl and their recordings, for `salad eval --recordings`.

    python scripts/export_items.py recipes/demo.yaml out
    salad eval runs/demo/stage2/model --tasks out/next_sentence.jsonl --speech --recordings out/recordings \
        --voices "" --asr none --control shuffled,silence

With every item's recording exchanged for another's accuracy must fall to chance; silence gives what options alone tell.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from salad.audio import read_audio, to_samples, write_flac
from salad.config import load_recipe
from salad.files import read_jsonl, write_jsonl
from salad.pipeline.run import Run
from salad.pipeline.stages.align import load_aligned
from salad.progress import console


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="of a run that was measured")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    run = Run(load_recipe(arguments.recipe))
    unseen = run.recipe.corpus.unseen_voices
    spoken = {u.document_id: u for u in load_aligned(run, "heldout") if u.speaker not in unseen}
    rows = []
    for item in read_jsonl(run.folder("evaluate") / "items.jsonl"):
        utterance, (first, last) = spoken[item["document_id"]], item["context_words"]
        samples, rate = read_audio(utterance.audio)
        start, end = (to_samples(t, rate) for t in (utterance.words[first].start_s, utterance.words[last - 1].end_s))
        name = item["id"].replace(":", "-")
        write_flac(arguments.out / "recordings" / f"{name}.flac", samples[start:end], rate)
        rows.append({"id": name, "context": item["context"], "choices": item["options"], "answer": item["answer"]})
    write_jsonl(arguments.out / "next_sentence.jsonl", rows)
    console.print(f"{len(rows)} items in {arguments.out / 'next_sentence.jsonl'}", highlight=False)


if __name__ == "__main__":
    main()
