"""An encoder that sees both directions, from raw tokens to the loss of every masked one: BERT and ModernBERT.

    tokens ─► embed, norm ─► Layer x layers (─► norm) ─► head: dense, GELU, norm ─► logits ─► cross-entropy

              positions          norm   MLP     biases   attention
    bert      learned, + types   post   GELU    all      everywhere                     Devlin et al. 2018
    modernbert  rotary           pre    GeGLU   none     every third layer everywhere,  Warner et al. 2024
                                                         the others in a window

Unpadded means packed: documents share a row and do not see each other. Exports exactly to BertForMaskedLM and
ModernBertForMaskedLM (models/hf). There is no next-sentence task and no pooler; token types are 0.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.models import masks, recompute
from llmkit.models.blocks import fill_normal, positions, rope
from llmkit.models.crossentropy import IGNORED, linear_cross_entropy
from llmkit.models.layer import Layer, Shape, at_labels, grows, wider
from llmkit.registry import register

STYLES: dict[str, dict[str, Any]] = {
    "bert": {"mlp_ratio": 4, "token_types": 2, "window": 0, "norm_eps": 1e-12},
    "modernbert": {"mlp_ratio": 1.5, "token_types": 0, "window": 128, "norm_eps": 1e-5},
}


class Settings(Section):
    """The shape of an encoder. Fields left at None follow from `style` and `width`."""

    name: Literal["encoder"] = "encoder"
    style: Literal["bert", "modernbert"] = Field("modernbert", description="the architecture")
    width: int = Field(256, description="model width D", gt=0)
    layers: int = Field(4, description="number of layers", gt=0)
    heads: int = Field(4, description="number of heads; divides the width", gt=0)
    mlp_dim: int | None = Field(None, description="hidden width of the MLP; None = 4 width (bert), 3/2", gt=0)
    vocab_size: int | None = Field(None, description="vocabulary entries; None = the tokenizer's", gt=1)
    context: int = Field(256, description="longest row in tokens; bert has so many positions", gt=0)
    token_types: int | None = Field(
        None, description="bert: sentence types, of which 0 is used; None = 2", ge=0
    )
    window: int | None = Field(
        None,
        description="modernbert: tokens that a local layer sees, even; None = 128, 0 = no local layers",
        ge=0,
    )
    global_every: int = Field(3, description="modernbert: one layer in so many sees everything", gt=0)
    rope_theta: float = Field(160000.0, description="base of the rotary wavelengths, global layers", gt=1)
    local_theta: float = Field(10000.0, description="base of the rotary wavelengths, local layers", gt=1)
    norm_eps: float | None = Field(None, description="epsilon of LayerNorm; None = 1e-12 (bert), 1e-5", gt=0)
    tie: bool = Field(True, description="use the embedding as the output matrix too")
    init_std: float = Field(0.02, description="standard deviation of the initial weights", gt=0)
    mup_width: int | None = Field(
        None,
        description="muP: the width at which lr and init_std were tuned; they carry over to this one. "
        "None = off. Scale heads, not their width",
        gt=0,
    )
    dropout: float = Field(
        0.0, description="probability, on embeddings and every sublayer's output", ge=0, lt=1
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none", description="activation checkpointing: selective keeps matrix products, full keeps nothing"
    )
    only_with = {
        "rope_theta": ("style", "modernbert"),
        "local_theta": ("window",),
        "global_every": ("window",),
    }
    quick_values: ClassVar[dict] = {"width": 32, "layers": 2, "heads": 2, "mlp_dim": None, "context": 128}

    @model_validator(mode="before")
    @classmethod
    def _follow(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        out = {name: f.default for name, f in cls.model_fields.items()} | given
        style = STYLES.get(out["style"], {})
        for key in ("token_types", "window", "norm_eps"):
            out[key] = style.get(key) if out[key] is None else out[key]
        if out["mlp_dim"] is None and isinstance(out["width"], int) and style:
            out["mlp_dim"] = int(style["mlp_ratio"] * out["width"])
        return out

    @model_validator(mode="after")
    def _fits(self):
        if self.width % self.heads:
            raise ValueError(f"width={self.width} does not divide by heads={self.heads}; change one")
        if self.style == "modernbert" and self.width // self.heads % 2:
            raise ValueError(
                f"width / heads = {self.width // self.heads} is odd and cannot be rotated; change one"
            )
        if self.style == "bert" and (self.window or not self.token_types):
            raise ValueError(
                f"window={self.window}, token_types={self.token_types}: bert has no windows, and a type"
            )
        if self.style == "modernbert" and self.token_types:
            raise ValueError(f"token_types={self.token_types}: modernbert has none; leave it out")
        if self.window % 2:
            raise ValueError(
                f"window={self.window} is odd, but a token sees as far to both sides; make it even"
            )
        return self

    def is_global(self, layer: int) -> bool:
        """True if layer number `layer` sees the whole document."""
        return not self.window or layer % self.global_every == 0


class MaskedHead(nn.Module):
    """What turns hidden states into logits: dense, GELU, norm, then the output matrix, tied or its own."""

    def __init__(self, s: Settings):
        super().__init__()
        bias = s.style == "bert"
        self.wider = wider(s)
        self.dense = nn.Linear(s.width, s.width, bias=bias)
        self.norm = nn.LayerNorm(s.width, s.norm_eps, bias=bias)
        self.weight = None if s.tie else nn.Parameter(torch.empty(s.vocab_size, s.width))
        self.bias = nn.Parameter(torch.empty(s.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D), ready for the output matrix."""
        return self.norm(F.gelu(self.dense(hidden))) / self.wider


@register("model", "encoder")
class Encoder(nn.Module):
    """Its weights are empty until `blocks.initialise`; it may be built on the meta device."""

    Settings = Settings
    predicts = "masked"

    def __init__(self, settings: Settings):
        super().__init__()
        if settings.vocab_size is None:
            raise ConfigError("model.vocab_size: is not known yet; give it, or data whose tokenizer tells it")
        self.settings = s = settings
        bert = s.style == "bert"
        norm = partial(nn.LayerNorm, s.width, s.norm_eps, bias=bert)
        shape = Shape(
            s.width, s.heads, s.width // s.heads, s.mlp_dim, norm, pre_norm=not bert, bias=bert,
            activation="gelu", gated=not bert, dropout=s.dropout,
        )  # fmt: skip
        self.embed_tokens = nn.Embedding(s.vocab_size, s.width)
        self.embed_positions = nn.Embedding(s.context, s.width) if bert else None
        self.embed_types = nn.Embedding(s.token_types, s.width) if s.token_types else None
        self.norm_in = norm()
        self.layers = nn.ModuleList(Layer(shape, attn_norm=bert or i > 0) for i in range(s.layers))
        self.norm_out = None if bert else norm()
        self.lm_head = MaskedHead(s)
        self._compiled: list | None = None

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Norms 1, biases 0, matrices N(0, init_std); modernbert's residual outputs less by depth.

        Under muP matrices that grow have a variance that falls with the width, and an output matrix of its
        own begins with 0 (Yang et al. 2022, table 8 and section D.2).
        """
        s = self.settings
        residual = s.style == "modernbert" and name.endswith(("o_proj.weight", "down_proj.weight"))
        if name.endswith("bias"):
            nn.init.zeros_(p)
        elif p.ndim == 1:
            nn.init.ones_(p)
        elif name == "lm_head.weight" and s.mup_width:
            nn.init.zeros_(p)
        else:
            std = s.init_std * (wider(s) ** -0.5 if grows(name) else 1.0)
            fill_normal(p, std / (2 * s.layers) ** 0.5 if residual else std, generator)

    def lr_scale(self, name: str) -> float:
        """muP for Adam (Yang et al. 2022, table 8): matrices that grow learn 1 / width as fast."""
        return 1 / wider(self.settings) if grows(name) else 1.0

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Last hidden states: tokens (B, T) -> (B, T, D).

        `segments` (B, T): documents do not see each other and positions restart; None = one document per row.
        """
        s, (B, T) = self.settings, tokens.shape
        segments = torch.ones_like(tokens) if segments is None else segments
        fast = self._compiled if torch.is_grad_enabled() else None
        blocks = fast and masks.in_blocks(tokens.device, s.width // s.heads)
        draw = masks.blockwise if blocks else masks.dense
        place, kinds = positions(segments), sorted({s.is_global(i) for i in range(s.layers)})
        mask = {
            wide: draw(
                masks.within(segments, T, reach=None if wide else s.window // 2), B, T, T, tokens.device
            )
            for wide in kinds
        }
        turn = {wide: self._turn(place, wide) for wide in kinds}
        x = self._embed(tokens, place)
        for i, layer in enumerate(fast or self.layers):
            wide = s.is_global(i)
            x = recompute.through(s.recompute, layer, x, mask[wide], None, turn[wide])
        return x if self.norm_out is None else self.norm_out(x)

    def _embed(self, tokens: Tensor, place: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        if self.embed_types is not None:
            x = x + self.embed_types.weight[0]
        if self.embed_positions is not None:
            x = x + self.embed_positions(place)
        return F.dropout(self.norm_in(x), self.settings.dropout, self.training)

    def _turn(self, place: Tensor, wide: bool):
        s = self.settings
        if self.embed_positions is not None:
            return None
        return rope(place, s.width // s.heads, s.rope_theta if wide else s.local_theta)

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V)"""
        return F.linear(self.lm_head(hidden), self.output_weight, self.lm_head.bias)

    @property
    def output_weight(self) -> Tensor:
        """The (V, D) matrix that turns the head's output into logits."""
        return self.embed_tokens.weight if self.lm_head.weight is None else self.lm_head.weight

    def nll(self, tokens: Tensor, segments: Tensor | None, labels: Tensor) -> Tensor:
        """Negative log-likelihood of `labels` at their positions (-100 = none, costs 0): (B, T) fp32."""

        def loss(hidden: Tensor, labels: Tensor) -> Tensor:
            out = self.lm_head(hidden)
            return linear_cross_entropy(out, self.output_weight, labels, bias=self.lm_head.bias)

        return at_labels(self.hidden(tokens, segments), labels, loss, IGNORED)

    def compile(self, mode: str | None = "default", parts: bool = True) -> None:
        """Compile the layers, for what runs under gradients; `parts` as in `Decoder.compile`.

        The head is left as it is: how many positions it is asked about differs from step to step.
        """
        fast = recompute.compiler(mode, parts)
        self._compiled = [recompute.compiled(self.settings.recompute, layer, fast) for layer in self.layers]
