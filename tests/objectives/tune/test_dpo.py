"""Golden values: TRL 1.16, OpenRLHF 0.11 and the papers' formulas, worked out by hand."""

import math
from pathlib import Path

import pytest
import torch

from llmkit import config, registry
from llmkit.errors import ConfigError
from llmkit.objectives.phase import add
from llmkit.objectives.tune.dpo import Dpo, preference_loss, scores
from llmkit.objectives.tune.pairwise import Replies, sum_by_reply


@pytest.mark.parametrize(
    ("loss", "smoothing", "expected"),
    [
        ("sigmoid", 0.0, 0.6443966601),
        ("sigmoid", 0.1, 0.6543966601),
        ("robust", 0.1, 0.6318966601),
        ("hinge", 0.0, 0.9),
        ("exo_pair", 0.1, 0.4571891783),
    ],
)
def test_losses_of_one_pair_whose_log_ratios_differ_by_one(loss, smoothing, expected):
    one = torch.tensor(1.0, dtype=torch.float64)
    got = preference_loss(loss, one, beta=0.1, smoothing=smoothing).item()
    assert got == pytest.approx(expected, abs=1e-9)


def lengths_differ() -> Replies:
    """Log-ratio 0.5 over 4 chosen tokens, -0.5 over 3 rejected ones."""
    made = torch.tensor([[[-2.0, -4.0]], [[4.0, 3.0]], [[-2.5, -3.5]]], dtype=torch.float64)
    return Replies(*made)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss": "ipo"}, 22.1684027778),
        ({"loss": "ipo", "convention": "openrlhf"}, 16.0),
        ({"loss": "sigmoid_norm", "beta": 5.0}, 0.2091449529),
    ],
)
def test_losses_that_care_for_the_length_of_the_replies(settings, expected):
    loss = Dpo(Dpo.Settings(**settings)).pair_loss(lengths_differ())
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        ("reverse_kl", 0.4),
        ("forward_kl", 1 - math.exp(-0.4)),
        ("js", math.log(2 * math.exp(0.4) / (math.exp(0.4) + 1))),
        ("alpha", (math.exp(-0.2) - 1) / -0.5),
    ],
)
def test_scores_are_derivatives_of_the_divergence_with_trls_constants(divergence, expected):
    """f' at t = exp(0.4), written out; 0 where policy and reference agree."""
    got = scores(divergence, torch.tensor([0.4, 0.0], dtype=torch.float64))
    assert got.tolist() == pytest.approx([expected, 0.0], abs=1e-12)


def test_an_alpha_of_one_is_the_reverse_kl_and_nearly_one_is_near_it():
    ratio = torch.tensor([0.4, -3.0], dtype=torch.float64)
    assert torch.equal(scores("alpha", ratio, alpha=1.0), ratio)
    torch.testing.assert_close(scores("alpha", ratio, alpha=1.0001), ratio, rtol=1e-3, atol=0)


def packed(valid=(True, True)):
    """Two pairs in one row of 12: replies of 4 and 3, 2 and 1 labelled tokens, 2 places of padding."""
    lengths = [4, 3, 2, 1]
    segments = [n + 1 for n, length in enumerate(lengths) for _ in range(length)] + [0, 0]
    labels = [5] * 10 + [-100] * 2
    return {
        "tokens": torch.zeros(1, 12, dtype=torch.long),
        "segments": torch.tensor([segments], dtype=torch.int32),
        "labels": torch.tensor([labels]),
        "valid": torch.tensor([valid]),
    }


class Given(torch.nn.Module):
    def __init__(self, nll):
        super().__init__()
        self.given = torch.nn.Parameter(torch.tensor([nll]))

    def nll(self, tokens, segments, labels):
        return self.given * (labels >= 0)


REFERENCE = Given([1.0] * 12)
POLICY = Given([0.9] * 4 + [1.2] * 3 + [1.1] * 2 + [0.7] + [3.0] * 2)


def run(settings, group, policy=POLICY, cls=Dpo):
    objective = cls(cls.Settings.model_validate(settings))
    (phase,) = objective.phases
    nets = {"model": policy, "reference": REFERENCE}
    group = objective.prepare(group, nets, total=lambda counts: counts, key=0)
    total = add(objective.count(phase, b) for b in group)
    shares, seen = zip(*(objective.loss(phase, nets, b, total) for b in group))
    figures = objective.metrics(phase, {k: float(v) for k, v in add(seen).items()})
    return sum(shares), figures


def test_replies_are_summed_within_their_own_segments():
    values = torch.arange(12.0)[None]
    assert sum_by_reply(values, packed()["segments"], 2).tolist() == [[[6.0, 15.0], [15.0, 9.0]]]


def test_figures_of_a_batch_are_means_over_pairs_and_over_chosen_tokens():
    loss, figures = run({"beta": 0.5}, [packed()])
    # Log-ratios: chosen 0.4 and -0.2, rejected -0.6 and 0.3.
    assert loss.item() == pytest.approx(figures["loss"])
    expected = torch.nn.functional.softplus(-0.5 * torch.tensor([1.0, -0.5])).mean().item()
    assert loss.item() == pytest.approx(expected)
    assert figures["accuracy"] == 0.5
    assert figures["margin"] == pytest.approx(0.5 * (1.0 - 0.5) / 2)
    assert figures["chosen_reward"] == pytest.approx(0.5 * (0.4 - 0.2) / 2)
    assert figures["rejected_reward"] == pytest.approx(0.5 * (-0.6 + 0.3) / 2)
    assert figures["chosen_change"] == pytest.approx((0.4 - 0.2) / 6)
    assert figures["kl"] == pytest.approx(0.1**2 / 2)


def test_an_unmoved_policy_counts_as_wrong_because_ties_do():
    _, figures = run({}, [packed()], policy=REFERENCE)
    assert figures["accuracy"] == 0.0
    assert figures["loss"] == pytest.approx(0.6931472)


def test_pairs_weigh_equally_however_they_are_dealt_out():
    """Both pairs in one batch, or one each in two, with a batch of padding between: the same gradient."""
    nothing = {"labels": torch.full((1, 12), -100), "segments": torch.zeros(1, 12, dtype=torch.int32)}
    padding = packed((False, False)) | nothing
    first, second = packed((True, False)), packed((False, True))
    first["labels"] = torch.where(first["segments"] <= 2, first["labels"], -100)
    second["labels"] = torch.where(second["segments"] >= 3, second["labels"], -100)
    gradients = []
    for group in ([packed()], [first, padding, second]):
        loss, _ = run({"sft_weight": 0.3, "label_smoothing": 0.1}, group)
        gradients.append(torch.autograd.grad(loss, POLICY.given)[0])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


def test_the_anchor_adds_the_chosen_replies_token_mean():
    plain, _ = run({}, [packed()])
    anchored, figures = run({"sft_weight": 2.0}, [packed()])
    assert (anchored - plain).item() == pytest.approx(2.0 * (4 * 0.9 + 2 * 1.1) / 6)
    assert figures["loss"] == pytest.approx(anchored.item())


def test_the_reference_gets_no_gradient():
    REFERENCE.given.grad = None
    run({"sft_weight": 1.0}, [packed()])[0].backward()
    assert REFERENCE.given.grad is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing does nothing to the ipo loss"),
        ({"loss": "exo_pair"}, "exo_pair needs a label_smoothing above 0"),
        ({"convention": "openrlhf"}, "convention=openrlhf is about ipo, not sigmoid"),
        ({"alpha": 0.3}, "alpha does nothing to reverse_kl"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        config.resolve(Dpo.Settings, settings)


def test_a_loss_of_your_own_is_one_file():
    """The example of docs/preference.md on the two pairs of this file."""
    file = Path(__file__).parents[3] / "docs" / "examples" / "apo.py"
    registry.load_plugin(str(file))
    cls = registry.find("objective", "apo")
    loss, figures = run({"beta": 0.5}, [packed()], cls=cls)
    # Log-ratios: chosen 0.4 and -0.2, rejected -0.6 and 0.3.
    chosen, rejected = torch.sigmoid(0.5 * torch.tensor([[0.4, -0.2], [-0.6, 0.3]]))
    assert loss.item() == pytest.approx((1 - chosen + rejected).mean().item(), rel=1e-6)
    assert figures["accuracy"] == 0.5
