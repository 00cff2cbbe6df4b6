"""The bound is a bound: closed forms, the importance-weighted estimate, annealing, capacity, classes."""

import math

import pytest
import torch

from llmkit.errors import ConfigError
from llmkit.models.blocks import initialise
from llmkit.objectives.vision.vae import VaeObjective, dependence, draw
from llmkit.vision import noise
from llmkit.vision.vae import Vae
from tests.vision.parity import rows

SHAPE = {"size": 8, "channels": 1, "classes": 3}


def model(**changes) -> Vae:
    settings = {"width": 8, "latent_dim": 2, **SHAPE, **changes}
    with torch.device("meta"):
        net = Vae(Vae.Settings(**settings))
    return initialise(net, seed=1)


def losses(net, grad=True, step=0, **settings):
    """(training loss, sums seen) of one batch."""
    objective = VaeObjective(VaeObjective.Settings(**settings))
    (batch,) = objective.prepare([rows(0, 0, 0)], {}, None, step)
    phase = objective.phases[0]
    with torch.set_grad_enabled(grad):
        return objective.loss(phase, {"model": net}, batch, objective.count(phase, batch))


def test_the_kl_is_torchs():
    net = model()
    mean, log_var = net.encode(torch.rand(3, 1, 8, 8))
    posterior = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    wanted = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum(1)
    found = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_the_importance_weighted_bound_is_the_marginal_likelihood_in_the_limit():
    """With a decoder that is linear and gaussian, p(x) is known: N(b, W W' + I)."""
    net = model(likelihood="gaussian", width=1)
    net.encoder.forward = lambda x, known: torch.zeros(len(x), 4)  # q = N(0, I)
    W = 0.3 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    net.decoder.forward = lambda z, known: z @ W.T
    batch = rows(0, 0, 0)
    x = batch["image"].flatten(1).float() / 255
    marginal = torch.distributions.MultivariateNormal(torch.zeros(64), W @ W.T + torch.eye(64))
    wanted = -marginal.log_prob(x).mean().item()
    seen = losses(net, False, eval_particles=20_000)[1]
    assert float(seen["nll"] / seen["images"]) == pytest.approx(wanted, abs=0.1)
    assert seen["nll"] < losses(net, False, eval_particles=1)[1]["nll"]
    assert float(losses(net, bound="iwae", particles=20_000)[0].detach()) == pytest.approx(wanted, abs=0.1)


def test_beta_rises_over_its_steps_in_training_and_is_one_in_evaluation():
    net = model()
    seen = losses(net)[1]
    kl, reconstruction, images = (float(seen[k]) for k in ("kl", "reconstruction", "images"))
    at = lambda step: float(losses(net, step=step, beta=4, anneal_steps=10)[0].detach()) * images  # noqa: E731
    assert at(0) == pytest.approx(reconstruction, rel=1e-5)
    assert at(5) == pytest.approx(reconstruction + 2 * kl, rel=1e-5)
    assert at(99) == pytest.approx(reconstruction + 4 * kl, rel=1e-5)
    assert float(losses(net, False, beta=4)[1]["loss"]) == pytest.approx(reconstruction + kl, rel=1e-5)


def test_a_capacity_draws_the_kl_to_itself():
    objective = VaeObjective(VaeObjective.Settings(capacity=5, beta=100, anneal_steps=10))
    kl = torch.tensor([1.0, 2.5, 7.0])
    assert objective.penalty(kl, 5).tolist() == [150.0, 0.0, 450.0]
    assert objective.penalty(kl, 50).tolist() == [400.0, 250.0, 200.0]


@pytest.mark.parametrize("given", [{"beta": 4}, {"capacity": 5}, {"anneal_steps": 10}])
def test_what_weighs_the_kl_is_refused_where_there_is_none(given):
    with pytest.raises(ValueError, match="iwae has no KL to weigh"):
        VaeObjective.Settings(bound="iwae", **given)


def test_all_grey_levels_are_not_binarised():
    binarised = VaeObjective(VaeObjective.Settings(binarise="threshold"))
    assert binarised.build(model)
    with pytest.raises(ConfigError, match="objective.binarise: a logistic likelihood is of 256"):
        binarised.build(lambda: model(likelihood="logistic"))


@pytest.mark.parametrize("net", ["mlp", "conv"])
@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
def test_shapes_fit_whatever_the_size(net, size, likelihood):
    vae = model(net=net, size=size, channels=3, likelihood=likelihood, layers=2, conditional=True)
    mean, _ = vae.encode(torch.rand(2, 3, size, size), torch.tensor([0, 2]))
    assert mean.shape == (2, 2)
    image = vae.sample(noise.keys(0, 2), torch.tensor([0, 2]))
    assert image.shape == (2, 3, size, size)
    assert image.min() >= 0
    assert image.max() <= 1
    assert not torch.equal(image[:1], vae.sample(noise.keys(0, 2)[:1], torch.tensor([1])))


def test_a_conditional_model_of_images_without_classes_is_refused():
    with pytest.raises(ConfigError, match="the images have no classes"):
        model(conditional=True, classes=0)


def test_a_constant_guess_costs_what_it_must():
    net = model()
    net.decoder.forward = lambda z, known: torch.zeros(len(z), 64)
    seen = losses(net, binarise="dynamic")[1]
    assert float(seen["reconstruction"] / seen["images"]) == pytest.approx(64 * math.log(2), rel=1e-5)


def test_the_total_correlation_of_independent_dimensions_is_none_and_of_equal_ones_their_information():
    mean = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    narrow = torch.full((400, 2), -4.0)
    valid = torch.ones(400, dtype=torch.bool)
    equal = torch.cat([mean, mean], 1)
    z = equal + torch.randn(400, 2, generator=torch.Generator().manual_seed(1)) * math.exp(-2)
    found = dependence(z, equal, narrow, valid).mean().item()
    variance = mean.var().item() + math.exp(-4)
    wanted = -0.5 * math.log(1 - (mean.var().item() / variance) ** 2)  # of two normal numbers
    assert found == pytest.approx(wanted, abs=0.15)
    apart = torch.cat([mean, mean.roll(200, 0)], 1)
    assert abs(dependence(apart + z - equal, apart, narrow, valid).mean().item()) < 0.3 * wanted


def test_rows_that_do_not_count_are_no_part_of_the_total_correlation():
    g = torch.Generator().manual_seed(2)
    z, mean, log_var = (torch.randn(6, 3, generator=g) for _ in range(3))
    valid = torch.tensor([True] * 4 + [False] * 2)
    found = dependence(z, mean, log_var, valid)
    alone = dependence(z[:4], mean[:4], log_var[:4], valid[:4])
    assert torch.allclose(found[:4], alone, atol=1e-5)
    assert found[4:].tolist() == [0, 0]


def test_the_weight_of_the_total_correlation_is_that_of_its_gradient():
    net = model()
    plain, more = (losses(net, total_correlation=t)[0] for t in (1, 3))
    batch = rows(0, 0, 0)
    x = batch["image"].float() / 255
    mean, log_var = net.encode(x)
    z = draw(mean, log_var, batch["key"], 1)[0][:, 0]
    own = dependence(z, mean, log_var, batch["valid"]).mean()
    assert float(more.detach()) == pytest.approx(float((plain + 2 * own).detach()), rel=1e-5)
    assert VaeObjective(VaeObjective.Settings(total_correlation=3)).batch_statistics
    assert not VaeObjective(VaeObjective.Settings()).batch_statistics
    assert float(losses(net, False, total_correlation=3)[1]["loss"]) == float(losses(net, False)[1]["loss"])
    with pytest.raises(ValueError, match="takes the place of beta"):
        VaeObjective.Settings(total_correlation=3, beta=2)
