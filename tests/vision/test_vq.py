"""The straight-through gradient, and which term moves what."""

import pytest
import torch

from llmkit.errors import ConfigError
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


def averaged(**changes) -> Vq:
    return model(codebooks="average", **changes)


def tallies(net: Vq, batches: list, seed: int = 0) -> dict[str, torch.Tensor]:
    """What the objective sums over the batches of one step."""
    objective = VqObjective(VqObjective.Settings())
    phase = objective.phases[0]
    total = {"images": sum(objective.count(phase, batch)["images"] for batch in batches)}
    seen = [objective.loss(phase, {"model": net}, batch, total)[1] for batch in batches]
    return {name: sum(s[f"/{name}"] for s in seen) for name in ("uses", "sums", "offers", "offered")}


def test_averages_are_those_of_the_paper():
    """N <- g N + (1 - g) n, m <- g m + (1 - g) sum z, e = m / N, written out code by code."""
    net, batch = averaged(), rows(0, 0, 0)
    z = net.encode(batch["image"].float() / 255).detach()
    chosen = nearest(z, net.codebook.vectors).flatten()
    start = net.codebook.vectors.clone()
    net.codebook.absorb(tallies(net, [batch]), decay=0.9, restart=0)
    for code in range(16):
        mine = z.flatten(0, 2)[chosen == code].double()
        wanted = (0.9 * start[code] + 0.1 * mine.sum(0)) / (0.9 + 0.1 * len(mine))
        assert torch.allclose(net.codebook.vectors[code].double(), wanted, atol=1e-6)


def test_no_gradient_reaches_averaged_codes_and_rows_of_padding_count_nothing():
    net, batch = averaged(), rows(0, 0, 0)
    assert "codebook" not in gradients(net)
    assert all(g is not None for g in gradients(net).values())
    nothing = tallies(net, [rows(1, 0, 1)])
    assert all(float(value.abs().sum()) == 0 for value in nothing.values())
    assert float(tallies(net, [batch])["uses"].sum()) == 3 * 4


def test_restarts_are_vectors_of_the_step_and_the_same_in_any_layout():
    whole = [rows(0, 0, 0), rows(0, 0, 1)]
    one = {key: torch.cat([batch[key] for batch in whole]) for key in whole[0]}
    nets = [averaged(), averaged()]
    for net, batches in zip(nets, (whole, [one])):
        net.codebook.absorb(tallies(net, batches), decay=0.99, restart=100.0)
    books = [net.codebook for net in nets]
    assert torch.allclose(books[0].vectors, books[1].vectors, atol=1e-6)
    reborn = books[0].uses == 100
    assert 0 < int(reborn.sum()) < 16
    z = averaged().encode(one["image"].float() / 255).detach().flatten(0, 2)
    apart = (books[0].vectors[reborn][:, None] - z).abs().amax(2)  # cdist is off by the root of rounding
    assert float(apart.min(1).values.max()) < 1e-5


def test_restarts_revive_a_codebook_that_lies_far_off():
    """Every code but one is out of reach: without restarts that stays so."""
    used = {}
    for restart in (0.0, 1.0):
        net = averaged(codes=8)
        net.codebook.vectors[1:] += 1e3
        net.codebook.sums[1:] += 1e3
        for step in range(30):
            net.codebook.absorb(tallies(net, [rows(2 * step, 0, 0), rows(2 * step, 0, 1)]), 0.9, restart)
        used[restart] = len(
            nearest(net.encode(rows(0, 0, 0)["image"].float() / 255), net.codebook.vectors).unique()
        )
    assert used[0.0] == 1
    assert used[1.0] > 3


def test_averaged_codebooks_refuse_bf16():
    net = averaged()
    found = tallies(net, [rows(0, 0, 0)])
    with pytest.raises(ConfigError, match="bf16 would round averaged codebooks away"):
        net.bfloat16().codebook.absorb(found, 0.9, 0.0)
