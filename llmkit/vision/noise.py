"""Random numbers as arithmetic: a function of (the row's key, a purpose, a counter), the same on any rank.

    key (B,) int64 ─► splitmix64(key + purpose + counter * odd) ─► 64 bits ─► uniform | normal | integer

A generator per row would cost more than the networks do; a generator per batch would make the draws depend on
which rows share it. The arithmetic is that of 64-bit integers that wrap around, so a GPU draws the same bits.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from llmkit.splitmix import FACTORS, ODD, mixed

_ODD = ODD - (1 << 64)
_MIX = tuple(factor - (1 << 64) for factor in FACTORS)


def keys(seed: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The keys of `count` rows that come from no dataset: (count,) int64."""
    return bits(torch.tensor([seed], device=device), "keys", (count,))[0]


def bits(key: Tensor, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """64 random bits for each element: (B,) keys -> (B, *shape) int64 (splitmix64, Steele et al. 2014).

    numpy has them in a quarter of torch's time on a CPU.
    """
    salt = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little", signed=True)
    if key.device.type == "cpu" and type(key) is Tensor:  # a plan computes with tensors without numbers
        odd = np.uint64(ODD)
        start = mixed((key ^ salt).numpy().view(np.uint64) - odd)[:, None]
        found = mixed(start + np.arange(math.prod(shape), dtype=np.uint64) * odd)
        return torch.from_numpy(found.view(np.int64)).view(-1, *shape)
    start = _mix(key ^ salt)[:, None]
    counter = torch.arange(1, math.prod(shape) + 1, device=key.device)
    return _mix(start + counter * _ODD).view(-1, *shape)


def uniform(key: Tensor, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
    """(B,) keys -> (B, *shape) fp32 in [0, 1), multiples of 2**-24."""
    return _shifted(bits(key, purpose, shape), 40).float() * 2.0**-24


def normal(key: Tensor, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """(B,) keys -> (B, *shape) fp32 from N(0, 1) (Box & Muller 1958); the largest possible value is 5.9."""
    count = math.prod(shape)
    drawn = bits(key, purpose, ((count + 1) // 2,))
    radius = (-2 * ((_shifted(drawn, 40).float() + 0.5) * 2.0**-24).log()).sqrt()
    angle = (_shifted(drawn, 16) & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].reshape(-1, *shape)


def integers(key: Tensor, purpose: str, count: int) -> Tensor:
    """(B,) keys -> (B,) int64 in range(count)."""
    return _shifted(bits(key, purpose, (1,))[:, 0], 1) % count


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _MIX[0]
    x = (x ^ _shifted(x, 27)) * _MIX[1]
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """A logical shift to the right: torch's keeps the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)
