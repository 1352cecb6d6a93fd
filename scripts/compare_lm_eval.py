"""Item by item: the accuracy of `salad eval` on text against lm-eval's Hugging Face model, by its own task files.

Needs lm_eval (`pip install "salad-speech[lm-eval]"`) and a folder of NAME.jsonl of {id, context, choices, answer}.
They are put into the layout of the hub's data, so that lm-eval's templates and our field mappings both do their work.

    python scripts/compare_lm_eval.py --data DIR --tasks arc_easy,piqa --limit 100
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from salad import assets
from salad.evaluation.benchmark import BenchmarkOptions, run_eval
from salad.evaluation.benchmark_task import find_task
from salad.files import read_jsonl, write_jsonl

METRICS = ("acc", "acc_norm")


def as_on_the_hub(task: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row {id, context, choices, answer} in the fields of the task's data set on the hub."""
    labels = "ABCDEFGH"[: len(row["choices"])]
    labelled = {"choices": {"text": row["choices"], "label": list(labels)}, "answerKey": labels[row["answer"]]}
    if task.startswith("arc_"):
        return {"id": row["id"], "question": row["context"], **labelled}
    if task == "openbookqa":
        return {"id": row["id"], "question_stem": row["context"], **labelled}
    if task == "piqa":
        first, second = row["choices"]
        return {"goal": row["context"], "sol1": first, "sol2": second, "label": row["answer"]}
    if task == "hellaswag":
        activity, _, told = row["context"].partition(": ")
        parts = {"activity_label": activity, "ctx_a": told, "ctx_b": ""}
        return {"ind": row["id"], **parts, "endings": row["choices"], "label": str(row["answer"])}
    raise SystemExit(f"{task}: its layout on the hub is not known here")


def lm_eval_rows(task: str, llm: str, folder: Path, batch: int, model: str) -> list[dict[str, Any]]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    import salad.evaluation.lm_eval_model  # noqa: F401  registers "salad"

    [theirs] = Path(lm_eval.__file__).parent.joinpath("tasks").rglob(f"{task}.yaml")
    split = find_task(task)[0].source.split
    config = {
        "include": str(theirs),
        "task": f"{task}_here",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(folder / f"{task}.jsonl")}},
        "training_split": None,
        "validation_split": split if split == "validation" else None,
        "test_split": split if split == "test" else None,
    }
    (folder / f"{task}_here.yaml").write_text(json.dumps(config), encoding="utf-8")
    found = lm_eval.simple_evaluate(
        model=model,
        model_args={"pretrained": llm, **({"dtype": "float32"} if model == "hf" else {})},
        tasks=[f"{task}_here"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        batch_size=batch,
        log_samples=True,
        bootstrap_iters=0,
    )
    return sorted(found["samples"][f"{task}_here"], key=lambda row: row["doc_id"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", default="arc_easy,arc_challenge,openbookqa,piqa,hellaswag")
    parser.add_argument("--llm", default="smollm2-135m-instruct")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--model", choices=("hf", "salad"), default="hf", help="salad: our own, registered in lm-eval")
    args = parser.parse_args()
    llm = str(assets.llm_folder(args.llm))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        for task in args.tasks.split(","):
            rows = read_jsonl(args.data / f"{task}.jsonl")[: args.limit]
            write_jsonl(folder / f"{task}.jsonl", [as_on_the_hub(task, row) for row in rows])
            start = time.monotonic()
            run_eval(llm, [task], folder / task, BenchmarkOptions(), data_dir=folder)
            middle = time.monotonic()
            theirs = lm_eval_rows(task, llm, folder, args.batch, args.model)
            end = time.monotonic()
            ours = read_jsonl(next((folder / task / "text_base").glob("samples_*.jsonl")))
            pairs = list(zip(ours, theirs, strict=True))
            scores = [
                (float(a[0]), b[0])
                for own, other in pairs
                for a, b in zip(own["filtered_resps"], other["filtered_resps"], strict=True)
            ]
            figures = {
                "task": task,
                "n": len(pairs),
                **{metric: sum(own[metric] for own in ours) / len(ours) for metric in METRICS},
                **{f"lm_eval_{metric}": sum(other[metric] for other in theirs) / len(theirs) for metric in METRICS},
                "items_equal": sum(all(own[m] == other[m] for m in METRICS) for own, other in pairs),
                "same_prompts": all(o["arguments"]["gen_args_0"]["arg_0"] == t["arguments"][0][0] for o, t in pairs),
                "largest_difference_nats": max(abs(a - b) for a, b in scores),
                "ours_s": round(middle - start, 1),
                "lm_eval_s": round(end - middle, 1),
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
