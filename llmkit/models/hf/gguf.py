"""A Llama in one file of llama.cpp (GGUF), dequantised: weights, tokenizer and chat template.

    metadata   ─► the keys of a config.json ─► Llama's settings: what ours is not is an error
    blk.3.attn_q.weight (Q4_1, rotary pairs interleaved) ─► layers.3.self_attn.q_proj.weight (fp32, halves)
    tokenizer.ggml.*  ─► tokenizer.json, by transformers

Quantised weights stand for fp32 ones; those are what is trained and exported from then on. The file is data:
the gguf package maps it and computes numbers from it, nothing in it is run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmkit import registry, trust
from llmkit.errors import CheckpointError, ConfigError

OURS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Parts of a layer, theirs -> ours."""
ENDS = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}
KEYS = {
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "head_dim": "llama.attention.key_length",
    "max_position_embeddings": "llama.context_length",
    "rope_theta": "llama.rope.freq_base",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
}
"""Keys of a config.json -> metadata of the file."""


def read(file: Path) -> tuple[nn.Module, dict[str, Any]]:
    """-> (the net, what its checkpoints say of its origin). ConfigError for what is no Llama."""
    from llmkit.opened import build, fill

    opened = _open(file)
    facts = {
        key: field.contents() for key, field in opened.fields.items() if not key.startswith("tokenizer.")
    }
    if facts.get("general.architecture") != "llama":
        raise ConfigError(
            f"{file}: is a {facts.get('general.architecture')}; llmkit reads Llamas from .gguf files"
        )
    if odd := [key for key in facts if key.startswith("llama.rope.scaling.") and facts[key] != "none"]:
        raise ConfigError(f"{file}: {odd[0]} = {facts[odd[0]]!r} is not read; import its safetensors instead")
    names = {tensor.name for tensor in opened.tensors}
    shape = {key: facts[theirs] for key, theirs in KEYS.items() if theirs in facts}
    shape |= {"tie_word_embeddings": "output.weight" not in names}
    shape["vocab_size"] = next((int(t.shape[1]) for t in opened.tensors if t.name == "token_embd.weight"), 0)
    settings = registry.find("export", "llama").settings(shape)
    heads = {"attn_q": settings.heads, "attn_k": settings.kv_heads}
    tensors = dict(_named(opened, heads, file))
    net = build(settings, "lm")
    fill(net, tensors, file)
    licence = facts.get("general.license", "not stated")
    return net, {
        "sources": {
            facts.get("general.name") or file.stem: {"licence": licence, "origin": f"imported {file.name}"}
        }
    }


def _open(file: Path):
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ConfigError(
            f"{file}: reading .gguf files takes the package gguf; pip install 'llmkit[gguf]'"
        ) from None
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such file; give a .gguf file or a Hugging Face directory")
    trust.refuse_code(file)
    try:
        return GGUFReader(file)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{file}: is no sound .gguf file: {error}; get it again") from None


def _named(opened: Any, heads: dict[str, int], file: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in fp32 under our name."""
    from gguf import dequantize

    for tensor in opened.tensors:
        layer, _, rest = tensor.name.removeprefix("blk.").partition(".")
        part, _, leaf = rest.rpartition(".")
        if tensor.name in ENDS:
            name = ENDS[tensor.name]
        elif tensor.name.startswith("blk.") and part in OURS and leaf == "weight":
            name = f"layers.{layer}.{OURS[part]}.weight"
        else:
            raise ConfigError(
                f"{file}: holds {tensor.name}, which our Llama has not; import its safetensors instead"
            )
        weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        yield name, halves(weight, heads[part]) if part in heads else weight


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys: llama.cpp keeps rotary pairs side by side, we in two halves of a head."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def write_tokenizer(file: Path, out: Path) -> None:
    """Write the file's tokenizer and chat template to `out` as transformers converts them."""
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(str(out))
    except Exception as error:  # every converter fails in its own way
        raise ConfigError(
            f"{file}: transformers cannot convert its tokenizer: {str(error).splitlines()[0]}"
        ) from None
