"""A saved model inside vLLM: its LLM is vLLM's own of that family, and what was heard comes in as embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import BatchFeature, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)

from salad.model import SaladConfig
from salad.model.processor import AUDIO
from salad.serve.vllm_plugin import AudioReader, listener
from salad.types import SaladError

PROFILED_S = 30.0  # length of a recording that vLLM plans its memory for
DUMMY_S = 6.0  # and of the silence that it hears when it starts
EMBEDDINGS = "audio_embeds"


class Info(BaseProcessingInfo):  # type: ignore[misc]  # vLLM is not there where nobody asks for it
    """What vLLM asks of a model before it is there."""

    @property
    def listener(self) -> AudioReader:
        config = self.ctx.model_config
        return listener(str(config.model), config.revision)

    def get_hf_config(self) -> SaladConfig:
        config: SaladConfig = self.ctx.get_hf_config(SaladConfig)
        return config

    def get_hf_processor(self, **kwargs: object) -> ProcessorMixin:
        return self.listener.processor

    def get_data_parser(self) -> MultiModalDataParser:
        rate_hz = self.listener.processor.encoder.sample_rate_hz
        return MultiModalDataParser(target_sr=rate_hz, target_channels=1, audio_resample_method="soxr")

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"audio": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"audio": min(seq_len, self.listener.most(PROFILED_S))}


class DummyInputs(BaseDummyInputsBuilder[Info]):  # type: ignore[misc]  # likewise
    """Silence, which vLLM plans its memory by."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return AUDIO * mm_counts.get("audio", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        length = int(DUMMY_S * self.info.listener.processor.encoder.sample_rate_hz)
        number = mm_counts.get("audio", 0)
        return {"audio": self._get_dummy_audios(length=length, num_audios=number, overrides=mm_options.get("audio"))}


class Processor(BaseMultiModalProcessor[Info]):  # type: ignore[misc]  # likewise
    """Recordings to embeddings, and each `<|audio|>` to as many placeholders."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        recordings: Any = hf_data.get("audio", [])
        return BatchFeature({EMBEDDINGS: self.info.listener.embeddings(recordings)})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {EMBEDDINGS: MultiModalFieldConfig.batched("audio")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptUpdate]:
        audio = self.info.get_hf_config().audio_token_id
        heard: Any = out_mm_kwargs.get_data().get(EMBEDDINGS, [])
        return [
            PromptReplacement(modality="audio", target=[audio], replacement=lambda item: [audio] * len(heard[item]))
        ]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=DummyInputs)
class Model(nn.Module, SupportsMultiModal):  # type: ignore[misc]  # likewise
    """The text LLM, by vLLM's own code for its family; what is heard stands in the place of placeholders."""

    configure_mm_token_handling: Any  # both of vLLM
    _mark_language_model: Any
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix={"llm.": "language_model.", "adapter.": None, "ctc.": None})

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        if config.lora_rank:
            raise SaladError(
                f"model: its LLM carries LoRA (lora_rank {config.lora_rank}), which vLLM does not load; give it what "
                "`salad export MODEL --to FOLDER --merge-lora` writes"
            )
        # vLLM ties the LLM's head where the outer configuration says so; ours leaves that to the LLM's own
        config.tie_word_embeddings = config.llm_config.tie_word_embeddings
        self.audio_token_id = config.audio_token_id
        self.configure_mm_token_handling(config.llm_config.vocab_size, [config.audio_token_id])
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.llm_config,
                architectures=[MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.llm_config.model_type]],
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        if modality.startswith("audio"):
            return AUDIO
        raise ValueError(f"modality: got {modality!r}, expected audio")

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        heard: Any = kwargs.get(EMBEDDINGS)
        if heard is None:
            return []
        dtype = next(self.language_model.parameters()).dtype
        return [one.to(dtype) for one in heard]

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> Any:
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        logits: torch.Tensor | None = self.language_model.compute_logits(hidden_states)
        if logits is not None and self.audio_token_id < logits.shape[-1]:  # it has a row, and is never generated
            logits[..., self.audio_token_id] = float("-inf")
        return logits

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        loaded: set[str] = AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
        return loaded
