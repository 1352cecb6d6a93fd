"""Encoder (frozen) -> adapter -> LLM, as one Hugging Face model with its processor."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from salad.model.config import SaladConfig
from salad.model.encoders.base import Encoder
from salad.model.encoders.load import load_encoder
from salad.model.modeling import SaladForConditionalGeneration
from salad.model.processor import SaladProcessor

__all__ = ["Encoder", "SaladConfig", "SaladForConditionalGeneration", "SaladProcessor", "load_encoder"]

AutoConfig.register(SaladConfig.model_type, SaladConfig)
for kind in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM):
    kind.register(SaladConfig, SaladForConditionalGeneration)
AutoProcessor.register(SaladConfig, SaladProcessor)
# pipeline("any-to-any") reads names, and would log that it does not know ours
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.setdefault(SaladConfig.model_type, SaladForConditionalGeneration.__name__)
