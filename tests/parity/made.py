"""Three objectives made for the comparison with plain torch, with what llmkit's have not: two denominators in
one loss, several phases on one net with a penalty on a gradient, rollouts with statistics over ranks.
"""

import torch
import torch.nn.functional as F
from torch import nn

from llmkit.config import Section
from llmkit.objectives.phase import Batch, Objective, Phase, add, keyed

SEED = 3


def empty(step: int, slot: int) -> bool:
    return slot == 1 and step % 2 == 1


class Nothing(Section):
    """No settings."""


class Made(Objective):
    """What the three have in common."""

    Settings = Nothing

    def __init__(self, settings: Nothing | None = None):
        super().__init__(settings or Nothing())

    def metrics(self, phase, seen):
        return {}


class TwoDenominators(Made):
    """Odds-ratio-like: a mean over tokens plus a mean over pairs, whose numbers are unrelated."""

    phases = (Phase("train", "policy"),)

    def count(self, phase, batch):
        return {"tokens": (batch["y"] >= 0).sum(), "pairs": len(batch["pairs"])}

    def loss(self, phase, nets, batch, total):
        net, pairs = nets["policy"], batch["pairs"]
        nll = F.cross_entropy(net(batch["x"]), batch["y"], ignore_index=-1, reduction="sum")
        gap = net(pairs)[:, 0] - net(-pairs)[:, 0]
        return nll / total["tokens"] - 0.3 * F.logsigmoid(gap).sum() / total["pairs"], {"nll": nll.detach()}


def two_denominators(step: int, draw: int, slot: int) -> Batch:
    generator = keyed("two", step, draw, slot)
    y = torch.randint(9, (8,), generator=generator)
    y[0 if empty(step, slot) else 3 + slot :] = -1
    count = 0 if empty(step, slot) else 2 + slot
    return {
        "x": torch.randn(8, 6, generator=generator),
        "y": y,
        "pairs": torch.randn(count, 6, generator=generator),
    }


class PenalisedGan(Made):
    """Three critic updates with a gradient penalty, then the generator; every other step a lazy penalty."""

    phases = (
        Phase("critic", "d", updates=3, double_backward=True),
        Phase("generator", "g"),
        Phase("lazy", "d", every=2, double_backward=True),
    )
    draws = 5

    def __init__(self, settings=None):
        super().__init__(settings)
        self.state = {"penalty": 10.0}

    def rows(self, phase, update, group):
        first = {"critic": update, "generator": 3, "lazy": 4}[phase.name]
        size = len(group) // self.draws
        return group[first * size : (first + 1) * size]

    def count(self, phase, batch):
        return {"images": len(batch["real"])}

    def loss(self, phase, nets, batch, total):
        g, d, real = nets["g"], nets["d"], batch["real"]
        if phase.name == "generator":
            return -d(g(batch["z"])).sum() / total["images"], {"images": len(real)}
        if phase.name == "lazy":
            return 2 * slope(d, real).square().sum() / total["images"], {"images": len(real)}
        with torch.no_grad():
            fake = g(batch["z"])
        gap = (d(fake) - d(real)).sum()
        penalty = (slope(d, batch["mix"] * real + (1 - batch["mix"]) * fake).norm(2, 1) - 1).square().sum()
        seen = {"gap": gap.detach(), "images": len(real)}
        return (gap + self.state["penalty"] * penalty) / total["images"], seen

    def after(self, phase, seen, applied):
        if phase.name == "critic":
            self.state["penalty"] = 10.0 + 0.01 * float(seen["gap"] / seen["images"])


class Gan(PenalisedGan):
    """Without a gradient of a gradient, so ZeRO-3 can run it: one net is called while another trains."""

    phases = (Phase("critic", "d", updates=3), Phase("generator", "g"))

    def loss(self, phase, nets, batch, total):
        g, d, real = nets["g"], nets["d"], batch["real"]
        if phase.name == "generator":
            return F.softplus(-d(g(batch["z"]))).sum() / total["images"], {"images": len(real)}
        with torch.no_grad():
            fake = g(batch["z"])
        loss = (F.softplus(-d(real)) + F.softplus(d(fake))).sum()
        return loss / total["images"], {"gap": loss.detach(), "images": len(real)}


def slope(d, x):
    """The gradient of the summed scores of `d` with respect to its input."""
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(d(x).sum(), x, create_graph=True)[0]


def images(step: int, draw: int, slot: int) -> Batch:
    generator = keyed("images", step, draw, slot)
    rows = 4 + slot % 2
    return {
        "real": torch.randn(rows, 6, generator=generator),
        "z": torch.randn(rows, 5, generator=generator),
        "mix": torch.rand(rows, 1, generator=generator),
    }


class Rollouts(Made):
    """PPO-like: actions and whitened advantages from `prepare`, two epochs, a value net, adaptive KL."""

    phases = (Phase("policy", "policy", updates=2), Phase("value", "value", updates=2))

    def __init__(self, settings=None):
        super().__init__(settings)
        self.state = {"kl": 0.05}

    def prepare(self, group, nets, total, key):
        with torch.no_grad():
            out = [self._act(batch, nets) for batch in group]
        sums = total(
            add({"n": len(b["raw"]), "sum": b["raw"].sum(), "square": b["raw"].square().sum()} for b in out)
        )
        mean = sums["sum"] / sums["n"]
        deviation = (sums["square"] / sums["n"] - mean**2).sqrt()
        return [{**b, "advantage": ((b["raw"] - mean) / (deviation + 1e-8)).float()} for b in out]

    def _act(self, batch, nets):
        x = batch["x"]
        old = nets["policy"](x).log_softmax(-1)
        action = (old.exp().cumsum(-1) < batch["draw"]).sum(-1).clamp(max=4)
        old, reference = pick(old, action), pick(nets["reference"](x).log_softmax(-1), action)
        reward = (action == (x.sum(-1) > 0)).float() - self.state["kl"] * (old - reference)
        return {
            "x": x,
            "action": action,
            "old": old,
            "return": reward,
            "raw": reward - nets["value"](x)[:, 0],
        }

    def count(self, phase, batch):
        return {"tokens": len(batch["x"])}

    def loss(self, phase, nets, batch, total):
        if phase.name == "value":
            error = nets["value"](batch["x"])[:, 0] - batch["return"]
            return 0.5 * error.square().sum() / total["tokens"], {"n": len(error)}
        now = pick(nets["policy"](batch["x"]).log_softmax(-1), batch["action"])
        ratio, advantage = (now - batch["old"]).exp(), batch["advantage"]
        gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum()
        drift = 0.5 * (now - batch["old"]).detach().square().sum()
        return -gain / total["tokens"], {"n": len(now), "drift": drift}

    def after(self, phase, seen, applied):
        if phase.name == "policy":
            self.state["kl"] *= 1.1 if seen["drift"] / seen["n"] > 1e-3 else 0.9


def pick(logprobs, action):
    return logprobs.gather(1, action[:, None])[:, 0]


def states(step: int, draw: int, slot: int) -> Batch:
    generator = keyed("states", step, draw, slot)
    return {
        "x": torch.randn(4 + slot, 6, generator=generator),
        "draw": torch.rand(4 + slot, 1, generator=generator),
    }


def mlp(name: str, *widths: int) -> nn.Module:
    """Two layers, whose weights are a function of `name`."""
    net = nn.Sequential(nn.Linear(widths[0], widths[1]), nn.Tanh(), nn.Linear(widths[1], widths[2]))
    with torch.no_grad():
        for key, p in net.named_parameters():
            p.copy_(torch.empty(p.shape).normal_(0, 0.4, generator=keyed(SEED, name, key)))
    return net
