"""Our decoder as Hugging Face's Llama, both ways: names, config.json, and the modules that the gate compares.

    decoder              LlamaForCausalLM            ScoreNet                 LlamaForSequenceClassification
    layers.0.mlp...  ◄─► model.layers.0.mlp...       trunk.layers.0.mlp...◄─► model.layers.0.mlp...
    lm_head.weight   ◄─► lm_head.weight (untied)     score.weight         ◄─► score.weight

The arithmetic is the same (rotary halves, not interleaved pairs), so no tensor is permuted.
"""

from torch import nn

from llmkit.errors import ConfigError, ExportRefused
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.heads import ScoreNet
from llmkit.registry import register

ARCHITECTURES = {"lm": "LlamaForCausalLM", "score": "LlamaForSequenceClassification"}


@register("export", "llama")
class Llama:
    """What export and import know about the Llama family; `head` is "lm" or "score" throughout."""

    model_type = "llama"
    architectures = ARCHITECTURES

    @staticmethod
    def matches(net: nn.Module) -> bool:
        """True if `net` is a decoder of ours, with either head."""
        return isinstance(net, Decoder) or (isinstance(net, ScoreNet) and isinstance(net.trunk, Decoder))

    @staticmethod
    def export_name(name: str) -> str:
        """Our parameter or module name -> theirs."""
        if name in ("lm_head.weight", "score.weight"):
            return name
        return f"model.{name.removeprefix('trunk.')}"

    @staticmethod
    def import_name(name: str, head: str) -> str | None:
        """Their parameter name -> ours; None for a buffer of old checkpoints that is computed nowadays."""
        if name.endswith("rotary_emb.inv_freq"):
            return None
        if name in ("lm_head.weight", "score.weight"):
            return name
        return f"trunk.{name.removeprefix('model.')}" if head == "score" else name.removeprefix("model.")

    @staticmethod
    def trace(net: nn.Module) -> dict[str, nn.Module]:
        """{their module name: our module} where both sides have the output, in order of the forward."""
        trunk = net.trunk if isinstance(net, ScoreNet) else net
        inside = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
        modules = {"model.embed_tokens": trunk.embed_tokens}
        for i, block in enumerate(trunk.layers):
            modules |= {f"model.layers.{i}.{part}": getattr(block, part) for part in inside}
            modules[f"model.layers.{i}"] = block
        return modules | {"model.norm": trunk.norm}

    @staticmethod
    def config(settings: Settings, head: str, ids: dict[str, int | list[int] | None], dtype: str) -> dict:
        """The content of config.json; `ids` holds bos_token_id, eos_token_id and pad_token_id.

        It speaks both dialects: transformers 5 writes rope_parameters, which transformers 4 ignores. Without
        rope_theta that one would fall back to 10000 and be silently wrong.
        """
        s = settings
        if s.width % s.heads:
            raise ExportRefused(f"model.width: {s.width} does not divide by heads={s.heads}, as Llama has to")
        config = {
            "architectures": [ARCHITECTURES[head]],
            "model_type": "llama",
            "vocab_size": s.vocab_size,
            "hidden_size": s.width,
            "intermediate_size": s.mlp_dim,
            "num_hidden_layers": s.layers,
            "num_attention_heads": s.heads,
            "num_key_value_heads": s.kv_heads,
            "head_dim": s.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": s.context,
            "initializer_range": s.init_std,
            "rms_norm_eps": s.norm_eps,
            "rope_theta": s.rope_theta,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": s.rope_theta},
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "pretraining_tp": 1,
            "tie_word_embeddings": s.tie and head == "lm",
            "use_cache": True,
            **ids,
            "torch_dtype": dtype,
            "dtype": dtype,
        }
        if head == "score":
            config |= {"id2label": {"0": "score"}, "label2id": {"score": 0}, "problem_type": "regression"}
        return config

    allowed = {
        "vocab_size": int,
        "hidden_size": int,
        "intermediate_size": int,
        "num_hidden_layers": int,
        "num_attention_heads": int,
        "num_key_value_heads": int,
        "head_dim": int,
        "max_position_embeddings": int,
        "hidden_act": str,
        "rms_norm_eps": (int, float),
        "rope_theta": (int, float),
        "rope_scaling": dict,
        "rope_parameters": dict,
        "attention_bias": bool,
        "mlp_bias": bool,
        "tie_word_embeddings": bool,
        "initializer_range": (int, float),
    }
    """The keys of a foreign config.json that are read, with their types. All others are left alone."""

    @staticmethod
    def settings(config: dict) -> Settings:
        """The decoder that an allow-listed config.json describes. ConfigError names what ours cannot be."""
        scaling, rope = config.get("rope_scaling") or {}, config.get("rope_parameters") or {}
        kinds = {rope.get("rope_type"), scaling.get("rope_type"), scaling.get("type")}
        unlike = {
            "hidden_act": config.get("hidden_act", "silu") != "silu",
            "attention_bias": config.get("attention_bias", False),
            "mlp_bias": config.get("mlp_bias", False),
            "rope_scaling": bool(kinds - {None, "default"}),
        }
        for key in (key for key, wrong in unlike.items() if wrong):
            raise ConfigError(
                f"config.json: {key} = {config.get(key, rope)!r} is not what the decoder computes"
            )
        try:
            return Settings(
                width=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                kv_heads=config.get("num_key_value_heads"),
                head_dim=config.get("head_dim"),
                mlp_dim=config["intermediate_size"],
                vocab_size=config["vocab_size"],
                context=config.get("max_position_embeddings", 2048),
                rope_theta=rope.get("rope_theta") or config.get("rope_theta") or 10000.0,
                norm_eps=config.get("rms_norm_eps", 1e-6),
                tie=config.get("tie_word_embeddings", False),
                init_std=config.get("initializer_range") or 0.02,
            )
        except KeyError as error:
            raise ConfigError(f"config.json: {error.args[0]} is missing; this is not a Llama model") from None
