import pytest
import torch

from llmkit.objectives.phase import add
from llmkit.objectives.tune.kto import Kto, example_loss
from tests.objectives.tune.test_dpo import Given


def test_golden_values_of_kto():
    ratio = torch.tensor([0.5, -0.5], dtype=torch.float64)
    loss = example_loss(ratio, torch.tensor([True, False]), 0.2, beta=0.1)
    assert loss.tolist() == pytest.approx([0.4925005624, 0.4825071423], abs=1e-9)


def batch(valid=(True, True)):
    """Two examples in a row of 8, three tokens each, and the same prompts with lent replies."""
    there = torch.tensor([1, 1, 1, 2, 2, 2, 0, 0], dtype=torch.int32)[None]
    labels = torch.tensor([[-100, 5, 5, -100, 5, 5, -100, -100]])
    labels = torch.where(torch.tensor([[valid[0]] * 3 + [valid[1]] * 3 + [False] * 2]), labels, -100)
    side = {"tokens": torch.zeros(1, 8, dtype=torch.long), "segments": there, "labels": labels}
    lent = {f"lent_{key}": value for key, value in side.items()}
    return {**side, **lent, "valid": torch.tensor([valid]), "desirable": torch.tensor([[True, False]])}


POLICY = Given([0.0, 0.9, 0.9, 0.0, 1.3, 1.3, 0.0, 0.0])
REFERENCE = Given([1.0] * 8)


def run(group, **settings):
    objective = Kto(Kto.Settings(**settings))
    (phase,) = objective.phases
    nets = {"model": POLICY, "reference": REFERENCE}
    group = objective.prepare(group, nets, total=lambda counts: counts, key=0)
    total = add(objective.count(phase, b) for b in group)
    shares, seen = zip(*(objective.loss(phase, nets, b, total) for b in group))
    objective.after(phase, add(seen), True)
    return sum(shares), objective.metrics(phase, {k: float(v) for k, v in add(seen).items()}), objective


def test_the_loss_is_a_mean_over_examples_relative_to_the_kl_of_lent_replies():
    # log-ratios 0.2 and -0.6; their mean is negative, so z0 is 0
    loss, figures, objective = run([batch()], beta=0.5, desirable_weight=2.0)
    sigmoid = torch.sigmoid(torch.tensor([-0.1, -0.3]))
    assert loss.item() == pytest.approx((2 * sigmoid[0] + sigmoid[1]).item() / 2, rel=1e-6)
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert figures["kl"] == pytest.approx(-0.2, rel=1e-5)
    assert figures["margin"] == pytest.approx(0.5 * 0.8, rel=1e-5)
    assert objective.state == {"kl": 0.0}


def test_a_positive_kl_moves_both_losses_and_has_no_gradient():
    lent = batch()
    lent["lent_labels"] = torch.where(lent["lent_segments"] == 1, lent["lent_labels"], -100)
    loss, _, objective = run([lent], beta=0.5)
    expected = torch.sigmoid(torch.tensor([-0.5 * (0.2 - 0.1), 0.5 * (-0.6 - 0.1)])).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert objective.state["kl"] == pytest.approx(0.1, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, POLICY.given)
    slope = torch.sigmoid(torch.tensor(-0.05)) * torch.sigmoid(torch.tensor(0.05)) * 0.5 / 2
    assert gradient[0, 1].item() == pytest.approx(slope.item(), rel=1e-5)


def test_apo_zero_asks_for_no_kl():
    loss, figures, _ = run([batch()], loss="apo_zero", beta=0.5)
    assert "kl" not in figures
    assert loss.item() == pytest.approx(torch.sigmoid(torch.tensor([-0.1, -0.3])).mean().item(), rel=1e-6)


def test_examples_weigh_equally_however_they_are_dealt_out():
    """The KL is over the whole group too: one batch, or two and one of padding."""
    gradients = []
    for group in ([batch()], [batch((True, False)), batch((False, False)), batch((False, True))]):
        for part in group:
            part["lent_labels"] = torch.where(part["lent_segments"] == 1, part["lent_labels"], -100)
        loss, _, _ = run(group, beta=0.5)
        gradients.append(torch.autograd.grad(loss, POLICY.given)[0])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)
