"""Encoder (frozen) -> adapter -> LLM, as one Hugging Face model with its processor."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor

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
