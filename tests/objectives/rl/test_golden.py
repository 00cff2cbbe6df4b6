"""Golden values: TRL 1.16, verl, OpenRLHF 0.11 and the papers' formulas, worked out by hand."""

import pytest
import torch

from llmkit.objectives.rl.advantages import gae, grouped, moments, to_go, whitened
from llmkit.objectives.rl.kl import adapted, estimate
from llmkit.objectives.rl.surrogate import aggregate, clipped, value_loss


def wide(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "expected"), [("k1", 0.3), ("k2", 0.045), ("k3", 0.0408182207)])
def test_kl_estimators_at_a_policy_of_minus_1_and_a_reference_of_minus_1_3(kind, expected):
    assert estimate(kind, wide(-1.0 - -1.3)).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("grpo", [1.4997001, -0.4999000, -0.4999000, -0.4999000]),
        ("centered", [0.75, -0.25, -0.25, -0.25]),
        ("rloo", [1.0, -1 / 3, -1 / 3, -1 / 3]),
    ],
)
def test_advantages_of_one_right_reply_in_four(kind, expected):
    found = grouped(kind, wide(1, 0, 0, 0), 4)
    torch.testing.assert_close(found, wide(*expected), atol=1e-7, rtol=0)


def test_the_deviation_of_a_group_is_the_unbiased_one():
    """verl's and OpenRLHF's epsilons give 1.5; the biased deviation, which nobody uses, the root of 3."""
    found, away = grouped("grpo", wide(1, 0, 0, 0), 4)[0], wide(1, 0, 0, 0) - 0.25
    assert found.item() == pytest.approx(1.5, abs=5e-4)
    assert (away / away.std())[0].item() == pytest.approx(1.5, abs=1e-9)
    assert (away / away.std(correction=0))[0].item() == pytest.approx(1.7320508, abs=1e-7)


def test_a_group_of_equal_rewards_teaches_nothing():
    assert grouped("grpo", wide(1, 1, 0, 0), 2).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("kind", "expected"), [("grpo", 0.75), ("dapo", 2 / 3), ("bnpo", 2 / 3),
                                                ("dr_grpo", 0.25), ("luspo", 2.0)])  # fmt: skip
def test_token_losses_of_two_replies_become_one_number(kind, expected):
    """Token losses 1, 1 and four times 0.5; at most 8 tokens a reply."""
    loss, mask = torch.tensor([[1.0, 1, 9, 9], [0.5] * 4]), torch.tensor([[1.0, 1, 0, 0], [1.0] * 4])
    total = {"tokens": torch.tensor(6.0), "replies": torch.tensor(2.0)}
    assert aggregate(kind, loss, mask, total, 8).item() == pytest.approx(expected)


def test_generalised_advantages_and_their_whitening():
    rewards, values = wide(0, 0, 1)[None], wide(0.5, 0.6, 0.7)[None]
    mask = torch.ones_like(rewards)
    found = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    torch.testing.assert_close(found, wide(0.46575, 0.385, 0.3)[None], atol=1e-12, rtol=0)
    sums = moments(found, mask)
    for convention, expected in (("bessel", (0.9913436, 0.0170921, -1.0084358)),
                                 ("biased", (1.2141439, 0.0209335, -1.2350774)),
                                 ("none", (0.46575, 0.385, 0.3))):  # fmt: skip
        white = whitened(found, mask, sums, convention)
        torch.testing.assert_close(white, wide(*expected)[None], atol=1e-6, rtol=0)


def test_advantages_of_a_reply_inside_its_row_do_not_see_what_stands_around_it():
    values, rewards = torch.full((1, 7), 9.0), torch.full((1, 7), 9.0)
    mask = torch.tensor([[0.0, 0, 1, 1, 1, 0, 0]])
    values[0, 2:5], rewards[0, 2:5] = torch.tensor([0.5, 0.6, 0.7]), torch.tensor([0.0, 0, 1])
    found = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    expected = torch.tensor([[0, 0, 0.46575, 0.385, 0.3, 0, 0]])
    torch.testing.assert_close(found, expected)


def test_the_dual_clip_bounds_what_a_bad_token_costs():
    ratio, advantage = wide(5.0), wide(-1.0)
    assert clipped(ratio, advantage, 0.2, 0.2).item() == 5.0
    assert clipped(ratio, advantage, 0.2, 0.2, dual=3.0).item() == 3.0
    assert clipped(wide(5.0), wide(1.0), 0.2, 0.28, dual=3.0).item() == pytest.approx(-1.28)


def test_the_value_loss_is_that_of_the_worse_of_value_and_clipped_value():
    new, old, returns = wide(1.0, 1.0), wide(0.0, 0.9), wide(1.0, 2.0)
    assert value_loss(new, old, returns, clip=0.2).tolist() == pytest.approx([0.8**2 / 2, 0.5])
    assert value_loss(new, old, returns, clip=0.0).tolist() == [0.0, 0.5]


def test_rewards_to_go_are_summed_to_the_end_of_the_reply():
    found = to_go(torch.tensor([[5.0, -1, -2, 4, 7]]), torch.tensor([[0.0, 1, 1, 1, 0]]))
    assert found.tolist() == [[0, 1, 2, 4, 0]]


def test_the_kl_weight_moves_towards_its_target_by_a_fifth_of_the_horizon_at_most():
    assert adapted(0.2, found=12.0, target=6.0, count=100, horizon=1000) == pytest.approx(0.2 * 1.02)
    assert adapted(0.2, found=6.6, target=6.0, count=100, horizon=1000) == pytest.approx(0.2 * 1.01)
    assert adapted(0.2, found=0.0, target=6.0, count=100, horizon=1000) == pytest.approx(0.2 * 0.98)
