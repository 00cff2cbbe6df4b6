"""MIG, SAP and DCI of a VAE's posterior means, on dSprites, whose factors are known."""

from typing import Literal

import numpy as np
import torch

from llmkit.config import Field, Section
from llmkit.data.sets import dsprites
from llmkit.errors import CheckpointError
from llmkit.eval.metric import Measured, Metric
from llmkit.registry import register
from llmkit.vision import disentanglement, likelihood

BATCH = 256


@register("metric", "disentanglement")
class Disentanglement(Metric):
    """The scores of so many combinations of factors, drawn with a seed."""

    class Settings(Section):
        name: Literal["disentanglement"] = "disentanglement"
        count: int = Field(10_000, gt=1, description="images to encode")
        seed: int = Field(0, ge=0, description="of their choice")
        quick_values = {"count": 200}

    head = "image"
    headline = "mig"
    better = "higher"

    @torch.no_grad()
    def measure(self, opened):
        net, s = opened.net, self.settings
        shape = net.settings
        if not hasattr(net, "encode") or not hasattr(shape, "latent_dim"):
            raise CheckpointError(f"{opened.path}: has no encoder, so no codes to score; give a VAE")
        if shape.latent_dim < 2:
            raise CheckpointError(f"{opened.path}: one latent dimension leaves nothing to compare; give two")
        if shape.channels != 1 or (shape.conditional and shape.classes != dsprites.DSprites.classes):
            raise CheckpointError(f"{opened.path}: knows no dSprites, which are grey and of three classes")
        places = np.random.RandomState(s.seed).choice(dsprites.COUNT, s.count, replace=False)
        factors = dsprites.factors(places)
        device = next(net.parameters()).device
        codes = []
        for part in np.array_split(factors, -(-len(factors) // BATCH)):
            drawn = torch.from_numpy(dsprites.drawn(part, shape.size))[:, None].to(device)
            label = torch.from_numpy(part[:, 0]).to(device)
            mean, _ = net.encode(likelihood.target(shape.likelihood, drawn, label), label)
            codes.append(mean.double().cpu().numpy())
        found = np.concatenate(codes)
        figures = {
            "mig": disentanglement.mig(found, factors),
            "sap": disentanglement.sap(found, factors),
            **{f"dci_{name}": value for name, value in disentanglement.dci(found, factors).items()},
        }
        return Measured({**figures, "samples": s.count})
