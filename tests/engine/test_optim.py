"""The optimiser's tail is elementwise, starts at the initial weights, and does nothing on a skipped step."""

import pytest
import torch

from llmkit.engine import optim
from llmkit.engine.recipe import Optim, Parallel
from llmkit.errors import ConfigError
from tests.nets import random_net


def net_and_optimizer(**settings):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    return net, optim.build(net, Optim(lr=0.1, **settings))


def take_step(net, optimizer):
    net(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_it_is_torchs_adamw():
    net, optimizer = net_and_optimizer()
    other, _ = net_and_optimizer()
    plain = torch.optim.AdamW(other.parameters(), lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    for _ in range(3):
        take_step(net, optimizer)
        take_step(other, plain)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["codebook", "body.norms.0.scale", "norm.shift", "embed_tokens.weight"])
def test_embeddings_and_norms_by_any_name_do_not_decay(name):
    p = torch.nn.Parameter(torch.ones(3, 4))
    assert not optim.decays(name, p)
    assert optim.decays("rescale.weight", p)


def test_only_matrices_decay():
    _, optimizer = net_and_optimizer(weight_decay=0.3)
    decaying, rest = optimizer.param_groups
    assert [p.ndim for p in decaying["params"]] == [2]
    assert rest["weight_decay"] == 0
    assert all(p.ndim == 1 for p in rest["params"])


def test_the_moving_average_starts_at_the_initial_weights():
    net, optimizer = net_and_optimizer(ema=0.75)
    p = net[0].weight
    before = p.detach().clone()
    take_step(net, optimizer)
    torch.testing.assert_close(optimizer.state[p]["ema"], 0.75 * before + 0.25 * p.detach())


def test_weights_are_clamped_after_a_step():
    net, optimizer = net_and_optimizer(clamp=0.01)
    take_step(net, optimizer)
    assert max(p.abs().max() for p in net.parameters()) <= 0.01


def test_muon_is_torchs_up_to_the_precision_of_its_products():
    torch.manual_seed(0)
    for shape in ((6, 17), (17, 6), (8, 8)):
        ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
        module = torch.nn.ParameterDict({"w": ours})
        mine = optim.build(module, Optim(name="muon", lr=0.1, weight_decay=0.1))
        torchs = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for _ in range(3):
            ours.grad = torch.randn(shape)
            theirs.grad = ours.grad.clone()
            mine.step()
            torchs.step()
        moved = (theirs - 1).norm()
        assert (ours - theirs).norm() < 0.02 * moved  # torch multiplies in bf16


def test_muon_leaves_embeddings_heads_and_vectors_to_adamw():
    net = random_net(tie=False)
    optimizer = optim.build(net, Optim(name="muon"))
    rules = {id(p): group["rule"] for group in optimizer.param_groups for p in group["params"]}
    outside = {name for name, p in net.named_parameters() if rules[id(p)] == "adamw"}
    assert {"embed_tokens.weight", "lm_head.weight", "norm.weight"} <= outside
    assert all("norm" in name or name.startswith(("embed", "lm_head")) for name in outside)


@pytest.mark.parametrize("name", optim.UNREAD)
def test_a_skipped_step_changes_nothing(name):
    net, optimizer = net_and_optimizer(ema=0.9, name=name)
    take_step(net, optimizer)
    p = net[0].weight
    kept = {key: value.clone() for key, value in optimizer.state[p].items()}
    weight = p.detach().clone()
    net(torch.full((2, 3), float("nan"))).sum().backward()
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(p, weight)
    assert all(torch.equal(optimizer.state[p][key], value) for key, value in kept.items())


def test_a_net_scales_the_learning_rate_of_its_parameters_by_name():
    class Scaled(torch.nn.Linear):
        def lr_scale(self, name):
            return 0.25 if name == "weight" else 1.0

    optimizer = optim.build(Scaled(3, 4), Optim(lr=0.1))
    assert {p.ndim: group["lr"] for group in optimizer.param_groups for p in group["params"]} == {
        2: pytest.approx(0.025),
        1: 0.1,
    }


@pytest.mark.parametrize("backend", ["zero1", "zero2", "zero3"])
def test_adafactor_is_refused_where_its_matrices_are_cut(backend):
    with pytest.raises(ConfigError, match=f"adafactor needs whole matrices, and {backend} hands out flat"):
        optim.check(Optim(name="adafactor"), Parallel(backend=backend))
    optim.check(Optim(name="adafactor"), Parallel(backend="ddp"))


def test_a_setting_that_the_optimiser_does_not_read_is_named(capfd):
    optim.check(Optim(name="lion", eps=1e-6), Parallel(backend="ddp"))
    assert "optim.eps: lion does not read it" in capfd.readouterr().err
