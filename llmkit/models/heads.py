"""Heads other than the language model's: one number per position, a reward or a value."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit import registry
from llmkit.models.blocks import fill_normal

HEADS = ("lm", "score", "value", "lm_value")
"""What a net can end in. "score" and "value" are the same network; the names say what it is trained for.

"lm_value" is the text net itself with one row more, `value_head.weight` (1, D), for PPO with a shared trunk.
"""


class ScoreNet(nn.Module):
    """A text net whose output matrix is replaced by one row.

    Parameters are `trunk.<name in the text net>` and `score.weight` (1, D), the latter drawn from
    N(0, 1 / (D + 1)) as by Stiennon et al. (2020): from a row of 0 the trunk gets no gradient until the row
    has grown, which costs the quickstart's reward model half of its minute.
    """

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk = trunk
        self.settings = trunk.settings
        self.trunk.lm_head = None
        self.score = nn.Linear(trunk.settings.width, 1, bias=False)

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter: the trunk's as the trunk does, whatever run it is in; the head's as above."""
        if name.startswith("trunk."):
            self.trunk.init_param(name.removeprefix("trunk."), p, generator)
        else:
            fill_normal(p, (self.settings.width + 1) ** -0.5, generator)

    def lr_scale(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by: the trunk's answer, 1 for the head."""
        ask = getattr(self.trunk, "lr_scale", None)
        return ask(name.removeprefix("trunk.")) if ask and name.startswith("trunk.") else 1.0

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """tokens (B, T) -> (B, T, D), the trunk's."""
        return self.trunk.hidden(tokens, segments)

    def scores(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """The score of the text up to each position: (B, T) fp32."""
        hidden = self.hidden(tokens, segments).float()
        with torch.autocast(hidden.device.type, enabled=False):  # in bf16 the scores of two replies often tie
            return F.linear(hidden, self.score.weight.float())[..., 0]

    def compile(self, mode: str = "default") -> None:
        """Compile the trunk's part of training."""
        self.trunk.compile(mode)


def kind(net: nn.Module) -> str:
    """What a net ends in: "lm" for a language model, "masked" for an encoder with its head, "seq2seq" for an
    encoder-decoder, "score" for a reward or value model, "image" for a maker of images, "features" for a
    recogniser, else "none".
    """
    if hasattr(net, "logits"):
        return getattr(net, "predicts", "lm")
    methods = {"scores": "score", "sample": "image", "features": "features"}
    return next((head for method, head in methods.items() if hasattr(net, method)), "none")


def build(settings, head: str = "lm") -> nn.Module:
    """The net that `settings` describe, ending in `head`; of a model of several, the one called so."""
    Model = registry.find("model", settings.name)
    if several := parts(settings):
        return several[head](settings)
    return with_head(Model(settings), head)


def parts(settings) -> dict[str, type]:
    """The nets of a model (a generator and a discriminator), the one that makes things first."""
    return getattr(registry.find("model", settings.name), "parts", {})


def with_head(net: nn.Module, head: str) -> nn.Module:
    """`net` as it is for "lm", inside a ScoreNet for "score" and "value"."""
    if head == "lm_value":
        net.value_head = nn.Linear(net.settings.width, 1, bias=False)
    return net if head in ("lm", "lm_value") else ScoreNet(net)
