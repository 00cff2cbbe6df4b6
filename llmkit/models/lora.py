"""Adapters on a net in memory, by peft: put on, switched, left out. The only file that imports it.

    inject(net, settings)      in place: the adapter and the head learn, all else is borrowed from the base
    Bare(net)                  the same net without its adapter, as a net of its own that takes no memory
    attach, use                several adapters side by side, by name

peft replaces linear layers by its own, which hold the old one as `base_layer`: the names in adapter.py.
"""

import contextlib
import warnings
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from llmkit.errors import CheckpointError, ConfigError
from llmkit.models.adapter import Adapter, canonical, is_magnitude, is_part
from llmkit.models.heads import trunk_of


def config(settings: Adapter, **more: Any) -> LoraConfig:
    """peft's description of an adapter; `more` are further fields of it."""
    given: dict[str, Any] = {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": settings.kind == "dora",
        "target_modules": settings.modules,
        "bias": "none",
    }
    return LoraConfig(**{**given, **more})


def inject(net: nn.Module, settings: Adapter) -> nn.Module:
    """Put an adapter on the text net that `net` is or ends in a head on; returns `net`.

    What learns from now on is the adapter and the head. `net.borrowed` names the other parameters, which are
    the base's; `net.adapter` is `settings`. The net may be on the meta device. ConfigError if no layer of it
    is one of `settings.modules`.
    """
    trunk = trunk_of(net)
    try:
        inject_adapter_in_model(config(settings), trunk, settings.name)
    except ValueError as error:
        if "arget modules" not in str(error):
            raise
        raise ConfigError(
            f"adapter.targets: a {type(trunk).__name__} has none of {', '.join(settings.modules)}; "
            "adapters are for text nets"
        ) from None
    if head := getattr(trunk, "value_head", None):  # which stands on the text net itself
        head.requires_grad_(True)
    net.adapter = settings
    net.borrowed = frozenset(name for name, p in net.named_parameters() if not p.requires_grad)
    net.init_param = partial(_init_param, net.init_param)
    return net


@torch.no_grad()
def _init_param(own: Any, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
    """A's entries are even in +-1/sqrt(in), B's are 0, so that nothing is added yet; the rest is the net's.

    DoRA's magnitudes are the lengths of the base's rows: whoever fills the base sets them (engine/start.py).
    """
    if ".lora_A." in name:
        bound = p.shape[1] ** -0.5
        p.copy_(torch.empty(p.shape, device="cpu").uniform_(-bound, bound, generator=generator))
    elif ".lora_B." in name:
        nn.init.zeros_(p)
    elif is_magnitude(name):
        nn.init.ones_(p)
    else:
        own(canonical(name), p, generator)


# ---- without, and several ----------------------------------------------------------------------------------


def layers(net: nn.Module) -> list[BaseTunerLayer]:
    """The layers of `net` that adapters are on."""
    return [module for module in net.modules() if isinstance(module, BaseTunerLayer)]


@contextlib.contextmanager
def without(net: nn.Module):
    """`net` computes what its base computes, inside.

    peft's own switch freezes the adapter as well, which an engine that has hooks on it would notice.
    """
    there = layers(net)
    for layer in there:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in there:
            layer._disable_adapters = False


class Bare(nn.Module):
    """A net without its adapter: the reference of a preference or policy loss, with no weights of its own."""

    def __init__(self, net: nn.Module):
        super().__init__()
        object.__setattr__(self, "_net", net)  # not registered: it has no parameters, and trains nobody
        self.settings = net.settings

    def hidden(self, *args: Any, **kwargs: Any) -> Tensor:
        with without(self._net):
            return self._net.hidden(*args, **kwargs)

    def logits(self, hidden: Tensor) -> Tensor:
        with without(self._net):
            return self._net.logits(hidden)

    def nll(self, *args: Any, **kwargs: Any) -> Tensor:
        with without(self._net):
            return self._net.nll(*args, **kwargs)


@torch.no_grad()
def attach(net: nn.Module, settings: Adapter, tensors: dict[str, Tensor]) -> None:
    """Put one more adapter on `net` with the weights `tensors`, by their names in a checkpoint; see `use`.

    CheckpointError if they are not those of such an adapter.
    """
    trunk = trunk_of(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is one already
        inject_adapter_in_model(config(settings), trunk, settings.name)
    mine = {
        canonical(name): p
        for name, p in net.named_parameters()
        if is_part(name) and f".{settings.name}.weight" in name
    }
    if missing := sorted(mine.keys() ^ {name for name in tensors if is_part(name)}):
        raise CheckpointError(f"adapter {settings.name}: its tensors do not fit the net: {missing[0]}")
    for name, p in mine.items():
        p.copy_(tensors[name])


def use(net: nn.Module, name: str | None) -> None:
    """Let `net` compute with the adapter called `name` alone; None: with none."""
    for layer in layers(net):
        layer._disable_adapters = name is None
        if name is not None:
            layer.set_adapter(name, inference_mode=True)
