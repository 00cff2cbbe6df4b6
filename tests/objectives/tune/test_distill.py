"""Distillation: divergences by their definitions, fewer outcomes as a bound, whose replies are learned."""

import math

import pytest
import torch

from llmkit import config
from llmkit.engine.recipe import Optim
from llmkit.errors import ConfigError
from llmkit.objectives.phase import add
from llmkit.objectives.tune.distill import Distill, among, divergence
from tests.parity.problems import Problem, build, packed, prompts, taught


def logp(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


P, Q = logp([0.5, 0.3, 0.2]), logp([0.2, 0.2, 0.6])


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q))


def test_divergences_are_those_of_gkd():
    p, q = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]
    assert divergence(P, Q, 0.0).item() == pytest.approx(kl(p, q), abs=1e-12)
    assert divergence(P, Q, 1.0).item() == pytest.approx(kl(q, p), abs=1e-12)
    mixed = [0.3 * a + 0.7 * b for a, b in zip(p, q)]
    expected = 0.3 * kl(p, mixed) + 0.7 * kl(q, mixed)
    assert divergence(P, Q, 0.3).item() == pytest.approx(expected, abs=1e-12)
    assert divergence(P, P, 0.3).item() == pytest.approx(0.0, abs=1e-12)


def test_fewer_outcomes_bound_the_divergence_from_below_and_all_but_one_give_it():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 40, 12, generator=generator).double().log_softmax(-1)
    whole = divergence(p, q, 0.0)
    bounds = []
    for k in (1, 4, 11):
        ids = p.topk(k, -1).indices
        bounds.append(divergence(among(p, ids), among(q, ids), 0.0))
    assert (bounds[0] <= bounds[1] + 1e-9).all()
    assert (bounds[1] < whole).all()
    torch.testing.assert_close(bounds[2], whole, rtol=1e-3, atol=1e-4)


def made(batches, **settings):
    """(nets, prepared micro-batches, loss, figures) of one step."""
    settings = Distill.Settings.model_validate({"teacher": "x", **settings})
    problem = Problem(
        lambda: Distill(settings), lambda objective: objective.build(taught), packed, "tokens", Optim()
    )
    objective, nets = build(problem)
    (phase,) = objective.phases
    group = objective.prepare(batches, nets, lambda sums: sums, 0)
    total = add(objective.count(phase, batch) for batch in group)
    shares, seen = zip(*(objective.loss(phase, nets, batch, total) for batch in group))
    return nets, group, sum(shares), objective.metrics(phase, {k: float(v) for k, v in add(seen).items()})


def test_the_loss_is_a_mean_over_reply_tokens_of_the_divergence_from_the_teacher():
    batches = [packed(0, 0, slot) for slot in (0, 1)]
    nets, _, loss, figures = made(batches, nll=0.5, temperature=2.0)
    apart, nll, tokens = 0.0, 0.0, 0
    for batch in batches:
        at = batch["labels"] >= 0
        logits = {
            name: net.logits(net.hidden(batch["tokens"], batch["segments"]))[at] for name, net in nets.items()
        }
        p, q = ((logits[name] / 2).log_softmax(-1) for name in ("teacher", "model"))
        apart += (p.exp() * (p - q)).sum()
        nll += torch.nn.functional.cross_entropy(logits["model"], batch["labels"][at], reduction="sum")
        tokens += int(at.sum())
    assert loss.item() == pytest.approx(((apart + 0.5 * nll) / tokens).item(), rel=1e-5)
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert figures["kl"] == pytest.approx((apart / tokens).item(), rel=1e-5)


def test_the_teachers_most_probable_tokens_are_enough_when_they_are_nearly_all():
    batches = [packed(0, 0, 0)]
    _, _, whole, _ = made(batches)
    _, group, some, _ = made(batches, top_k=28)
    assert group[0]["teacher"].shape[-1] == 56
    assert some.item() == pytest.approx(whole.item(), rel=1e-3)
    assert made(batches, top_k=2)[2] < whole


def test_no_gradient_reaches_the_teacher():
    nets, _, loss, _ = made([packed(0, 0, 0)], beta=0.5)
    loss.backward()
    assert all(p.grad is None for p in nets["teacher"].parameters())
    assert all(p.grad is not None for p in nets["model"].parameters())


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_drawn_replies_are_those_of_the_net_that_is_asked_for(whose):
    """Replies have streams of their own: drawn again from that net they are the same, from the other not."""
    from llmkit.objectives.rl.rollout import draw

    asked = prompts(0, 0, 0)
    nets, (rows,), loss, figures = made(
        [asked], replies=whose, kl=float(whose == "student"), nll=1.0, max_new=6
    )
    expected, others = (draw(nets[net], asked, 1, 6)[1] for net in _order(whose))
    assert torch.equal(rows["labels"], expected["labels"])
    assert not torch.equal(rows["labels"], others["labels"])
    assert loss.item() == pytest.approx(figures["loss"], rel=1e-6)


def _order(whose):
    return ("model", "teacher") if whose == "student" else ("teacher", "model")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kl": 0.0}, "kl and nll are both 0"),
        ({"kl": 0.0, "nll": 1.0}, "the teacher is not asked"),
        ({"reference": "cached"}, "cached keeps top_k tokens"),
        ({"reference": "cached", "top_k": 4, "replies": "student"}, "cached keeps top_k tokens"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        config.resolve(Distill.Settings, {"teacher": "x", **settings})
