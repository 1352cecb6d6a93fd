"""A text LLM of any family: how it is built, how it makes states and logits, whether documents may be packed in it."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from salad.model.attention import NAME, packed_arguments, read_head
from salad.objective.distill import kl_per_position
from salad.objective.head import Head
from salad.types import SaladError

EXACT = 1e-5  # nats: what packing may change in float32
STATES = 1e-3  # of their size: what it may change the states, for a small random LLM says nothing in nats
ROUGH = 1e-2, 0.1  # both, where weights are held in bf16
LENGTHS = (11, 7)  # tokens of the two documents that are read packed and alone
SCALES = ("scalar_embed_scale", "embed_scale")  # what families call the scale of their table
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # and the cap of their logits
# What makes a position far away another than a near one: windows, Llama 4's chunks and its scale of late positions,
# how many positions sparse attention picks.
WINDOWS = ("sliding_window", "attention_chunk_size", "floor_scale", "index_topk")
NARROW = 4  # each of them in the second reading: its documents go beyond it
logger = logging.getLogger(__name__)


# --- how a family is built ------------------------------------------------------------------------------


def build_llm(config: PreTrainedConfig) -> PreTrainedModel:
    """The causal LLM of `config` with fresh weights, with our attention where its family asks for attention by name."""
    own: type | None = cast(Any, AutoModelForCausalLM)._model_mapping.get(type(config), None)
    options = {} if own is not None and not _asks_by_name(own) else {"attn_implementation": NAME}
    llm: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)
    return llm


def use_packed_attention(llm: PreTrainedModel) -> bool:
    """Our attention in an LLM that was built with another, where its family can take it; whether it can."""
    named = _asks_by_name(type(llm))
    if named and llm.config._attn_implementation != NAME:
        llm.set_attn_implementation(NAME)
    return named


def _asks_by_name(family: type) -> bool:
    """Whether a family's layers look their attention up in transformers' register (Bloom's, Falcon's, MPT's do not)."""
    return hasattr(sys.modules[family.__module__], "ALL_ATTENTION_FUNCTIONS")


def decoder_of(llm: PreTrainedModel) -> nn.Module:
    """An LLM without its head: what makes its last hidden states. Llama 4 does not name it; ModernBERT its head."""
    found: nn.Module = llm.get_decoder() if isinstance(llm.get_decoder(), PreTrainedModel) else llm.base_model
    inner: nn.Module = llm.model if found is llm and hasattr(llm, "model") else found
    return inner


def decoder_layers(decoder: nn.Module) -> nn.ModuleList:
    """The layers of a decoder, whatever its family calls them."""
    found = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    if not found:
        raise SaladError(
            f"llm: {type(decoder).__name__} has no list of layers, so it is no decoder that we can read; take one of "
            "docs/families.md"
        )
    return max(found, key=lambda layers: (any(map(_can_attend, layers)), len(layers)))


def attention_layers(llm: PreTrainedModel) -> tuple[int, int]:
    """How many layers attend to tokens before, and of how many."""
    layers = decoder_layers(decoder_of(llm))
    return sum(map(_can_attend, layers)), len(layers)


def _can_attend(layer: nn.Module) -> bool:
    return any(_attends(name, module) for name, module in layer.named_modules())


def _attends(name: str, module: nn.Module) -> bool:
    """By the name of its class, or by its own in the layer (LongCat's is MLA); RWKV's recurrence is called so, too."""
    kind = type(module).__name__.lower()
    return ("attention" in kind and "rwkv" not in kind) or name.rpartition(".")[2] in ("self_attn", "attn")


def require_attention(llm: PreTrainedModel) -> None:
    """Raises SaladError where no layer attends to tokens before: a recurrent LLM (Mamba) has no documents to part."""
    some, total = attention_layers(llm)
    if not some:
        raise SaladError(
            f"llm: check `attention`: {some} of {total} layers of {llm.config.model_type} attend to tokens before, "
            "expected one or more; take an LLM with attention"
        )


def embedding_width(config: PreTrainedConfig) -> int:
    """Width of the vectors that the decoder takes in place of tokens: OPT's may be narrower than its layers."""
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def embedding_scale(llm: PreTrainedModel) -> float:
    """What the LLM multiplies a row of its table by before its decoder takes it: sqrt(width) in Gemma, else 1."""
    table = llm.get_input_embeddings()
    return float(next((getattr(table, name) for name in SCALES if getattr(table, name, None) is not None), 1.0))


def as_inputs(llm: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    """Vectors mixed of rows of the table [..., width], at the scale at which the decoder takes tokens."""
    scale = embedding_scale(llm)
    return rows if scale == 1.0 else rows * scale


def head_of(llm: PreTrainedModel) -> Head:
    """How the LLM makes logits of its last hidden states."""
    linear, config = llm.get_output_embeddings(), llm.config
    scale = float(getattr(llm, "logit_scale", None) or 1.0)  # Cohere; MPT's config has one that its model never reads
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
    cap = next((value for name in CAPS if (value := getattr(config, name, None))), None)
    return Head(linear.weight, getattr(linear, "bias", None), scale, cap)


# --- states of documents laid end to end ------------------------------------------------------------------


def hidden_states(
    llm: PreTrainedModel,
    embeddings: torch.Tensor,
    starts: Sequence[int],
    prefixes: Sequence[tuple[int, int]] | None = None,
    head: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Last hidden states [L, width] of documents laid end to end; embeddings [L, width].

    prefixes, head: what each document continues (see `packed_arguments`); `head` only where `packs(llm)`. An LLM that
    cannot be packed reads the documents one by one, and so does one whose positions turn by other angles where a
    document is long (see `rope_limit`), beside such a document.
    """
    decoder = decoder_of(llm)
    longest = max(_lengths(starts, prefixes), default=0) + (head[0][0].shape[-2] if head else 0)
    require_positions(llm, longest, "a document", "give shorter ones, or another LLM")
    if packs(llm) and (head or not _turns_otherwise(llm, starts, prefixes)):
        arguments = packed_arguments(starts, embeddings.device, prefixes, head)
        packed: torch.Tensor = decoder(inputs_embeds=embeddings[None], **arguments).last_hidden_state[0]
        return packed
    if head:
        raise SaladError(
            "llm: this LLM reads documents one by one, so it cannot start them from a common beginning (`head`); "
            "leave it out"
        )
    parts = [
        _decoded(decoder, part).last_hidden_state[0, -own:] for part, own in _documents(embeddings, starts, prefixes)
    ]
    return torch.cat(parts)


def layer_states(llm: PreTrainedModel, embeddings: torch.Tensor, starts: Sequence[int]) -> list[torch.Tensor]:
    """What goes into the first layer and comes out of each, [L, width] each, of documents laid end to end."""
    decoder = decoder_of(llm)
    require_positions(llm, max(_lengths(starts), default=0), "a document", "give shorter ones, or another LLM")
    if packs(llm) and not _turns_otherwise(llm, starts, None):
        arguments = packed_arguments(starts, embeddings.device)
        found = decoder(inputs_embeds=embeddings[None], output_hidden_states=True, **arguments).hidden_states
        return [layer[0] for layer in found]
    parts = [
        _decoded(decoder, part, output_hidden_states=True).hidden_states
        for part, _ in _documents(embeddings, starts, None)
    ]
    return [torch.cat([layer[0] for layer in layers]) for layers in zip(*parts, strict=True)]


def _documents(
    embeddings: torch.Tensor, starts: Sequence[int], prefixes: Sequence[tuple[int, int]] | None
) -> Iterator[tuple[torch.Tensor, int]]:
    """Each document behind what it continues, and its own length."""
    for index, (start, end) in enumerate(itertools.pairwise(starts)):
        first, last = prefixes[index] if prefixes else (0, 0)
        own = embeddings[int(start) : int(end)]
        if len(own):
            yield torch.cat([embeddings[first:last], own]) if last > first else own, len(own)


def _decoded(decoder: nn.Module, embeddings: torch.Tensor, **options: Any) -> Any:
    _forget_longest(decoder)
    return decoder(inputs_embeds=embeddings[None], use_cache=False, **options)


def rope_limit(llm: PreTrainedModel) -> int | None:
    """Positions up to which the angles of rotary positions do not depend on how long the longest document is.

    Above them "longrope" (Phi-3, 128k) and "dynamic" take others for all that is read at once, so that a short document
    beside a long one would not be what it is alone. None: they never depend on it.
    """
    known = getattr(llm, "_salad_rope_limit", -1)
    if known == -1:
        limits = [limit for module in decoder_of(llm).modules() for limit in _limits(module)]
        known = cast(Any, llm)._salad_rope_limit = min(limits, default=None)
    return cast(int | None, known)


def _limits(module: nn.Module) -> Iterator[int]:
    kinds, config = getattr(module, "rope_type", None), getattr(module, "config", None)
    for layer, kind in (kinds if isinstance(kinds, dict) else {"": kinds}).items():
        if isinstance(kind, str) and "dynamic" in kind:
            yield int(cast(Any, module).original_max_seq_len) - 1  # at that many it keeps the angles that it has
        elif kind == "longrope":
            settings = cast(Any, config).rope_parameters
            yield int((settings[layer] if layer else settings)["original_max_position_embeddings"])


def _turns_otherwise(llm: PreTrainedModel, starts: Sequence[int], prefixes: Sequence[tuple[int, int]] | None) -> bool:
    limit, lengths = rope_limit(llm), _lengths(starts, prefixes)
    return limit is not None and len(lengths) > 1 and max(lengths) > limit


def _lengths(starts: Sequence[int], prefixes: Sequence[tuple[int, int]] | None = None) -> list[int]:
    """Positions of each document, what it continues included."""
    seen = [last - first for first, last in prefixes] if prefixes else [0] * (len(starts) - 1)
    return [before + int(b) - int(a) for (a, b), before in zip(itertools.pairwise(starts), seen, strict=True)]


def most_positions(llm: PreTrainedModel) -> int | None:
    """Rows of the LLM's table of positions (GPT-2, OPT, GPT-J), beyond which it reads nothing; None: it has none."""
    known = getattr(llm, "_salad_most_positions", -1)
    if known == -1:
        tokens, found = llm.get_input_embeddings(), [llm.config.max_seq_len] if llm.config.model_type == "mpt" else []
        for name, part in decoder_of(llm).named_modules():
            own = (
                isinstance(part, nn.Embedding)
                and part is not tokens
                and name.endswith(("wpe", "positions", "positions_embed"))
            )
            found += [part.num_embeddings - getattr(part, "offset", 0)] if own else []
            found += [len(table) for key, table in part.named_buffers(recurse=False) if key == "embed_positions"]
        known = cast(Any, llm)._salad_most_positions = min(found, default=None)
    return cast(int | None, known)


def window_of(llm: PreTrainedModel) -> int:
    """Positions that the LLM says it reads; 2048 where it says nothing (Bloom)."""
    return int(most_positions(llm) or getattr(llm.config, "max_position_embeddings", None) or 2048)


def require_positions(llm: PreTrainedModel, number: int, what: str, cure: str) -> None:
    """Raises SaladError where `what` takes more positions than the LLM's table has."""
    most = most_positions(llm)
    if most is not None and number > most:
        raise SaladError(f"{what}: {number} positions, but {llm.config.model_type} has a table of {most}; {cure}")


def _forget_longest(decoder: nn.Module) -> None:
    """Angles of "dynamic" positions as they begin: transformers takes those of the longest document so far."""
    for module in decoder.modules():
        if "dynamic" in str(getattr(module, "rope_type", "")):
            for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
                before = name.removesuffix("max_seq_len_cached")
                setattr(module, name, cast(Any, module).original_max_seq_len)
                setattr(module, f"{before}inv_freq", getattr(module, f"{before}original_inv_freq"))


# --- whether documents may be packed ----------------------------------------------------------------------


@dataclass(frozen=True)
class PackingChange:
    """What packing changes: the greatest KL in nats at any position of any document, and the greatest relative change
    of its states; the same where documents go beyond the windows of their layers (None: no layer has one of WINDOWS).

    fault: why packed documents could not be read at all, or "".
    """

    kl: float
    states: float
    window_kl: float | None = None
    window_states: float | None = None
    fault: str = ""


def packs(llm: PreTrainedModel) -> bool:
    """Whether documents packed end to end give what they give alone; found once by reading a few tokens both ways."""
    known = getattr(llm, "_salad_packs", None)
    if known is None:
        if any(p.is_meta for p in llm.parameters()):
            return _asks_by_name(type(llm))
        known = _asks_by_name(type(llm)) and fits(measure_packing(llm), llm)
        remember_packing(llm, known)
    return known


def remember_packing(llm: PreTrainedModel, known: bool) -> None:
    """Take over what was found before; what is read one by one is slow, and said."""
    cast(Any, llm)._salad_packs = known
    if not known:
        logger.warning(
            "llm: %s reads documents one by one, which is slow: packed it is not exact", llm.config.model_type
        )


def fits(packed: PackingChange, llm: PreTrainedModel) -> bool:
    """Whether what packing changes is rounding."""
    nats, share = ROUGH if precision_of(llm) is not None else (EXACT, STATES)
    return (
        not packed.fault
        and max(packed.kl, packed.window_kl or 0.0) <= nats
        and max(packed.states, packed.window_states or 0.0) <= share
    )


def measure_packing(llm: PreTrainedModel) -> PackingChange:
    """Two documents, one that continues the first, and both behind a common beginning: packed, against alone."""
    with reading(llm), torch.no_grad():
        try:
            kl, states = _difference(llm)
            if not _windows(llm):
                return PackingChange(kl, states)
            with narrow_windows(llm):
                return PackingChange(kl, states, *_difference(llm))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            return PackingChange(float("inf"), float("inf"), fault=f"{type(error).__name__}: {error}")


def probe_documents(llm: PreTrainedModel) -> list[torch.Tensor]:
    """Embeddings of two short documents, the same for the same table."""
    table = cast(nn.Embedding, llm.get_input_embeddings())
    return [table(ids) for ids in probe_ids(llm)]


def probe_ids(llm: PreTrainedModel) -> list[torch.Tensor]:
    """The tokens of `probe_documents`, int64 [n] each."""
    table = cast(nn.Embedding, llm.get_input_embeddings()).weight
    return [torch.tensor([(97 * i + 31 * j + 1) % len(table) for i in range(n)], device=table.device)
            for j, n in enumerate(LENGTHS)]  # fmt: skip


def _difference(llm: PreTrainedModel) -> tuple[float, float]:
    """(KL, relative change of the states), each the greatest of all documents."""
    decoder, (first, second) = decoder_of(llm), probe_documents(llm)
    n, m = len(first), len(second)
    third = second[:4]  # goes on after the first
    alone = [_decoded(decoder, part).last_hidden_state[0] for part in (first, second, torch.cat([first, third]))]
    arguments = packed_arguments([0, n, n + m, n + m + 4], first.device, [(0, 0), (0, 0), (0, n)])
    packed = decoder(inputs_embeds=torch.cat([first, second, third])[None], **arguments).last_hidden_state[0]
    wanted, got = [alone[0], alone[1], alone[2][n:]], list(packed.split([n, m, 4]))
    head = read_head(decoder, first[:5])
    after = [_decoded(decoder, torch.cat([first[:5], second])).last_hidden_state[0, 5:]]
    arguments = packed_arguments([0, n - 5, n - 5 + m], first.device, None, head)
    packed = decoder(inputs_embeds=torch.cat([first[5:], second])[None], **arguments).last_hidden_state[0]
    wanted, got = [*wanted, alone[0][5:], *after], [*got, *packed.split([n - 5, m])]
    own = head_of(llm)
    nats = [
        float(kl_per_position(own.logits(a).double(), own.logits(b).double()).max())
        for a, b in zip(wanted, got, strict=True)
    ]
    shares = [float((a - b).float().norm() / a.float().norm()) for a, b in zip(wanted, got, strict=True)]
    return max(nats), max(shares)


def precision_of(llm: PreTrainedModel) -> torch.dtype | None:
    """bf16 or half where some weights are held in it, else None."""
    return next((p.dtype for p in llm.parameters() if p.dtype in (torch.bfloat16, torch.float16)), None)


@contextmanager
def reading(llm: PreTrainedModel) -> Iterator[None]:
    """Without dropout, in float32 where all weights are; the modes of the modules come back."""
    training = [module for module in llm.modules() if module.training]
    llm.eval()
    low, device = precision_of(llm), next(llm.parameters()).device.type
    try:
        with torch.autocast(device, low or torch.bfloat16, enabled=low is not None):
            yield
    finally:
        for module in training:
            module.training = True


def _windows(llm: PreTrainedModel) -> list[tuple[Any, str, float]]:
    """Modules and configurations that hold one of WINDOWS, which, and its size."""
    holders = [llm, *llm.modules(), *{id(m.config): m.config for m in llm.modules() if hasattr(m, "config")}.values()]
    found: list[tuple[Any, str, Any]] = [(h, name, getattr(h, name, None)) for h in holders for name in WINDOWS]
    return [each for each in found if type(each[2]) in (int, float)]


@contextmanager
def narrow_windows(llm: PreTrainedModel) -> Iterator[None]:
    """Make windows for a while so narrow that a few tokens go beyond them."""
    before = _windows(llm)
    try:
        for holder, name, size in before:
            setattr(holder, name, min(size, NARROW))
        yield
    finally:
        for holder, name, size in before:
            setattr(holder, name, size)
