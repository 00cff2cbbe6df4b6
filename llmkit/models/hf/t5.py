"""Our encoder-decoder of style "t5" as Hugging Face's T5ForConditionalGeneration (v1.1), both ways.

What ties the output matrix to the embedding is told differently by the versions of transformers:

    ours                          tie_word_embeddings   lm_head.weight   transformers 4 and 5 compute
    tie                           true                  left out         embedding, hidden states / sqrt(D)
    own matrix                    false                 its own          its own, hidden states as they are
    tie, scale_output: false      false                 a copy           the embedding, as they are

The last is what transformers 5 makes of a new T5Config(tie_word_embeddings=False). It says so on disk by
`scale_decoder_outputs`, which is written and read here too.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.models.encdec import EncDec, Settings
from llmkit.models.hf.names import Names
from llmkit.registry import register


def _side(side: str) -> dict[str, str]:
    """Our names -> theirs, of one side."""
    ours, theirs = f"{side}.layers.#", f"{side}.block.#.layer"
    mlp = 2 if side == "decoder" else 1
    table = {
        f"{side}.embed_distances": f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias",
        f"{ours}.attn_norm": f"{theirs}.0.layer_norm",
        f"{ours}.mlp_norm": f"{theirs}.{mlp}.layer_norm",
        f"{ours}.mlp.gate_proj": f"{theirs}.{mlp}.DenseReluDense.wi_0",
        f"{ours}.mlp.up_proj": f"{theirs}.{mlp}.DenseReluDense.wi_1",
        f"{ours}.mlp.down_proj": f"{theirs}.{mlp}.DenseReluDense.wo",
        f"{side}.norm_out": f"{side}.final_layer_norm",
    }
    table |= {f"{ours}.self_attn.{p}_proj": f"{theirs}.0.SelfAttention.{p}" for p in "qkvo"}
    if side == "decoder":
        table[f"{ours}.cross_norm"] = f"{theirs}.1.layer_norm"
        table |= {f"{ours}.cross_attn.{p}_proj": f"{theirs}.1.EncDecAttention.{p}" for p in "qkvo"}
    return table


NAMES = {"embed_tokens": "shared", "lm_head": "lm_head", **_side("encoder"), **_side("decoder")}


TABLE = Names(NAMES)


@register("export", "t5")
class T5:
    """What export and import know about T5 v1.1."""

    model_type = "t5"
    architectures = {"seq2seq": "T5ForConditionalGeneration"}

    @staticmethod
    def matches(net: nn.Module) -> bool:
        """True if `net` is an encoder-decoder of ours in T5's style."""
        return isinstance(net, EncDec) and net.settings.style == "t5"

    @staticmethod
    def give(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the export: (their name, tensor)."""
        s = net.settings
        theirs = s.width**-0.5 if s.scale_output else 1.0
        for name, p in net.named_parameters():  # muP's factor goes into the norm before the output matrix
            last = s.mup_width and name == "decoder.norm_out.weight"
            yield TABLE.theirs(name), p * (net.output_scale / theirs) if last else p
        if net.settings.tie and not net.settings.scale_output:
            yield "lm_head.weight", net.embed_tokens.weight.detach().clone()

    @staticmethod
    def take(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of theirs as ours; each side's embedding is the shared one."""
        name = "shared.weight" if name.endswith("embed_tokens.weight") else name
        if (
            name != "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        ):  # of the first T5s
            yield TABLE.ours(name), tensor

    @staticmethod
    def settle(settings: Settings, tensors: dict[str, Tensor]) -> Settings:
        """Whether the output matrix is tied, as the tensors say: transformers 5 writes that it is, always."""
        own = tensors.get("lm_head.weight")
        if own is None:
            return settings
        tied = own.equal(tensors["embed_tokens.weight"])
        if tied:
            del tensors["lm_head.weight"]
        elif settings.scale_output:
            raise ConfigError(
                "config.json: hidden states are scaled for a tied output matrix, but it is not tied"
            )
        return settings.model_copy(update={"tie": tied})

    @staticmethod
    def trace(net: nn.Module) -> dict[str, nn.Module]:
        """{their module name: our module} where both sides have the output, in order of the forward."""
        modules = {}
        for side in ("encoder", "decoder"):
            stack = getattr(net, side)
            for i, layer in enumerate(stack.layers):
                at, mlp = f"{side}.block.{i}.layer", 2 if side == "decoder" else 1
                modules |= {f"{at}.0.layer_norm": layer.attn_norm, f"{at}.0.SelfAttention": layer.self_attn}
                if side == "decoder":
                    modules[f"{at}.1.layer_norm"] = layer.cross_norm
                    modules[f"{at}.1.EncDecAttention"] = layer.cross_attn
                modules |= {f"{at}.{mlp}.layer_norm": layer.mlp_norm, f"{at}.{mlp}.DenseReluDense": layer.mlp}
            modules[f"{side}.final_layer_norm"] = stack.norm_out
        return modules

    @staticmethod
    def config(settings: Settings, head: str, ids: dict[str, int | list[int] | None], dtype: str) -> dict:
        """The content of config.json; `ids` holds bos, eos, pad and decoder_start_token_id."""
        s = settings
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "vocab_size": s.vocab_size,
            "d_model": s.width,
            "d_kv": s.head_dim,
            "d_ff": s.mlp_dim,
            "num_layers": s.layers,
            "num_decoder_layers": s.decoder_layers,
            "num_heads": s.heads,
            "relative_attention_num_buckets": s.buckets,
            "relative_attention_max_distance": s.max_distance,
            "dropout_rate": s.dropout,
            "layer_norm_epsilon": s.norm_eps,
            "initializer_factor": s.init_scale,
            "feed_forward_proj": "gated-gelu",
            "is_encoder_decoder": True,
            "n_positions": s.context,
            "tie_word_embeddings": s.scale_output,
            "scale_decoder_outputs": s.scale_output,
            **ids,
            "torch_dtype": dtype,
            "dtype": dtype,
        }

    allowed = {
        "vocab_size": int,
        "d_model": int,
        "d_kv": int,
        "d_ff": int,
        "num_layers": int,
        "num_decoder_layers": int,
        "num_heads": int,
        "relative_attention_num_buckets": int,
        "relative_attention_max_distance": int,
        "dropout_rate": (int, float),
        "layer_norm_epsilon": (int, float),
        "initializer_factor": (int, float),
        "feed_forward_proj": str,
        "n_positions": int,
        "tie_word_embeddings": bool,
        "scale_decoder_outputs": bool,
        "pad_token_id": int,
        "bos_token_id": int,
        "eos_token_id": (int, list),
        "decoder_start_token_id": int,
    }
    """The keys of a foreign config.json that are read, with their types. All others are left alone."""

    @staticmethod
    def settings(config: dict) -> Settings:
        """The net that an allow-listed config.json describes. ConfigError names what ours cannot be."""
        if config.get("feed_forward_proj", "relu") != "gated-gelu":
            raise ConfigError(
                f"config.json: feed_forward_proj = {config.get('feed_forward_proj')!r} is the first T5's; "
                "only v1.1 (gated-gelu) is what the encoder-decoder computes"
            )
        tied = config.get("tie_word_embeddings", True)
        scaled = config.get("scale_decoder_outputs", tied)
        try:
            return Settings(
                style="t5",
                width=config["d_model"],
                head_dim=config["d_kv"],
                mlp_dim=config["d_ff"],
                layers=config["num_layers"],
                decoder_layers=config.get("num_decoder_layers"),
                heads=config["num_heads"],
                vocab_size=config["vocab_size"],
                context=config.get("n_positions", 512),
                buckets=config.get("relative_attention_num_buckets", 32),
                max_distance=config.get("relative_attention_max_distance", 128),
                norm_eps=config.get("layer_norm_epsilon", 1e-6),
                tie=tied,
                scale_output=scaled,
                start=start_of(config),
                init_scale=config.get("initializer_factor") or 1.0,
                dropout=config.get("dropout_rate", 0.0),
            )
        except KeyError as error:
            raise ConfigError(f"config.json: {error.args[0]} is missing; this is not a T5") from None


def start_of(config: dict) -> str | None:
    """Which piece a foreign config lets the decoder read first; None if it does not say."""
    ids = {piece: config.get(f"{piece}_token_id") for piece in ("bos", "eos", "pad")}
    known = {found[0] if isinstance(found, list) else found: piece for piece, found in ids.items()}
    first = config.get("decoder_start_token_id")
    if first is not None and first not in known:
        raise ConfigError(f"config.json: decoder_start_token_id = {first} is none of its pad, bos and eos")
    return None if first is None else known[first]
