"""Our decoder with learned positions as Hugging Face's GPT-2, both ways.

q_proj, k_proj, v_proj (D, D)  ◄─► attn.c_attn (D, 3 D), transposed: GPT-2's Conv1D multiplies from the right
o_proj, up_proj, down_proj     ◄─► attn.c_proj, mlp.c_fc, mlp.c_proj, transposed
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.heads import trunk_of
from llmkit.models.hf import labels
from llmkit.models.hf.names import Names
from llmkit.registry import register

NAMES = Names(
    {
        "embed_tokens": "transformer.wte",
        "embed_positions": "transformer.wpe",
        "layers.#.input_layernorm": "transformer.h.#.ln_1",
        "layers.#.self_attn.o_proj": "transformer.h.#.attn.c_proj",
        "layers.#.post_attention_layernorm": "transformer.h.#.ln_2",
        "layers.#.mlp.up_proj": "transformer.h.#.mlp.c_fc",
        "layers.#.mlp.down_proj": "transformer.h.#.mlp.c_proj",
        "norm": "transformer.ln_f",
        "lm_head": "lm_head",
        "score": "score",
    }
)
FUSED = ("q_proj", "k_proj", "v_proj")
OPTIONS = {"positions", "norm", "mlp", "bias"}


@register("export", "gpt2")
class Gpt2:
    """What export and import know about GPT-2; `head` is one of `architectures` throughout."""

    model_type = "gpt2"
    architectures: ClassVar[dict[str, str]] = {
        "lm": "GPT2LMHeadModel",
        "score": "GPT2ForSequenceClassification",
        "classify": "GPT2ForSequenceClassification",
        "tag": "GPT2ForTokenClassification",
    }
    heads: ClassVar[dict[str, str]] = {"classify": "score", "tag": "classifier"}

    @staticmethod
    def matches(net: nn.Module) -> bool:
        """True if `net` is a decoder of ours in GPT-2's style, with either head."""
        trunk = trunk_of(net)
        if not isinstance(trunk, Decoder):
            return False
        s = trunk.settings
        alike = s.positions == "learned" and s.kv_heads == s.heads and s.heads * s.head_dim == s.width
        return alike and OPTIONS <= set(s.options) <= OPTIONS | {"mup_width"}

    @staticmethod
    def give(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the export: (their name, tensor). muP's multiplier is in the last norm."""
        shrink = net.wider if trunk_of(net) is net else 1.0  # of words alone
        tensors = {name.removeprefix("trunk."): p.detach() for name, p in net.named_parameters()}
        for name, tensor in tensors.items():
            if labels.owns(name):
                yield labels.theirs(Gpt2.heads, name), tensor
                continue
            layer, inside, leaf = name.partition(".self_attn.")
            part, _, kind = leaf.partition(".")
            if inside and part in FUSED:
                if part == "q_proj":
                    whole = torch.cat([tensors[f"{layer}.self_attn.{one}.{kind}"] for one in FUSED])
                    at = layer.replace("layers", "transformer.h")
                    yield f"{at}.attn.c_attn.{kind}", whole.T.contiguous() if whole.ndim > 1 else whole
            elif name.endswith("_proj.weight"):
                yield NAMES.theirs(name), tensor.T.contiguous()
            else:
                yield NAMES.theirs(name), tensor / shrink if name.startswith("norm.") else tensor

    @staticmethod
    def take(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of theirs as ours; none for the causal mask that old checkpoints hold."""
        if not name.startswith(("transformer.", "lm_head", "score", "classifier")):
            name = f"transformer.{name}"  # the original release has no prefix
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            return
        turned = tensor.T.contiguous() if ".c_" in name and tensor.ndim > 1 else tensor
        if ".c_attn." in name:
            layer, kind = name.removeprefix("transformer.h.").split(".attn.c_attn.")
            for part, piece in zip(FUSED, turned.chunk(3)):
                yield f"layers.{layer}.self_attn.{part}.{kind}", piece.contiguous()
        else:
            yield NAMES.ours(name), turned

    @staticmethod
    def trace(net: nn.Module) -> dict[str, nn.Module]:
        """{their module name: our module} where both sides have the output, in order of the forward."""
        trunk, modules = trunk_of(net), {}
        inside = {
            "ln_1": "input_layernorm", "attn": "self_attn", "ln_2": "post_attention_layernorm", "mlp": "mlp",
        }  # fmt: skip
        for i, block in enumerate(trunk.layers):
            modules |= {
                f"transformer.h.{i}.{theirs}": getattr(block, ours) for theirs, ours in inside.items()
            }
            modules[f"transformer.h.{i}"] = block
        return modules | {"transformer.ln_f": trunk.norm}

    @staticmethod
    def config(settings: Settings, head: str, ids: dict[str, int | list[int] | None], dtype: str) -> dict:
        """The content of config.json; `ids` holds bos_token_id, eos_token_id and pad_token_id."""
        s = settings
        config: dict[str, Any] = {
            "architectures": [Gpt2.architectures[head]],
            "model_type": "gpt2",
            "vocab_size": s.vocab_size,
            "n_embd": s.width,
            "n_layer": s.layers,
            "n_head": s.heads,
            "n_inner": s.mlp_dim,
            "n_positions": s.context,
            "n_ctx": s.context,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": s.norm_eps,
            "initializer_range": s.init_std,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "resid_pdrop": s.dropout,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "tie_word_embeddings": s.tie and head == "lm",
            "use_cache": True,
            **ids,
            "torch_dtype": dtype,
            "dtype": dtype,
        }
        return config

    allowed: ClassVar[dict[str, Any]] = {
        "vocab_size": int,
        "n_embd": int,
        "n_layer": int,
        "n_head": int,
        "n_inner": int,
        "n_positions": int,
        "activation_function": str,
        "layer_norm_epsilon": (int, float),
        "initializer_range": (int, float),
        "scale_attn_weights": bool,
        "scale_attn_by_inverse_layer_idx": bool,
        "add_cross_attention": bool,
        "tie_word_embeddings": bool,
    }
    """The keys of a foreign config.json that are read, with their types. All others are left alone."""

    @staticmethod
    def settings(config: dict) -> Settings:
        """The decoder that an allow-listed config.json describes. ConfigError names what ours cannot be."""
        wanted = {
            "activation_function": "gelu_new", "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
        }  # fmt: skip
        for key, value in wanted.items():
            if config.get(key, value) != value:
                raise ConfigError(f"config.json: {key} = {config[key]!r} is not what the decoder computes")
        try:
            return Settings(
                width=config["n_embd"],
                layers=config["n_layer"],
                heads=config["n_head"],
                mlp_dim=config.get("n_inner"),
                vocab_size=config["vocab_size"],
                context=config["n_positions"],
                positions="learned",
                norm="layer",
                mlp="gelu",
                bias=True,
                norm_eps=config.get("layer_norm_epsilon", 1e-5),
                tie=config.get("tie_word_embeddings", True),
                init_std=config.get("initializer_range") or 0.02,
            )
        except KeyError as error:
            raise ConfigError(f"config.json: {error.args[0]} is missing; this is no GPT-2 model") from None
