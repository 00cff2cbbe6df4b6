"""A prior over the codes of a trained VQ-VAE (van den Oord et al. 2017, section 3.3): it can make images.

x ─► trunk: encoder ─► codes (Y', X') ◄─ prior: an autoregressive net says each code from those before it
                       codes ─► trunk: decoder ─► image

Two stages: a run trains the vq; a second one begins with `init: RUN` and trains the prior, on images, with
the objective `pixel`. The trunk is frozen and part of the model: a checkpoint or an export is all one needs.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from llmkit.config import Section
from llmkit.errors import ConfigError
from llmkit.registry import register
from llmkit.vision import likelihood, noise
from llmkit.vision.pixel import Pixel
from llmkit.vision.vq import Vq, vectors


@register("model", "vq_prior")
class VqPrior(nn.Module):
    """The autoencoder, and the distribution of its codes, given the class or caption if conditional."""

    class Settings(Section):
        name: Literal["vq_prior"] = "vq_prior"
        codec: Vq.Settings | None = Field(None, description="the autoencoder; default: that of init")
        net: Literal["pixelcnn", "gated", "snail"] = Field("gated", description="kind of the prior's blocks")
        width: int = Field(64, gt=0, description="the prior's channels")
        layers: int = Field(5, gt=0, description="the prior's blocks")
        conditional: bool = Field(False, description="tell every block the class, or the caption's words")
        size: int | None = Field(None, gt=0, description="height and width; default: the data's")
        channels: int | None = Field(None, gt=0, description="1 or 3; default: the data's")
        classes: int | None = Field(None, ge=0, description="number of classes; default: the data's")
        words: tuple[str, ...] | None = Field(
            None, description="words of the captions that it is told in place of classes; default: the data's"
        )
        quick_values: ClassVar[dict[str, Any]] = {"width": 8, "layers": 2}

        def begun(self, start: Section | None) -> "VqPrior.Settings":
            """These settings with the autoencoder that the run starts from. ConfigError if it is none."""
            if not isinstance(start, Vq.Settings) or start.name != "vq":
                raise ConfigError("model.name: vq_prior begins with a trained vq of one level; set init=RUN")
            return self.model_copy(update={"codec": start})

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = s = settings
        if s.codec is None:
            raise ConfigError("model.codec: a prior is one of a trained vq; set init=RUN")
        if (s.codec.size, s.codec.channels) != (s.size, s.channels):
            raise ConfigError(
                f"init: its images are {s.codec.channels} x {s.codec.size} x {s.codec.size}, those of data "
                f"{s.channels} x {s.size} x {s.size}; set data.size and data.channels"
            )
        self.trunk = Vq(s.codec).requires_grad_(False)
        self.grid = s.codec.size >> s.codec.layers
        of_codes = Pixel.Settings(
            net=s.net, width=s.width, layers=s.layers, conditional=s.conditional, likelihood="mixture",
            size=self.grid, channels=s.codec.codes, classes=s.classes, words=s.words,
        )  # fmt: skip
        self.prior = Pixel(of_codes, numbers=s.codec.codes)

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter as its half does."""
        half, _, rest = name.partition(".")
        (self.trunk if half == "trunk" else self.prior).init_param(rest, p, generator)

    def nll(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """-log p of the codes of x (B, C, Y, X) in [-1, 1]: (B,) nats; what they leave out is not counted."""
        with torch.no_grad():
            _, levels = self.trunk((x + 1) / 2)
        _, _, chosen = levels[""]
        logits = self.prior(self._read(chosen).permute(0, 3, 1, 2), label).float()
        return F.cross_entropy(logits, chosen, reduction="none").flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Draw codes, decode them: (B,) keys -> (B, C, Y, X) in [0, 1]; truncation: a temperature."""
        codes = self.draw(key, label, truncation)
        out = self.trunk.decode(vectors(self.trunk.codebook)[codes])
        return likelihood.mean(self.trunk.settings.likelihood, out)

    @torch.no_grad()
    def draw(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """The codes of each key's image: (B,) -> (B, Y', X') int64."""
        u = noise.uniform(key, "codes", (self.grid, self.grid, self.settings.codec.codes))
        u = u.clamp(1e-7, 1 - 1e-7)
        codes = key.new_zeros(len(key), self.grid, self.grid)

        def choose(out: Tensor, row: int, column: int) -> Tensor:
            gumbel = -(-u[:, row, column].log()).log()
            codes[:, row, column] = (out / max(truncation, 1e-3) + gumbel).argmax(1)
            return self._read(codes[:, row, column])

        self.prior.drawn(len(key), label, choose)
        return codes

    def _read(self, codes: Tensor) -> Tensor:
        """What the prior sees of codes (...,): (..., K), one channel for each, of a mean square of 1."""
        count = self.settings.codec.codes
        return count**0.5 * F.one_hot(codes, count).float()
