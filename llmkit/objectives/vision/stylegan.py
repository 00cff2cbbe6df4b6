"""What StyleGAN2 adds to the adversarial phases: path-length regularisation, a lazy phase of the generator.

pl    every `path_every` steps: weight (|J_w^T y| - a)^2 times `path_every`, y an image of noise over its
      size, a the moving average of the lengths (Karras et al. 2020b, eq. 4): state, kept in checkpoints
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from llmkit.objectives.phase import Phase
from llmkit.objectives.vision.gan import GanObjective, latents
from llmkit.registry import register
from llmkit.vision import noise


@register("objective", "stylegan")
class StyleganObjective(GanObjective):
    """Trains g and d of a stylegan."""

    class Settings(GanObjective.Settings):
        name: Literal["stylegan"] = "stylegan"
        r1: float = Field(1.0, ge=0, description="gamma of the penalty on real images; 0: none")
        path_weight: float = Field(2.0, ge=0, description="of the path-length penalty; 0: none")
        path_every: int = Field(4, gt=0, description="steps between its visits")
        path_decay: float = Field(
            0.01, gt=0, le=1, description="weight of the newest lengths in their average"
        )
        only_with = {
            **GanObjective.Settings.only_with,
            "path_every": ("path_weight",),
            "path_decay": ("path_weight",),
        }

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.state |= {"path_length": 0.0}
        if settings.path_weight:
            self.phases += (Phase("pl", "g", every=settings.path_every, double_backward=True),)

    def build(self, make):
        nets = super().build(make)
        self.batch_statistics = nets["d"].settings.stddev_group > 0
        return nets

    def loss(self, phase, nets, batch, total):
        if phase.name != "pl":
            return super().loss(phase, nets, batch, total)
        valid = batch["valid"]
        if not torch.is_grad_enabled():  # a matter of training alone
            return valid.sum() / total["images"], {"images": valid.sum()}
        s, lengths = self.settings, path_lengths(nets["g"], batch)
        each = s.path_weight * s.path_every * (lengths - self.state["path_length"]).square()
        seen = {"images": valid.sum(), "length": (lengths * valid).sum().detach()}
        return (each * valid).sum() / total["images"], seen

    def after(self, phase, seen, applied):
        """Lead the average to the lengths just seen."""
        super().after(phase, seen, applied)
        if phase.name == "pl" and applied:
            newest = float(seen["length"] / seen["images"])
            self.state["path_length"] += self.settings.path_decay * (newest - self.state["path_length"])

    def metrics(self, phase, seen):
        """The phases' own; of pl, the mean length."""
        if phase.name == "pl":
            return {"length": seen["length"] / seen["images"]} if "length" in seen else {}
        return super().metrics(phase, seen)


def path_lengths(g, batch) -> Tensor:
    """How far a step in w moves each image: (B,), differentiable; in fp32."""
    key = batch["key"]
    with torch.autocast(key.device.type, enabled=False):
        w = g.map(latents(g, batch, "pl"), batch["label"])
        image = g.synthesise(w, key)
        y = noise.normal(key, "path", tuple(image.shape[1:])) / math.sqrt(image.shape[2] * image.shape[3])
        (slope,) = torch.autograd.grad((image * y).sum(), w, create_graph=True)
    # Some biases do not move a slope: through the image their gradient is 0, where ZeRO cannot do with none.
    return (slope.square().sum(1) + 1e-12).sqrt() + 0 * image[:, 0, 0, 0]
