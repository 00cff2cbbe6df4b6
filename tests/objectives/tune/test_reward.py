import pytest
import torch

from llmkit.objectives.phase import add
from llmkit.objectives.tune.reward import Reward, bradley_terry

CHOSEN, REJECTED = torch.tensor([1.0, 0.2, 0.3]).double(), torch.tensor([0.5, 0.4, 0.3]).double()


@pytest.mark.parametrize(
    ("margin", "centering", "expected"),
    [(0.0, 0.0, 0.6551210114), (0.1, 0.0, 0.7039223856), (0.0, 0.01, 0.6650210114)],
)
def test_golden_values_of_trl(margin, centering, expected):
    loss = bradley_terry(CHOSEN, REJECTED, margin, centering).mean()
    assert loss.item() == pytest.approx(expected, abs=1e-9)


class Given(torch.nn.Module):
    """A net whose score of a position is the token that stands there."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def scores(self, tokens, segments):
        return tokens * self.scale


def batch():
    """Three pairs of one-token replies in a row, and a place for a fourth that is not there."""
    tokens = torch.stack([CHOSEN, REJECTED], -1).flatten().float()
    return {
        "tokens": torch.cat([tokens, torch.full((2,), 9.0)])[None],
        "segments": torch.tensor([[1, 2, 3, 4, 5, 6, 0, 0]], dtype=torch.int32),
        "ends": torch.tensor([[[0, 1], [2, 3], [4, 5], [0, 0]]]),
        "valid": torch.tensor([[True, True, True, False]]),
        "margin": torch.tensor([[0.1, 0.1, 0.1, 0.0]]),
    }


def run(group, **settings):
    objective = Reward(Reward.Settings(**settings))
    (phase,) = objective.phases
    total = add(objective.count(phase, b) for b in group)
    net = Given()
    shares, seen = zip(*(objective.loss(phase, {"model": net}, b, total) for b in group))
    figures = objective.metrics(phase, {k: float(v) for k, v in add(seen).items()})
    return sum(shares), figures


def test_a_tie_counts_as_wrong():
    loss, figures = run([batch()], margin=1.0, centering=0.01)
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert figures["loss"] == pytest.approx(0.7039223856 + 0.0099, abs=1e-6)
    assert loss.item() == pytest.approx(figures["loss"], abs=1e-6)
    assert figures["score_gap"] == pytest.approx(0.1)
    assert figures["score"] == pytest.approx(0.45)


def test_a_batch_without_pairs_changes_nothing():
    empty = {**batch(), "valid": torch.zeros(1, 4, dtype=torch.bool)}
    assert run([batch(), empty])[0].item() == pytest.approx(run([batch()])[0].item(), abs=1e-7)
