"""The hybrid's two halves weigh likeness differently, and each net gets the gradient of its own game."""

import torch
import torch.nn.functional as F

from llmkit.models.blocks import initialise
from llmkit.objectives.vision.vae import draw
from llmkit.objectives.vision.vaegan import VaeGanObjective, prior
from llmkit.vision.vaegan import Autoencoder, Discriminator, Settings
from tests.vision.parity import rows

BATCH = {**rows(0, 0, 0), "label": torch.tensor([0, 1, 2])}
GAMMA, BETA = 0.25, 1.5


def nets() -> dict:
    shape = {"width": 8, "latent_dim": 2, "size": 8, "channels": 1, "classes": 3, "critic_width": 4}
    settings = Settings(conditional=True, **shape)
    with torch.device("meta"):
        made = {"g": Autoencoder(settings), "d": Discriminator(settings)}
    return {name: initialise(net, seed=1) for name, net in made.items()}


def gradients(of: torch.Tensor, net) -> dict:
    found = torch.autograd.grad(of, list(net.parameters()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(net.named_parameters(), found)
    }


def terms(made):
    """KL, likeness, fooling of algorithm 1, written out; means over the three images."""
    g, d, label = made["g"], made["d"], BATCH["label"]
    x = BATCH["image"].float() / 255
    mean, log_var = g.encode(x, label)
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
    z = draw(mean, log_var, BATCH["key"], 1)[0][:, 0]
    again, random = (2 * g.decode(code, label)[:, 0].sigmoid() - 1 for code in (z, prior(g, BATCH, "g")))
    likeness = 0.5 * (d.body(again) - d.body(2 * x - 1)).square().sum(1)
    fooling = 0.5 * (F.softplus(-d(again, label)) + F.softplus(-d(random, label)))
    return kl.mean(), likeness.mean(), fooling.mean(), 2 * x - 1


def test_encoder_and_decoder_get_the_gradients_of_algorithm_1():
    made = nets()
    objective = VaeGanObjective(VaeGanObjective.Settings(likeness=GAMMA, beta=BETA))
    found = gradients(
        objective.loss(objective.phases[1], made, BATCH, objective.count(None, BATCH))[0], made["g"]
    )
    kl, likeness, fooling, _ = terms(made)
    encoder = gradients(BETA * kl + likeness, made["g"])
    decoder = gradients(GAMMA * likeness + fooling, made["g"])
    for name in found:
        wanted = (encoder if name.startswith("encoder") else decoder)[name]
        assert torch.allclose(found[name], wanted, rtol=1e-4, atol=1e-6), name


def test_the_discriminator_tells_real_images_from_both_kinds_of_fakes():
    made = nets()
    objective = VaeGanObjective(VaeGanObjective.Settings())
    found, _ = objective.loss(objective.phases[0], made, BATCH, objective.count(None, BATCH))
    g, d, label = made["g"], made["d"], BATCH["label"]
    x = BATCH["image"].float() / 255
    z = draw(*g.encode(x, label), BATCH["key"], 1)[0][:, 0]
    fakes = [2 * g.decode(code, label)[:, 0].sigmoid() - 1 for code in (z, prior(g, BATCH, "d"))]
    wanted = F.softplus(-d(2 * x - 1, label)) + sum(0.5 * F.softplus(d(f, label)) for f in fakes)
    assert torch.allclose(found, wanted.mean(), rtol=1e-5)
    found.backward()
    assert all(p.grad is None for p in g.parameters())
    assert all(p.grad is not None for p in d.parameters())
