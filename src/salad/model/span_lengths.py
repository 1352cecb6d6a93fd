"""How many embeddings a span of speech becomes, known before the model runs; at text rate by the ears alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.utils.hub import cached_file

from salad.files import read_json
from salad.model.adapter import Adapter, CTCHead
from salad.model.config import SaladConfig
from salad.model.ears import SymbolEars
from salad.model.ears.symbol_ears import kept_positions

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@torch.no_grad()
def span_lengths(
    config: SaladConfig, adapter: Any, ctc: Any, table: torch.Tensor | None, frames: Sequence[torch.Tensor]
) -> list[int]:
    """Positions that the LLM reads for each of `frames`, [num_frames, frame_dim] each.

    At fixed rate that is arithmetic, and neither ears nor table are asked for; at text rate `adapter` hears, and `ctc`
    says by `table` [V, llm width] what it keeps (ears in two parts, which have none, say so themselves).
    """
    if not len(frames):
        return []
    if config.ears == "symbols":
        runs = adapter.runs(frames)
        _, emit, _, positions = adapter.upper(runs.posteriors, runs.states, runs.lengths)
        return kept_positions(emit, positions)[1]
    if config.rate == "fixed":
        return [-(-len(span) // config.stride) for span in frames]
    hidden, lengths = adapter(frames)
    counts: list[int] = ctc.positions_to_keep(ctc(hidden, table).argmax(dim=-1), lengths)[1]
    return counts


class SpanCounter:
    """The ears of a saved model, which count; of its LLM only the rows that the CTC head scores are held.

    They are read when they are first needed; at fixed rate never. hub: `revision`, `token` and what else belongs to a
    name on the hub.
    """

    def __init__(self, place: str | Path, **hub: Any) -> None:
        self.place, self.hub = str(place), hub
        self.config: SaladConfig = SaladConfig.from_pretrained(self.place, **hub)
        self._ears: tuple[Any, Any, torch.Tensor | None] | None = None

    @classmethod
    def beside(cls, place: str | Path, **hub: Any) -> SpanCounter | None:
        """The lengths by the model that lies where a processor lies; None where there is none."""
        found = cached_file(str(place), "config.json", _raise_exceptions_for_missing_entries=False, **hub)
        if found is None or read_json(Path(found)).get("model_type") != SaladConfig.model_type:
            return None
        return cls(place, **hub)

    def span_lengths(self, frames: Sequence[torch.Tensor]) -> list[int]:
        """Count as `SaladForConditionalGeneration.span_lengths` does, on the CPU in float32."""
        if self._ears is None:
            fixed = self.config.ears != "symbols" and self.config.rate == "fixed"
            self._ears = (None, None, None) if fixed else self._read()
        adapter, ctc, table = self._ears
        return span_lengths(self.config, adapter, ctc, table, [span.float() for span in frames])

    def _read(self) -> tuple[Any, Any, torch.Tensor | None]:
        config = self.config
        adapter = SymbolEars(config) if config.ears == "symbols" else Adapter(config)
        adapter.load_state_dict(self._tensors("adapter."))
        if config.ears == "symbols":
            return adapter.eval(), None, None
        ctc = CTCHead(config)
        ctc.load_state_dict(self._tensors("ctc."))
        rows = self._table_rows(ctc.token_ids)
        ctc.token_ids = torch.arange(len(rows))
        return adapter.eval(), ctc.eval(), rows

    def _files(self) -> list[Path]:
        optional = {"_raise_exceptions_for_missing_entries": False, **self.hub}
        index = cached_file(self.place, INDEX, **optional)
        names = sorted(set(read_json(Path(index))["weight_map"].values())) if index else [WEIGHTS]
        return [Path(str(cached_file(self.place, name, **self.hub))) for name in names]

    def _tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        found = {}
        for path in self._files():
            with safe_open(path, "pt") as held:
                for key in held.keys():
                    if key.startswith(prefix):
                        value = held.get_tensor(key)
                        found[key.removeprefix(prefix)] = value.float() if value.is_floating_point() else value
        return found

    def _table_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the LLM's table, by whichever of its two names the weights are kept."""
        with torch.device("meta"):
            llm = AutoModelForCausalLM.from_config(self.config.llm_config)
        tables = [llm.get_input_embeddings(), llm.get_output_embeddings()]
        names = {f"llm.{name}.weight" for name, part in llm.named_modules() if part is tables[0]} or set()
        spare = {f"llm.{name}.weight" for name, part in llm.named_modules() if part is tables[1]}
        for wanted in (names, spare):
            for path in self._files():
                with safe_open(path, "pt") as held:
                    for key in wanted & set(held.keys()):
                        rows: torch.Tensor = held.get_tensor(key)[ids].float()
                        return rows
        raise KeyError(f"{self.place}: no weights {', '.join(sorted(names | spare))}")
