"""Activation checkpointing: what a layer keeps for its backward, and what it computes again.

none       everything autograd wants          selective   matrix products and attention
full       the layer's input alone
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_EXPENSIVE = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._grouped_mm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
}


@dataclass(frozen=True)
class Compiled:
    """A layer that was compiled together with its recomputation."""

    call: Callable

    def __call__(self, *inputs) -> Any:
        return self.call(*inputs)


def compiler(mode: str | None, parts: bool) -> Callable:
    """What compiles a part of a net, taking shapes as fixed; without `parts`, what leaves it as it is."""
    return partial(torch.compile, mode=mode, dynamic=False) if parts else lambda part: part


def compiled(kind: str, layer, compile_: Callable) -> Any:
    """`layer`, compiled by `compile_`, for `through`.

    From outside, a compiled layer is one operator of which nothing could be kept: `selective` is compiled
    with it, and then the compiler keeps what the policy names.
    """
    return Compiled(compile_(partial(through, kind, layer))) if kind == "selective" else compile_(layer)


def through(kind: str, layer, *inputs) -> Any:
    """`layer(*inputs)`, recomputed in the backward as `kind` ("none", "selective", "full") says."""
    if kind == "none" or isinstance(layer, Compiled) or not torch.is_grad_enabled():
        return layer(*inputs)
    if kind == "full":
        return checkpoint(layer, *inputs, use_reentrant=False)
    keep = partial(create_selective_checkpoint_contexts, _keep_products)
    return checkpoint(layer, *inputs, use_reentrant=False, context_fn=keep)


def _keep_products(context, op, *args, **kwargs):
    kept = op in _EXPENSIVE or str(op) == "flex_attention"  # which exists only once it is imported
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
