"""The self-check of a text LLM at the door: packed = alone, logits and embeddings its own, a tokenizer that fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jinja2 import TemplateError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from salad.assets import cache_dir
from salad.files import read_json, sha256_json, write_json
from salad.model.attention import NAME
from salad.model.llm import (
    EXACT,
    ROUGH,
    PackingChange,
    as_inputs,
    attention_layers,
    decoder_of,
    fits,
    head_of,
    measure_packing,
    narrow_windows,
    probe_documents,
    probe_ids,
    reading,
    remember_packing,
    use_packed_attention,
)
from salad.model.nested import UNNEST, nests_text
from salad.objective.distill import kl_per_position
from salad.sequence import start_token_id
from salad.text.chat import writes_words
from salad.types import SaladError, first_line_of

KEPT_FROM = 10_000_000  # parameters: a smaller LLM is read faster than a file is worth
# What transformers and its families raise on what they are not made for.
FAULTS = (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ImportError)
VERSION = 4  # of what is checked: an older result is measured again
PLAIN = "none: prompts are plain text"
Verdict = Literal["right", "one by one", "stated", "refused"]


@dataclass(frozen=True)
class Check:
    """name; found: the figure; expected; verdict: "refused" names what cannot be right, "one by one" what is slow."""

    name: str
    found: str
    expected: str
    verdict: Verdict
    cure: str = ""


@dataclass(frozen=True)
class SelfCheck:
    """family: the `model_type`; checks in order; packs: whether documents are packed in it."""

    family: str
    checks: tuple[Check, ...]
    packs: bool

    @property
    def how(self) -> Literal["packed", "one by one", "refused"]:
        if any(check.verdict == "refused" for check in self.checks):
            return "refused"
        return "packed" if self.packs else "one by one"

    def require(self, name: str) -> None:
        """Raises SaladError with the first check that refuses."""
        for check in self.checks:
            if check.verdict == "refused":
                raise SaladError(
                    f"llm: {name}: check `{check.name}`: got {check.found}, expected {check.expected}; {check.cure}"
                )

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows for people to read."""
        return ("check", "found", "expected", "verdict"), [
            (c.name, c.found, c.expected, c.verdict) for c in self.checks
        ]


def load_llm(folder: str | Path, **options: Any) -> PreTrainedModel:
    """The causal LLM of a Hugging Face folder in float32, checked (see `check_llm`); raises SaladError if refused."""
    llm = _loaded(folder, **options)
    found = check_folder(folder, llm)
    found.require(str(folder))
    remember_packing(llm, found.packs)
    return llm


def check_folder(folder: str | Path, llm: PreTrainedModel | None = None, *, again: bool = False) -> SelfCheck:
    """The self-check of a folder's LLM and tokenizer, from the cache where config, sizes and times are as they were.

    llm: the folder's, where it is loaded already. again: measure even so. A cache that cannot be written is done
    without.
    """
    folder = Path(folder)
    kept = cache_dir() / "checks" / f"{_fingerprint(folder)}.json"
    if kept.is_file() and not again:
        values = read_json(kept)
        return SelfCheck(values["family"], tuple(Check(**row) for row in values["checks"]), values["packs"])
    if llm is None:
        llm = _loaded(folder)
    found = check_llm(llm, _tokenizer_of(folder))
    if sum(p.numel() for p in llm.parameters()) >= KEPT_FROM:
        with suppress(OSError):
            write_json(kept, asdict(found))
    return found


def _loaded(folder: str | Path, **options: Any) -> PreTrainedModel:
    try:
        llm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
        llm.eval()
        return llm
    except (OSError, *FAULTS) as error:
        raise SaladError(
            f"llm: {folder} cannot be loaded as a causal text LLM ({_first_line(error)}); give the folder of one, with "
            "config.json and model.safetensors"
        ) from error


def _tokenizer_of(folder: Path) -> Any:
    """None where the folder holds weights alone."""
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((folder / name).is_file() for name in names):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the library that reads tokenizer.json raises Exception itself
        raise SaladError(
            f"llm: {folder}: its tokenizer cannot be read ({_first_line(error)}); copy tokenizer.json and "
            "tokenizer_config.json of the same LLM there once more"
        ) from error


def _fingerprint(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    import transformers

    config = (folder / "config.json").read_text(encoding="utf-8") if (folder / "config.json").is_file() else ""
    return sha256_json([VERSION, transformers.__version__, torch.__version__, str(folder.absolute()), config, stats])


def check_llm(llm: PreTrainedModel, tokenizer: Any = None) -> SelfCheck:
    """Read a few tokens in every way that matters. No figure depends on chance; nothing of `llm` is changed.

    Where the LLM takes the attention by which documents are packed, it is put in. tokenizer: None checks none.
    """
    if nests_text(llm.config):
        found, expected = f"{llm.config.model_type}, which nests the text LLM's", "the text LLM's own"
        nested = Check("configuration", found, expected, "refused", UNNEST)
        return SelfCheck(llm.config.model_type, (nested,), False)
    checks = [_tried("attention", _attention, llm)]
    if checks[0].verdict == "refused":
        return SelfCheck(llm.config.model_type, tuple(checks), False)
    with reading(llm), torch.no_grad():
        looks = {"future unseen": _future, "embeddings": _embeddings, "ids = embeddings": _ids, "logits": _logits}
        checks += [_tried(name, look, llm) for name, look in looks.items()]
        exchanged = use_packed_attention(llm)
        if exchanged:
            checks.append(_tried("attention = own", _own_attention, llm))
    packed = measure_packing(llm) if exchanged else None
    packs = packed is not None and fits(packed, llm)
    checks += _packing(packed, packs)
    if tokenizer is not None:
        checks += _tokenizer(tokenizer, cast(nn.Embedding, llm.get_input_embeddings()).num_embeddings)
    return SelfCheck(llm.config.model_type, tuple(checks), packs)


def _tried(name: str, look: Callable[[PreTrainedModel], Check], llm: PreTrainedModel) -> Check:
    """The check, or that the LLM cannot be read in this way at all."""
    try:
        return look(llm)
    except FAULTS as error:
        cure = "its family is built as none that is known here; take another LLM"
        return Check(name, f"it does not run ({_first_line(error)})", "it runs", "refused", cure)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line_of(error)}"


def _attention(llm: PreTrainedModel) -> Check:
    some, total = attention_layers(llm)
    return Check(
        "attention",
        f"{some} of {total} layers attend to tokens before",
        "1 or more",
        "right" if some else "refused",
        "a recurrent LLM has no ears here; take an LLM with attention",
    )


def _nats(name: str, kl: float, cure: str, most: float = EXACT) -> Check:
    return Check(name, _figure(kl), f"at most {most:g} nats", "right" if kl <= most else "refused", cure)


def _figure(kl: float) -> str:
    return f"{kl:.1e} nats" if math.isfinite(kl) else "it does not run"


def _kl(reference: torch.Tensor, other: torch.Tensor) -> float:
    return float(kl_per_position(reference.double(), other.double()).max())


def _future(llm: PreTrainedModel) -> Check:
    """What a position says, once another token stands behind it."""
    first, second = probe_documents(llm)
    own = head_of(llm)
    changed = torch.cat([first[:-1], second[:1]])
    before, after = (
        own.logits(decoder_of(llm)(inputs_embeds=x[None], use_cache=False).last_hidden_state[0, :-1])
        for x in (first, changed)
    )
    return _nats("future unseen", _kl(before, after), "take a causal LLM")


def _embeddings(llm: PreTrainedModel) -> Check:
    """Rows of the table at our scale against what the LLM makes of the same tokens."""
    table = cast(nn.Embedding, llm.get_input_embeddings())
    ids = torch.arange(min(64, table.weight.shape[0]), device=table.weight.device)
    own, ours = table(ids), as_inputs(llm, table.weight[ids])
    ratio = float(own.float().norm() / ours.float().norm())
    apart = float((own - ours).float().norm() / own.float().norm())
    return Check(
        "embeddings",
        f"{ratio:.6g} times ours",
        "1",
        "right" if apart < 1e-3 else "refused",
        "its family makes more of a token than a row times a number; take another LLM",
    )


def _ids(llm: PreTrainedModel) -> Check:
    """Tokens as ids against their rows of the table; and that what lies between two rows can be read at all."""
    decoder, [ids, _] = decoder_of(llm), probe_ids(llm)
    rows, own = llm.get_input_embeddings()(ids), head_of(llm)
    told = decoder(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    read = decoder(inputs_embeds=rows[None], use_cache=False).last_hidden_state[0]
    between = decoder(inputs_embeds=(rows[None, 1:] + rows[None, :-1]) / 2, use_cache=False).last_hidden_state
    kl = _kl(own.logits(told), own.logits(read)) if bool(between.isfinite().all()) else math.inf
    return _nats("ids = embeddings", kl, "its layers look at the ids of tokens, and speech has none; take another LLM")


def _own_attention(llm: PreTrainedModel) -> Check:
    """What its family's own code attends to against what ours does, in a document and beyond narrow windows."""
    decoder, (first, _), own = decoder_of(llm), probe_documents(llm), head_of(llm)

    def read(name: str) -> list[torch.Tensor]:
        llm.set_attn_implementation(name)
        near = decoder(inputs_embeds=first[None], use_cache=False).last_hidden_state[0]
        with narrow_windows(llm):
            return [near, decoder(inputs_embeds=first[None], use_cache=False).last_hidden_state[0]]

    try:
        states = zip(read("eager"), read(NAME), strict=True)
    finally:
        llm.set_attn_implementation(NAME)
    cure = "ours leaves out what its family's attention does; take another LLM"
    most = EXACT if all(p.dtype == torch.float32 for p in llm.parameters()) else ROUGH[0]
    return _nats("attention = own", max(_kl(own.logits(a), own.logits(b)) for a, b in states), cure, most)


def _logits(llm: PreTrainedModel) -> Check:
    """Tokens read by the LLM's own forward pass against our head on its states."""
    first, _ = probe_documents(llm)
    hidden = decoder_of(llm)(inputs_embeds=first[None], use_cache=False).last_hidden_state[0]
    own = llm(inputs_embeds=first[None], use_cache=False).logits[0]
    return _nats("logits", _kl(own, head_of(llm).logits(hidden)), "its head does what ours does not know; take another")


def _packing(packed: PackingChange | None, packs: bool) -> list[Check]:
    if packed is None:
        found = "its attention cannot be exchanged"
        return [Check("packed = alone", found, f"at most {EXACT:g} nats", "one by one")]
    rows = [("packed = alone", packed.kl)]
    if packed.window_kl is not None:
        rows.append(("beyond the window", packed.window_kl))
    return [Check(n, _figure(kl), f"at most {EXACT:g} nats", "right" if packs else "one by one") for n, kl in rows]


def _tokenizer(tokenizer: Any, rows: int) -> list[Check]:
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    checks = [
        Check(
            "token ids",
            f"{tokens:,} tokens",
            f"at most the table's {rows:,} rows",
            "right" if tokens <= rows else "refused",
            "take the tokenizer that was saved with these weights, or resize the LLM's embeddings to it",
        )
    ]
    try:
        start = start_token_id(tokenizer)
        found = f"{tokenizer.convert_ids_to_tokens(start)} ({start})"
        verdict: Verdict = "right" if 0 <= start < rows else "refused"
    except SaladError:
        found, verdict = "none", "refused"
    cure = "give its tokenizer a bos or an eos token"
    checks.append(Check("start token", found, "<|endoftext|>, bos or eos", verdict, cure))
    checks.append(_chat_template(tokenizer))
    return checks


def _chat_template(tokenizer: Any) -> Check:
    name, expected = "chat template", "none, or one that writes one user's turn"
    if not getattr(tokenizer, "chat_template", None):
        return Check(name, PLAIN, expected, "stated")
    cure = "mend chat_template beside its tokenizer, or take it out: prompts are plain text then"
    try:
        if writes_words(tokenizer):
            return Check(name, "its own", expected, "right")
        return Check(name, "its output lacks the user's words", expected, "refused", cure)
    except (TemplateError, *FAULTS) as error:
        return Check(name, f"it raises {_first_line(error)}", expected, "refused", cure)
