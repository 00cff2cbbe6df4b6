"""The straight-through gradient, and which term moves what."""

import torch

from llmkit.models.blocks import initialise
from llmkit.objectives.vision.vq import VqObjective
from llmkit.vision.vq import Vq
from tests.vision.parity import rows


def model(**changes) -> Vq:
    shape = {"size": 8, "channels": 1, "width": 8, "codes": 16, "code_dim": 4, **changes}
    with torch.device("meta"):
        net = Vq(Vq.Settings(**shape))
    return initialise(net, seed=1)


def test_the_nearest_code_is_the_nearest():
    net = model()
    z = torch.randn(2, 3, 3, 4)
    wanted = torch.cdist(z.flatten(0, 2), net.codebook).argmin(1).view(2, 3, 3)
    assert torch.equal(net.nearest(z), wanted)


def gradients(**settings) -> dict[str, torch.Tensor]:
    net, batch = model(), rows(0, 0, 0)
    objective = VqObjective(VqObjective.Settings(**settings))
    phase = objective.phases[0]
    share, _ = objective.loss(phase, {"model": net}, batch, objective.count(phase, batch))
    share.backward()
    return {name: p.grad for name, p in net.named_parameters()}


def test_codes_are_moved_by_their_distance_alone_and_only_if_chosen():
    net, batch = model(), rows(0, 0, 0)
    z = net.encode(batch["image"].float() / 255).detach()
    chosen = net.nearest(z)
    wanted = torch.zeros(16, 4)
    for vector, code in zip(z.flatten(0, 2), chosen.flatten()):
        wanted[code] += 2 * (net.codebook[code] - vector).detach() / 3
    assert torch.allclose(gradients()["codebook"], wanted, atol=1e-4)


def test_the_encoder_learns_from_the_decoder_through_the_choice():
    assert gradients(commitment=0)["to_code.weight"].abs().sum() > 0
    assert all(g is not None for g in gradients().values())


def test_shapes_fit():
    net = model(channels=3, likelihood="logistic", size=12)
    z = net.encode(torch.rand(2, 3, 12, 12))
    assert z.shape == (2, 3, 3, 4)
    assert net.decode(z).shape == (2, 2, 3, 12, 12)
