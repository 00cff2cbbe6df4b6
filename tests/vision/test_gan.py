"""Losses and penalties against what a page of plain torch says; nets of every kind and size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmkit.errors import ConfigError
from llmkit.models.blocks import initialise
from llmkit.objectives.vision.gan import GanObjective
from llmkit.vision import noise
from llmkit.vision.gan import Discriminator, Generator, Settings
from llmkit.vision.layers import Spectral
from tests.vision.parity import rows

BATCH = {**rows(0, 0, 0), "label": torch.tensor([0, 1, 2])}


def nets(**changes) -> dict[str, nn.Module]:
    shape = {
        "width": 4,
        "layers": 2,
        "latent_dim": 5,
        "size": 8,
        "channels": 1,
        "classes": 3,
        "conditional": True,
    }
    settings = Settings(**{**shape, **changes})
    with torch.device("meta"):
        made = {"g": Generator(settings), "d": Discriminator(settings)}
    return {name: initialise(net, 1) for name, net in made.items()}


def losses(made, phase: str, **settings) -> tuple[torch.Tensor, dict]:
    objective = GanObjective(GanObjective.Settings(**settings))
    wanted = next(p for p in objective.phases if p.name == phase)
    return objective.loss(wanted, made, BATCH, objective.count(wanted, BATCH))


def scores(made):
    g, d, label = made["g"], made["d"], BATCH["label"]
    real = BATCH["image"].float() / 127.5 - 1
    fakes = {p: g(noise.normal(BATCH["key"], f"latent for {p}", (5,)), label) for p in "dg"}
    return real, fakes, d(real, label), d(fakes["d"], label), d(fakes["g"], label)


@pytest.mark.parametrize("loss", ["wasserstein", "relativistic"])
@pytest.mark.parametrize("rule", [{"ada_target": 0.6}, {"stop": {"accuracy": 0.9}}])
def test_what_is_led_by_the_sign_of_scores_is_refused_where_they_have_no_zero(loss, rule):
    with pytest.raises(ValueError, match="scores of this loss have no zero"):
        GanObjective.Settings(loss=loss, **rule)


@pytest.mark.parametrize("loss", ["nonsaturating", "hinge", "wasserstein", "relativistic"])
def test_each_loss_is_its_formula(loss):
    made = nets()
    _, _, on_real, on_fake, fooled = scores(made)
    bce = F.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(3), torch.zeros(3)
    d, g = {
        "nonsaturating": (bce(on_real, ones) + bce(on_fake, zeros), bce(fooled, ones)),
        "hinge": ((1 - on_real).relu().mean() + (1 + on_fake).relu().mean(), -fooled.mean()),
        "wasserstein": (on_fake.mean() - on_real.mean(), -fooled.mean()),
        "relativistic": (bce(on_real - on_fake, ones), bce(fooled - on_real, ones)),
    }[loss]
    assert torch.allclose(losses(made, "d", loss=loss)[0], d, atol=1e-6)
    assert torch.allclose(losses(made, "g", loss=loss)[0], g, atol=1e-6)


def test_the_gradient_penalty_is_that_of_numerical_derivatives():
    made = {name: net.double() for name, net in nets(net="mlp").items()}
    made["d"].body.hidden = nn.ModuleList([nn.Linear(64, 4).double()])
    real, fakes, on_real, on_fake, _ = scores({k: n.float() for k, n in made.items()})
    mix = noise.uniform(BATCH["key"], "mix", (1, 1, 1))
    x = (mix * real + (1 - mix) * fakes["d"]).detach()
    score = lambda x: made["d"](x.view(3, 1, 8, 8), BATCH["label"]).detach()  # noqa: E731
    steps = 1e-2 * torch.eye(64)
    slopes = [(score(x.flatten(1) + e) - score(x.flatten(1) - e)) / 2e-2 for e in steps]
    length = torch.stack(slopes, 1).norm(dim=1)
    wanted = (on_fake - on_real).mean() + 10 * (length - 1).square().mean()
    found, seen = losses(made, "d", loss="wasserstein", gradient_penalty=10)
    assert torch.allclose(found, wanted, rtol=2e-3)
    assert torch.allclose(seen["slope"] / 3, length.mean(), rtol=2e-3)


def test_a_lazy_penalty_weighs_as_much_as_it_is_rare():
    made = nets()
    rare, often = (losses(made, "r1", r1=2.0, r1_every=every)[0] for every in (16, 1))
    x = (BATCH["image"].float() / 127.5 - 1).requires_grad_(True)
    (slope,) = torch.autograd.grad(made["d"](x, BATCH["label"]).sum(), x)
    assert torch.allclose(often, slope.square().sum((1, 2, 3)).mean(), rtol=1e-5)
    assert torch.allclose(rare, 16 * often)


def test_every_critic_update_has_images_of_its_own():
    objective = GanObjective(GanObjective.Settings(critic_updates=3, r1=1.0))
    group = list(range(6))  # three draws of two micro-batches
    d, r1, g = objective.phases
    assert [objective.rows(d, u, group) for u in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert objective.rows(g, 0, group) == objective.rows(r1, 0, group) == [0, 1]


def test_padding_rows_do_not_count():
    made = nets()
    padded = {k: torch.cat([v, v]) for k, v in BATCH.items()}
    padded["valid"][3:] = False
    objective = GanObjective(GanObjective.Settings())
    found, seen = objective.loss(objective.phases[0], made, padded, objective.count(None, padded))
    assert torch.allclose(found, losses(made, "d")[0], atol=1e-6)
    assert int(seen["images"]) == 3


@pytest.mark.parametrize("net", ["mlp", "dcgan", "resnet"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("spectral", [False, True])
def test_every_kind_of_net_learns_with_a_penalty(net, norm, spectral):
    made = nets(net=net, norm=norm, spectral=spectral, size=12, channels=3)
    batch = {**BATCH, "image": torch.zeros(3, 3, 12, 12, dtype=torch.uint8)}
    objective = GanObjective(GanObjective.Settings(gradient_penalty=1.0))
    for phase in objective.phases:
        share, _ = objective.loss(phase, made, batch, objective.count(phase, batch))
        share.backward()
    assert all(p.grad is not None for net in made.values() for p in net.parameters())
    assert made["g"].sample(noise.keys(0, 2), torch.tensor([0, 1])).shape == (2, 3, 12, 12)


def test_batch_statistics_are_declared():
    objective = GanObjective(GanObjective.Settings())
    for norm in ("batch", "group"):
        objective.build(nets(norm=norm).get)
        assert objective.batch_statistics == (norm == "batch")


def test_spectral_normalisation_finds_the_largest_singular_value():
    layer = Spectral(nn.Conv2d(3, 5, 3))
    for _ in range(200):
        layer(torch.zeros(1, 3, 3, 3))
    layer.eval()
    x = torch.randn(1, 3, 3, 3)
    wanted = layer.layer.weight / torch.linalg.matrix_norm(layer.layer.weight.flatten(1), 2)
    assert torch.allclose(layer(x), F.conv2d(x, wanted, layer.layer.bias), atol=1e-4)


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ConfigError, match="6 cannot be halved 2 times; set data.size or layers"):
        nets(size=6)


@pytest.mark.parametrize("net", ["dcgan", "resnet"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_class_in_the_norms_is_scale_and_shift_of_its_own(net, norm):
    """With one class's numbers in a plain norm, the plain net makes that class's images."""
    told, plain = (nets(net=net, norm=norm, **c)["g"] for c in ({"class_in": "norm"}, {"conditional": False}))
    tables = {name: p for name, p in told.named_parameters() if name.endswith((".scale", ".shift"))}
    assert len(tables) == (4 if net == "dcgan" else 10)
    for p in tables.values():
        p.data += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    shared = {name: p for name, p in told.state_dict().items() if name in plain.state_dict()}
    for name, p in tables.items():
        owner, _, leaf = name.rpartition(".")
        shared[f"{owner}.{'weight' if leaf == 'scale' else 'bias'}"] = p.detach()[2]
    shared |= {
        n.replace(".norm.", "."): p
        for n, p in told.state_dict().items()
        if ".norm.running" in n or ".norm.num" in n
    }
    plain.load_state_dict(shared)
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(told(z, torch.full((4,), 2)), plain(z), atol=1e-6)
    assert not torch.allclose(told(z, torch.full((4,), 1)), plain(z), atol=1e-3)


def test_a_class_cannot_enter_by_a_norm_that_is_none():
    for changes in ({"norm": "none"}, {"net": "mlp"}):
        with pytest.raises(ConfigError, match="model.class_in: "):
            nets(class_in="norm", **changes)
