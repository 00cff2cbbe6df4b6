"""SimPO, CPO and ORPO: golden values, worked out by hand from the papers' formulas and TRL 1.16's code."""

import math

import pytest
import torch

from llmkit.objectives.phase import add
from llmkit.objectives.tune.cpo import Cpo
from llmkit.objectives.tune.orpo import Orpo, log_odds
from llmkit.objectives.tune.pairwise import Replies
from llmkit.objectives.tune.simpo import SimPo
from tests.objectives.tune.test_dpo import POLICY, packed


def halves() -> Replies:
    """Mean log-probability -0.5 over 4 chosen tokens, -1 over 3 rejected ones."""
    return Replies(*torch.tensor([[[-2.0, -3.0]], [[4.0, 3.0]]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gamma": 0.5}, 0.4740769842),
        ({"gamma": 0.25, "convention": "open_instruct"}, 0.4740769842),
        ({"gamma": 0.3, "convention": "open_instruct"}, 0.5130152524),
    ],
)
def test_golden_values_of_simpo(settings, expected):
    loss = SimPo(SimPo.Settings(beta=2.0, **settings)).pair_loss(halves())
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_golden_values_of_orpo():
    chosen, rejected = log_odds(torch.tensor([-0.5, -1.0], dtype=torch.float64))
    assert (chosen - rejected).item() == pytest.approx(0.9740769842, abs=1e-9)
    loss = Orpo(Orpo.Settings(beta=0.1)).pair_loss(halves())
    assert loss.item() == pytest.approx(0.1 * 0.3202997853, abs=1e-10)


def test_the_odds_of_nearly_certain_and_of_nearly_impossible_tokens_are_finite_with_finite_gradients():
    mean = torch.tensor([0.0, -1e-9, -1e-3, -0.7, -50.0], requires_grad=True)
    odds = log_odds(mean)
    odds.sum().backward()
    assert odds.isfinite().all()
    assert mean.grad.isfinite().all()
    assert odds[2].item() == pytest.approx(math.log(math.exp(-1e-3) / -math.expm1(-1e-3)), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"beta": 0.1}, math.log1p(math.exp(-0.1))),
        (
            {"beta": 0.1, "label_smoothing": 0.2},
            0.8 * math.log1p(math.exp(-0.1)) + 0.2 * math.log1p(math.exp(0.1)),
        ),
        ({"beta": 0.1, "loss": "hinge"}, 0.9),
        ({"beta": 0.1, "loss": "ipo"}, (0.5 - 5.0) ** 2),
    ],
)
def test_cpo_compares_summed_log_probabilities_and_ipo_their_means(settings, expected):
    loss = Cpo(Cpo.Settings(**settings)).pair_loss(halves())
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def run(objective, group):
    (phase,) = objective.phases
    assert set(objective.build(lambda **changes: POLICY)) == {"model"}, "no reference is built"
    ready = objective.prepare(group, {"model": POLICY}, total=None, key=0)
    total = add(objective.count(phase, b) for b in ready)
    shares, seen = zip(*(objective.loss(phase, {"model": POLICY}, b, total) for b in ready))
    return sum(shares), objective.metrics(phase, {k: float(v) for k, v in add(seen).items()})


@pytest.mark.parametrize(
    ("objective", "anchor"),
    [
        (Cpo(Cpo.Settings()), (4 * 0.9 + 2 * 1.1) / 6),
        (SimPo(SimPo.Settings(sft_weight=1.0)), (4 * 0.9 + 2 * 1.1) / 6),
        # trl: 3 of 4 and 1 of 2 tokens have a next one in their text; llamafactory: a mean of means
        (Orpo(Orpo.Settings()), (3 * 0.9 + 1.1) / 4),
        (Orpo(Orpo.Settings(convention="llamafactory")), (0.9 + 1.1) / 2),
    ],
)
def test_the_nll_beside_the_loss_is_averaged_as_the_convention_says(objective, anchor):
    batch = packed()
    loss, figures = run(objective, [batch])
    assert loss.item() == pytest.approx(figures["loss"], rel=1e-5)
    replies = Replies(torch.tensor([[[-3.6, -3.6], [-2.2, -0.7]]]), torch.tensor([[[4.0, 3.0], [2.0, 1.0]]]))
    preference = objective.pair_loss(replies).mean().item()
    assert loss.item() - preference == pytest.approx(anchor, rel=1e-5)
    assert figures["chosen_logp"] == pytest.approx(-(3.6 + 2.2) / 6, rel=1e-5)
