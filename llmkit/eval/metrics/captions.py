"""Whether a model of images knows which caption an image has: the one under which the image is likeliest.

    log p(image | caption)      its own caption, and `others` captions of other held-out images, drawn once

By Bayes' rule with captions that are equally likely beforehand, the likeliest is what the model would say of
the image: so one figure is of drawing what is asked for and of naming what is shown.
"""

from typing import Literal

import numpy as np
import torch

from llmkit.config import Field, Section
from llmkit.data.sets.images import Images
from llmkit.errors import CheckpointError, ConfigError
from llmkit.eval import records, statistics
from llmkit.eval.metric import Measured, Metric
from llmkit.eval.metrics.frechet import captioned
from llmkit.registry import register

BATCH = 64


@register("metric", "captions")
class Captions(Metric):
    """Held-out images, each with its own caption among so many others: how often its own is the likeliest."""

    class Settings(Section):
        name: Literal["captions"] = "captions"
        images: Images.Settings = Field(description="the set that the model was trained on, with captions")
        others: int = Field(9, gt=0, description="captions beside an image's own")
        seed: int = Field(0, ge=0, description="of their choice")
        quick_values = {"others": 1}

    head = "image"
    headline = "accuracy"
    better = "higher"

    def measure(self, opened):
        s, net = self.settings, opened.net
        if not hasattr(net, "nll") or not net.settings.conditional:
            raise CheckpointError(
                f"{opened.path}: gives no likelihood of an image under a caption; give a conditional one"
            )
        held = captioned(s.images, "heldout", net)
        told, names = torch.unique(held.labels, dim=0, return_inverse=True)
        known = held.labels.any(1).numpy()
        if len(told) <= s.others:
            raise ConfigError(f"others: {s.others} of {len(told)} different captions; set it to less")
        nll = np.stack([_nll(net, held, label) for label in self._asked(told, names)], 1)
        rank = (nll < nll[:, :1]).sum(1) + (nll[:, 1:] == nll[:, :1]).sum(1) / 2
        won, ranks = (rank[known] == 0).astype(float), rank[known]
        low, high = statistics.wilson(won.sum(), len(won))
        figures = {
            "accuracy": float(won.mean()),
            "ci95": [low, high],
            "chance": 1 / (s.others + 1),
            "beats_another": float(1 - ranks.mean() / s.others),
            "gain_nats": float((nll[known, 1:].mean(1) - nll[known, 0]).mean()),
            "without_known_words": int((~known).sum()),
            "samples": len(won),
            "heldout": records.digest(held.images.numpy().tobytes()),  # rows say places: in these images
        }
        places = np.flatnonzero(known)
        return Measured(
            figures, [{"id": f"{s.seed}-{i}", "value": v} for i, v in zip(places, won, strict=True)]
        )

    def _asked(self, told: torch.Tensor, names: torch.Tensor):
        """Labels (N, L) to ask each image about: its own, then `others`, all different from each other."""
        draw = np.random.default_rng(self.settings.seed)
        count = len(told)
        skips = np.stack([draw.permutation(count - 1)[: self.settings.others] + 1 for _ in names], 1)
        yield told[names]
        for skip in skips:
            yield told[(names + torch.from_numpy(skip)) % count]


@torch.no_grad()
def _nll(net, images: Images, labels: torch.Tensor) -> np.ndarray:
    """-log p of every image under its label: (N,) float64 nats; of binary pixels, cut at the middle."""
    device = next(net.parameters()).device
    x = 2 * images.images.float() / 255 - 1
    if getattr(net.settings, "likelihood", None) == "bernoulli":
        x = 2 * (x > 0).float() - 1  # grey neighbours would tell what a pixel is
    parts = zip(x.split(BATCH), labels.split(BATCH), strict=True)
    found = [net.nll(image.to(device), label.to(device)) for image, label in parts]
    return torch.cat(found).double().cpu().numpy()
