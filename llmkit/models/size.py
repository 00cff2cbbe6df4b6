"""How large a text model is and what it costs: parameters, FLOPs, and peak rates of devices.

Model FLOPs utilisation = FLOPs per token x tokens per second / peak FLOPs per second; where the peak is not
known it is None and is reported as "unknown", never as a guess.
"""

import re
from typing import Literal

import torch
from torch import nn

from llmkit import registry


def parameters(net: nn.Module) -> int:
    """Number of parameters, tied ones once. Works on the meta device."""
    return sum(p.numel() for p in net.parameters())


def parameters_of(settings) -> int:
    """Number of parameters of the net that these `settings` describe, which takes no memory."""
    if settings.name != "decoder":
        with torch.device("meta"):
            return parameters(registry.find("model", settings.name)(settings))
    s = settings
    norms = (2 * s.layers + 1) * s.width * (1 if s.norm == "rms" else 2)
    heads = s.head_dim * (2 * s.heads + 2 * s.kv_heads)
    block = _matrices(s, s.experts or 1) + (2 * s.head_dim if s.qk_norm else 0)
    if s.bias:
        block += heads - s.head_dim * s.heads + s.width + s.mlp_dim * (_matrices_of_mlp(s) - 1) + s.width
    places = s.context * s.width if s.positions == "learned" else 0
    return s.vocab_size * s.width * (1 if s.tie else 2) + places + s.layers * block + norms


def _matrices_of_mlp(s) -> int:
    return 3 if s.mlp == "swiglu" else 2


def _matrices(s, experts: int) -> int:
    """Entries of the matrices of one block with so many experts; the router included if there are any."""
    attention = s.width * s.head_dim * (2 * s.heads + 2 * s.kv_heads)
    router = s.width * s.experts
    return attention + router + experts * _matrices_of_mlp(s) * s.width * s.mlp_dim


def _active(s) -> int:
    """Entries of the matrices of one block that a token meets."""
    return _matrices(s, s.experts_per_token if s.experts else 1)


def flops_per_token(settings, seq_len: int, training: bool = True) -> float:
    """Floating-point operations of the products, per token of a row of `seq_len` tokens in one document.

    Forward: 2 per matrix entry that a token meets (output layer included, embedding look-up not, of experts
    those chosen) + 4 H K (positions seen) per layer for scores and values: (T + 1)/2 of them on average,
    fewer with a window; the backward costs twice the forward. Recomputation is not counted (Chowdhery et
    al. 2022, app. B).
    """
    s = settings
    products = 2 * (s.layers * _active(s) + s.vocab_size * s.width)
    w = min(s.window or seq_len, seq_len)
    seen = (w * (w + 1) / 2 + (seq_len - w) * w) / seq_len
    attention = s.layers * 4 * s.heads * s.head_dim * seen
    return (3 if training else 1) * (products + attention)


def flops_of(settings, seq_len: int, target_len: int | None = None) -> float | None:
    """`flops_per_token` in training, of any family that is known here: None for others.

    An encoder-decoder's rows have `seq_len` tokens of source and `target_len` (None: as many) of target; both
    count as tokens.
    """
    if settings.name == "decoder":
        return flops_per_token(settings, seq_len)
    if settings.name == "encoder":
        return encoder_flops(settings, seq_len)
    if settings.name == "encdec":
        return encdec_flops(settings, seq_len, target_len or seq_len)
    return None


def encoder_flops(settings, seq_len: int, labelled: float = 0.15) -> float:
    """Training FLOPs per token of an `Encoder`, counted as in `flops_per_token`.

    Its head runs on labelled positions alone: a share of `labelled` (BERT's masking).
    """
    s = settings
    gated = 3 if s.style == "modernbert" else 2
    matrices = s.layers * (4 * s.width**2 + gated * s.width * s.mlp_dim)
    head = labelled * (s.width**2 + s.vocab_size * s.width)
    reach = s.window // 2
    local = sum(min(reach, i) + 1 + min(reach, seq_len - 1 - i) for i in range(seq_len)) / seq_len
    seen = sum(seq_len if s.is_global(i) else local for i in range(s.layers))
    return 3 * (2 * (matrices + head) + 4 * s.width * seen)


def encdec_flops(settings, source_len: int, target_len: int) -> float:
    """Training FLOPs per token, of either side, of an `EncDec` on rows of so many tokens on each side."""
    s, S, T = settings, source_len, target_len
    inner = s.heads * s.head_dim
    mlp = (3 if s.style == "t5" else 2) * s.width * s.mlp_dim
    encoder = S * (2 * (4 * s.width * inner + mlp) + 4 * inner * S)
    own = T * (2 * (4 * s.width * inner + mlp) + 4 * inner * (T + 1) / 2)
    cross = 2 * (2 * s.width * inner) * (T + S) + 4 * inner * T * S
    output = 2 * T * s.vocab_size * s.width
    return 3 * (s.layers * encoder + s.decoder_layers * (own + cross) + output) / (S + T)


PEAK_TFLOPS = (
    (r"\bMIG\b", None, None),  # a slice of a device
    (r"H200 NVL", 835.5, 60.0),
    (r"H200\b", 989.4, 66.9),  # GH200 too
    (r"H100 NVL", 835.5, 60.0),
    (r"H100 PCIe", 756.5, 51.2),
    (r"H100\b", 989.4, 66.9),  # "NVIDIA H100 80GB HBM3" is the SXM5 board
    (r"H20\b", 148.0, 44.0),
    (r"H800 PCIe", 756.5, 51.2),
    (r"H800\b", 989.4, 66.9),
    (r"\bB200", 2250.0, 80.0),
    (r"A100\b", 312.0, 19.5),
    (r"A800\b", 312.0, 19.5),
    (r"\bA10\b", 125.0, 31.2),
    (r"\bA40\b", 149.7, 37.4),
    (r"RTX A6000", 154.8, 38.7),
    (r"L40S", 362.0, 91.6),
    (r"\bL40\b", 181.0, 90.5),
    (r"\bL4\b", 121.0, 30.3),
    (r"RTX 4090(?! D)", 165.2, 82.6),
    (r"RTX 3090", 71.0, 35.6),
    (r"MI300X", 1307.4, 163.4),
    (r"MI325X", 1307.4, 163.4),
    (r"MI300A", 980.6, 122.6),
    (r"MI250X", 383.0, 95.7),
)
"""Peak dense bf16 and plain fp32 rates by device name, first match wins; data sheets, without sparsity."""


def peak_flops(device_name: str, kind: Literal["bf16", "tf32", "fp32"] = "bf16") -> float | None:
    """Peak dense FLOPs per second of a device by the name torch gives it; None where it is not known.

    Matrix products in TF32 have half of the bf16 rate on all that have them.
    """
    for pattern, bf16, fp32 in PEAK_TFLOPS:
        if re.search(pattern, device_name):
            return bf16 and {"bf16": bf16, "tf32": bf16 / 2, "fp32": fp32}[kind] * 1e12
    return None


def utilisation(settings, seq_len: int, tokens_per_s: float, device_name: str) -> float | None:
    """Model FLOPs utilisation, 0..1; None where the device's peak is not known."""
    peak = peak_flops(device_name)
    return None if peak is None else flops_per_token(settings, seq_len) * tokens_per_s / peak
