"""The teacher writes documents: topics in, paragraphs out (w ~ Q, as the definitions of F and M want it)."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from salad.config import Corpus
from salad.data.topics import broad_topics, narrow_topics
from salad.engine import Shard, run_shards
from salad.files import read_jsonl, write_jsonl
from salad.text.chat import as_it_takes
from salad.types import Document, SaladError

HELDOUT_TOPICS = 2  # topics of each domain that nothing is trained on

STYLES = {
    "stories": (
        "Tell a short story about {topic}. Use plain sentences.",
        "Write the beginning of a story about {topic}.",
        "Write one page of a novel in which we read of {topic}.",
    ),
    "everyday": (
        "Tell me, as you would tell a friend, about {topic}.",
        "Describe a day in somebody's life that has to do with {topic}.",
        "Write a short diary entry about {topic}.",
    ),
    "broad": (
        "Write a short, clear paragraph on {topic} for a curious reader. Use plain sentences.",
        "Write a paragraph of an encyclopaedia on {topic}.",
        "Explain {topic} in one paragraph.",
    ),
}


def prompts(topics: Mapping[str, Iterable[str]], per_topic: int, source: str, seed: int) -> list[dict[str, str]]:
    """`per_topic` prompts for each topic, in a fixed random order: {id, source, domain, topic, prompt}."""
    rows = []
    for domain, names in topics.items():
        styles = STYLES.get(domain, STYLES["broad"])
        for i, topic in enumerate(names):
            for n in range(per_topic):
                prompt = styles[(i + n) % len(styles)].format(topic=topic)
                name = f"{source}-{domain}-{i:02d}-{n}"
                rows.append({"id": name, "source": source, "domain": domain, "topic": topic, "prompt": prompt})
    random.Random(f"{seed}/{source}").shuffle(rows)
    return rows


def generate_corpus(
    settings: Corpus, llm: str, folder: Path, *, workers: int, seed: int, bf16: bool
) -> dict[str, list[Document]]:
    """What the teacher writes of every topic, {web, speech, heldout}; its shards stay in `folder`."""
    broad, narrow = broad_topics(), narrow_topics()
    kept = {domain: topics[HELDOUT_TOPICS:] for domain, topics in {**narrow, **broad}.items()}
    heldout = {domain: topics[:HELDOUT_TOPICS] for domain, topics in {**narrow, **broad}.items()}
    num_narrow = sum(len(kept[domain]) for domain in narrow)
    rows = prompts({d: kept[d] for d in broad}, settings.web_documents_per_topic, "web", seed)
    rows += prompts({d: kept[d] for d in narrow}, -(-settings.speech_documents // num_narrow), "speech", seed)[
        : settings.speech_documents
    ]
    rows += prompts(heldout, -(-settings.heldout_per_domain // HELDOUT_TOPICS), "heldout", seed)
    function = functools.partial(
        write_documents,
        llm=llm,
        max_new_tokens=settings.max_new_tokens,
        min_words=settings.min_words,
        temperature=settings.temperature,
        top_k=settings.top_k,
        seed=seed,
        bf16=bf16,
    )
    folders = run_shards(
        function, rows, folder, shard_items=settings.batch, workers=workers,
        title="the teacher writes", unit="documents", quarantine=True,
    )  # fmt: skip
    source = {row["id"]: row["source"] for row in rows}
    documents: dict[str, list[Document]] = {"web": [], "speech": [], "heldout": []}
    for path in folders:
        for row in read_jsonl(path / "documents.jsonl"):
            documents[source[row["id"]]].append(Document(**row))
    return documents


def clean(text: str) -> str:
    """Whole sentences of plain prose: markup, headings and a cut-off last sentence go, white space is single."""
    text = re.sub(r"^\s*(?:[-•*]|\d+[.)])\s+", " ", text, flags=re.MULTILINE)
    text = re.sub(r"[*_#`>|]+", "", text)
    text = " ".join(text.split())
    ends = [match.end() for match in re.finditer(r"[.!?][\"')\]]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else ""


def write_documents(
    shard: Shard,
    folder: Path,
    *,
    llm: str,
    max_new_tokens: int,
    min_words: int,
    temperature: float,
    top_k: int,
    seed: int,
    bf16: bool,
) -> None:
    """For `run_shards`: items are rows of `prompts`; writes documents.jsonl, and quarantine.jsonl for the rest."""
    model, tokenizer = _writer(llm, bf16)
    texts = [_chat_prompt(tokenizer, row["prompt"]) for row in shard.items]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    torch.manual_seed(seed * 1_000_003 + shard.index)
    with torch.inference_mode():
        out = model.generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=True, temperature=temperature, top_k=top_k,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    kept, quarantined = [], []
    for row, ids in zip(shard.items, out[:, batch["input_ids"].shape[1] :], strict=True):
        text = clean(tokenizer.decode(ids, skip_special_tokens=True))
        reason = refuse(text, min_words)
        if reason:
            quarantined.append({"stage": "corpus", "id": row["id"], "reason": reason})
        else:
            kept.append(asdict(Document(row["id"], text, f"written by {llm}", row["domain"])))
    write_jsonl(folder / "documents.jsonl", kept)
    write_jsonl(folder / "quarantine.jsonl", quarantined)


def _chat_prompt(tokenizer: Any, prompt: str) -> str:
    """The prompt in the LLM's own chat template; plain, with its answer to follow, where a base LLM has none."""
    if not tokenizer.chat_template:
        return f"{prompt}\n\n"
    message = as_it_takes(tokenizer, [{"role": "user", "content": prompt}])
    try:
        return str(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        raise SaladError(
            f"assets.llm: its chat template does not write one user's turn ({error}); mend chat_template beside its "
            "tokenizer, or take it out: the prompt is plain text then"
        ) from error


def refuse(text: str, min_words: int) -> str:
    """Why a text is no document, or "": it is short, or repeats itself."""
    words = text.split()
    if len(words) < min_words:
        return f"{len(words)} words, fewer than corpus.min_words {min_words}"
    grams = [tuple(words[i : i + 6]) for i in range(len(words) - 5)]
    if len(set(grams)) < 0.8 * len(grams):
        return f"repeats itself: {len(grams) - len(set(grams))} of {len(grams)} runs of six words occur before"
    return ""


def _name_padding(tokenizer: Any) -> None:
    """Any token does: what is padded is masked. Some name none of them, and have but the one that opens documents."""
    if tokenizer.pad_token_id is not None:
        return
    opens = "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else None
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or opens or tokenizer.unk_token


@functools.cache
def _writer(llm: str, bf16: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from salad import assets

    folder = assets.llm_folder(llm)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    _name_padding(tokenizer)
    dtype = torch.bfloat16 if bf16 else torch.float32
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), tokenizer
