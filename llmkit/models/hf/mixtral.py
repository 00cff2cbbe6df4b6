"""Our mixture of experts as Hugging Face's Mixtral: Llama's names, but the experts lie apart there.

mlp.router.weight            ◄─► block_sparse_moe.gate.weight
mlp.gate_proj (E, I, D)      ◄─► block_sparse_moe.experts.0.w1.weight ...     up_proj: w3, down_proj: w2
"""

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmkit.models.decoder import Settings
from llmkit.models.hf.llama import Llama
from llmkit.registry import register

MATRICES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
OURS = {theirs: ours for ours, theirs in MATRICES.items()}


@register("export", "mixtral")
class Mixtral(Llama):
    """What export and import know about Mixtral."""

    model_type = "mixtral"
    architectures: ClassVar[dict[str, str]] = {
        "lm": "MixtralForCausalLM",
        "score": "MixtralForSequenceClassification",
        "classify": "MixtralForSequenceClassification",
        "tag": "MixtralForTokenClassification",
    }
    needs = frozenset({"experts"})
    knows = frozenset({"window"})

    @staticmethod
    def theirs(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of ours as theirs: stacked experts one by one."""
        layer, inside, leaf = name.partition(".mlp.")
        sparse = f"model.{layer}.block_sparse_moe"
        if not inside:
            yield from Llama.theirs(name, tensor)
        elif leaf == "router.weight":
            yield f"{sparse}.gate.weight", tensor
        else:
            for e, matrix in enumerate(tensor):
                yield f"{sparse}.experts.{e}.{MATRICES[leaf]}.weight", matrix

    @staticmethod
    def take(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of theirs as ours; an expert's matrix under its number, to be stacked by `settle`."""
        found = re.fullmatch(
            r"model\.(layers\.\d+)\.block_sparse_moe\.experts\.(\d+)\.(w[123])\.weight", name
        )
        if found:
            yield f"{found[1]}.mlp.{OURS[found[3]]}.{found[2]}", tensor
        else:
            for ours, part in Llama.take(name, tensor):
                yield ours.replace("block_sparse_moe.gate", "mlp.router"), part

    @staticmethod
    def settle(settings: Settings, tensors: dict[str, Tensor]) -> Settings:
        """Stack the experts of each layer. What is missing is named when the net is filled."""
        for i in range(settings.layers):
            for ours in MATRICES:
                names = [f"layers.{i}.mlp.{ours}.{e}" for e in range(settings.experts)]
                if all(name in tensors for name in names):
                    tensors[f"layers.{i}.mlp.{ours}"] = torch.stack([tensors.pop(name) for name in names])
        return settings

    @staticmethod
    def trace(net: nn.Module) -> dict[str, nn.Module]:
        """Llama's, without the insides of the MLP."""
        return {name: m for name, m in Llama.trace(net).items() if not name.endswith(".mlp")}

    @staticmethod
    def extras(s: Settings) -> dict[str, Any]:
        """What config.json says beside what all these families say."""
        return {
            "num_local_experts": s.experts,
            "num_experts_per_tok": s.experts_per_token,
            "sliding_window": s.window,
            "router_aux_loss_coef": 0.0,
            "output_router_logits": False,
        }

    @staticmethod
    def fixed(config: dict) -> dict[str, Any]:
        """Keys that may have one value only."""
        return {}

    @staticmethod
    def options(config: dict) -> dict[str, Any]:
        """Our settings that only this family has."""
        return {
            "experts": config["num_local_experts"],
            "experts_per_token": config.get("num_experts_per_tok", 2),
            "window": config.get("sliding_window"),
        }
