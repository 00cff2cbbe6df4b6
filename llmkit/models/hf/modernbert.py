"""Our encoder of style "modernbert" as ModernBertForMaskedLM, or with a head of labels, both ways.

Theirs keeps queries, keys and values in one matrix, and both halves of the gated MLP in another.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.models.encoder import Encoder, Settings
from llmkit.models.heads import trunk_of
from llmkit.models.hf import labels
from llmkit.models.hf.names import Names
from llmkit.registry import register

NAMES = Names(
    {
        "embed_tokens": "model.embeddings.tok_embeddings",
        "norm_in": "model.embeddings.norm",
        "layers.#.attn_norm": "model.layers.#.attn_norm",
        "layers.#.self_attn.o_proj": "model.layers.#.attn.Wo",
        "layers.#.mlp_norm": "model.layers.#.mlp_norm",
        "layers.#.mlp.down_proj": "model.layers.#.mlp.Wo",
        "norm_out": "model.final_norm",
        "lm_head.dense": "head.dense",
        "lm_head.norm": "head.norm",
        "lm_head.weight": "decoder.weight",
        "lm_head.bias": "decoder.bias",
    }
)
FUSED = {
    "attn.Wqkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "mlp.Wi.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
}
"""Their matrix -> ours, one above the other."""
BIASES = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")


@register("export", "modernbert")
class ModernBert:
    """What export and import know about ModernBERT."""

    model_type = "modernbert"
    architectures = {
        "masked": "ModernBertForMaskedLM",
        "score": "ModernBertForSequenceClassification",
        "classify": "ModernBertForSequenceClassification",
        "tag": "ModernBertForTokenClassification",
        "span": "ModernBertForQuestionAnswering",
    }
    heads = {"score": "classifier", "classify": "classifier", "tag": "classifier", "span": "classifier"}

    @staticmethod
    def matches(net: nn.Module) -> bool:
        """True if `net` is an encoder of ours in ModernBERT's style, with any head."""
        return isinstance(trunk_of(net), Encoder) and net.settings.style == "modernbert"

    @staticmethod
    def give(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the export: (their name, tensor)."""
        inside, trunk = {part for parts in FUSED.values() for part in parts}, trunk_of(net)
        for name, p in net.named_parameters():
            if labels.owns(name):
                yield labels.theirs(ModernBert.heads, name), p
                continue
            name = name.removeprefix("trunk.")
            if name.split(".", 2)[-1] not in inside:  # muP's factor goes into the norm before the output
                yield NAMES.theirs(name), p / trunk.lm_head.wider if name == "lm_head.norm.weight" else p
        for i, layer in enumerate(trunk.layers):
            for theirs, parts in FUSED.items():
                yield f"model.layers.{i}.{theirs}", torch.cat([layer.get_parameter(part) for part in parts])

    @staticmethod
    def take(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of theirs as ours, or as several of ours."""
        parts = FUSED.get(name.split(".", 3)[-1])
        if parts and name.startswith("model.layers."):
            at = name.removeprefix("model.").split(".", 2)[:2]
            pieces = tensor.chunk(len(parts))
            yield from (
                (".".join([*at, part]), piece.clone()) for part, piece in zip(parts, pieces, strict=True)
            )
        else:
            yield NAMES.ours(name), tensor

    @staticmethod
    def trace(net: nn.Module) -> dict[str, nn.Module]:
        """{their module name: our module} where both sides have the output, in order of the forward."""
        trunk = trunk_of(net)
        modules = {"model.embeddings.norm": trunk.norm_in}
        for i, layer in enumerate(trunk.layers):
            modules |= {
                f"model.layers.{i}.attn_norm": layer.attn_norm,
                f"model.layers.{i}.attn": layer.self_attn,
                f"model.layers.{i}.mlp_norm": layer.mlp_norm,
                f"model.layers.{i}.mlp": layer.mlp,
                f"model.layers.{i}": layer,
            }
        return modules | {"model.final_norm": trunk.norm_out, "head": trunk.lm_head}

    @staticmethod
    def config(settings: Settings, head: str, ids: dict[str, int | list[int] | None], dtype: str) -> dict:
        """The content of config.json in both dialects: transformers 4 reads two thetas and a period,
        transformers 5 the kind and the rotary settings of every layer. `ids`: bos, eos and pad_token_id.
        """
        s = settings
        kinds = ["full_attention" if s.is_global(i) else "sliding_attention" for i in range(s.layers)]
        theta = {"full_attention": s.rope_theta, "sliding_attention": s.local_theta}
        eos = ids["eos_token_id"]
        return {
            "architectures": [ModernBert.architectures[head]],
            "model_type": "modernbert",
            "vocab_size": s.vocab_size,
            "hidden_size": s.width,
            "num_hidden_layers": s.layers,
            "num_attention_heads": s.heads,
            "intermediate_size": s.mlp_dim,
            "hidden_activation": "gelu",
            "classifier_activation": "gelu",
            "classifier_dropout": s.dropout,
            "classifier_pooling": "cls",
            "max_position_embeddings": s.context,
            "initializer_range": s.init_std,
            "norm_eps": s.norm_eps,
            **dict.fromkeys(BIASES, False),
            "decoder_bias": True,
            "embedding_dropout": s.dropout,
            "attention_dropout": 0.0,
            "mlp_dropout": 0.0,
            "local_attention": s.window or 128,
            "global_attn_every_n_layers": s.global_every if s.window else 1,
            "layer_types": kinds,
            "global_rope_theta": s.rope_theta,
            "local_rope_theta": s.local_theta,
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": value} for kind, value in theta.items()
            },
            "tie_word_embeddings": s.tie,
            **ids,
            "cls_token_id": ids["bos_token_id"],
            "sep_token_id": eos[0] if isinstance(eos, list) else eos,
            "torch_dtype": dtype,
            "dtype": dtype,
        }

    allowed = {
        "vocab_size": int,
        "hidden_size": int,
        "num_hidden_layers": int,
        "num_attention_heads": int,
        "intermediate_size": int,
        "hidden_activation": str,
        "classifier_activation": str,
        "classifier_pooling": str,
        "max_position_embeddings": int,
        "initializer_range": (int, float),
        "norm_eps": (int, float),
        "decoder_bias": bool,
        **dict.fromkeys(BIASES, bool),
        "embedding_dropout": (int, float),
        "local_attention": int,
        "global_attn_every_n_layers": int,
        "layer_types": list,
        "global_rope_theta": (int, float),
        "local_rope_theta": (int, float),
        "rope_parameters": dict,
        "tie_word_embeddings": bool,
    }
    """The keys of a foreign config.json that are read, with their types. All others are left alone."""

    @staticmethod
    def settings(config: dict) -> Settings:
        """The encoder that an allow-listed config.json describes. ConfigError names what ours cannot be."""
        wanted = {"hidden_activation": "gelu", "classifier_activation": "gelu", "decoder_bias": True}
        for key, value in (wanted | dict.fromkeys(BIASES, False)).items():
            if config.get(key, value) != value:
                raise ConfigError(f"config.json: {key} = {config[key]!r} is not what the encoder computes")
        rope = config.get("rope_parameters") or {}
        wide, narrow = (rope.get(kind) or {} for kind in ("full_attention", "sliding_attention"))
        for part in (wide, narrow):
            if part.get("rope_type", "default") != "default":
                raise ConfigError(
                    f"config.json: rope_type = {part['rope_type']!r} is not what the encoder computes"
                )
        try:
            layers = config["num_hidden_layers"]
            every = period(config.get("layer_types"), config.get("global_attn_every_n_layers", 3), layers)
            window = config.get("local_attention", 128)
            return Settings(
                style="modernbert",
                width=config["hidden_size"],
                layers=layers,
                heads=config["num_attention_heads"],
                mlp_dim=config["intermediate_size"],
                vocab_size=config["vocab_size"],
                context=config.get("max_position_embeddings", 8192),
                window=window // 2 * 2,
                global_every=every,
                rope_theta=wide.get("rope_theta") or config.get("global_rope_theta") or 160000.0,
                local_theta=narrow.get("rope_theta") or config.get("local_rope_theta") or 10000.0,
                norm_eps=config.get("norm_eps", 1e-5),
                tie=config.get("tie_word_embeddings", True),
                init_std=config.get("initializer_range") or 0.02,
                dropout=config.get("embedding_dropout", 0.0),
            )
        except KeyError as error:
            raise ConfigError(f"config.json: {error.args[0]} is missing; this is not a ModernBERT") from None


def period(kinds: list | None, stated: int, layers: int) -> int:
    """How often a layer is global: as `kinds` of layers say, else as stated. ConfigError if not regularly."""
    if kinds is None:
        return stated
    for every in range(1, layers + 1):
        if kinds == ["sliding_attention" if i % every else "full_attention" for i in range(layers)]:
            return every
    raise ConfigError(
        f"config.json: layer_types = {kinds} is no regular alternation; the encoder has no other"
    )
