"""Our decoder as Hugging Face's Llama, both ways: names, config.json, and the modules that the gate compares.

    decoder              LlamaForCausalLM            ScoreNet                 LlamaForSequenceClassification
    layers.0.mlp...  ◄─► model.layers.0.mlp...       trunk.layers.0.mlp...◄─► model.layers.0.mlp...
    lm_head.weight   ◄─► lm_head.weight (untied)     score.weight         ◄─► score.weight

The arithmetic is the same (rotary halves, not interleaved pairs), so no tensor is permuted. Mistral, Qwen3
and Mixtral are this plus a few keys each; what a family has beside Llama is what its file says.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from llmkit.errors import ConfigError, ExportRefused
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.heads import trunk_of
from llmkit.models.hf import labels
from llmkit.models.rotary import Scaling, stretched_base
from llmkit.registry import register


@register("export", "llama")
class Llama:
    """What export and import know about the Llama family; `head` is one of `architectures` throughout."""

    model_type = "llama"
    architectures: ClassVar[dict[str, str]] = {
        "lm": "LlamaForCausalLM",
        "score": "LlamaForSequenceClassification",
        "classify": "LlamaForSequenceClassification",
        "tag": "LlamaForTokenClassification",
    }
    heads: ClassVar[dict[str, str]] = {"classify": "score", "tag": "score"}
    """Their name of the matrix that gives labels, by head."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Options (`Settings.options`) that a net of this family has."""
    knows: ClassVar[frozenset[str]] = frozenset({"bias"})
    """Options that it may have beside those; stretched rotations and muP fit all of these families."""

    @classmethod
    def matches(cls, net: nn.Module) -> bool:
        """True if `net` is a decoder of ours, with either head, whose options this family has."""
        trunk = trunk_of(net)
        if not isinstance(trunk, Decoder):
            return False
        options = set(trunk.settings.options)
        return cls.needs <= options <= cls.needs | cls.knows | {"rope_scaling", "mup_width"}

    @classmethod
    def give(cls, net: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the export: (their name, tensor). muP's multiplier is in the last norm."""
        shrink = net.wider if trunk_of(net) is net else 1.0  # of words alone
        for name, p in net.named_parameters():
            if labels.owns(name):
                yield labels.theirs(cls.heads, name), p
                continue
            name = name.removeprefix("trunk.")
            tensor = p.detach() / shrink if name == "norm.weight" and shrink != 1 else p
            yield from cls.theirs(name, tensor)

    @staticmethod
    def theirs(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of ours, without the prefix of a head's trunk, as theirs."""
        yield (name if name in ("lm_head.weight", "score.weight") else f"model.{name}"), tensor

    @staticmethod
    def take(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of theirs as ours; none for a buffer of old checkpoints that is computed nowadays."""
        if not name.endswith("rotary_emb.inv_freq"):
            yield name.removeprefix("model."), tensor

    @staticmethod
    def trace(net: nn.Module) -> dict[str, nn.Module]:
        """{their module name: our module} where both sides have the output, in order of the forward."""
        trunk = trunk_of(net)
        inside = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
        modules = {"model.embed_tokens": trunk.embed_tokens}
        for i, block in enumerate(trunk.layers):
            modules |= {f"model.layers.{i}.{part}": getattr(block, part) for part in inside}
            modules[f"model.layers.{i}"] = block
        return modules | {"model.norm": trunk.norm}

    @classmethod
    def config(
        cls, settings: Settings, head: str, ids: dict[str, int | list[int] | None], dtype: str
    ) -> dict:
        """The content of config.json; `ids` holds bos_token_id, eos_token_id and pad_token_id.

        It speaks both dialects: transformers 5 writes rope_parameters, which transformers 4 ignores. Without
        rope_theta that one would fall back to 10000 and be silently wrong.
        """
        s = settings
        if cls.model_type == "llama" and s.width % s.heads:
            raise ExportRefused(f"model.width: {s.width} does not divide by heads={s.heads}, as Llama has to")
        theta, scaling = rope_dialect(s)
        config = {
            "architectures": [cls.architectures[head]],
            "model_type": cls.model_type,
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
            "rope_theta": theta,
            "rope_scaling": scaling,
            "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": theta},
            "attention_dropout": 0.0,
            "tie_word_embeddings": s.tie and head == "lm",
            "use_cache": True,
            **ids,
            "torch_dtype": dtype,
            "dtype": dtype,
            **cls.extras(s),
        }
        return config

    @staticmethod
    def extras(s: Settings) -> dict[str, Any]:
        """What config.json says beside what all these families say."""
        return {"attention_bias": s.bias, "mlp_bias": s.bias, "pretraining_tp": 1}

    allowed: ClassVar[dict[str, Any]] = {
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
        "sliding_window": int,
        "use_sliding_window": bool,
        "max_window_layers": int,
        "layer_types": list,
        "num_local_experts": int,
        "num_experts_per_tok": int,
        "partial_rotary_factor": (int, float),
    }
    """The keys of a foreign config.json that are read, with their types. All others are left alone."""

    @classmethod
    def settings(cls, config: dict) -> Settings:
        """The decoder that an allow-listed config.json describes. ConfigError names what ours cannot be."""
        for key, value in {"hidden_act": "silu", "partial_rotary_factor": 1, **cls.fixed(config)}.items():
            if config.get(key, value) != value:
                raise ConfigError(f"config.json: {key} = {config[key]!r} is not what the decoder computes")
        rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
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
                rope_scaling=read_scaling(rope),
                norm_eps=config.get("rms_norm_eps", 1e-6),
                tie=config.get("tie_word_embeddings", False),
                init_std=config.get("initializer_range") or 0.02,
                **cls.options(config),
            )
        except KeyError as error:
            raise ConfigError(
                f"config.json: {error.args[0]} is missing; this is no {cls.model_type} model"
            ) from None

    @staticmethod
    def fixed(config: dict) -> dict[str, Any]:
        """Keys that may have one value only, with the value; a missing key has it."""
        return {"mlp_bias": config.get("attention_bias", False)}

    @staticmethod
    def options(config: dict) -> dict[str, Any]:
        """Our settings that only this family has."""
        return {"bias": config.get("attention_bias", False)}


def rope_dialect(s: Settings) -> tuple[float, dict[str, Any] | None]:
    """(rope_theta, rope_scaling) as config.json has them. `ntk` is another base and nothing else."""
    r = s.rope_scaling
    if r is None:
        return s.rope_theta, None
    if r.kind == "ntk":
        return stretched_base(s.rope_theta, s.head_dim, r.factor), None
    stated: dict[str, Any] = {"rope_type": r.kind, "type": r.kind, "factor": r.factor}
    if r.kind == "yarn":
        stated |= {"beta_fast": r.fast, "beta_slow": r.slow}
    if r.kind == "llama3":
        stated |= {"high_freq_factor": r.fast, "low_freq_factor": r.slow}
    if r.kind != "linear":
        stated["original_max_position_embeddings"] = r.original
    return s.rope_theta, stated


def read_scaling(rope: dict[str, Any]) -> Scaling | None:
    """The scaling that config.json states. ConfigError for one that ours is not."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    odd = [
        key
        for key in ("attention_factor", "mscale", "mscale_all_dim", "truncate")
        if rope.get(key) is not None
    ]
    if kind not in ("linear", "yarn", "llama3") or odd:
        raise ConfigError(
            f"config.json: rope_parameters = {rope!r} is not what the decoder computes; "
            "it knows linear, yarn and llama3"
        )
    slow, fast = ("beta_slow", "beta_fast") if kind == "yarn" else ("low_freq_factor", "high_freq_factor")
    original = "original_max_position_embeddings"
    needed = {"linear": ("factor",), "yarn": ("factor", original), "llama3": ("factor", original, slow, fast)}
    if missing := [key for key in needed[kind] if rope.get(key) is None]:
        raise ConfigError(
            f"config.json: rope_parameters.{missing[0]} is missing; {kind} has no default for it"
        )
    given = {"original": rope.get(original), "slow": rope.get(slow), "fast": rope.get(fast)}
    stated = {key: value for key, value in given.items() if value is not None}
    return Scaling(kind=kind, factor=rope["factor"], **stated)
