"""Generated against real images in the features of a recogniser that llmkit trained: named, and hashed.

The figure is a "Frechet distance (recogniser 3fa2...)" and no FID: those of other extractors do not compare.
Beside it stand KID, precision and recall, whether asked classes are hit, and what real held-out images score.
"""

import hashlib
from typing import Literal

import numpy as np
import torch

from llmkit.config import Field, Section
from llmkit.data.order import subset
from llmkit.data.sets.images import Images
from llmkit.errors import ConfigError
from llmkit.eval.metric import Measured, Metric
from llmkit.opened import open_model
from llmkit.registry import register
from llmkit.vision import metrics, noise

BATCH = 256
CLOUD = 5000
"""Most images of either kind for precision and recall, whose memory grows with the square."""


@register("metric", "frechet")
class Frechet(Metric):
    """`count` generated images against the training images, and held-out ones against them for comparison."""

    class Settings(Section):
        name: Literal["frechet"] = "frechet"
        images: Images.Settings = Field(description="the set that the model was trained on")
        extractor: str = Field(description="run or checkpoint of a recogniser")
        count: int = Field(10_000, gt=1, description="images to generate")
        seed: int = Field(0, ge=0, description="of their noise")
        quick_values = {"count": 64}

    head = "image"
    headline = "frechet"
    better = "lower"

    def measure(self, opened):
        s, device = self.settings, next(opened.net.parameters()).device
        extractor = open_model(s.extractor, "features", device)
        train, heldout = (self._real(extractor.net, split, device) for split in ("train", "heldout"))
        fake, hits = self._fake(opened.net, extractor.net, device)
        kid, spread = metrics.kernel_distance(train, fake)
        clouds = (some[subset(len(some), CLOUD)] for some in (train, fake))
        precision, recall = metrics.precision_recall(*clouds)
        right = self._accuracy(extractor.net, device)
        figures = {
            "frechet": metrics.frechet(moments(train), moments(fake)),
            "frechet_of_heldout": metrics.frechet(moments(train), moments(heldout)),
            "kid": kid,
            "kid_spread": spread,
            "precision": precision,
            "recall": recall,
            "class_hits": hits,
            "class_hits_of_heldout": right,
            "extractor": f"recogniser {fingerprint(extractor.net)[:12]}",
            "reference": f"{s.images.source}, {len(train)} training images",
            "samples": s.count,
        }
        return Measured(figures)

    @torch.no_grad()
    def _real(self, net, split: str, device) -> np.ndarray:
        images = Images(self.settings.images, split, 0).images
        return np.concatenate([features(net, part.to(device).float() / 255) for part in images.split(BATCH)])

    @torch.no_grad()
    def _fake(self, net, extractor, device) -> tuple[np.ndarray, float | None]:
        """Features of the generated images, and the share that is recognised as the class asked for."""
        key = noise.keys(self.settings.seed, self.settings.count, device)
        classes = net.settings.classes if net.settings.conditional else 0
        label = torch.arange(len(key), device=device) % max(1, classes)
        words = getattr(net.settings, "words", None)
        if net.settings.conditional and (words or self.settings.images.captions):
            told = captioned(self.settings.images, "train", net).labels.to(device)
            label, classes = told[spread(len(told), len(key))], 0
        out, right = [], 0
        for keys, labels in zip(key.split(BATCH), label.split(BATCH), strict=True):
            images = (net.sample(keys, labels) * 255).round() / 255
            out.append(features(extractor, images))
            right += int((extractor(images).argmax(1) == labels).sum()) if classes else 0
        return np.concatenate(out), right / len(key) if classes else None

    @torch.no_grad()
    def _accuracy(self, net, device) -> float | None:
        if self.settings.images.captions:
            return None
        held = Images(self.settings.images, "heldout", 0)
        parts = zip(held.images.split(BATCH), held.labels.split(BATCH), strict=True)
        right = sum(int((net(x.to(device).float() / 255).argmax(1).cpu() == y).sum()) for x, y in parts)
        return right / len(held)


def spread(n: int, count: int) -> torch.Tensor:
    """`count` places of range(n), all as often as each other, or from all over it: a folder is in order."""
    return torch.arange(count) % n if count >= n else torch.from_numpy(subset(n, count))


def captioned(settings: Images.Settings, split: Literal["train", "heldout"], net) -> Images:
    """These images with their captions. ConfigError if they are not told in the words that `net` knows."""
    images = Images(settings, split, 0)
    if not images.words or images.words != tuple(getattr(net.settings, "words", None) or ()):
        raise ConfigError(
            "images: their captions are not of the words that the model was trained on; set captions: true, "
            "and the rest as its data was"
        )
    return images


def fingerprint(net) -> str:
    """sha256 of a net's tensors: the same for a checkpoint and for its export."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def features(net, x: torch.Tensor) -> np.ndarray:
    return net.features(x).double().cpu().numpy()


def moments(features: np.ndarray) -> metrics.Moments:
    return metrics.Moments(features.shape[1]).add(features)
