"""Held-out images against generated ones, at every evaluation of a run, in the features of a recogniser.

    held-out batch ─► features of its images, and of as many that are made from its keys and labels
                   ─► gathered, in the order of the keys ─► Frechet distance, KID, precision, recall, hits

Which images are made is a function of the held-out rows' keys, so any number of ranks compares the same ones.
"""

from collections.abc import Callable

import numpy as np
import torch

from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.objectives.phase import Batch
from llmkit.opened import open_model
from llmkit.vision import metrics

FEWEST = 8
"""Images of either kind below which there is nothing to compare."""


FEW = 0.1
"""A class that fewer generated images seem to be of than this part of an equal share is no mode."""


class Settings(Section):
    """What images are compared in."""

    extractor: str = Field(description="run, checkpoint or export of a recogniser")
    kid_subsets: int = Field(20, gt=0, description="random subsets behind the KID")


class Comparison:
    """`maker` is the net whose `sample` makes images; `heard` is told the figures, on every rank."""

    def __init__(
        self, settings: Settings, maker: str, heard: Callable[[dict[str, float]], None] | None = None
    ):
        self.settings, self.maker, self.heard = settings, maker, heard
        self._extractor: torch.nn.Module | None = None

    @torch.no_grad()
    def rows(self, nets, batch: Batch) -> dict[str, np.ndarray]:
        """Features of a batch's images and of generated ones, and the class these seem to be of, by row."""
        key, label = batch["key"], batch["label"]
        if self._extractor is None:
            self._extractor = open_model(self.settings.extractor, "features", key.device).net
        net = self._extractor
        image = (nets[self.maker].sample(key, label).float() * 255).round() / 255
        guess = net(image)
        found = {
            "key": key,
            "valid": batch["valid"],
            "real": net.features(batch["image"].float() / 255).double(),
            "fake": net.features(image).double(),
            "guess": guess.argmax(1),
            "label": label,
            "classes": torch.full_like(key, guess.shape[1]),
        }
        return {name: value.cpu().numpy() for name, value in found.items()}

    def figures(self, rows: list[dict[str, np.ndarray]], conditional: bool) -> dict[str, float]:
        """From all ranks' rows, whose order does not matter."""
        found = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
        order = np.argsort(found["key"], kind="stable")
        order = order[found["valid"][order]]
        if len(order) < FEWEST:
            raise ConfigError(
                f"objective.distance: {len(order)} held-out images are too few; set run.eval_rows and "
                f"data.heldout_frac so that there are {FEWEST}, better thousands"
            )
        real, fake = found["real"][order], found["fake"][order]
        moments = [metrics.Moments(x.shape[1]).add(x) for x in (real, fake)]
        kid, _ = metrics.kernel_distance(real, fake, self.settings.kid_subsets)
        precision, recall = metrics.precision_recall(real, fake)
        out = {"frechet": metrics.frechet(*moments), "kid": kid, "precision": precision, "recall": recall}
        guess, classes = found["guess"][order], int(found["classes"][0])
        if classes > 1:
            shares = np.bincount(guess, minlength=classes) / len(guess)
            out["modes"] = int((shares >= FEW / classes).sum())
        if conditional and found["label"].ndim == 1:  # else captions
            out["class_hits"] = float((guess == found["label"][order]).mean())
        if self.heard:
            self.heard(out)
        return out
