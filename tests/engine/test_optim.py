"""The optimiser's tail is elementwise, starts at the initial weights, and does nothing on a skipped step."""

import pytest
import torch

from llmkit.engine import optim
from llmkit.engine.recipe import Optim


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


def test_a_skipped_step_changes_nothing():
    net, optimizer = net_and_optimizer(ema=0.9)
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
