"""Our decoder with norms on queries and keys as Hugging Face's Qwen3: Llama's names, two more norms."""

from typing import Any, ClassVar

from llmkit.models.decoder import Settings
from llmkit.models.hf.llama import Llama
from llmkit.registry import register


@register("export", "qwen3")
class Qwen3(Llama):
    """What export and import know about Qwen3."""

    model_type = "qwen3"
    architectures: ClassVar[dict[str, str]] = {
        "lm": "Qwen3ForCausalLM",
        "score": "Qwen3ForSequenceClassification",
        "classify": "Qwen3ForSequenceClassification",
        "tag": "Qwen3ForTokenClassification",
    }
    needs = frozenset({"qk_norm"})
    knows = frozenset({"window"})

    @staticmethod
    def extras(s: Settings) -> dict[str, Any]:
        """What config.json says beside what all these families say. All layers have the window, or none."""
        kind = "sliding_attention" if s.window else "full_attention"
        return {
            "attention_bias": False,
            "use_sliding_window": s.window is not None,
            "sliding_window": s.window,
            "max_window_layers": 0 if s.window else s.layers,
            "layer_types": [kind] * s.layers,
        }

    @staticmethod
    def fixed(config: dict) -> dict[str, Any]:
        """Keys that may have one value only."""
        windowed = config.get("use_sliding_window", False)
        kind = "sliding_attention" if windowed else "full_attention"
        return {
            "attention_bias": False,
            "layer_types": [kind] * config.get("num_hidden_layers", 0),
            **({"max_window_layers": 0} if windowed else {}),
        }

    @staticmethod
    def options(config: dict) -> dict[str, Any]:
        """Our settings that only this family has."""
        return {
            "qk_norm": True,
            "window": config.get("sliding_window") if config.get("use_sliding_window") else None,
        }
