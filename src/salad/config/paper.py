"""What the paper (arXiv 2510.13632) does, setting by setting, and where a recipe departs from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from salad.config.data import Text
from salad.config.recipe import Recipe

TASKS = ("storycloze", "voicebench_mmsu", "voicebench_openbookqa", "hellaswag", "arc_challenge", "piqa")
VOICE = "kokoro:af_heart"
NONE, UNSAID = "none", "not said"
ALWAYS = object()  # no value of a setting: whatever it is, the paper has none, or does not tell


@dataclass(frozen=True)
class Departure:
    """One setting that is not the paper's: how the paper has it, how the recipe has it, and what for."""

    setting: str
    paper: str
    ours: str
    why: str


SIZES = {  # by size of Qwen2.5: adapter's and LLM's learning rates
    "3B": ("Qwen/Qwen2.5-3B", 1e-3, 5e-5),
    "7B": ("Qwen/Qwen2.5-7B", 1e-4, 5e-6),
}
LESS, SMALL = "less computation", "little speech is there to learn from"
OTHER = "another choice of this recipe"
VALUES: dict[str, tuple[Any, str]] = {  # setting: the paper's value, and why it would be another
    "assets.encoder": ("kyutai/mimi", "another encoder: nearer to text, or the one that is embedded"),
    "assets.embedder": ("BAAI/bge-large-en-v1.5", "an embedder that is embedded, or smaller"),
    "model.ears": ("single", f"ears in two parts: {SMALL} (docs/decisions/0011)"),
    "model.stride": (1, "frames are stacked: fewer positions"),
    "model.rate": ("fixed", "a position for each token that is heard (docs/decisions/0003)"),
    "sequence.text_words": ((10, 30), "documents are shorter or longer"),
    "sequence.speech_words": ((5, 15), "documents are shorter or longer"),
    "sequence.context": (2048, LESS),
    "stage1.warmup_steps": (500, "fewer steps in all"),
    "stage1.decay_share": (0.2, "fewer steps in all"),
    "stage2.warmup_steps": (0, "a new optimiser where the CTC steps come between"),
    "stage2.decay_share": (1.0, OTHER),
    "cluster.k": (128, "fewer, larger clusters where D_web is small"),
    "select.gamma": (5.0, OTHER),
    "select.score": ("misalignment", "buys by a part of M, or by a baseline (docs/decisions/0007)"),
    "select.rule": ("raw", "buys by M(c) only where the probe has evidence, and shrinks it (docs/decisions/0007)"),
    "select.draw": ("clusters", "a baseline"),
    "select.budget_share": (0.01, "D_speech is small"),
    "probe.voice": (VOICE, "a voice that is fast on a CPU"),
    "synthesize.voices.shares": ({VOICE: 1.0}, "a voice that is fast on a CPU, or several"),
    "corpus.heldout_voice": (VOICE, "a voice that is fast on a CPU"),
    "evaluate.num_fewshot": (5, "the model's context is short, or the LLM is small"),
}
ADAPTER = {"adapter_layers": 12, "adapter_width": 960, "adapter_mlp": 2560, "adapter_heads": 15, "adapter_kv_heads": 5}
STAGES: dict[str, tuple[Any, str]] = {  # of both stages
    "alpha": (1.0, "the analysis of the paper (alpha below 1)"),
    "text_share": (1 / 3, OTHER),
    "llm": ("full", "the LLM is frozen or learns through LoRA: memory, and no forgetting"),
    "optimizer": ("adamw", "muon trains the ears' matrices in fewer steps"),
    "weight_decay": (0.1, OTHER),
    "divergence": ("kl", OTHER),
    "temperature": (1.0, OTHER),
}
# setting: its value that does nothing, what the paper has, and what it is for
OURS: dict[str, tuple[Any, str, str]] = {
    "warm_start.enabled": (False, NONE, f"the ears learn to spell before they distil: {SMALL}"),
    "model.prior": (0.0, NONE, "the LLM's own expectation helps the ears to hear"),
    "stage1.ctc_weight": (0.0, NONE, "a CTC loss beside the distillation"),
    "stage2.ctc_weight": (0.0, NONE, "a CTC loss beside the distillation"),
    "stage1.spell_weight": (0.0, NONE, "a spelling loss beside the distillation"),
    "stage2.spell_weight": (0.0, NONE, "a spelling loss beside the distillation"),
    "stage2.ctc_steps": (0, NONE, "the lower part of the ears learns alone first"),
    "stage1.ema": (0.0, NONE, "a moving average of the weights is kept"),
    "stage2.ema": (0.0, NONE, "a moving average of the weights is kept"),
    "corpus.speed_jitter": (0.0, NONE, "one voice that is never twice the same"),
    "corpus.pitch_jitter": (0.0, NONE, "one voice that is never twice the same"),
    "synthesize.speed_jitter": (0.0, NONE, "one voice that is never twice the same"),
    "synthesize.pitch_jitter": (0.0, NONE, "one voice that is never twice the same"),
    "corpus.noise": (0.0, NONE, "one voice that is never twice the same"),
    "synthesize.noise": (0.0, NONE, "one voice that is never twice the same"),
    "synthesize.max_cer": (None, NONE, "single garbled recordings are set aside too, not clusters alone"),
    "rounds.number": (1, NONE, "what is bought rests on what was learnt from the round before"),
    "probe.max_seconds": (0.0, NONE, "the probe looks again until there is evidence (docs/decisions/0007)"),
    "evaluate.items": (0, NONE, "next-sentence questions from the held-out documents: no benchmark is needed"),
    "evaluate.noise": ((), NONE, "heard under noise too"),
    "corpus.unseen_documents": (0, NONE, "voices that nothing was trained on, as the paper's reviewers asked"),
    "select.keep_probed": (False, NONE, "what the probe spoke is bought, not waste"),
    "select.near_duplicate": (1.0, NONE, "no text is bought twice in other words"),
    "select.overlap_words": (ALWAYS, NONE, "nothing that is trained on holds what is measured on (GPT-3's 13-grams)"),
    "select.max_cer": (ALWAYS, "a limit that is not said", "clusters above are taken for artefacts of the voice"),
    "assets.asr": (ALWAYS, UNSAID, "finds word times, garbled speech (CER), and is the cascade's"),
    "align.method": (ALWAYS, UNSAID, "which audio belongs to which word"),
    "align.min_score": (0.0, NONE, "recordings whose text is not theirs are set aside"),
    "probe.documents": (ALWAYS, "a small set, its size not said", "documents of each cluster that are spoken first"),
    "sequence.layouts": (ALWAYS, UNSAID, "interleavings of a document: drawn once, or each pass (sequence.encode)"),
    "sequence.first": (ALWAYS, UNSAID, "what a document begins with"),
    "stage1.grad_clip": (ALWAYS, UNSAID, "one batch cannot undo many"),
}


def departures(recipe: Recipe) -> list[Departure]:
    """Every setting of a resolved recipe that is not the paper's, or that the paper does not have or tell.

    The paper has two sizes: a recipe whose LLM is called 7B is held against SALAD-7B, any other against SALAD-3B.
    """
    name = recipe.assets.llm.lower()
    llm, *rates = SIZES["7B" if "7b" in name else "3B"]
    instruct = "; an Instruct model, where the paper's are base models" * ("instruct" in name)
    values = {"assets.llm": (llm, f"another size or family{instruct}"), **VALUES}
    if recipe.model.ears == "single":
        values |= {f"model.{name}": (value, LESS) for name, value in ADAPTER.items()}
    for stage in ("stage1", "stage2"):
        values |= {f"{stage}.{name}": value for name, value in STAGES.items()}
        for name, rate in zip(("lr_adapter", "lr_llm"), rates, strict=True):
            if name == "lr_adapter" or getattr(recipe, stage).llm != "frozen":
                values[f"{stage}.{name}"] = (rate, "other batches, or another way to train")
    rows = [Departure(key, _text_of(paper), _text_of(_at(recipe, key)), why) for key, (paper, why) in values.items()
            if not _same(_at(recipe, key), paper)]  # fmt: skip
    rows += [Departure(*row) for row in _sizes(recipe)] + [Departure(*row) for row in _data(recipe)]
    return rows + [Departure(key, paper, _text_of(_at(recipe, key)), why) for key, (off, paper, why) in OURS.items()
                   if not _same(_at(recipe, key), off)]  # fmt: skip


def measured(recipe: Recipe) -> list[tuple[str, str]]:
    """(what, which) of all that a recipe measures on: held-out texts and recordings, tasks, examples before an item,
    and what is trained on shares no words with."""
    tasks, shots, screened = recipe.evaluate.tasks, recipe.evaluate.num_fewshot, recipe.select.evaluation
    missed = ", ".join(task for task in tasks if task not in screened)
    return [
        ("held out", "; ".join(_heldout(recipe))),
        ("of these, M and F are of", f"{recipe.evaluate.documents:,} documents of each source or domain"),
        ("tasks", ", ".join(tasks) or NONE),
        ("examples before an item", f"up to {shots}, as many as fit its spoken version" if tasks and shots else NONE),
        ("screened against", ", ".join(("the held-out texts", *screened)) + f"; NOT against {missed}" * bool(missed)),
    ]


def _heldout(recipe: Recipe) -> list[str]:
    corpus, out = recipe.corpus, []
    if corpus.heldout_text:
        names = ", ".join(entry.title for entry in corpus.text)
        out.append(f"{corpus.heldout_text:,} documents of {names}, spoken by {corpus.heldout_voice}")
    if corpus.heldout_per_domain:
        written = f"of {corpus.prepared}" if corpus.prepared else "that the LLM writes"
        out.append(f"{corpus.heldout_per_domain} documents of each domain {written}, spoken by {corpus.heldout_voice}")
    if corpus.heldout_share and corpus.own_speech:
        names = ", ".join(entry.title for entry in corpus.own_speech)
        out.append(f"recordings of {names}: {corpus.heldout_share:g} of them, {corpus.heldout_documents:,} at most")
    return out


def _sizes(recipe: Recipe) -> Iterator[tuple[str, str, str, str]]:
    for stage, positions in (("stage1", 24e9), ("stage2", 1.9e9)):
        own = getattr(recipe, stage)
        if not _same(float(own.steps * own.positions), positions):
            yield f"{stage}.steps x positions", f"{positions / 1e9:g} G", f"{own.steps * own.positions / 1e9:g} G", LESS
        if not _same(float(own.positions), 1e6):
            yield f"{stage}.positions", "about 1 M", f"{own.positions:,}", "one device, or few"


def _data(recipe: Recipe) -> Iterator[tuple[str, str, str, str]]:
    """What departs in the data that a recipe reads, and measures on: sources are known by their names."""
    corpus = recipe.corpus
    speech = [e.title + (f" ({e.max_hours:g} h)" if e.max_hours else "") for e in corpus.own_speech]
    speech += [f"{corpus.speech_documents} documents spoken by a voice"] * (corpus.speech_documents > 0)
    if sorted(speech) != ["emilia-yodas", "libriheavy"]:
        yield "corpus.speech", "LibriHeavy, Emilia YODAS-EN: 141,612 h", ", ".join(speech), "what is at hand"
    web = [_source_text(entry) for entry in corpus.text]
    web += [str(path) for path in corpus.local_text]
    web += [corpus.prepared] * bool(corpus.prepared and corpus.web_documents != 0)
    web += ["written by the LLM"] * (corpus.web_documents_per_topic > 0)
    if web != ["fineweb-edu"]:
        why = "a part is quicker to embed and to screen, or what is at hand"
        yield "corpus.text (D_web)", "FineWeb-Edu, 10 B tokens", ", ".join(web), why
    if [(e.title, e.max_documents) for e in corpus.plain_text] != [("smollm-corpus", None)]:
        plain = ", ".join(map(_source_text, corpus.plain_text)) or "D_web's own"
        why = "one text for both where little is trained, or a part of that corpus"
        yield "corpus.plain_text", "SmolLM corpus", plain, why
    if not (corpus.heldout_text and "fineweb-edu" in {e.title for e in corpus.text}) or len(_heldout(recipe)) > 1:
        why = "natural speech is measured too, as the paper's reviewers asked; or what is at hand"
        yield "held out (M, F)", "FineWeb-Edu, spoken", "; ".join(_heldout(recipe)), why
    if {*recipe.evaluate.tasks} != {*TASKS}:
        own = ", ".join(recipe.evaluate.tasks) or NONE
        yield "evaluate.tasks", ", ".join(TASKS), own, "small tasks that need no download, or what is at hand"


def _source_text(entry: Text) -> str:
    limits = [f"one document in {entry.every}"] * (entry.every > 1)
    limits += [f"{entry.max_documents:,} at most"] * (entry.max_documents is not None)
    return entry.title + (f" ({', '.join(limits)})" if limits else "")


def _at(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _same(ours: Any, paper: Any) -> bool:
    if isinstance(ours, (int, float)) and isinstance(paper, (int, float)):
        return math.isclose(ours, paper, rel_tol=1e-3, abs_tol=1e-12)
    return bool(ours == paper)


def _text_of(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {share:g}" for name, share in value.items())
    if isinstance(value, (tuple, list)):
        return (" to " if value and isinstance(value[0], int) else ", ").join(map(str, value)) or NONE
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NONE}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
