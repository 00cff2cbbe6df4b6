"""The straight-through gradient, and which term moves what."""

import torch

from llmkit.models.blocks import initialise
from llmkit.objectives.vision.vq import VqObjective
from llmkit.vision.vq import Vq, nearest
from llmkit.vision.vq2 import Vq2
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
    assert torch.equal(nearest(z, net.codebook), wanted)


def test_mixed_precision_chooses_the_same_codes():
    z, book = torch.randn(64, 8, 8, 4), 0.1 * torch.randn(64, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest(z, book)
    assert torch.equal(found, nearest(z, book))


def gradients(net=None, **settings) -> dict[str, torch.Tensor]:
    net, batch = net or model(), rows(0, 0, 0)
    objective = VqObjective(VqObjective.Settings(**settings))
    phase = objective.phases[0]
    share, _ = objective.loss(phase, {"model": net}, batch, objective.count(phase, batch))
    share.backward()
    return {name: p.grad for name, p in net.named_parameters()}


def test_codes_are_moved_by_their_distance_alone_and_only_if_chosen():
    net, batch = model(), rows(0, 0, 0)
    z = net.encode(batch["image"].float() / 255).detach()
    chosen = nearest(z, net.codebook)
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


def hierarchy(**changes) -> Vq2:
    shape = {"size": 8, "channels": 1, "width": 8, "layers": 1, "codes": 16, "code_dim": 4, **changes}
    with torch.device("meta"):
        net = Vq2(Vq2.Settings(**shape))
    return initialise(net, seed=1)


def test_a_hierarchy_codes_the_whole_on_half_the_grid_of_the_detail():
    net = hierarchy(channels=3, size=16)
    out, levels = net(torch.rand(2, 3, 16, 16))
    assert out.shape == (2, 1, 3, 16, 16)
    assert levels[""][2].shape == (2, 8, 8)
    assert levels["top"][2].shape == (2, 4, 4)
    for level, book in (("", net.codebook), ("top", net.codebook_top)):
        z, code, chosen = levels[level]
        assert torch.equal(chosen, torch.cdist(z.flatten(0, 2), book).argmin(1).view(chosen.shape))
        assert torch.equal(code, book[chosen])


def test_the_detail_is_coded_knowing_the_whole_and_all_of_it_learns():
    net = hierarchy()
    found = gradients(net)
    assert all(g is not None and g.isfinite().all() for g in found.values())
    moved = ("codebook", "codebook_top", "down.0.weight", "to_top.weight")
    assert all(found[name].abs().sum() > 0 for name in moved)
    x = torch.rand(1, 1, 8, 8)
    before = net(x)[1][""][0]
    net.codebook_top.data.add_(1.0)
    assert not torch.allclose(net(x)[1][""][0], before)


def test_codes_at_both_levels_are_moved_by_their_distance_alone():
    net, batch = hierarchy(), rows(0, 0, 0)
    levels = net(batch["image"].float() / 255)[1]
    found = gradients(net)
    for level, name in (("", "codebook"), ("top", "codebook_top")):
        z, code, chosen = (value.detach() for value in levels[level])
        wanted = torch.zeros(16, 4).index_add(0, chosen.flatten(), 2 * (code - z).flatten(0, 2) / 3)
        assert torch.allclose(found[name], wanted, atol=1e-4)
