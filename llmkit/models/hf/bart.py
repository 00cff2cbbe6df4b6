"""Our encoder-decoder of style "bart" as Hugging Face's BartForConditionalGeneration, both ways."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.models.encdec import EncDec, Settings
from llmkit.models.hf.names import Names
from llmkit.models.hf.t5 import start_of
from llmkit.registry import register


def _side(side: str) -> dict[str, str]:
    """Our names -> theirs, of one side."""
    ours, theirs = f"{side}.layers.#", f"model.{side}.layers.#"
    table = {
        f"{side}.embed_positions": f"model.{side}.embed_positions",
        f"{side}.norm_in": f"model.{side}.layernorm_embedding",
        f"{ours}.attn_norm": f"{theirs}.self_attn_layer_norm",
        f"{ours}.mlp_norm": f"{theirs}.final_layer_norm",
        f"{ours}.mlp.up_proj": f"{theirs}.fc1",
        f"{ours}.mlp.down_proj": f"{theirs}.fc2",
    }
    parts = {"self_attn": "self_attn"} | ({"cross_attn": "encoder_attn"} if side == "decoder" else {})
    for mine, yours in parts.items():
        table |= {f"{ours}.{mine}.{p}_proj": f"{theirs}.{yours}.{p}_proj" for p in "qkv"}
        table[f"{ours}.{mine}.o_proj"] = f"{theirs}.{yours}.out_proj"
    return table | ({f"{ours}.cross_norm": f"{theirs}.encoder_attn_layer_norm"} if side == "decoder" else {})


NAMES = Names(
    {
        "embed_tokens": "model.shared",
        **_side("encoder"),
        **_side("decoder"),
        "lm_head.weight": "lm_head.weight",
        "lm_head.bias": "final_logits_bias",
    }
)


@register("export", "bart")
class Bart:
    """What export and import know about BART."""

    model_type = "bart"
    style = "bart"
    activation = "gelu"
    scales_embedding = False
    architectures = {"seq2seq": "BartForConditionalGeneration"}

    @classmethod
    def matches(cls, net: nn.Module) -> bool:
        """True if `net` is an encoder-decoder of ours in this style."""
        return isinstance(net, EncDec) and net.settings.style == cls.style

    @staticmethod
    def give(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the export: (their name, tensor). The bias of the logits is a row there.

        Where the output matrix is not tied, transformers ties nothing: each side's embedding is a copy then.
        """
        last = f"decoder.layers.{net.settings.decoder_layers - 1}.mlp_norm."
        for name, p in net.named_parameters():
            if net.settings.mup_width and name.startswith(last):  # muP's factor goes into the last norm
                p = p * net.output_scale
            yield NAMES.theirs(name), p.view(1, -1) if name == "lm_head.bias" else p
        if not net.settings.tie:
            for side in ("encoder", "decoder"):
                yield f"model.{side}.embed_tokens.weight", net.embed_tokens.weight.detach().clone()

    @staticmethod
    def take(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of theirs as ours; each side's embedding is the shared one."""
        if name.endswith("embed_tokens.weight"):
            name = "model.shared.weight"
        yield NAMES.ours(name), tensor.view(-1) if name == "final_logits_bias" else tensor

    @staticmethod
    def settle(settings: Settings, tensors: dict[str, Tensor]) -> Settings:
        """A file without a bias of the logits has one of 0, as transformers takes it."""
        if "lm_head.bias" not in tensors and "embed_tokens.weight" in tensors:
            embedding = tensors["embed_tokens.weight"]
            tensors["lm_head.bias"] = embedding.new_zeros(len(embedding))
        return settings

    @staticmethod
    def trace(net: nn.Module) -> dict[str, nn.Module]:
        """{their module name: our module} where both sides have the output, in order of the forward."""
        modules = {}
        for side in ("encoder", "decoder"):
            stack = getattr(net, side)
            if stack.norm_in is not None:
                modules[f"model.{side}.layernorm_embedding"] = stack.norm_in
            for i, layer in enumerate(stack.layers):
                at = f"model.{side}.layers.{i}"
                modules |= {
                    f"{at}.self_attn": layer.self_attn,
                    f"{at}.self_attn_layer_norm": layer.attn_norm,
                }
                if side == "decoder":
                    modules[f"{at}.encoder_attn"] = layer.cross_attn
                    modules[f"{at}.encoder_attn_layer_norm"] = layer.cross_norm
                modules |= {f"{at}.fc2": layer.mlp, f"{at}.final_layer_norm": layer.mlp_norm}
        return modules

    @classmethod
    def config(cls, settings: Settings, head: str, ids: dict[str, Any], dtype: str) -> dict:
        """The content of config.json; `ids` holds bos, eos, pad and decoder_start_token_id."""
        s = settings
        return {
            "architectures": [cls.architectures["seq2seq"]],
            "model_type": cls.model_type,
            "vocab_size": s.vocab_size,
            "d_model": s.width,
            "encoder_layers": s.layers,
            "decoder_layers": s.decoder_layers,
            "encoder_attention_heads": s.heads,
            "decoder_attention_heads": s.heads,
            "encoder_ffn_dim": s.mlp_dim,
            "decoder_ffn_dim": s.mlp_dim,
            "activation_function": cls.activation,
            "max_position_embeddings": s.context,
            "dropout": s.dropout,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
            "init_std": 0.02 * s.init_scale,
            "scale_embedding": cls.scales_embedding,
            "is_encoder_decoder": True,
            "tie_word_embeddings": s.tie,
            "forced_eos_token_id": None,
            **ids,
            "torch_dtype": dtype,
            "dtype": dtype,
        }

    allowed = {
        "vocab_size": int,
        "d_model": int,
        "encoder_layers": int,
        "decoder_layers": int,
        "encoder_attention_heads": int,
        "decoder_attention_heads": int,
        "encoder_ffn_dim": int,
        "decoder_ffn_dim": int,
        "activation_function": str,
        "max_position_embeddings": int,
        "dropout": (int, float),
        "init_std": (int, float),
        "scale_embedding": bool,
        "share_encoder_decoder_embeddings": bool,
        "decoder_vocab_size": int,
        "tie_word_embeddings": bool,
        "pad_token_id": int,
        "bos_token_id": int,
        "eos_token_id": (int, list),
        "decoder_start_token_id": int,
    }
    """The keys of a foreign config.json that are read, with their types. All others are left alone."""

    @classmethod
    def settings(cls, config: dict) -> Settings:
        """The net that an allow-listed config.json describes. ConfigError names what ours cannot be."""
        try:
            wanted = {
                "activation_function": cls.activation,
                "scale_embedding": cls.scales_embedding,
                "decoder_attention_heads": config["encoder_attention_heads"],
                "decoder_ffn_dim": config["encoder_ffn_dim"],
                "share_encoder_decoder_embeddings": True,
                "decoder_vocab_size": config["vocab_size"],
            }
            for key, value in wanted.items():
                if config.get(key, value) != value:
                    raise ConfigError(
                        f"config.json: {key} = {config[key]!r} is not what the encoder-decoder computes"
                    )
            return Settings(
                style=cls.style,
                width=config["d_model"],
                layers=config["encoder_layers"],
                decoder_layers=config["decoder_layers"],
                heads=config["encoder_attention_heads"],
                mlp_dim=config["encoder_ffn_dim"],
                vocab_size=config["vocab_size"],
                context=config.get("max_position_embeddings", 1024),
                tie=config.get("tie_word_embeddings", True),
                start=start_of(config),
                init_scale=(config.get("init_std") or 0.02) / 0.02,
                dropout=config.get("dropout", 0.0),
            )
        except KeyError as error:
            raise ConfigError(
                f"config.json: {error.args[0]} is missing; this is not a {cls.model_type}"
            ) from None
