"""Maximum likelihood of images, pixel by pixel: loss = -log p(x), exact, in nats, mean over images."""

from typing import Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.errors import ConfigError
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.vision import comparison
from llmkit.registry import register
from llmkit.vision import gallery, likelihood

SHOWN = 16
"""Images in a grid: each pixel takes a forward."""


@register("objective", "pixel")
class PixelObjective(Objective):
    """Trains `model`, which has `nll(x, label)`."""

    class Settings(Section):
        name: Literal["pixel"] = "pixel"
        binarise: likelihood.Binarise = Field("none", description="what is done to grey levels beforehand")
        distance: comparison.Settings | None = Field(
            None, description="compare generated with held-out images at evaluations; default: do not"
        )

    phases = (Phase("train", "model"),)

    def __init__(self, settings: Settings):
        super().__init__(settings)
        if settings.distance:
            self.comparison = comparison.Comparison(settings.distance, "model")

    def build(self, make):
        """ConfigError if black or white pixels would be told of grey ones, which say which they are."""
        nets = super().build(make)
        kind = getattr(nets["model"].settings, "likelihood", None)
        if kind == "bernoulli" and self.settings.binarise == "none":
            raise ConfigError(
                "objective.binarise: a bernoulli pixel is black or white; set dynamic or threshold, or "
                "model.likelihood=mixture for grey levels"
            )
        return nets

    def count(self, phase, batch):
        return {"images": batch["valid"].sum()}

    def loss(self, phase, nets, batch, total):
        image, valid = batch["image"], batch["valid"]
        x = 2 * likelihood.target("bernoulli", image, batch["key"], self.settings.binarise) - 1
        nll = nets["model"].nll(x, batch["label"])
        seen = {
            "loss": (nll * valid).sum().detach(),
            "images": valid.sum(),
            "dims": valid.sum() * image[0].numel(),
        }
        return (nll * valid).sum() / total["images"], seen

    def metrics(self, phase, seen):
        """Nats per image, and bits per value of it."""
        bits = likelihood.bits_per_dim(seen["loss"] / seen["dims"], 1)
        return {"loss": seen["loss"] / seen["images"], "bits_per_dim": bits}

    def show(self, nets):
        """Samples, class by class if the model knows classes."""
        return {"samples.png": gallery.samples(nets["model"], SHOWN, 4)}
