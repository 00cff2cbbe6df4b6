"""An encoder-decoder, from a source and the target so far to the loss of every target token.

    source ─► embed ─► encoder: Layer x layers ─► memory ─┐
    tokens ─► embed ─► decoder: Layer x decoder_layers ◄──┘ cross-attention ─► logits ─► cross-entropy

                 positions            norm       MLP         biases  output matrix
    transformer  sinusoidal           post       ReLU        yes     tied, with bias   Vaswani et al. 2017
    t5           relative, per head   pre (RMS)  gated GELU  no      its own, or tied  Raffel et al. 2020
    bart         learned, from 2      post       GELU        yes     tied, with bias   Lewis et al. 2020

Both sides are packed: target segment i sees source segment i alone, and positions restart in every segment.
Exports exactly to MarianMTModel, T5ForConditionalGeneration (v1.1), BartForConditionalGeneration (models/hf).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.models import masks, recompute
from llmkit.models.blocks import RMSNorm, fill_normal, positions, sinusoids
from llmkit.models.crossentropy import linear_cross_entropy
from llmkit.models.layer import Layer, Shape, grows, wider
from llmkit.models.past import Past
from llmkit.registry import register

STYLES: dict[str, dict[str, Any]] = {
    "transformer": {"mlp_ratio": 4, "norm_eps": 1e-5, "tie": True, "start": "pad"},
    "t5": {"mlp_ratio": 8 / 3, "norm_eps": 1e-6, "tie": False, "start": "pad"},
    "bart": {"mlp_ratio": 4, "norm_eps": 1e-5, "tie": True, "start": "eos"},
}
OFFSET = 2
"""BART's table of positions begins with two rows that nothing uses."""


class Settings(Section):
    """The shape of an encoder-decoder. Fields left at None follow from `style` and the others."""

    name: Literal["encdec"] = "encdec"
    style: Literal["transformer", "t5", "bart"] = Field("t5", description="the architecture; t5 is v1.1")
    width: int = Field(256, description="model width D", gt=0)
    layers: int = Field(4, description="layers of the encoder", gt=0)
    decoder_layers: int | None = Field(None, description="layers of the decoder; None = layers", gt=0)
    heads: int = Field(4, description="number of heads", gt=0)
    head_dim: int | None = Field(None, description="t5: width of a head; None = width / heads", gt=0)
    mlp_dim: int | None = Field(None, description="hidden width of the MLP; None = 4 width, t5 8/3", gt=0)
    vocab_size: int | None = Field(None, description="vocabulary entries; None = the tokenizer's", gt=1)
    context: int = Field(256, description="longest row in tokens, of either side", gt=0)
    buckets: int = Field(32, description="t5: number of relative distances told apart, even", gt=3)
    max_distance: int = Field(128, description="t5: from this distance on all share a bucket", gt=1)
    norm_eps: float | None = Field(None, description="epsilon of the norms; None = 1e-6 (t5), 1e-5", gt=0)
    tie: bool | None = Field(
        None,
        description="use the embedding as the output matrix too; None = all but t5",
    )
    scale_output: bool | None = Field(
        None, description="t5: hidden states are divided by sqrt(D) before the output matrix; None = if tied"
    )
    start: Literal["pad", "bos", "eos"] | None = Field(
        None, description="piece that the decoder reads first; None = eos (bart), pad"
    )
    init_scale: float = Field(
        1.0, description="multiplies the standard deviation of the initial weights", gt=0
    )
    mup_width: int | None = Field(
        None,
        description="muP: the width at which lr and init_scale were tuned; they carry over to this one. "
        "None = off. Scale heads, not their width",
        gt=0,
    )
    dropout: float = Field(
        0.0, description="probability, on embeddings and every sublayer's output", ge=0, lt=1
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none", description="activation checkpointing: selective keeps matrix products, full keeps nothing"
    )
    only_with = {"buckets": ("style", "t5"), "max_distance": ("style", "t5")}
    quick_values: ClassVar[dict] = {
        "width": 32, "layers": 2, "decoder_layers": None, "heads": 2, "head_dim": None, "mlp_dim": None,
        "context": 128,
    }  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _follow(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        out = {name: f.default for name, f in cls.model_fields.items()} | given
        style = STYLES.get(out["style"], {})
        for key in ("norm_eps", "tie", "start"):
            out[key] = style.get(key) if out[key] is None else out[key]
        out["decoder_layers"] = out["decoder_layers"] or out["layers"]
        if out["scale_output"] is None:
            out["scale_output"] = bool(out["style"] == "t5" and out["tie"])
        width, heads = out["width"], out["heads"]
        if isinstance(width, int) and isinstance(heads, int) and width > 0 and heads > 0 and style:
            if out["head_dim"] is None:
                if width % heads:
                    raise ValueError(f"width={width} does not divide by heads={heads}; change one")
                out["head_dim"] = width // heads
            ratio = style["mlp_ratio"]
            out["mlp_dim"] = out["mlp_dim"] or (
                -(-int(ratio * width) // 32) * 32 if ratio % 1 else ratio * width
            )
        return out

    @model_validator(mode="after")
    def _fits(self):
        if self.style != "t5" and self.head_dim * self.heads != self.width:
            raise ValueError(
                f"head_dim={self.head_dim}: only t5 has heads of another width than width / heads"
            )
        if self.style == "transformer" and self.width % 2:
            raise ValueError(f"width={self.width} is odd, sinusoidal positions come in pairs; make it even")
        if self.style == "transformer" and self.mup_width:
            raise ValueError(
                "mup_width: the embedding of style=transformer grows as it is read; take t5 or bart"
            )
        if self.scale_output and not (self.style == "t5" and self.tie):
            raise ValueError(
                "scale_output=true: only a t5 with tie=true divides its hidden states; leave it out"
            )
        if self.buckets % 4 or self.max_distance <= self.buckets:
            raise ValueError(
                f"buckets={self.buckets} has to be a multiple of 4, max_distance={self.max_distance} above it"
            )
        return self


class Side(nn.Module):
    """The encoder, or the decoder with cross-attention: a stack of layers and what stands around it."""

    def __init__(self, s: Settings, layers: int, cross: bool):
        super().__init__()
        t5, bart = s.style == "t5", s.style == "bart"
        norm = partial(RMSNorm if t5 else nn.LayerNorm, s.width, s.norm_eps)
        shape = Shape(
            s.width, s.heads, s.head_dim, s.mlp_dim, norm, pre_norm=t5, bias=not t5,
            activation={"transformer": "relu", "t5": "gelu_tanh", "bart": "gelu"}[s.style],
            gated=t5, scale=1.0 if t5 else None, dropout=s.dropout, cross=cross,
        )  # fmt: skip
        self.settings, self.causal = s, cross
        self.embed_positions = nn.Embedding(s.context + OFFSET, s.width) if bart else None
        self.embed_distances = nn.Embedding(s.buckets, s.heads) if t5 else None
        self.norm_in = norm() if bart else None
        self.layers = nn.ModuleList(Layer(shape) for _ in range(layers))
        self.norm_out = norm() if t5 else None

    def forward(
        self,
        x: Tensor,
        segments: Tensor,
        memory: Tensor | None = None,
        source_segments: Tensor | None = None,
        past: Past | None = None,
        fast: list | None = None,
    ) -> Tensor:
        """Embedded tokens x (B, T, D) -> (B, T, D).

        `segments` (B, S): of all positions so far, of which x are the last. `memory` (B, R, D) and its
        segments (B, R): the other side. `past` holds earlier positions and the memory. `fast`: compiled
        layers.
        """
        (B, T, _), S, at = x.shape, segments.shape[1], x.device
        blocks = fast and masks.in_blocks(x.device, self.settings.head_dim)
        draw = masks.blockwise if blocks else masks.dense
        plain = draw if self.embed_distances is None else masks.dense  # a bias is added to a dense mask
        mask = plain(masks.within(segments, T, causal=self.causal), B, T, S, at)
        cross = None
        if source_segments is not None:
            rule = masks.across(segments[:, -T:], source_segments)
            cross = draw(rule, B, T, source_segments.shape[1], at)
        bias = self._bias(T, S) if self.embed_distances is not None else None
        x = self._enter(x, segments)
        for i, layer in enumerate(fast or self.layers):
            if past is not None:
                x = layer(x, mask, bias, None, past.crosses[i], cross, past.layers[i])
            else:
                x = recompute.through(self.settings.recompute, layer, x, mask, bias, None, memory, cross)
        return x if self.norm_out is None else self.norm_out(x)

    def _enter(self, x: Tensor, segments: Tensor) -> Tensor:
        """What happens to embedded tokens before the first layer."""
        s = self.settings
        place = positions(segments)[:, -x.shape[1] :]
        if s.style == "transformer":
            x = x * s.width**0.5 + sinusoids(place, s.width).to(x.dtype)
        elif self.embed_positions is not None:
            x = x + self.embed_positions(place + OFFSET)
        x = x if self.norm_in is None else self.norm_in(x)
        return F.dropout(x, s.dropout, self.training)

    def _bias(self, queries: int, keys: int) -> Tensor:
        """T5's bias of the scores by distance, the same in every layer: (1, H, T, S), T at the end of S."""
        k = torch.arange(keys, device=self.embed_distances.weight.device)
        distance = k - k[keys - queries :, None]
        which = bucket(distance, self.settings.buckets, self.settings.max_distance, both_ways=not self.causal)
        return self.embed_distances(which).permute(2, 0, 1)[None]


def bucket(distance: Tensor, buckets: int, max_distance: int, both_ways: bool) -> Tensor:
    """The bucket of key minus query positions (Raffel et al. 2020, section 2.1): exact, then logarithmic."""
    first: Tensor | int = 0
    if both_ways:
        buckets //= 2
        first = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    log = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (log * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, far)


class Output(nn.Module):
    """What the output layer has of its own: a matrix (V, D), a bias (V), or one of them."""

    def __init__(self, s: Settings):
        super().__init__()
        self.weight = None if s.tie else nn.Parameter(torch.empty(s.vocab_size, s.width))
        self.bias = None if s.style == "t5" else nn.Parameter(torch.empty(s.vocab_size))


@register("model", "encdec")
class EncDec(nn.Module):
    """Its weights are empty until `blocks.initialise`; it may be built on the meta device."""

    Settings = Settings
    predicts = "seq2seq"

    def __init__(self, settings: Settings):
        super().__init__()
        if settings.vocab_size is None:
            raise ConfigError("model.vocab_size: is not known yet; give it, or data whose tokenizer tells it")
        self.settings = s = settings
        self.embed_tokens = nn.Embedding(s.vocab_size, s.width)
        self.encoder = Side(s, s.layers, cross=False)
        self.decoder = Side(s, s.decoder_layers, cross=True)
        self.lm_head = Output(s)
        self._compiled: dict[str, Any] = {}

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Norms 1, biases 0, matrices normal: bart as published, the others by their fan-in.

        A T5 that is not tied differs from Hugging Face in its output matrix: N(0, 1/D) instead of
        N(0, 1), whose logits begin with a standard deviation of sqrt(D).
        """
        if name.endswith("bias"):
            nn.init.zeros_(p)
        elif p.ndim == 1:
            nn.init.ones_(p)
        elif name == "lm_head.weight" and self.settings.mup_width:  # Yang et al. (2022), section D.2
            nn.init.zeros_(p)
        else:
            fill_normal(p, self.settings.init_scale * self._std(name, *p.shape), generator)

    def _std(self, name: str, rows: int, columns: int) -> float:
        s = self.settings
        if s.style == "bart":
            return 0.02 * (wider(s) ** -0.5 if grows(name) else 1.0)  # muP (ibid., table 8); t5 has it anyway
        if s.style == "transformer":  # Glorot & Bengio (2010); embeddings are scaled up where they are read
            return s.width**-0.5 if name == "embed_tokens.weight" else (2 / (rows + columns)) ** 0.5
        if name == "embed_tokens.weight":
            return 1.0
        if name.endswith("embed_distances.weight"):
            return s.width**-0.5
        return columns**-0.5 * (s.head_dim**-0.5 if name.endswith("q_proj.weight") else 1.0)

    def lr_scale(self, name: str) -> float:
        """muP for Adam (Yang et al. 2022, table 8): matrices that grow learn 1 / width as fast."""
        return 1 / wider(self.settings) if grows(name) else 1.0

    def step_scale(self, name: str) -> float:
        """T5's queries learn K**-0.5 as fast as other matrices, its biases by distance K**0.5 times as fast.

        Queries hold the factor that other attention multiplies scores by: a step of the usual size would move
        T5's scores K**0.5 times as far as theirs, and a bias is a single number where a matrix sums over the
        width. With steps alike the decoder does not learn where to look (docs/models.md).
        """
        if self.settings.style != "t5":
            return 1.0
        power = {"q_proj": -0.5, "embed_distances": 0.5}.get(name.split(".")[-2], 0.0)
        return self.settings.head_dim**power

    def embed_source(self, source: Tensor) -> Tensor:
        """What the encoder reads: source (B, S) -> (B, S, D)."""
        return self.embed_tokens(source)

    def one_document(self, source: Tensor) -> Tensor:
        """The segments (B, S) of sources that are one document each."""
        return torch.ones_like(source)

    def encode(self, source: Tensor, source_segments: Tensor | None = None) -> Tensor:
        """What the decoder looks at: source (B, S) -> (B, S, D). None = one document per row."""
        segments = self.one_document(source) if source_segments is None else source_segments
        return self.encoder(self.embed_source(source), segments, fast=self._fast("encoder"))

    def hidden(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        past: Past | None = None,
        *,
        source: Tensor | None = None,
        source_segments: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states of the decoder: tokens (B, T), source (B, S) -> (B, T, D), ready for `logits`.

        Target segment i sees source segment i; None = one document per row. `past`: continue behind what it
        holds, and add to it; it holds the encoded source too.
        """
        x = self.embed_tokens(tokens)
        if past is not None:
            return self.decoder(x, past.append(tokens, segments), None, past.source_segments, past)
        assert source is not None, "an encoder-decoder needs a source"
        if source_segments is None:
            source_segments = self.one_document(source)
        segments = torch.ones_like(tokens) if segments is None else segments
        memory = self.encode(source, source_segments)
        return self.decoder(x, segments, memory, source_segments, fast=self._fast("decoder"))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)"""
        return F.linear(self._scaled(hidden), self.output_weight, self.lm_head.bias)

    def _scaled(self, hidden: Tensor) -> Tensor:
        return hidden if self.output_scale == 1.0 else hidden * self.output_scale

    @property
    def output_scale(self) -> float:
        """What hidden states are multiplied by before the output: T5's 1 / sqrt(D), muP's 1 / width."""
        s = self.settings
        return (s.width * wider(s)) ** -0.5 if s.scale_output else 1 / wider(s)

    @property
    def output_weight(self) -> Tensor:
        """The (V, D) matrix that turns hidden states into logits."""
        return self.embed_tokens.weight if self.lm_head.weight is None else self.lm_head.weight

    def nll(
        self,
        tokens: Tensor,
        segments: Tensor | None,
        labels: Tensor,
        *,
        source: Tensor,
        source_segments: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood of `labels`, what follows each token (-100 = none): (B, T) fp32."""
        tail: Callable = self._fast("tail") or self._tail
        return tail(self.hidden(tokens, segments, source=source, source_segments=source_segments), labels)

    def _tail(self, hidden: Tensor, labels: Tensor) -> Tensor:
        bias = self.lm_head.bias
        return linear_cross_entropy(self._scaled(hidden), self.output_weight, labels, bias=bias)

    def past(self, rows: int, size: int, source: Tensor, source_segments: Tensor | None = None) -> Past:
        """A cache for `rows` targets of at most `size` positions of these sources, for `hidden`."""
        s = self.settings
        past = Past(s.decoder_layers, rows, size, s.heads, s.head_dim, source.device)
        source_segments = self.one_document(source) if source_segments is None else source_segments
        memory, past.source_segments = self.encode(source, source_segments), source_segments
        past.crosses = [layer.cross_attn.pair(memory) for layer in self.decoder.layers]
        return past

    def _fast(self, part: str) -> Any:
        return self._compiled.get(part) if torch.is_grad_enabled() else None

    def compile(self, mode: str | None = "default", parts: bool = True) -> None:
        """Compile what runs under gradients: the layers, and the loss behind them; `parts` as in
        `Decoder.compile`. Each new (B, S, T) compiles again.
        """
        fast = recompute.compiler(mode, parts)
        sides = {"encoder": self.encoder, "decoder": self.decoder}
        ready = partial(recompute.compiled, self.settings.recompute, compile_=fast)
        self._compiled = {name: [ready(layer) for layer in side.layers] for name, side in sides.items()}
        self._compiled["tail"] = fast(self._tail)
