"""Activation checkpointing: what a layer keeps for its backward, and what it computes again.

none       everything autograd wants          selective   matrix products and attention
full       the layer's input alone
"""

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_EXPENSIVE = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
}


def through(kind: str, layer, *inputs) -> Any:
    """`layer(*inputs)`, recomputed in the backward as `kind` ("none", "selective", "full") says."""
    if kind == "none" or not torch.is_grad_enabled():
        return layer(*inputs)
    if kind == "full":
        return checkpoint(layer, *inputs, use_reentrant=False)
    keep = partial(create_selective_checkpoint_contexts, _keep_products)
    return checkpoint(layer, *inputs, use_reentrant=False, context_fn=keep)


def _keep_products(context, op, *args, **kwargs):
    return CheckpointPolicy.MUST_SAVE if op in _EXPENSIVE else CheckpointPolicy.PREFER_RECOMPUTE
