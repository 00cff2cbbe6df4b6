"""The numbers of a plan's tensors, where they follow from the batch alone: which positions have a label.

batch ─► labels != -100 ─► nonzero ─► 37 rows of the head          numbers are carried along
batch ─► embedding ─► layers ─► ...                                shapes are
"""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

MOST = 1 << 20
"""Elements of a tensor whose numbers are carried along: a micro-batch has fewer, activations have more."""

_INDEXED = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
_CONSTANT = (
    torch.ops.aten.arange, torch.ops.aten.full, torch.ops.aten.ones, torch.ops.aten.zeros,
    torch.ops.aten.linspace, torch.ops.aten.scalar_tensor,
)  # fmt: skip


class Known(TorchDispatchMode):
    """While it is entered above `mode`, shapes and branches that hang on the numbers of a batch are found."""

    def __init__(self, mode: FakeTensorMode):
        super().__init__()
        self._mode, self._numbers = mode, WeakIdKeyDictionary()

    def tell(self, fake: Tensor, real: Tensor) -> None:
        """`fake` has the numbers of `real`."""
        self._numbers[fake] = real

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        real = self._computed(func, args, kwargs)
        tags = func.tags
        if real is not None and torch.Tag.data_dependent_output in tags:
            return real
        if real is not None and torch.Tag.dynamic_output_shape in tags:
            out = tree_map(lambda x: self._mode.from_tensor(x) if isinstance(x, Tensor) else x, real)
        else:
            out = func(*self._counted(func, args), **kwargs)
        if real is not None:
            for fake, found in zip(tree_leaves(out), tree_leaves(real), strict=True):
                if isinstance(fake, FakeTensor) and found.numel() <= MOST:
                    self._numbers[fake] = found
        return out

    def _computed(self, func, args, kwargs) -> Any:
        """The result in numbers, or None where they are not known, random or too many."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = [self._known(x) for x in tensors]
        constant = not tensors and func._overloadpacket in _CONSTANT
        if not (tensors or constant) or any(x is None for x in known):
            self._forget(func, args)
            return None
        if torch.Tag.nondeterministic_seeded in func.tags or func.namespace != "aten":
            return None
        with _disable_current_modes(), torch.no_grad():
            return func(*tree_map(self._known, args), **tree_map(self._known, kwargs))

    def _known(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if isinstance(x, FakeTensor):
            return self._numbers.get(x)
        return x if x.device.type != "meta" and x.numel() <= MOST else None

    def _forget(self, func, args) -> None:
        """What is written with numbers that are not known has none any more."""
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write and isinstance(value, Tensor):
                self._numbers.pop(value, None)

    def _counted(self, func, args) -> tuple:
        """`args` with the places that a mask lets through instead of the mask."""
        if func._overloadpacket not in _INDEXED:
            return args
        places: list[Tensor | None] = []
        for index in args[1]:
            found = self._numbers.get(index) if isinstance(index, FakeTensor) else index
            if found is None or found.dtype not in (torch.bool, torch.uint8):
                places.append(index)
            else:
                with _disable_current_modes():
                    each = found.nonzero(as_tuple=True)
                places += map(self._mode.from_tensor, each)
        return (args[0], places, *args[2:])
