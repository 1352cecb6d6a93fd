"""The shape of a SpeechLM."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from salad.types import SaladError

# Of a saved model's folder. 1: before config.json told its version and where the model comes from (`origin`), which was
# read from a recipe beside it, and still is.
FORMAT_VERSION = 2


class SaladConfig(PreTrainedConfig):
    """Configuration of `SaladForConditionalGeneration`.

    llm_config: the configuration of any causal LM. encoder: name of the frozen encoder.
    frame_rate_hz, frame_dim: what the encoder gives. stride: frames stacked into one adapter position.
    rate: "fixed" keeps every adapter position; "text" drops those the CTC head calls blank or repeats.
    ctc_vocab_size: rows of the CTC head (0: no head). ears: "single" is the paper's adapter; "symbols" hears symbols
    first (`symbols`: an alphabet as `salad.text.phonemes.Symbols.to_dict` gives it; `ears_shape`: sizes of both parts;
    `causal`: whether a position may see those after it in its span; `prior`: weight of the LLM's own judgement in what
    it reads). lora_rank: 0 unless the LLM carries LoRA weights.
    audio_token_id: placeholder in `input_ids`, never embedded and never generated; by default outside the LLM's table.
    Defaults of the ears are those of a recipe's `Model` section, held to it by a test: `salad export` copies this class
    into a file that stands without ours. A saved config.json names every size itself.
    origin: what the model was made by, as `salad.assets.origin_of` gives it. format_version: of the folder; an older
    one is read as it was meant, a newer one is refused.
    """

    model_type = "salad"
    sub_configs = {"llm_config": AutoConfig}

    llm_config: Any = None
    encoder: str = "log-mel"
    frame_rate_hz: float = 100.0
    frame_dim: int = 80
    stride: int = 1
    rate: str = "fixed"
    adapter_layers: int = 12
    adapter_width: int = 960
    adapter_mlp: int = 2560
    adapter_heads: int = 15
    adapter_kv_heads: int = 5
    ctc_vocab_size: int = 0
    ears: str = "single"
    symbols: dict[str, Any] | None = None
    ears_shape: dict[str, int] | None = None
    causal: bool = True
    prior: float = 0.0
    lora_rank: int = 0
    start_token_id: int = 0
    audio_token_id: Any = None  # by default the LLM's vocab_size
    origin: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.llm_config, dict):
            self.llm_config = AutoConfig.for_model(**self.llm_config)
        self.llm_config = self.llm_config or AutoConfig.for_model("llama")
        if self.audio_token_id is None:
            self.audio_token_id = self.llm_config.vocab_size
        kwargs.setdefault("tie_word_embeddings", False)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]  # transformers gives it no types

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The text LLM's, which says how large its vocabulary, layers and cache are."""
        text: PreTrainedConfig = self.llm_config.get_text_config(decoder=decoder, encoder=encoder)
        return text

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration of a config.json of any format up to ours; raises SaladError for a newer one."""
        found = config_dict.get("format_version", 1)
        if not isinstance(found, int) or found > FORMAT_VERSION:
            raise SaladError(
                f"model: config.json has format_version {found!r}, and this salad reads up to {FORMAT_VERSION}; a "
                "newer one wrote it: upgrade salad-speech"
            )
        return super().from_dict({**config_dict, "format_version": FORMAT_VERSION}, **kwargs)
