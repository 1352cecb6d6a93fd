"""`SaladForConditionalGeneration`: a text LLM with ears, as a Hugging Face citizen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from salad.model.adapter import Adapter, CTCHead
from salad.model.config import SaladConfig
from salad.model.ears import Candidates, SymbolEars
from salad.model.ears.lower import pool_runs
from salad.model.ears.symbol_ears import Readout, token_places
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
from salad.model.splice import splice
from salad.objective.head import Head
from salad.types import SaladError

IGNORED = -100  # a label that the loss does not ask for
PRIOR_ROUNDS = 2  # the second one judges after what the first one chose


@dataclass(frozen=True)
class SpeechEmbeddings:
    """Spans laid end to end: embeddings [sum of lengths, llm width] for the LLM; CTC logits [sum of all_lengths, C].

    `lengths`: positions that each span keeps; `all_lengths`: its adapter positions before any is dropped.
    token_ids: int64 [sum of lengths], the likeliest token at each kept position, -1 where that is the blank; None where
    nothing scores tokens. symbols: the likeliest symbols of each span, without blanks and repeats, where there are any.
    sure: float [sum of lengths], the share of the score that the likeliest has. places: int64 [sum of lengths, 2], the
    first of its span's `all_lengths` positions that a token was heard at, and the one behind its last.
    """

    embeddings: torch.Tensor
    lengths: list[int]
    ctc_logits: torch.Tensor | None
    all_lengths: list[int]
    token_ids: torch.Tensor | None = None
    symbols: list[list[int]] | None = None
    sure: torch.Tensor | None = None
    places: torch.Tensor | None = None


class SaladForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """encoder (frozen, outside; see `SaladProcessor`) -> adapter -> LLM -> text.

    `frames` everywhere: a sequence of float tensors [num_frames, frame_dim], one for each speech span.
    """

    config_class = SaladConfig
    base_model_prefix = "llm"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: SaladConfig) -> None:
        super().__init__(config)
        self.llm = build_llm(config.llm_config)
        self.adapter: SymbolEars | Adapter = SymbolEars(config) if config.ears == "symbols" else Adapter(config)
        self.ctc = CTCHead(config) if config.ctc_vocab_size else None
        self.post_init()
        if isinstance(self.adapter, SymbolEars):  # likewise
            self.adapter.reset()
        if config.lora_rank:  # after the initialisation above, which would make LoRA's zeros random
            self._add_lora(config.lora_rank)

    @classmethod
    def from_llm(cls, llm: PreTrainedModel, config: SaladConfig) -> SaladForConditionalGeneration:
        """A fresh adapter before the given LLM's weights (which are taken over, not copied).

        Raises SaladError where the LLM has no attention, or its weights do not fit its configuration.
        """
        require_attention(llm)
        model = cls(config).to(torch.float32)
        missing, unexpected = model.llm.load_state_dict(
            {_lora_name(model.llm, key): value for key, value in llm.state_dict().items()}, strict=False
        )
        if unexpected or any("lora_" not in key for key in missing):
            raise SaladError(
                f"llm: weights do not fit their configuration (missing {missing}, unexpected {unexpected})"
            )
        model.llm.tie_weights()
        if hasattr(llm, "_salad_packs"):  # what was found of it at the door
            remember_packing(model.llm, bool(llm._salad_packs))
        packs(model.llm)  # before anything is frozen, cast or spread over processes
        return model

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers has it; in another `dtype` the LLM is held, the ears stay in float32 as in training."""
        found = super().from_pretrained(*args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found  # with output_loading_info
        model.adapter.float()
        if model.ctc is not None:
            model.ctc.float()
        return found

    if TYPE_CHECKING:  # transformers gives these no types, or loses those of torch in its wrappers
        config: SaladConfig

        def to(self, *args: Any, **kwargs: Any) -> Self: ...  # type: ignore[override]  # that one takes no arguments
        def eval(self) -> Self: ...
        def post_init(self) -> None: ...

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear) and module.weight is not None:
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, CTCHead):
            nn.init.zeros_(module.residual.weight)
            nn.init.constant_(module.scale, 20.0)

    def _add_lora(self, rank: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), self.llm)

    @property
    def symbol_ears(self) -> SymbolEars:
        """The adapter of a model that hears symbols first (`config.ears`)."""
        assert isinstance(self.adapter, SymbolEars)
        return self.adapter

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
        if isinstance(self.adapter, SymbolEars):
            scores, states, lengths = self.adapter.lower(frames)
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
            keep, kept_lengths = self.ctc.kept(best, lengths)
            hidden, scores, best, place = hidden[keep], logits[keep], best[keep], place[keep]
        else:
            scores = logits
        ids = self.ctc.tokens(best)
        embeddings = table[ids.clamp(min=0)] if readout == "argmax" else self.ctc.embed(hidden, scores, table)
        sure, places = scores.detach().softmax(-1).amax(-1), torch.stack([place, place + 1], dim=1)
        return SpeechEmbeddings(as_inputs(self.llm, embeddings), kept_lengths, logits, lengths, ids, None, sure, places)

    def hear_symbols(self, posteriors: Sequence[torch.Tensor], *, readout: Readout = "mixed") -> SpeechEmbeddings:
        """What the LLM reads for spans of symbols [n, S] that were heard, or simulated; no frame is asked for."""
        lengths = [len(span) for span in posteriors]
        return self._read(torch.cat(list(posteriors)), None, lengths, None, lengths, readout)

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
        """The same span by span, [positions, llm width] each, as transformers and servers ask for it."""
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

    def hidden_states(
        self,
        embeddings: torch.Tensor,
        starts: Sequence[int],
        prefixes: Sequence[tuple[int, int]] | None = None,
        head: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """Last hidden states [L, width] of documents laid end to end; embeddings [L, width].

        prefixes: for each document the positions of an earlier one that it continues; head: keys and values of what
        all of them continue (see `salad.model.llm.hidden_states`).
        """
        return hidden_states(self.llm, embeddings, starts, prefixes, head)

    def text_hidden_states(self, token_ids: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
        """The same for plain text: token_ids int64 [L]."""
        return self.hidden_states(self.get_input_embeddings()(token_ids), starts)

    def merge(self, ids: torch.Tensor, speech: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Token embeddings of `ids` [L] (any value at speech rows) with `speech` put in at `rows`."""
        embedded: torch.Tensor = self.get_input_embeddings()(ids.clamp(min=0))
        return embedded.index_copy(0, rows, speech.to(embedded.dtype)) if len(rows) else embedded

    # --- Hugging Face's interface ---------------------------------------------------------------------

    def expand(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, frames: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """One [length, width] tensor for each row, every placeholder replaced by its span's embeddings."""
        return self._expand(input_ids, attention_mask, frames)[0]

    def _expand(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        frames: Sequence[torch.Tensor],
        labels: torch.Tensor | None = None,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Rows as `expand` gives them, and the labels of each ([] without `labels`), IGNORED where a span is heard."""
        placeholders = int((input_ids == self.config.audio_token_id).sum())
        if placeholders != len(frames):
            raise SaladError(f"frames: {len(frames)} spans for {placeholders} audio placeholders in input_ids")
        spans: list[torch.Tensor] = []
        if len(frames):
            spans = self.get_audio_features(frames)
        rows, targets, at = [], [], 0
        table = self.get_input_embeddings()
        for index, ids in enumerate(input_ids):
            kept = slice(None) if attention_mask is None else attention_mask[index].bool()
            ids, own = ids[kept], None if labels is None else labels[index][kept]
            parts: list[torch.Tensor] = []
            asked: list[torch.Tensor] = []
            last = 0
            for position in (ids == self.config.audio_token_id).nonzero().flatten().tolist():
                parts += [ids[last:position], spans[at]]
                if own is not None:
                    asked += [own[last:position], own.new_full((len(spans[at]),), IGNORED)]
                last, at = position + 1, at + 1
            rows.append(splice(table, [*parts, ids[last:]]))
            if own is not None:
                targets.append(torch.cat([*asked, own[last:]]))
        return rows, targets

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        frames: Sequence[torch.Tensor] = (),
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of every row, placeholders expanded: [batch, longest, vocabulary], zeros after a row's end.

        labels: int64 like `input_ids`, whose tokens the loss asks for (-100: not), each predicted by what stands before
        it. The loss is their mean, or their sum / `num_items_in_batch` where `Trainer` gives that.
        """
        rows, targets = self._expand(input_ids, attention_mask, frames, labels)
        lengths = [len(row) for row in rows]
        hidden = self.hidden_states(torch.cat(rows), [0, *itertools.accumulate(lengths)])
        logits = self.head.finish(self.llm.get_output_embeddings()(hidden)).split(lengths)
        padded = nn.utils.rnn.pad_sequence(list(logits), batch_first=True)
        loss = None
        if labels is not None:
            asked = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED)
            number = {"num_items_in_batch": kwargs.get("num_items_in_batch")}
            loss = self.loss_function(padded, asked, vocab_size=padded.shape[-1], **number)
        return CausalLMOutputWithPast(loss=loss, logits=padded)

    @torch.no_grad()
    def generate(  # type: ignore[override]  # frames stand where transformers has settings
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        frames: Sequence[torch.Tensor] = (),
        **kwargs: Any,
    ) -> torch.Tensor:
        """New token ids [batch, new tokens]; rows are padded on the left, so a batch equals its rows alone."""
        rows = self.expand(input_ids, attention_mask, frames)
        longest = max(len(row) for row in rows)
        embeds = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
        mask = torch.stack([(torch.arange(longest, device=row.device) >= longest - len(row)).long() for row in rows])
        if self.config.audio_token_id < self.get_output_embeddings().weight.shape[0]:
            kwargs.setdefault("suppress_tokens", [self.config.audio_token_id])
        said: torch.Tensor = cast(Any, self.llm).generate(inputs_embeds=embeds, attention_mask=mask, **kwargs)
        return said

    @property
    def head(self) -> Head:
        """How the LLM makes logits of its last hidden states."""
        return head_of(self.llm)

    def get_input_embeddings(self) -> nn.Embedding:
        return cast(nn.Embedding, self.llm.get_input_embeddings())

    def get_output_embeddings(self) -> nn.Linear:
        return cast(nn.Linear, self.llm.get_output_embeddings())


def _lora_name(llm: nn.Module, key: str) -> str:
    """Name of a plain weight in an LLM whose linear layers peft has wrapped."""
    stem, _, leaf = key.rpartition(".")
    return (
        f"{stem}.base_layer.{leaf}" if any(n.startswith(f"{stem}.base_layer") for n, _ in llm.named_modules()) else key
    )
