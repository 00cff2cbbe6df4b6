"""Our decoder with a sliding window as Hugging Face's Mistral: Llama's names and arithmetic, another mask."""

from typing import Any, ClassVar

from llmkit.models.decoder import Settings
from llmkit.models.hf.llama import Llama
from llmkit.registry import register


@register("export", "mistral")
class Mistral(Llama):
    """What export and import know about Mistral."""

    model_type = "mistral"
    architectures: ClassVar[dict[str, str]] = {
        "lm": "MistralForCausalLM",
        "score": "MistralForSequenceClassification",
        "classify": "MistralForSequenceClassification",
        "tag": "MistralForTokenClassification",
    }
    needs = frozenset({"window"})
    knows = frozenset()

    @staticmethod
    def extras(s: Settings) -> dict[str, Any]:
        """What config.json says beside what all these families say."""
        return {"sliding_window": s.window}

    @staticmethod
    def fixed(config: dict) -> dict[str, Any]:
        """Keys that may have one value only."""
        return {"attention_bias": False, "mlp_bias": False}

    @staticmethod
    def options(config: dict) -> dict[str, Any]:
        """Our settings that only this family has."""
        return {"window": config.get("sliding_window")}
