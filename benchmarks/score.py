"""Scoring multiple choice: items a second against lm-eval's HF backend on text, and against one-by-one on speech.

`python score.py` makes its own items; `--data DIR --tasks arc_easy,piqa` takes real ones, and then `ok` says that
accuracy (acc and acc_norm) equals lm-eval's item by item. The peer is left out where lm_eval is not installed.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import DEVICE, in_turn, line, set_threads
from transformers import AutoConfig

from salad import assets
from salad.evaluation.benchmark_task import Task, find_task, load_items
from salad.evaluation.prompt import Request, Segment, Sound, request, segments
from salad.evaluation.results import METRICS
from salad.evaluation.score import OptionScore, score, score_one_by_one
from salad.evaluation.scorer_model import Reader, load_reader
from salad.evaluation.task_items import TaskItem
from salad.model import SaladConfig, SaladForConditionalGeneration
from salad.model.llm import hidden_states

LLM = "smollm2-135m-instruct"
WORDS = "the of river water plant light stone heat sea air animal cell sun wind grow move fall turn hold carry".split()
Items = list[tuple[Task, TaskItem]]


def made_items(number: int, context_words: int) -> Items:
    rng = random.Random(0)
    task, _ = find_task("arc_easy")

    def say(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    return [
        (task, TaskItem(str(i), say(context_words // 2, 2 * context_words), tuple(say(2, 12) for _ in range(4)), 0))
        for i in range(number)
    ]


def real_items(data: Path, names: str, number: int) -> Items:
    tasks = [find_task(name)[0] for name in names.split(",")]
    return [(task, item) for task in tasks for item in load_items(task, data_dir=data).items[:number]]


def text_requests(reader: Reader, items: Items) -> list[Request]:
    return [
        request(reader.tokenizer, segments(task, item, "text"), [f" {answer}" for answer in task.answers(item)])
        for task, item in items
    ]


def lm_eval_scorer(items: Items, batch: int) -> Any:
    """The same contexts and continuations through lm-eval's own Hugging Face model."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(str(assets.llm_folder(LLM)), device=DEVICE, dtype="float32", batch_size=batch)
    asked = [
        Instance("loglikelihood", {}, (segments(task, item, "text")[0].text, f" {answer}"), i)
        for i, (task, item) in enumerate(items)
        for answer in task.answers(item)
    ]
    return lambda: model.loglikelihood(asked, disable_tqdm=True)


def predictions(item: TaskItem, sums: Sequence[float]) -> list[int]:
    """By acc and by acc_norm."""
    return [
        int(np.argmax([s / METRICS[metric](c, 1) for s, c in zip(sums, item.choices, strict=True)]))
        for metric in ("acc", "acc_norm")
    ]


def token_ratio(requests: Sequence[Request], lengths: Sequence[int]) -> float:
    """Positions of every option with its prefix, over positions with each prefix read once."""
    alone = sum(n + len(o) - 1 for r, n in zip(requests, lengths, strict=True) for o in r.options)
    return alone / sum(n + sum(len(o) - 1 for o in r.options) for r, n in zip(requests, lengths, strict=True))


def speech_case(text: Reader, number: int, seconds: float) -> tuple[Reader, list[Request], list[int]]:
    """An untrained SpeechLM over the same LLM: recordings of about `seconds` s at 12.5 positions a second."""
    rng = np.random.default_rng(0)
    ears = {"adapter_layers": 2, "adapter_width": 576, "adapter_mlp": 1536, "adapter_heads": 9, "adapter_kv_heads": 3}
    config = SaladConfig(llm_config=AutoConfig.from_pretrained(assets.llm_folder(LLM)), frame_rate_hz=50.0,
                         frame_dim=384, stride=4, start_token_id=0, **ears)  # fmt: skip
    reader = Reader(SaladForConditionalGeneration.from_llm(text.llm, config).to(DEVICE), text.tokenizer)
    requests, lengths = [], []
    for (task, item), frames in zip(
        made_items(number, 8), rng.integers(25 * seconds, 75 * seconds, number), strict=True
    ):
        sound = Sound(item.id, (rng.normal(size=(int(frames), 384)).astype(np.float32),))
        prompt = [Segment("text", "Question: "), Segment("speech", item.context), Segment("text", "\nAnswer:")]
        answers = [f" {answer}" for answer in task.answers(item)]
        requests.append(request(reader.tokenizer, prompt, answers, start="document", sound=lambda _, own=sound: own))
        lengths.append(len(requests[-1].prefix) - 1 + -(-int(frames) // 4))
    return reader, requests, lengths


def worst(ours: Sequence[Sequence[OptionScore]], theirs: Sequence[Sequence[OptionScore]]) -> float:
    return max(abs(a.logprob - b.logprob) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tasks", default="arc_easy,arc_challenge,openbookqa,piqa,hellaswag")
    parser.add_argument("--items", type=int, default=16, help="of each task")
    parser.add_argument("--speech-items", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="of the peer")
    args = parser.parse_args()
    set_threads()

    reader = load_reader(LLM, device=DEVICE)
    items = real_items(args.data, args.tasks, args.items) if args.data else made_items(args.items, 40)
    requests = text_requests(reader, items)
    runs: dict[str, Any] = {"ours": lambda: score(reader, requests)}
    try:
        runs["peer"], peer = lm_eval_scorer(items, args.batch), f"lm-eval hf, batch {args.batch}"
    except ImportError:
        runs["peer"], peer = lambda: score_one_by_one(reader, requests), "one by one (lm_eval is not installed)"
    sizes = [len(r.prefix) + sum(len(o) - 1 for o in r.options) for r in requests]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ids = torch.arange(int(starts[-1])) % 40_000

    def read_once() -> None:
        with reader.reading():
            hidden_states(reader.llm, reader.embed_ids(ids.tolist()), starts)

    times = in_turn({**runs, "floor": read_once}, rounds=args.rounds)
    ours, theirs = runs["ours"](), runs["peer"]()
    same, at, error = 0, 0, 0.0
    for (_, item), options in zip(items, ours, strict=True):
        if peer.startswith("lm-eval"):
            sums = [logprob for logprob, _ in theirs[at : at + len(options)]]
            at += len(options)
        else:
            sums, theirs = [o.logprob for o in theirs[0]], theirs[1:]
        own = [o.logprob for o in options]
        error = max([error, *(abs(a - b) for a, b in zip(own, sums, strict=True))])
        same += predictions(item, own) == predictions(item, sums)

    hearing, spoken, lengths = speech_case(reader, args.speech_items, args.seconds)
    speech = in_turn(
        {"ours": lambda: score(hearing, spoken), "one": lambda: score_one_by_one(hearing, spoken)}, rounds=args.rounds
    )
    speech_error = worst(score(hearing, spoken), score_one_by_one(hearing, spoken))
    speedup, ratio = speech["one"] / speech["ours"], token_ratio(spoken, lengths)
    line(
        "score",
        times["ours"],
        peer,
        times["peer"],
        times["floor"],
        same == len(items) and max(error, speech_error) < 1e-3,
        items=len(items),
        items_per_s=round(len(items) / times["ours"], 2),
        peer_items_per_s=round(len(items) / times["peer"], 2),
        token_ratio=round(token_ratio(requests, [len(r.prefix) for r in requests]), 2),
        same_predictions=same,
        max_error=error,
        speech_items_per_s=round(len(spoken) / speech["ours"], 2),
        speech_speedup=round(speedup, 2),
        speech_token_ratio=round(ratio, 2),
        speedup_over_token_ratio=round(speedup / ratio, 3),
        speech_max_error=speech_error,
    )


if __name__ == "__main__":
    main()
