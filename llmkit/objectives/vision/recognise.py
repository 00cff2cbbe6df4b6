"""Cross-entropy on the class of an image, mean over images."""

from typing import Literal

import torch.nn.functional as F

from llmkit.config import Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.registry import register


@register("objective", "recognise")
class Recognise(Objective):
    """Trains `model` to tell classes."""

    class Settings(Section):
        name: Literal["recognise"] = "recognise"

    phases = (Phase("train", "model"),)

    def count(self, phase, batch):
        return {"images": batch["valid"].sum()}

    def loss(self, phase, nets, batch, total):
        valid, label = batch["valid"], batch["label"]
        logits = nets["model"](batch["image"].float() / 255).float()
        nll = F.cross_entropy(logits, label, reduction="none") * valid
        right = ((logits.argmax(1) == label) * valid).sum()
        return nll.sum() / total["images"], {
            "loss": nll.sum().detach(),
            "right": right,
            "images": valid.sum(),
        }

    def metrics(self, phase, seen):
        return {"loss": seen["loss"] / seen["images"], "accuracy": seen["right"] / seen["images"]}
