"""What a reply is worth: verifiers, a reward model, or both, weighted; and a judge that only watches."""

from typing import Any

import torch
from torch import Tensor

from llmkit.objectives.phase import Batch
from llmkit.objectives.rl.rollout import Said, last
from llmkit.verifiers.contained import Contained


class Rewards:
    """The rewards that the settings of an objective ask for. Verifiers start at the first reply."""

    def __init__(self, settings: Any):
        self.settings = settings
        self.verifiers = [Contained(verifier) for verifier in settings.rewards]

    @property
    def labels(self) -> list[str]:
        """What the parts of the reward are called, as columns of the rows."""
        names = [verifier.settings.name for verifier in self.verifiers]
        parts = [name if names.count(name) == 1 else f"{name}{i}" for i, name in enumerate(names)]
        return [*parts, *(["reward_model"] if self.settings.reward_model else [])]

    def columns(self, said: list[Said], rows: Batch, nets: dict[str, torch.nn.Module]) -> dict[str, Tensor]:
        """`reward`, each part as `score_NAME`, perhaps `judged`: (B,) fp32; `failed`, a number."""
        s, like = self.settings, rows["length"]
        scores = [torch.tensor(scored, device=like.device) for scored in self._verified(said, len(like))]
        weights = [verifier.settings.weight for verifier in self.verifiers]
        if s.reward_model:
            scores.append(_scored(nets["reward"], rows))
            weights.append(s.reward_model_weight)
        reward = sum(weight * score for weight, score in zip(weights, scores, strict=True))
        if s.reward_clip:
            reward = reward.clamp(-s.reward_clip, s.reward_clip)
        reward = (reward - s.missing_eos_penalty * ~rows["ended"]) * rows["valid"]
        out = {f"score_{label}": score for label, score in zip(self.labels, scores, strict=True)}
        if s.judge:
            out["judged"] = _scored(nets["judge"], rows)
        return {"reward": reward, **out, "failed": torch.tensor(float(self._failures()))}

    def _verified(self, said: list[Said], count: int) -> list[list[float]]:
        items = [(reply.text, reply.record) for reply in said]
        return [verifier.scores(items) if items else [0.0] * count for verifier in self.verifiers]

    def _failures(self) -> int:
        """Replies whose verifier has failed since this was last asked."""
        count = sum(sum(verifier.failures.values()) for verifier in self.verifiers)
        for verifier in self.verifiers:
            verifier.failures.clear()
        return count


def _scored(net, rows: Batch) -> Tensor:
    return last(rows, net.scores(rows["tokens"], rows["segments"])) * rows["valid"]
