"""Rotary frequencies, and the ways to stretch them over rows longer than a model was trained on.

    linear  every angle / factor                                         Chen et al. 2023
    ntk     a larger base: fast pairs stay, slow ones are stretched      bloc97 2023; ABF: Xiong et al. 2023
    yarn    by turns made in the original context, and hotter scores     Peng et al. 2023, eq. 13 to 22
    llama3  by wavelength, with a ramp in between                        Llama 3 (Dubey et al. 2024)

The arithmetic is that of transformers' modeling_rope_utils, with which a test compares it.
"""

import math
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from llmkit.config import Field, Section


class Scaling(Section):
    """How rotary positions are stretched."""

    kind: Literal["linear", "ntk", "yarn", "llama3"] = Field(description="the rule, as in models/rotary.py")
    factor: float = Field(description="how many times longer rows get", ge=1)
    original: int = Field(2048, description="context in tokens before stretching (yarn, llama3)", gt=0)
    slow: float = Field(1.0, description="pairs that turn less often in `original` are stretched", gt=0)
    fast: float = Field(
        32.0, description="pairs that turn more often stay as they are; llama3: usually 4", gt=0
    )

    @model_validator(mode="after")
    def _ordered(self):
        if self.kind in ("yarn", "llama3") and self.slow >= self.fast:
            raise ValueError(f"slow={self.slow} must be below fast={self.fast}")
        return self

    @property
    def heat(self) -> float:
        """What cosine and sine are multiplied by: yarn's temperature, else 1."""
        return 0.1 * math.log(self.factor) + 1.0 if self.kind == "yarn" and self.factor > 1 else 1.0


def stretched_base(theta: float, head_dim: int, factor: float) -> float:
    """The base of the `ntk` rule: the slowest pair turns `factor` times slower."""
    return theta * factor ** (head_dim / (head_dim - 2))


def frequencies(head_dim: int, theta: float, scaling: Scaling | None = None, device=None) -> Tensor:
    """Radians per position of each pair of dimensions: (K/2,) fp32."""
    if scaling and scaling.kind == "ntk":
        theta = stretched_base(theta, head_dim, scaling.factor)
    powers = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    plain = 1.0 / theta**powers
    if scaling is None or scaling.kind == "ntk":
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    keep = _yarn_ramp(head_dim, theta, scaling, device) if scaling.kind == "yarn" else _turns(plain, scaling)
    return plain / scaling.factor * (1 - keep) + plain * keep


def _turns(plain: Tensor, s: Scaling) -> Tensor:
    """llama3: how much of each pair stays, by how often it turns in the original context."""
    turns = s.original * plain / (2 * math.pi)
    return ((turns - s.slow) / (s.fast - s.slow)).clamp(0, 1)


def _yarn_ramp(head_dim: int, theta: float, s: Scaling, device) -> Tensor:
    """yarn: the same, with a ramp that is linear in the number of the pair."""

    def pair_of(turns: float) -> float:
        return head_dim * math.log(s.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(pair_of(s.fast)), 0), min(math.ceil(pair_of(s.slow)), head_dim - 1)
    pairs = torch.arange(head_dim // 2, dtype=torch.float32, device=device)
    return 1 - ((pairs - low) / (max(high - low, 1e-3))).clamp(0, 1)
