"""A GPU that is not there: tensors that call themselves cuda:0, compute on the CPU, and mix with none of its.

    llmkit ── op(cuda:0 tensors) ──► Gpu, a dispatch mode: do the devices fit? would the host wait?
                                      └─► op(what they hold, on the CPU) ──► wrapped again

What fails on a GPU for want of a `.to(device)` fails here too: an operation refuses CPU tensors beside GPU
tensors as CUDA does, and a generator of the other device. `Gpu.waits` counts what makes the host wait for the
device. Values are the CPU's own, so that they can be compared. Not here: kernels, memory, streams, several
GPUs, torch.compile.

torch has to find the hooks of device.cpp when it starts: `environment` is that of such a process, in which
`pretend` then deceives torch.cuda too.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++")
PACKAGE = f"{Path(__file__).parents[2] / 'llmkit'}{os.sep}"


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process for which this GPU is there; compiles device.cpp into `folder`."""
    compiler = next(filter(shutil.which, COMPILERS))
    root, library = Path(torch.__file__).parent, folder / "device.so"
    flags = [
        "-std=c++20",
        "-O0",
        "-shared",
        "-fPIC",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]
    places = [f"-I{root}/include", f"-L{root}/lib"]
    source = str(Path(__file__).with_name("device.cpp"))
    command = [compiler, *flags, *places, source, "-o", str(library), "-lc10", "-ltorch_cpu"]
    subprocess.run(command, check=True)
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": f"{root}/lib",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }


class GpuTensor(torch.Tensor):
    """A tensor on the GPU that is not there; its values are in `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        assert type(held) is torch.Tensor, f"{type(held)} is neither here nor there"
        shape, layout = held.shape, (held.stride(), held.storage_offset())
        made = torch.Tensor._make_wrapper_subclass(cls, shape, *layout, dtype=held.dtype, device=GPU)
        made.held = held
        return made

    def __repr__(self):
        return f"GpuTensor({self.held})"

    def tolist(self):
        """torch's own reads the memory, which is not there."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return Call(op, args, kwargs or {}).carry_out()


class Gpu(TorchDispatchMode):
    """While it is entered, what is made with device="cuda" is a GpuTensor.

    `waits`: "operation @ file:function", of llmkit's innermost function -> how often the host waited there.
    """

    current: "Gpu | None" = None

    def __enter__(self):
        self.waits: Counter[str] = Counter()
        Gpu.current = self
        return super().__enter__()

    def __exit__(self, *raised):
        Gpu.current = None
        return super().__exit__(*raised)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return Call(op, args, kwargs or {}).carry_out()


COPIES = ("_to_copy", "copy_")
WAITING = (
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount",
    "_linalg_check_errors", "_unique", "_unique2", "unique_dim", "unique_consecutive",
)  # fmt: skip
"""Operations whose values or whose result's shape the host must know before it can go on."""
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
"""Operations that take indices from the CPU too, and wait for the number of ones in a mask."""


class Call:
    """One operation: where its tensors are and where its result will be."""

    def __init__(self, op, args: tuple, kwargs: dict[str, Any]):
        self.op, self.args, self.kwargs = op, args, kwargs
        self.name = op.name().removeprefix("aten::").partition(".")[0]
        self.leaves = leaves((args, kwargs))
        self.tensors = [x for x in self.leaves if isinstance(x, torch.Tensor)]
        self.written = self._written() if op._schema.is_mutable else []
        self.on_gpu = self._lands()

    def _written(self) -> list[torch.Tensor]:
        arguments = self.op._schema.arguments
        named = dict(zip((a.name for a in arguments), self.args)) | self.kwargs
        return leaves([named.get(a.name) for a in arguments if a.alias_info and a.alias_info.is_write])

    def _lands(self) -> bool:
        asked = self.kwargs.get("device")
        if asked is not None:
            return torch.device(asked).type == "cuda"
        return any(isinstance(x, GpuTensor) for x in self.written or self.tensors)

    def carry_out(self):
        """The operation on the CPU. RuntimeError if the devices do not fit."""
        self._check()
        if Gpu.current and self._waits():
            Gpu.current.waits[f"{self.name} @ {_asker()}"] += 1
        args, kwargs = mapped(_held, (self.args, self.kwargs))
        pinned = kwargs.pop("pin_memory", False)
        if self.on_gpu and kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        out = self.op(*args, **kwargs)
        if self.on_gpu and torch.Tag.inplace_view in self.op.tags:  # t_, squeeze_: the wrapper's shape too
            with no_dispatch():
                self.op(*self.args, **self.kwargs)
        if pinned:
            out.pinned = True
        passed = {id(_held(x)): x for x in self.tensors}
        return mapped(lambda x: self._seen(x, passed), out)

    def _seen(self, x, passed: dict[int, torch.Tensor]):
        """A result as the caller sees it: one of the tensors `passed` in, if it is that."""
        if not isinstance(x, torch.Tensor):
            return x
        same = passed.get(id(x))
        if same is None:
            return GpuTensor(x) if self.on_gpu else x
        assert same.shape == x.shape, f"{self.op}: the wrapper has another shape than what it holds"
        return same

    def _check(self) -> None:
        if self.on_gpu and any(isinstance(x, torch.Generator) for x in self.leaves):
            raise RuntimeError(f"{self.op}: a generator of the CPU beside cuda:0")
        if self.name in COPIES or not any(isinstance(x, GpuTensor) for x in self.tensors):
            return
        indices = [x for x in self.args[1] if x is not None] if self.name in INDEXING else []
        strange = [
            list(x.shape)
            for x in self.tensors
            if not isinstance(x, GpuTensor)
            and (x.ndim or _among(x, self.written))  # CUDA takes a 0-d CPU tensor as a number
            and not _among(x, indices)
        ]
        if strange:
            raise RuntimeError(f"{self.op}: cuda:0 beside cpu tensors of shapes {strange}")

    def _waits(self) -> bool:
        if self.name in COPIES:
            return self._copy_waits()
        if not any(isinstance(x, GpuTensor) for x in self.tensors):
            return False
        if self.name in INDEXING:
            return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in self.args[1])
        if self.name == "repeat_interleave":
            return self.kwargs.get("output_size") is None
        return self.name in WAITING

    def _copy_waits(self) -> bool:
        """A copy across waits unless it is asked not to; one to the host unless its memory is pinned too."""
        within = self.name == "copy_"
        source = self.args[1 if within else 0]
        if isinstance(source, GpuTensor) == self.on_gpu:
            return False
        free = self.kwargs.get("non_blocking") or (within and len(self.args) > 2 and self.args[2])
        return not free or (within and not self.on_gpu and not hasattr(self.args[0], "pinned"))


def mapped(function: Callable, tree):
    """`function` of every leaf of nested tuples, lists and dicts. torch's own takes any class, and longer."""
    if isinstance(tree, dict):
        return {key: mapped(function, value) for key, value in tree.items()}
    return type(tree)(mapped(function, x) for x in tree) if type(tree) in (tuple, list) else function(tree)


def leaves(tree) -> list:
    """The leaves of nested tuples, lists and dicts."""
    found: list = []
    mapped(found.append, tree)
    return found


def _held(x):
    return x.held if isinstance(x, GpuTensor) else x


def _among(x, others: list) -> bool:
    """`in` by identity: == of tensors is another tensor."""
    return any(x is other for other in others)


def _asker() -> str:
    """file:function of llmkit's innermost function; `elsewhere` without one, as in a backward pass."""
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "elsewhere"
    function = frame.f_code.co_qualname.partition(".<locals>")[
        0
    ]  # a comprehension is one of its own until 3.12
    return f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{function}"


class Event:
    """torch.cuda.Event: what it waits for has happened already."""

    def __init__(self, **options):
        pass

    def record(self, stream=None) -> None:
        pass

    def synchronize(self) -> None:
        pass


def synchronize(device=None) -> None:
    """torch.cuda.synchronize: nothing is under way, but the host has waited."""
    if Gpu.current:
        Gpu.current.waits[f"synchronize @ {_asker()}"] += 1


def _no_grad(mode: bool = True):
    """torch.inference_mode: in the real one operations arrive in other pieces, and wrappers have no views."""
    return torch.no_grad() if mode else contextlib.nullcontext()


def pretend() -> None:
    """Tell torch's Python side that the GPU is there."""
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(x, device="cuda") makes x here, then moves it
    torch.__future__.set_swap_module_params_on_conversion(True)  # net.to(device) swaps whole tensors
    torch.inference_mode = _no_grad
    torch.Tensor.pin_memory = lambda tensor, *device: tensor
    answers = {
        "_lazy_init": None, "is_available": True, "device_count": 1, "current_device": 0, "set_device": None,
        "is_bf16_supported": True, "manual_seed": None, "max_memory_allocated": 1 << 30,
        "get_device_name": "NVIDIA H200",
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, _answer=answer, **kwargs: _answer)
    torch.cuda.Event, torch.cuda.synchronize = Event, synchronize
