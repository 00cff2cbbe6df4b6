"""Our encoder of style "bert" as Hugging Face's BertForMaskedLM, or with a head of labels, both ways.

The pooler is read where there is a classifier behind it; that of a bare or masked model, and the
next-sentence head, are left out on import: nothing here reads them. Token types are 0, as transformers takes
them where none are given.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.models.encoder import Encoder, Settings
from llmkit.models.heads import trunk_of
from llmkit.models.hf import labels
from llmkit.models.hf.names import Names
from llmkit.registry import register

LAYER = "bert.encoder.layer.#"
NAMES = Names(
    {
        "embed_tokens": "bert.embeddings.word_embeddings",
        "embed_positions": "bert.embeddings.position_embeddings",
        "embed_types": "bert.embeddings.token_type_embeddings",
        "norm_in": "bert.embeddings.LayerNorm",
        "layers.#.self_attn.q_proj": f"{LAYER}.attention.self.query",
        "layers.#.self_attn.k_proj": f"{LAYER}.attention.self.key",
        "layers.#.self_attn.v_proj": f"{LAYER}.attention.self.value",
        "layers.#.self_attn.o_proj": f"{LAYER}.attention.output.dense",
        "layers.#.attn_norm": f"{LAYER}.attention.output.LayerNorm",
        "layers.#.mlp.up_proj": f"{LAYER}.intermediate.dense",
        "layers.#.mlp.down_proj": f"{LAYER}.output.dense",
        "layers.#.mlp_norm": f"{LAYER}.output.LayerNorm",
        "lm_head.dense": "cls.predictions.transform.dense",
        "lm_head.norm": "cls.predictions.transform.LayerNorm",
        "lm_head.weight": "cls.predictions.decoder.weight",
        "lm_head.bias": "cls.predictions.bias",
        "pooler": "bert.pooler.dense",
    }
)
BARE = ("embeddings.", "encoder.", "pooler.")
"""How the names of a BertModel without any head begin."""


@register("export", "bert")
class Bert:
    """What export and import know about BERT."""

    model_type = "bert"
    architectures = {
        "masked": "BertForMaskedLM",
        "score": "BertForSequenceClassification",
        "classify": "BertForSequenceClassification",
        "tag": "BertForTokenClassification",
        "span": "BertForQuestionAnswering",
    }
    heads = {"score": "classifier", "classify": "classifier", "tag": "classifier", "span": "qa_outputs"}

    @staticmethod
    def matches(net: nn.Module) -> bool:
        """True if `net` is an encoder of ours in BERT's style, with any head."""
        return isinstance(trunk_of(net), Encoder) and net.settings.style == "bert"

    @staticmethod
    def give(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the export: (their name, tensor). The bias has two names, tied like the matrix."""
        for name, p in net.named_parameters():  # muP's factor goes into the norm before the output matrix
            if labels.owns(name):
                yield labels.theirs(Bert.heads, name), p
                continue
            name = name.removeprefix("trunk.")
            yield NAMES.theirs(name), p / net.lm_head.wider if name.startswith("lm_head.norm.") else p
        if net is trunk_of(net) and not net.settings.tie:
            yield "cls.predictions.decoder.bias", net.lm_head.bias.detach().clone()

    @staticmethod
    def take(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A tensor of theirs as ours; the spellings of old checkpoints included."""
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        name = f"bert.{name}" if name.startswith(BARE) else name
        if not name.startswith(("cls.seq_relationship.", "bert.embeddings.position_ids")):
            yield NAMES.ours(name), tensor

    @staticmethod
    def settle(settings: Settings, tensors: dict[str, Tensor]) -> Settings:
        """Of the two names of the bias, the decoder's is the one that transformers computes with."""
        if "cls.predictions.decoder.bias" in tensors:
            tensors["lm_head.bias"] = tensors.pop("cls.predictions.decoder.bias")
        return settings

    @staticmethod
    def trace(net: nn.Module) -> dict[str, nn.Module]:
        """{their module name: our module} where both sides have the output, in order of the forward."""
        trunk = trunk_of(net)
        modules = {"bert.embeddings.LayerNorm": trunk.norm_in}
        for i, layer in enumerate(trunk.layers):
            at = LAYER.replace("#", str(i))
            modules |= {
                f"{at}.attention.output.dense": layer.self_attn,
                f"{at}.attention.output.LayerNorm": layer.attn_norm,
                f"{at}.output.dense": layer.mlp,
                f"{at}.output.LayerNorm": layer.mlp_norm,
            }
        if net is not trunk:
            return modules | ({"bert.pooler.dense": net.pooler} if net.pooler else {})
        return modules | {"cls.predictions.transform": net.lm_head}

    @staticmethod
    def config(settings: Settings, head: str, ids: dict[str, int | list[int] | None], dtype: str) -> dict:
        """The content of config.json; `ids` holds bos_token_id, eos_token_id and pad_token_id."""
        s = settings
        return {
            "architectures": [Bert.architectures[head]],
            "model_type": "bert",
            "vocab_size": s.vocab_size,
            "hidden_size": s.width,
            "num_hidden_layers": s.layers,
            "num_attention_heads": s.heads,
            "intermediate_size": s.mlp_dim,
            "hidden_act": "gelu",
            "hidden_dropout_prob": s.dropout,
            "attention_probs_dropout_prob": 0.0,
            "max_position_embeddings": s.context,
            "type_vocab_size": s.token_types,
            "initializer_range": s.init_std,
            "layer_norm_eps": s.norm_eps,
            "position_embedding_type": "absolute",
            "is_decoder": False,
            "add_cross_attention": False,
            "tie_word_embeddings": s.tie,
            **ids,
            "torch_dtype": dtype,
            "dtype": dtype,
        }

    allowed = {
        "vocab_size": int,
        "hidden_size": int,
        "num_hidden_layers": int,
        "num_attention_heads": int,
        "intermediate_size": int,
        "hidden_act": str,
        "hidden_dropout_prob": (int, float),
        "max_position_embeddings": int,
        "type_vocab_size": int,
        "initializer_range": (int, float),
        "layer_norm_eps": (int, float),
        "position_embedding_type": str,
        "is_decoder": bool,
        "add_cross_attention": bool,
        "tie_word_embeddings": bool,
    }
    """The keys of a foreign config.json that are read, with their types. All others are left alone."""

    @staticmethod
    def settings(config: dict) -> Settings:
        """The encoder that an allow-listed config.json describes. ConfigError names what ours cannot be."""
        wanted = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
        for key, value in wanted.items():
            if config.get(key, value) != value:
                raise ConfigError(f"config.json: {key} = {config[key]!r} is not what the encoder computes")
        try:
            return Settings(
                style="bert",
                width=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                mlp_dim=config["intermediate_size"],
                vocab_size=config["vocab_size"],
                context=config.get("max_position_embeddings", 512),
                token_types=config.get("type_vocab_size", 2),
                norm_eps=config.get("layer_norm_eps", 1e-12),
                tie=config.get("tie_word_embeddings", True),
                init_std=config.get("initializer_range") or 0.02,
                dropout=config.get("hidden_dropout_prob", 0.0),
            )
        except KeyError as error:
            raise ConfigError(f"config.json: {error.args[0]} is missing; this is not a BERT") from None
