"""Bytes of tensors that are alive, operator by operator: of real tensors, or of fake ones for a plan."""

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Live(TorchDispatchMode):
    """While it is entered, `now` and `peak` follow the storages that operators make. Workspaces are not seen.

    `flops` counts their products (torch's FlopCounterMode would keep recomputed activations alive);
    `peak_logits` is what was tensors whose last dimension is `vocab` at the time of the peak.
    """

    def __init__(self, already: Iterable[torch.Tensor] = (), vocab: int | None = None):
        super().__init__()
        self.now = self.peak = self.peak_logits = self._logits = self.flops = 0
        self._vocab = vocab
        self._known: set[int] = set()
        for tensor in already:
            self.add(tensor)

    def add(self, tensor: torch.Tensor) -> None:
        """Count the storage of `tensor` until it is freed."""
        if tensor.device.type == "meta":
            return  # a shape without numbers
        storage = tensor.untyped_storage()
        if (key := id(storage)) in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        logits = size if self._vocab and tensor.ndim and tensor.shape[-1] == self._vocab else 0
        if tensor.ndim == 2 and tensor.shape[0] == self._vocab:
            logits = 0  # the output matrix, or its gradient
        self.now += size
        self._logits += logits
        weakref.finalize(storage, self._freed, key, size, logits)
        if self.now > self.peak:
            self.peak, self.peak_logits = self.now, self._logits

    def _freed(self, key: int, size: int, logits: int) -> None:
        self._known.discard(key)
        self.now -= size
        self._logits -= logits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return out
