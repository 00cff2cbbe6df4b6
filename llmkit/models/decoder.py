"""A decoder-only language model, from raw tokens to the loss of every token.

    tokens ─► embed ─► Block x layers ─► norm ─► logits ─► cross-entropy
                        turn, mask: from segments, once per forward

             positions  norm  mlp      also                    exports to (models/hf)
    Llama    rope       rms   swiglu   rope_scaling            LlamaForCausalLM (the defaults)
    Qwen3    rope       rms   swiglu   qk_norm                 Qwen3ForCausalLM
    Mistral  rope       rms   swiglu   window                  MistralForCausalLM
    Mixtral  rope       rms   experts  window                  MixtralForCausalLM
    GPT-2    learned    layer gelu     bias                    GPT2LMHeadModel

Letters as in blocks.py, V vocabulary, E experts.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.models import masks, recompute
from llmkit.models.blocks import Block, behind, fill_normal, norm, positions, rope, sinusoids
from llmkit.models.crossentropy import IGNORED, linear_cross_entropy, soft_cap, sparse
from llmkit.models.experts import Routing, balance, load, router_z
from llmkit.models.past import Past
from llmkit.models.rotary import Scaling
from llmkit.registry import register


class Settings(Section):
    """The shape of a decoder. Fields left at None follow from the others and are resolved at validation."""

    name: Literal["decoder"] = "decoder"
    width: int = Field(256, description="model width D", gt=0)
    layers: int = Field(4, description="number of blocks", gt=0)
    heads: int = Field(4, description="number of query heads", gt=0)
    kv_heads: int | None = Field(None, description="number of key/value heads; None = heads", gt=0)
    head_dim: int | None = Field(None, description="width of a head, even; None = width / heads", gt=0)
    mlp_dim: int | None = Field(
        None, description="hidden width of the MLP or of one expert; None = 8/3 width, gelu 4", gt=0
    )
    vocab_size: int | None = Field(None, description="vocabulary entries; None = the tokenizer's", gt=1)
    context: int = Field(256, description="longest row in tokens that the model is meant for", gt=0)
    positions: Literal["rope", "learned", "sinusoidal"] = Field(
        "rope", description="how a token knows its place"
    )
    rope_theta: float = Field(10000.0, description="base of the rotary wavelengths", gt=1)
    rope_scaling: Scaling | None = Field(None, description="stretches rope over longer rows")
    window: int | None = Field(
        None, description="a token sees itself and the window - 1 tokens before it; None = all", gt=0
    )
    norm: Literal["rms", "layer"] = Field("rms", description="RMSNorm or LayerNorm")
    norm_eps: float = Field(1e-5, description="epsilon of the norms", gt=0)
    qk_norm: bool = Field(False, description="RMSNorm on every query and key (Henry et al. 2020)")
    mlp: Literal["swiglu", "gelu"] = Field("swiglu", description="gated feed-forward layer, or GPT-2's")
    bias: bool = Field(False, description="biases in all linear layers but router and output")
    experts: int = Field(0, description="experts of a layer; 0 = one plain MLP", ge=0)
    experts_per_token: int = Field(2, description="how many of them a token goes through", gt=0)
    attention_cap: float = Field(0.0, description="soft cap of attention scores; 0 = none, Gemma 2: 50", ge=0)
    logit_cap: float = Field(0.0, description="soft cap of the logits; 0 = none, Gemma 2: 30", ge=0)
    tie: bool = Field(True, description="use the embedding as the output matrix too")
    init_std: float = Field(0.02, description="standard deviation of the initial weights", gt=0)
    mup_width: int | None = Field(
        None,
        description="muP: the width at which lr and init_std were tuned; they carry over to this one. "
        "None = off. Scale heads, not head_dim",
        gt=0,
    )
    depth_scaled: bool = Field(True, description="divide the std of residual outputs by sqrt(2 layers)")
    dropout: float = Field(0.0, description="probability, on the output of every sublayer", ge=0, lt=1)
    recompute: Literal["none", "selective", "full"] = Field(
        "none", description="activation checkpointing: selective keeps matrix products, full keeps nothing"
    )
    only_with = {"rope_theta": ("positions", "rope"), "experts_per_token": ("experts",)}
    quick_values: ClassVar[dict] = {
        "width": 32, "layers": 2, "heads": 2, "kv_heads": None, "head_dim": None, "mlp_dim": None,
        "context": 128,
    }  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _follow(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        out = {name: f.default for name, f in cls.model_fields.items()} | given
        width, heads = out["width"], out["heads"]
        if isinstance(width, int) and isinstance(heads, int) and width > 0 and heads > 0:
            if out["head_dim"] is None:
                if width % heads:
                    raise ValueError(f"width={width} does not divide by heads={heads}; set head_dim too")
                out["head_dim"] = width // heads
            out["kv_heads"] = out["kv_heads"] or heads
            out["mlp_dim"] = out["mlp_dim"] or (
                4 * width if out["mlp"] == "gelu" else -(-8 * width // 96) * 32
            )
        return out

    @model_validator(mode="after")
    def _fits(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} does not divide by kv_heads={self.kv_heads}; change one")
        if self.head_dim % 2 and self.positions == "rope":
            raise ValueError(f"head_dim={self.head_dim} is odd and cannot be rotated in halves; make it even")
        if self.width % 2 and self.positions == "sinusoidal":
            raise ValueError(f"width={self.width} is odd, sinusoidal positions come in pairs; make it even")
        if self.rope_scaling and self.positions != "rope":
            raise ValueError(f"rope_scaling does nothing to {self.positions} positions; leave it out")
        if self.experts and self.experts < self.experts_per_token:
            raise ValueError(
                f"experts={self.experts} are fewer than experts_per_token={self.experts_per_token}"
            )
        if self.experts and (self.mlp != "swiglu" or self.bias):
            raise ValueError("experts are swiglu layers without bias; leave mlp and bias out")
        if self.experts and (self.width % 8 or self.mlp_dim % 8):
            raise ValueError(
                f"experts: width={self.width} and mlp_dim={self.mlp_dim} have to be multiples of 8"
            )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What makes this another architecture than Llama's: {option: value}, where not default."""
        return {key: value for key in OPTIONS if (value := getattr(self, key)) != _default(key)}


OPTIONS = (
    "positions", "rope_scaling", "window", "norm", "qk_norm", "mlp", "bias", "experts", "attention_cap",
    "logit_cap", "mup_width",
)  # fmt: skip


def _default(key: str) -> Any:
    return Settings.model_fields[key].default


@register("model", "decoder")
class Decoder(nn.Module):
    """Its weights are empty until `blocks.initialise`; it may be built on the meta device."""

    Settings = Settings

    def __init__(self, settings: Settings):
        super().__init__()
        if settings.vocab_size is None:
            raise ConfigError("model.vocab_size: is not known yet; give it, or data whose tokenizer tells it")
        self.settings = s = settings
        self.embed_tokens = nn.Embedding(s.vocab_size, s.width)
        self.embed_positions = nn.Embedding(s.context, s.width) if s.positions == "learned" else None
        self.layers = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = norm(s)
        self.lm_head = None if s.tie else nn.Linear(s.width, s.vocab_size, bias=False)
        self._compiled: _Compiled | None = None

    # ---- initialisation ------------------------------------------------------------------------------------

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter: norms with 1, biases with 0, matrices from N(0, init_std).

        Residual outputs have less by depth (Radford et al. 2019); under muP matrices inside the layers have a
        variance that falls with the width (Yang et al. 2022, table 8), and an output matrix of its own begins
        with 0 (ibid., section D.2).
        """
        s = self.settings
        if p.ndim == 1:
            nn.init.ones_(p) if name.endswith("weight") else nn.init.zeros_(p)
            return
        if name == "lm_head.weight" and s.mup_width:
            nn.init.zeros_(p)
            return
        std = s.init_std * (self.wider**-0.5 if self._inside(name) else 1.0)
        residual = s.depth_scaled and "_proj" in name and ("o_proj" in name or "down_proj" in name)
        fill_normal(p, std / (2 * s.layers) ** 0.5 if residual else std, generator)

    def lr_scale(self, name: str) -> float:
        """muP for Adam (Yang et al. 2022, table 8): matrices inside the layers learn 1 / width as fast."""
        return 1 / self.wider if self._inside(name) else 1.0

    def _inside(self, name: str) -> bool:
        """Whether a parameter is a matrix whose both sides grow with the width."""
        return name.startswith("layers.") and ("_proj" in name or "router" in name) and "bias" not in name

    @property
    def wider(self) -> float:
        """How much wider this net is than the one its settings were tuned on; 1 without muP."""
        s = self.settings
        return s.width / s.mup_width if s.mup_width else 1.0

    # ---- forward -------------------------------------------------------------------------------------------

    def hidden(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        past: Past | None = None,
        *,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states: tokens (B, T) -> (B, T, D), normed, ready for `logits`.

        `segments` (B, T): documents do not see each other and positions restart; None = one document per row.
        `past`: continue behind what it holds, and add to it (blocks of new tokens of any length).
        `prefix` (B, T) bool: positions that all of their document sees (Raffel et al. 2020, section 3.2.1).
        """
        return self.norm(self._stack(tokens, segments, past, prefix)[0])

    def _stack(
        self,
        tokens: Tensor,
        segments: Tensor | None,
        past: Past | None = None,
        prefix: Tensor | None = None,
        stems: Tensor | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        s = self.settings
        if past is not None:
            segments = past.append(tokens, segments)
        fast = self._compiled if past is None and torch.is_grad_enabled() else None
        T = tokens.shape[1]
        if segments is None and (s.window or prefix is not None):
            segments = torch.ones_like(tokens)
        if segments is None:
            place, mask = torch.arange(T, device=tokens.device)[None], None
        else:
            place = positions(segments)[:, -T:]
            if stems is not None:
                place = place + behind(segments, stems)
            blocks = bool(fast) and masks.in_blocks(tokens.device, s.head_dim)
            mask = self._mask(segments, T, prefix, stems, blocks=blocks)
        turn = None
        if s.positions == "rope":
            turn = rope(place, s.head_dim, s.rope_theta, s.rope_scaling)
        x = self._embed(tokens, place)
        routings = []
        for i, block in enumerate(fast.blocks if fast else self.layers):
            if past is None:
                x, routing = recompute.through(s.recompute, block, x, turn, mask)
            else:
                x, routing = block(x, turn, mask, past.layers[i])
            if routing is not None:
                routings.append(routing)
        return x, routings

    def _mask(
        self, segments: Tensor, queries: int, prefix: Tensor | None, stems: Tensor | None, blocks: bool
    ):
        reach = None if self.settings.window is None else self.settings.window - 1
        assert stems is None or reach is None, "a window is counted in places of the row"
        rule = masks.within(segments, queries, causal=True, reach=reach, prefix=prefix, stems=stems)
        draw = masks.blockwise if blocks else masks.dense
        return draw(rule, len(segments), queries, segments.shape[1], segments.device)

    def _embed(self, tokens: Tensor, place: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        if self.embed_positions is not None:
            return x + self.embed_positions(place)
        if self.settings.positions == "sinusoidal":
            return x + sinusoids(place, self.settings.width).to(x.dtype)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V)"""
        return soft_cap(F.linear(self._shrunk(hidden), self.output_weight), self.settings.logit_cap)

    def _shrunk(self, hidden: Tensor) -> Tensor:
        """muP's multiplier of the output (Yang et al. 2022, table 8)."""
        return hidden / self.wider if self.settings.mup_width else hidden

    @property
    def output_weight(self) -> Tensor:
        """The (V, D) matrix that turns hidden states into logits."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    @property
    def branches(self) -> bool:
        """Whether `nll` takes `stems`."""
        return self.settings.window is None

    def nll(
        self,
        tokens: Tensor,
        segments: Tensor | None,
        labels: Tensor,
        *,
        prefix: Tensor | None = None,
        stems: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood of `labels` (already shifted, -100 = none, which costs 0): (B, T) fp32.

        `stems` (B, T): documents that begin alike hold their beginning once, as a segment before them whose
        number is said here (Wang & Hegde 2024); 0: none. Not for nets with a window.
        """
        return self.routed_nll(tokens, segments, labels, prefix=prefix, stems=stems)[0]

    def routed_nll(
        self,
        tokens: Tensor,
        segments: Tensor | None,
        labels: Tensor,
        *,
        prefix: Tensor | None = None,
        stems: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`nll`, and what the routers of a mixture of experts did; {} without.

        `balance`, summed over rows, and `router_z`, summed over tokens, are means over the layers; `load`
        (layers, E) counts the choices that fell on each expert.
        """
        x, routings = self._stack(tokens, segments, prefix=prefix, stems=stems)
        fast = self._compiled and torch.is_grad_enabled() and not sparse(labels)
        tail = self._compiled.tail if fast else self._tail
        nll = tail(x, labels)
        if not routings:
            return nll, {}
        real = torch.ones_like(tokens, dtype=torch.bool) if segments is None else segments > 0
        return nll, {
            "balance": torch.stack([balance(r, real).sum() for r in routings]).mean(),
            "router_z": torch.stack([router_z(r, real) for r in routings]).mean(),
            "load": torch.stack([load(r, real) for r in routings]),
        }

    def nll_of(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """`nll` from the last hidden states (B, T, D), for those who need these too."""
        cap = self.settings.logit_cap
        return linear_cross_entropy(self._shrunk(hidden), self.output_weight, labels, cap=cap)

    def _tail(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.nll_of(self.norm(x), labels)

    def past(self, rows: int, size: int) -> Past:
        """An empty cache for `rows` rows of at most `size` positions, to be passed to `hidden`."""
        s, like = self.settings, self.norm.weight
        return Past(s.layers, rows, size, s.kv_heads, s.head_dim, like.device)

    def compile(self, mode: str | None = "default", parts: bool = True) -> None:
        """Compile what runs under gradients: the block, once for all layers, and the loss behind them.

        A whole-model graph is 2 % faster on a CPU and takes three times as long to compile. Shapes are
        taken as fixed: each new (B, T) compiles again. Evaluation and generation stay eager. Without `parts`
        FlexAttention alone is compiled, where a GPU runs it.
        """
        fast = recompute.compiler(mode, parts)
        kind = "none" if self.settings.experts else self.settings.recompute  # in fp32 experts are outside
        blocks = [recompute.compiled(kind, block, fast) for block in self.layers]
        self._compiled = _Compiled(blocks, fast(self._tail))


class _Compiled(NamedTuple):
    """The compiled twins of a decoder's parts, in a list so that nn.Module does not count them again."""

    blocks: list
    tail: Callable


__all__ = ["IGNORED", "Decoder", "Settings"]
