"""A mixture of independent Bernoulli pixels: the classical baseline, under the same objective and evaluator.

p(x) = sum_k pi_k prod_i Bernoulli(x_i | mu_ki)                         (Bishop 2006, section 9.3.3)
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from llmkit.config import Section
from llmkit.models.blocks import fill_normal
from llmkit.registry import register
from llmkit.vision import noise


@register("model", "bernoulli_mixture")
class BernoulliMixture(nn.Module):
    """Components with a logit for each pixel."""

    class Settings(Section):
        name: Literal["bernoulli_mixture"] = "bernoulli_mixture"
        components: int = Field(100, gt=0, description="of the mixture")
        size: int | None = Field(None, gt=0, description="height and width; default: the data's")
        channels: int | None = Field(None, gt=0, description="1 or 3; default: the data's")
        classes: int | None = Field(None, ge=0, description="not used: there is one mixture for all")
        conditional: Literal[False] = Field(False, description="knows no classes")
        quick_values: ClassVar[dict[str, Any]] = {"components": 8}

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = s = settings
        self.shape = (s.channels, s.size, s.size)
        self.weight = nn.Parameter(torch.empty(s.components))
        self.pixels = nn.Parameter(torch.empty(s.components, s.channels * s.size**2))

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter: equal weights, and means about a half that differ just enough to part ways.

        An image's log-likelihoods under two components are half a nat apart then, whatever its size. Were
        they ten apart, few components would take all images and the others would learn nothing.
        """
        fill_normal(p, p.shape[1] ** -0.5 if name == "pixels" else 0.0, generator)

    def nll(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """-log p(x): x (B, C, Y, X) of -1 and 1 -> (B,) nats."""
        x = (x.flatten(1) > 0).float()
        on, off = F.logsigmoid(self.pixels), F.logsigmoid(-self.pixels)
        each = x @ (on - off).T + off.sum(1)  # (B, components)
        return -(each + self.weight.log_softmax(0)).logsumexp(1)

    @torch.no_grad()
    def sample(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """A component, then its pixels: (B,) keys -> (B, C, Y, X) of 0 and 1."""
        gumbel = -(-noise.uniform(key, "component", (len(self.weight),)).clamp(min=1e-7).log()).log()
        chosen = (self.weight / max(truncation, 1e-3) + gumbel).argmax(1)
        drawn = noise.uniform(key, "pixels", (self.pixels.shape[1],)) < self.pixels[chosen].sigmoid()
        return drawn.float().view(-1, *self.shape)
