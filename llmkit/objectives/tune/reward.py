"""Reward model: a score per reply, trained so that the preferred reply of a pair scores higher.

Bradley & Terry (1952) as in Ouyang et al. (2022, eq. 1), with an optional margin (Touvron et al. 2023, eq.
2) and an optional pull of each pair's mean score to zero (Eisenstein et al. 2023, section 2). The score
stands at the last token of a reply.
"""

from typing import Literal

from pydantic import Field
from torch.nn.functional import logsigmoid

from llmkit.config import Section
from llmkit.objectives.phase import Objective, Phase
from llmkit.registry import register


def bradley_terry(chosen, rejected, margin=0.0, centering: float = 0.0):
    """-log sigmoid(chosen - rejected - margin) + centering * (chosen + rejected)^2, elementwise."""
    return -logsigmoid(chosen - rejected - margin) + centering * (chosen + rejected).square()


def pair_scores(net, batch):
    """(B, P, 2) scores of the chosen and the rejected reply, read at the positions `ends` (B, P, 2)."""
    scores = net.scores(batch["tokens"], batch["segments"])
    return scores.gather(1, batch["ends"].flatten(1)).view(batch["ends"].shape)


@register("objective", "reward")
class Reward(Objective):
    """The loss is a mean over the pairs of the global batch; a tie counts as wrong in `accuracy`.

    No dropout, which would be noise in the difference of two scores.
    """

    class Settings(Section):
        name: Literal["reward"] = "reward"
        margin: float = Field(
            0.0, ge=0.0, description="score gap asked for per unit of a pair's margin; 0 = none"
        )
        centering: float = Field(0.0, ge=0.0, description="weight of (chosen + rejected)^2; usual: 0.01")

    phases = (Phase("train", "model"),)
    metric = "accuracy"
    metric_mode = "max"

    def build(self, make):
        return {"model": make(head="score", dropout=0.0)}

    def count(self, phase, batch):
        return {"pairs": batch["valid"].sum()}

    def loss(self, phase, nets, batch, total):
        chosen, rejected = pair_scores(nets["model"], batch).unbind(-1)
        valid = batch["valid"].to(chosen.dtype)
        margin = self.settings.margin * batch["margin"]
        loss = (bradley_terry(chosen, rejected, margin, self.settings.centering) * valid).sum()
        gap = (chosen - rejected).detach()
        seen = {
            "loss": loss.detach(),
            "pairs": batch["valid"].sum(),
            "correct": ((gap > 0) * valid).sum(),
            "gap": (gap * valid).sum(),
            "score": ((chosen + rejected).detach() * valid).sum() / 2,
        }
        return loss / total["pairs"], seen

    def metrics(self, phase, seen):
        """Loss in nats per pair, strict accuracy 0..1, mean score gap and mean score."""
        names = {"loss": "loss", "correct": "accuracy", "gap": "score_gap", "score": "score"}
        return {name: seen[key] / seen["pairs"] for key, name in names.items()}
