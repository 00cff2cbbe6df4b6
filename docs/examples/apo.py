"""A preference loss of your own, in one file: APO-zero (D'Oosterlinck et al. 2024, eq. 7).

    llmkit train tune/quickstart_dpo --plugin docs/examples/apo.py 'objective={name: apo, beta: 0.1}' ...

Chosen replies become more probable than the reference finds them, rejected ones less, each by itself.
"""

from typing import Literal

from llmkit.objectives.tune.pairwise import Pairwise, PairwiseSettings
from llmkit.objectives.tune.reference import ReferenceSettings
from llmkit.registry import register


@register("objective", "apo")
class Apo(Pairwise):
    """A mean over pairs, like all of them: batches, ranks, packing and figures are the base's business."""

    class Settings(PairwiseSettings, ReferenceSettings):
        name: Literal["apo"] = "apo"

    referred = True

    def pair_loss(self, replies):
        chosen, rejected = (self.settings.beta * replies.ratio).sigmoid().unbind(-1)
        return 1 - chosen + rejected
