"""The two nets of a VAE-GAN (Larsen et al. 2016): a VAE, and a discriminator whose features measure likeness.

x ─► g: encoder ─► z ─► decoder ─► x~ ─► d ─► score, and features that stand in for pixels
"""

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from llmkit.registry import register
from llmkit.vision import gan
from llmkit.vision.vae import Vae


class Settings(Vae.Settings):
    """The VAE's, and the discriminator's."""

    name: Literal["vaegan"] = "vaegan"
    critic_width: int = Field(32, gt=0, description="channels of d's largest maps; doubled at each stage")
    critic_layers: int = Field(2, gt=0, description="stages of d, each halves the size")
    quick_values: ClassVar[dict[str, Any]] = {"width": 16, "latent_dim": 4, "critic_width": 4}


class Autoencoder(Vae):
    """The VAE; it is what makes images."""

    Settings = Settings


class Discriminator(gan.Discriminator):
    """Strided convolutions without a norm, as in the DCGAN."""

    def __init__(self, s: Settings):
        shape = {"size": s.size, "channels": s.channels, "classes": s.classes, "conditional": s.conditional}
        super().__init__(gan.Settings(width=s.critic_width, layers=s.critic_layers, norm="none", **shape))

    def both(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, Y, X) in [-1, 1] -> scores (B,) and the features (B, D) that they are made of."""
        features = self.body(x)
        return self.judged(features, label), features


@register("model", "vaegan")
class VaeGan:
    """The two nets; checkpoints keep them side by side, and what samples is g."""

    Settings = Settings
    parts: ClassVar[dict[str, type]] = {"g": Autoencoder, "d": Discriminator}
