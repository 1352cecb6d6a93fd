"""`SaladForConditionalGeneration`: a text LLM with ears, as a Hugging Face citizen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from salad.model.adapter import Adapter, CTCHead, SpeechEmbeddings
from salad.model.config import SaladConfig
from salad.model.ears import Candidates, SymbolEars
from salad.model.ears.lower import pool_runs
from salad.model.ears.symbol_ears import Readout, token_places
from salad.model.empty import build_from
from salad.model.ends import TOKENS, take_over_tokens
from salad.model.fresh import fill_missing, fill_module
from salad.model.llm import (
    as_inputs,
    build_llm,
    decoder_of,
    head_of,
    hidden_states,
    packs,
    remember_packing,
    require_attention,
)
from salad.model.prompt import Prompt, items_asked, read_prompt
from salad.model.span_lengths import span_lengths
from salad.model.splice import splice_at
from salad.model.text_side import TextSide, refuse_lora
from salad.objective.head import Head

PRIOR_ROUNDS = 2  # the second one judges after what the first one chose


class SaladForConditionalGeneration(TextSide, GenerationMixin):
    """encoder (frozen, outside; see `SaladProcessor`) -> adapter -> LLM -> text.

    `frames` everywhere: a sequence of float tensors [num_frames, frame_dim], one for each speech span.
    """

    config_class = SaladConfig
    base_model_prefix = "llm"
    main_input_name = "input_ids"
    input_modalities: Any = ("audio", "text")
    output_modalities = ("text",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]
    _built = False  # until `__init__` is over
    # The ears, as they were trained: neither rounded nor cast; but for tables of integers.
    _keep_in_fp32_modules_strict = [r"^adapter\.(?!upper\.(?:sounds|traits|sayable)$)", r"^ctc\.(?!token_ids$)"]

    def __init__(self, config: SaladConfig, build: Callable[[PreTrainedConfig], PreTrainedModel] = build_llm) -> None:
        """build: of the LLM's configuration, the LLM; with fresh weights unless given."""
        super().__init__(config)
        self.llm = build(config.llm_config)
        self.adapter: SymbolEars | Adapter = SymbolEars(config) if config.ears == "symbols" else Adapter(config)
        self.ctc = CTCHead(config) if config.ctc_vocab_size else None
        self.post_init()
        if config.ears == "symbols":  # likewise
            self.symbol_ears.reset()
        if config.lora_rank:  # after the initialisation above, which would make LoRA's zeros random
            self._add_lora(config.lora_rank)
        self._built = True

    @classmethod
    def from_llm(cls, llm: PreTrainedModel, config: SaladConfig) -> SaladForConditionalGeneration:
        """A fresh adapter before the given LLM's weights, which are taken over: those in float32 are not copied, and
        whoever trains this model trains `llm`.

        Raises SaladError where the LLM has no attention, or its weights do not fit its configuration.
        """
        require_attention(llm)
        model = cls(config, partial(build_from, llm)).to(torch.float32)
        take_over_tokens(model.generation_config, model.llm.generation_config)
        if hasattr(llm, "_salad_packs"):  # what was found of it at the door
            remember_packing(model.llm, bool(llm._salad_packs))
        packs(model.llm)  # before anything is frozen, cast or spread over processes
        return model

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does; in another `dtype` the LLM is held, the ears stay in float32 as in training."""
        attention = kwargs.pop("attn_implementation", None)
        found = super().from_pretrained(*args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found  # with output_loading_info
        for part in model._ears():
            part.float()
        if attention is not None:
            model.set_attn_implementation(attention)
        return found

    def _ears(self) -> list[nn.Module]:
        return [part for part in (self.adapter, self.ctc) if part is not None]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Apply `fn` as torch does; what `half`, `bfloat16` and `to` make of the LLM, the ears stay in float32."""
        held = [tensor for part in self._ears() for tensor in (*part.parameters(), *part.buffers())]
        own = {id(tensor) for tensor in (*held, *(tensor.grad for tensor in held if tensor.is_leaf))}

        def kept(tensor: torch.Tensor) -> torch.Tensor:
            made = fn(tensor)
            as_it_was = id(tensor) not in own or made.dtype in (tensor.dtype, torch.float32)
            return made if as_it_was else tensor.to(made.device)

        whole: Self = cast(Any, super())._apply(kept, recurse)
        return whole

    if TYPE_CHECKING:  # transformers gives these no types, or loses those of torch in its wrappers
        config: SaladConfig

        def to(self, *args: Any, **kwargs: Any) -> Self: ...  # type: ignore[override]  # that one takes no arguments
        def eval(self) -> Self: ...
        def post_init(self) -> None: ...

    def initialize_weights(self) -> None:
        """Initialize as transformers does; what no checkpoint has brought begins as in a fresh model."""
        cast(Any, super()).initialize_weights()
        if self._built:
            fill_missing(self.llm, self.adapter, self.ctc)

    def _init_weights(self, module: nn.Module) -> None:
        fill_module(module)

    def _add_lora(self, rank: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), self.llm)
        for module in self.llm.modules():
            if hasattr(module, "update_layer"):  # by which PEFT puts another LoRA in the place of this one
                cast(Any, module).update_layer = refuse_lora

    @property
    def symbol_ears(self) -> SymbolEars:
        """The adapter of a model that hears symbols first (`config.ears`)."""
        return cast(SymbolEars, self.adapter)  # which PEFT may have wrapped

    # --- speech ---------------------------------------------------------------------------------------

    def ctc_logits(self, frames: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
        """Warm start: [positions, 1 + ctc_vocab_size] and the positions of each span."""
        hidden, lengths = self.adapter(frames)
        assert self.ctc is not None
        return self.ctc(hidden, self.get_input_embeddings().weight), lengths

    def hear(self, frames: Sequence[torch.Tensor], *, readout: Readout = "mixed") -> SpeechEmbeddings:
        """What the LLM reads for each span, and the CTC scores it was made from.

        readout: "argmax" gives the LLM the likeliest token's own embedding in place of the expected one (a measure).
        """
        table = self.get_input_embeddings().weight
        if not len(frames):
            return SpeechEmbeddings(table[:0], [], None, [])
        if self.config.ears == "symbols":
            scores, states, lengths = self.symbol_ears.lower(frames)
            runs = pool_runs(scores, states, lengths)
            return self._read(runs.posteriors, runs.states, runs.lengths, scores, lengths, readout, runs.places)
        hidden, lengths = self.adapter(frames)
        if self.ctc is None:
            return SpeechEmbeddings(hidden, lengths, None, lengths)
        logits = self.ctc(hidden, table)
        best = logits.detach().argmax(dim=-1)
        kept_lengths = lengths
        place = torch.cat([torch.arange(length, device=hidden.device) for length in lengths])
        if self.config.rate == "text":
            keep, kept_lengths = self.ctc.positions_to_keep(best, lengths)
            hidden, scores, best, place = hidden[keep], logits[keep], best[keep], place[keep]
        else:
            scores = logits
        ids = self.ctc.tokens(best)
        embeddings = table[ids.clamp(min=0)] if readout == "argmax" else self.ctc.embed(hidden, scores, table)
        sure, places = scores.detach().softmax(-1).amax(-1), torch.stack([place, place + 1], dim=1)
        return SpeechEmbeddings(as_inputs(self.llm, embeddings), kept_lengths, logits, lengths, ids, None, sure, places)

    def hear_symbols(self, posteriors: Sequence[torch.Tensor]) -> SpeechEmbeddings:
        """What the LLM reads for spans of symbols [n, S] that were heard, or simulated; no frame is asked for."""
        lengths = [len(span) for span in posteriors]
        return self._read(torch.cat(list(posteriors)), None, lengths, None, lengths, "mixed")

    def _read(
        self,
        posteriors: torch.Tensor,
        states: torch.Tensor | None,
        lengths: Sequence[int],
        scores: torch.Tensor | None,
        all_lengths: list[int],
        readout: Readout,
        places: torch.Tensor | None = None,
    ) -> SpeechEmbeddings:
        """Symbols [N, S] -> what the LLM reads. Where `config.prior` is above 0 the LLM judges its candidates first:
        log P of each, after those before it in its span, times `prior`, joins their scores, in PRIOR_ROUNDS rounds."""
        table = self.get_input_embeddings().weight
        ears = self.symbol_ears
        found = ears.candidates(posteriors, states, lengths, table)
        prior = None
        for _ in range(PRIOR_ROUNDS if self.config.prior else 0):
            with torch.no_grad():
                chosen = as_inputs(self.llm, ears.embed(found, table, prior)[0])
                prior = self.config.prior * self._judged(found, chosen)
        embeddings, ids = ears.embed(found, table, prior, readout=readout)
        scored = found.scores if prior is None else found.scores + prior
        sure = scored.detach().softmax(-1).amax(-1)
        told = None if places is None else token_places(places, lengths, found.kept, found.lengths)
        return SpeechEmbeddings(
            as_inputs(self.llm, embeddings), found.lengths, scores, all_lengths, ids, found.symbols, sure, told
        )

    def _judged(self, found: Candidates, embeddings: torch.Tensor) -> torch.Tensor:
        """Log-probability [N, K] of each candidate by the LLM, among the candidates, after its span so far."""
        table = self.get_input_embeddings()
        start = table(torch.tensor([self.config.start_token_id], device=embeddings.device))
        spans = [torch.cat([start, span[:-1].to(start.dtype)]) for span in embeddings.split(found.lengths)]
        starts = [0, *itertools.accumulate(found.lengths)]
        hidden = self.hidden_states(torch.cat(spans), starts)
        return self.head.logits_of(hidden, found.token_ids).log_softmax(-1)

    def speech_embeddings(self, frames: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
        """What the LLM reads for each span: [total positions, llm width] and the positions of each span."""
        heard = self.hear(frames)
        return heard.embeddings, heard.lengths

    def get_audio_features(self, frames: Sequence[torch.Tensor], **kwargs: Any) -> list[torch.Tensor]:
        """Speech embeddings span by span, [positions, llm width] each, as transformers and servers ask for it."""
        if not len(frames):
            return []
        table, dtype = self.get_input_embeddings().weight, next(self.adapter.parameters()).dtype
        own = [span.to(table.device, dtype) for span in frames]
        if table.dtype == torch.float32:
            speech, lengths = self.speech_embeddings(own)
        else:  # as in training: the ears in float32, the LLM's table in less
            with torch.autocast(table.device.type, table.dtype):
                speech, lengths = self.speech_embeddings(own)
        return list(speech.split(list(lengths)))

    # --- packed sequences, for training and measuring -------------------------------------------------

    def decoder(self) -> nn.Module:
        """The LLM without its head."""
        return decoder_of(self.llm)

    def hidden_states(self, embeddings: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
        """Last hidden states [L, width] of documents laid end to end; embeddings [L, width]."""
        return hidden_states(self.llm, embeddings, starts)

    def text_hidden_states(self, token_ids: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
        """Last hidden states [L, width] of plain text: token_ids int64 [L]."""
        return self.hidden_states(self.get_input_embeddings()(token_ids), starts)

    def merge(self, ids: torch.Tensor, speech: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Token embeddings of `ids` [L] (any value at speech rows) with `speech` put in at `rows`."""
        return splice_at(self.get_input_embeddings(), ids, rows, speech)

    # --- Hugging Face's interface ---------------------------------------------------------------------

    def span_lengths(self, frames: Sequence[torch.Tensor]) -> list[int]:
        """How many embeddings each span becomes, without the LLM: what a processor counts its placeholders by."""
        table = self.get_input_embeddings().weight
        own = [span.to(table.device, torch.float32) for span in frames]
        return span_lengths(self.config, self.adapter, self.ctc, table, own)

    def read(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        frames: Sequence[torch.Tensor] | None = None,
        span_lengths: Sequence[int] | torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> Prompt:
        """What the LLM is given: the embeddings of tokens, and of what is heard where placeholders stand."""
        spans = self.get_audio_features(frames or ())
        table, audio = self.get_input_embeddings(), self.config.audio_token_id
        return read_prompt(table, audio, input_ids, attention_mask, spans, span_lengths, labels)

    def expand(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        frames: Sequence[torch.Tensor],
        span_lengths: Sequence[int] | torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """One [length, width] tensor for each row: what `read` gives, without padding."""
        return self.read(input_ids, attention_mask, frames, span_lengths).rows()

    @can_return_tuple  # type: ignore[untyped-decorator]  # transformers gives it no types
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        frames: Sequence[torch.Tensor] | None = None,
        span_lengths: Sequence[int] | torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [batch, longest, vocabulary] of input_ids [batch, longest], padded on either side, or inputs_embeds.

        frames: what placeholders stand for; span_lengths: how many stand for each (see `read_prompt`; where the ears
        hear another number, `longest` is that of the rows that were heard). labels: int64 like `input_ids`, whose
        tokens the loss asks for (-100: not), each predicted by what stands before it. The loss is their mean, or their
        sum / `num_items_in_batch` where `Trainer` gives that. The other arguments are the text LLM's own.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids, inputs_embeds: give one of the two")
        counted = labels
        if input_ids is not None:
            later = past_key_values is not None and past_key_values.get_seq_length() > 0
            if later and not frames:  # what was heard is in the cache; a drafted placeholder is none that is accepted
                input_ids = input_ids.masked_fill(input_ids == self.config.audio_token_id, self.config.start_token_id)
            prompt = self.read(input_ids, attention_mask, frames, span_lengths, labels)
            attention_mask, inputs_embeds, labels = prompt.mask, prompt.embeddings, prompt.labels
        length = cast(torch.Tensor, inputs_embeds).shape[1]
        if position_ids is None and isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        given = {"position_ids": position_ids, "past_key_values": past_key_values, "use_cache": use_cache}
        given |= {"attention_mask": attention_mask, "logits_to_keep": logits_to_keep}
        taken = {k: v for k, v in given.items() if v is not None and k in signature(self.llm.forward).parameters}
        out: CausalLMOutputWithPast = self.llm(inputs_embeds=inputs_embeds, **taken, **kwargs)
        if labels is not None:
            rows, number = cast(torch.Tensor, out.logits).shape[-1], items_asked(num_items_in_batch, counted, labels)
            loss = self.loss_function(out.logits, labels, vocab_size=rows, num_items_in_batch=number)
            out = type(out)(loss=loss, **out)
        return out

    @torch.no_grad()
    def generate(  # type: ignore[override]  # frames stand where transformers has settings
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        frames: Sequence[torch.Tensor] | None = None,
        span_lengths: Sequence[int] | torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The prompts as they were given and what the text LLM writes on: int64 [batch, prompt + new], or what
        `return_dict_in_generate` asks for. All other arguments are those of transformers' `generate`.

        Rows are padded on the left before they are read, so that a batch equals its rows alone. The placeholder is
        never generated. Processors of logits that look at the prompt (a repetition penalty) see the token before a
        recording in its place.
        """
        ids = inputs if input_ids is None else input_ids
        for name in TOKENS:  # which an older folder does not tell
            if getattr(self.generation_config, name) is None:
                setattr(self.generation_config, name, getattr(self.llm.generation_config, name))
        if self.silent_ids:
            silent = kwargs.get("suppress_tokens", (generation_config or self.generation_config).suppress_tokens) or []
            kwargs["suppress_tokens"] = [*silent, *self.silent_ids]
        if isinstance(kwargs.get("assistant_model"), SaladForConditionalGeneration):
            kwargs["assistant_model"] = kwargs["assistant_model"].llm
        write = cast(Any, super()).generate
        if ids is None:  # embeddings, or nothing: what the LLM alone makes of them
            return write(None, generation_config, attention_mask=attention_mask, **kwargs)
        read = self.read(ids, attention_mask, frames, span_lengths).on_the_left()
        mask = torch.ones_like(read.ids) if read.mask is None else read.mask
        out = write(read.read_ids(), generation_config, inputs_embeds=read.embeddings, attention_mask=mask, **kwargs)
        made = out if isinstance(out, torch.Tensor) else out.sequences
        whole = torch.cat([ids.repeat_interleave(len(made) // len(ids), dim=0), made[:, read.ids.shape[1] :]], dim=1)
        if isinstance(out, torch.Tensor):
            return whole
        out["sequences"] = whole
        return out

    def prepare_inputs_for_generation(  # type: ignore[override]  # it is called with keywords alone
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> Any:
        """Prepare as the text LLM does; what an assistant drafted stands behind the prompt when that is first read."""
        drafted = 0 if inputs_embeds is None else input_ids.shape[1] - inputs_embeds.shape[1]
        if is_first_iteration and inputs_embeds is not None and drafted > 0:
            inputs_embeds = torch.cat([inputs_embeds, self.get_input_embeddings()(input_ids[:, -drafted:])], dim=1)
        return cast(Any, self.llm).prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )

    @property
    def head(self) -> Head:
        """How the LLM makes logits of its last hidden states."""
        return head_of(self.llm)
