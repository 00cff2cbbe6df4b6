"""The optimiser of one network: which rule steps which parameter, which parameters decay, and the tail.

    name, p ─► group (rule, weight decay, lr scale) ─► the rule (rules.py) ─► clamp ─► moving average

What a GAN or an averaged model does to weights after a step (clamp, moving average) is elementwise, so it
belongs to the optimiser: there it runs on whatever flat shard a backend hands over, only on steps that are
applied, and its state is saved with the moments.
"""

import math

import torch
from torch import nn

from llmkit.engine.recipe import Optim, Parallel
from llmkit.engine.rules import RULES, Cut, State
from llmkit.errors import ConfigError
from llmkit.log import warn


class Optimizer(torch.optim.Optimizer):
    """Steps each group by its rule, then clamps to +-clamp and keeps an average in `state[p]["ema"]`.

    `found_inf` (0-d float tensor, 1 = skip) makes a step do nothing; AdamW sees to that on a GPU, else the
    host looks. `cut` says what lies in a tensor that is stepped.
    """

    def __init__(self, groups: list[dict], clamp: float = 0.0, ema: float = 0.0):
        super().__init__(groups, {})
        self.clamp, self.ema = clamp, ema
        self.cut = Cut()
        self.found_inf: torch.Tensor | None = None

    @torch.no_grad()
    def step(self, closure=None):
        found_inf = self.found_inf
        if found_inf is not None and self._host_looks(found_inf):
            if found_inf:
                return None
            found_inf = None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p] = self.fresh(p, group)
            if params:
                states = [self.state[p] for p in params]
                RULES[group["rule"]].update(group, params, states, self.cut, found_inf)
                self._tail(params)
        return None

    def _host_looks(self, found_inf: torch.Tensor) -> bool:
        """On a GPU only for rules that do not look by themselves: it waits for the device."""
        alone = all(RULES[group["rule"]].on_device for group in self.param_groups)
        return found_inf.device.type == "cpu" or not alone

    def _tail(self, params: list[torch.Tensor]) -> None:
        for p in params:
            if self.clamp:
                p.clamp_(-self.clamp, self.clamp)
            if self.ema:
                self.state[p]["ema"].lerp_(p, self._weight(p))

    def _weight(self, p: torch.Tensor) -> torch.Tensor | float:
        if self.found_inf is None:
            return 1 - self.ema
        return ((1 - self.ema) * (1 - self.found_inf)).to(p.dtype)

    def fresh(self, p: torch.Tensor, group: dict, steps: int = 0) -> State:
        """The state of `p` in `group` after `steps` steps, with moments of 0 and an average of `p` itself."""
        rule = RULES[group["rule"]]
        step = torch.tensor(float(steps), device=p.device if rule.on_device else "cpu")
        average = {"ema": p.detach().clone()} if self.ema else {}
        return {"step": step, **{kind: m.detach() for kind, m in rule.fresh(p).items()}, **average}

    def moments(self, p: torch.Tensor) -> State:
        """What a checkpoint carries of the state of `p`: all but the count of steps."""
        return {kind: value for kind, value in self.state.get(p, {}).items() if kind != "step"}

    def steps(self) -> int:
        """How many steps were applied."""
        return max((int(state["step"]) for state in self.state.values()), default=0)


# ---- which parameter is in which group ---------------------------------------------------------------------


def decays(name: str, p: nn.Parameter) -> bool:
    """Weight decay is for matrices; not for norms, biases and embeddings."""
    return len(_shape(p)) > 1 and "embed" not in name and name.rpartition(".")[2] not in TABLES


TABLES = ("codebook", "scale", "shift")
"""Matrices that are embeddings by another name: of codes, and a norm's scale and shift of every class."""


def hidden_matrix(name: str, p: nn.Parameter) -> bool:
    """Whether Muon steps it: matrices between the embedding and the head, alone or stacked (experts)."""
    return len(_shape(p)) in (2, 3) and not any(word in name for word in OUTSIDE)


OUTSIDE = ("embed", "head", "score", "classif", "relative_attention_bias")
"""Words in the names of matrices that face tokens or labels: their rows are entries, not directions."""


def _shape(p: nn.Parameter) -> torch.Size:
    return getattr(p, "ds_shape", p.shape)  # ZeRO-3 leaves a split parameter one dimension and its shape here


def build(net: nn.Module, settings: Optim) -> Optimizer:
    """The optimiser of one network: parameters grouped by rule, decay and what the net says of their rates.

    A net may have methods `lr_scale(name) -> float` (muP) and `step_scale(name) -> float`, which the learning
    rate of that parameter is multiplied by, the latter under rules whose steps have a size of their own; each
    group keeps the product as `lr_scale`.
    """
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, p in net.named_parameters():
        if p.requires_grad:
            rule = "adamw" if settings.name == "muon" and not hidden_matrix(name, p) else settings.name
            decay = settings.weight_decay if decays(name, p) else 0.0
            groups.setdefault((rule, -decay, lr_scale(net, name, rule)), []).append(p)
    shared = {"betas": settings.betas, "eps": settings.eps, "momentum": settings.momentum}
    made = [
        {"params": params, "rule": rule, "weight_decay": -decay, "lr": settings.lr * scale, "lr_scale": scale}
        for (rule, decay, scale), params in sorted(groups.items(), key=lambda item: item[0])
    ]
    return Optimizer([{**group, **shared} for group in made], settings.clamp, settings.ema)


RELATIVE = ("adamw_rms", "adafactor")
"""Rules whose steps are a share of the parameter's size: what is small by design learns slowly by itself."""


def lr_scale(net: nn.Module, name: str, rule: str) -> float:
    """What the learning rate of parameter `name` is multiplied by: 1 for a net that does not say."""
    asked = ("lr_scale",) if rule in RELATIVE else ("lr_scale", "step_scale")
    return math.prod(getattr(net, method)(name) for method in asked if hasattr(net, method))


# ---- what cannot be ----------------------------------------------------------------------------------------

UNREAD = {
    "adamw": ("momentum",),
    "adamw_rms": ("momentum",),
    "lion": ("eps", "momentum"),
    "sgd": ("betas", "eps"),
    "adafactor": ("betas", "eps", "momentum"),
    "muon": (),
}
"""Settings that an optimiser does not read."""


def check(settings: Optim, parallel: Parallel) -> None:
    """ConfigError for an optimiser that would be wrong under this backend; a warning for unread settings."""
    if settings.name == "adafactor" and parallel.backend != "ddp":
        raise ConfigError(
            f"optim.name: adafactor needs whole matrices, and {parallel.backend} hands out flat shards (its "
            "steps would be silently wrong); use parallel.backend=ddp, or optim.name=adamw_rms"
        )
    for key in UNREAD[settings.name]:
        if getattr(settings, key) != Optim.model_fields[key].default:
            warn(f"optim.{key}: {settings.name} does not read it")
