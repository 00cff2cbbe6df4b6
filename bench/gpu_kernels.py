"""What torch.compile makes of llmkit's nets for an H200, on a machine without one: compiled, not run.

    pip install triton==3.7.1
    python -m bench.gpu_kernels [--only 1B]

The training graphs of one layer of each net, in bf16 at the shapes of bench/gpu.py and of the recipes, go
through Inductor and Triton to machine code of sm_90. A layer of each side, and the loss behind a decoder,
make two graphs, forward and backward; more would be a graph break. Of FlexAttention's kernels it says what
they take: KiB of shared memory a block, of which an H200 gives 227; registers a thread, of which there are
255; bytes that a thread spills. An H200's properties are from NVIDIA's CUDA C++ Programming Guide and its
data sheet.
"""

import argparse
import copy
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes import fuse_attention
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver

from llmkit import registry
from llmkit.models import heads
from tests.gpu import device

BASE = {"width": 768, "heads": 12}
LARGE = {"kv_heads": 8, "mlp_dim": 8192, "vocab_size": 128_256}
NETS = {
    "124M": ("decoder", 16, 2048, BASE | {"vocab_size": 50_304}),
    "1B": ("decoder", 4, 2048, LARGE | {"width": 2048, "heads": 32}),
    "3B": ("decoder", 4, 2048, LARGE | {"width": 3072, "heads": 24}),
    "1B, all recomputed": ("decoder", 4, 2048, LARGE | {"width": 2048, "heads": 32, "recompute": "full"}),
    "window, caps, QK-norm": (
        "decoder", 4, 2048,
        LARGE | {"width": 2048, "heads": 16, "window": 512, "qk_norm": True, "attention_cap": 50.0},
    ),
    "8 experts": (
        "decoder", 8, 2048, {"width": 1024, "heads": 8, "experts": 8, "mlp_dim": 512, "vocab_size": 32_000},
    ),
    "ModernBERT base": (
        "encoder", 32, 1024, BASE | {"style": "modernbert", "layers": 2, "vocab_size": 50_304},
    ),
    "BERT base": ("encoder", 32, 512, BASE | {"style": "bert", "vocab_size": 30_522}),
    "T5 base": ("encdec", 32, 512, BASE | {"style": "t5", "vocab_size": 32_128}),
    "BART base": ("encdec", 32, 512, BASE | {"style": "bart", "vocab_size": 50_265}),
}  # fmt: skip
"""Name -> model, rows, tokens of a row, shape. ModernBERT's two layers see all, and a window."""

H200 = SimpleNamespace(
    name="NVIDIA H200", major=9, minor=0, multi_processor_count=132, total_memory=141 << 30, warp_size=32,
    regs_per_multiprocessor=65_536, max_threads_per_multi_processor=2048, max_threads_per_block=1024,
    shared_memory_per_block=49_152, shared_memory_per_block_optin=232_448,
    shared_memory_per_multiprocessor=233_472, L2_cache_size=50 << 20, memory_clock_rate=3_201_000,
    memory_bus_width=6144, clock_rate=1_980_000, gcnArchName="", is_integrated=0, is_multi_gpu_board=0,
)  # fmt: skip
USED = re.compile(r"(REG|STACK):(\d+)")


class Driver:
    """Triton's, of a device that is not there."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def get_active_torch_device(self):
        return torch.device("cuda", 0)

    def get_device_interface(self):
        return torch.cuda


def pretend() -> None:
    """Tell torch and Triton that an H200 is there; nothing must run on it."""
    answers = {
        "_lazy_init": None, "is_available": True, "device_count": 1, "current_device": 0, "set_device": None,
        "get_device_properties": H200, "get_device_capability": (9, 0), "get_device_name": H200.name,
        "is_bf16_supported": True, "synchronize": None, "is_initialized": True, "_is_compiled": True,
        "_exchange_device": 0, "_maybe_exchange_device": 0, "set_rng_state": None,
    }  # fmt: skip
    inner = {
        "_cuda_getCurrentRawStream": 0, "_cuda_exchangeDevice": 0, "_cuda_maybeExchangeDevice": 0,
        "_cuda_getDeviceCount": 1, "_cuda_getDevice": 0, "_cuda_getArchFlags": "sm_90",
    }  # fmt: skip
    for place, known in ((torch.cuda, answers), (torch._C, inner)):
        for name, answer in known.items():
            setattr(place, name, lambda *args, _answer=answer, **kwargs: _answer)
    torch.cuda.get_rng_state = torch.cuda.random.get_rng_state = lambda *device: torch.get_rng_state()
    torch.cuda.random.set_rng_state = torch.cuda.set_rng_state
    torch.cuda._get_device_properties = lambda device: H200
    torch.version.cuda = "13.0"
    torch._C._set_only_lift_cpu_tensors(True)
    driver.set_active(Driver())
    triton_helpers.set_driver_to_gpu = lambda: None
    CompiledKernel._init_handles = lambda kernel: None  # would load it onto the device
    fuse_attention._sfdp_init = lambda *device: None  # traces patterns with tensors of the device
    config.compile_threads = 1
    config.use_static_cuda_launcher = False


class Compiler:
    """Inductor up to machine code; what is called afterwards are the graphs themselves, on fake tensors."""

    def __init__(self):
        self.kernels: list[tuple[str, int, int, int]] = []
        """Name, bytes of shared memory, registers, spilled bytes."""
        self.graphs = 0
        triton_heuristics.CachingAutotuner.precompile = lambda kernel, *_, **__: self.finish(kernel)
        self.backend = aot_autograd(
            fw_compiler=lambda graph, inputs: self.compile(graph, inputs, False),
            bw_compiler=lambda graph, inputs: self.compile(graph, inputs, True),
            partition_fn=min_cut_rematerialization_partition,
            decompositions=select_decomp_table(),
        )

    def compile(self, graph, inputs, backward: bool):
        compile_fx_inner(copy.deepcopy(graph), inputs, is_backward=backward)
        self.graphs += 1
        return make_boxed_func(graph.forward)

    def finish(self, kernel) -> None:
        """Compile what Triton would otherwise load onto the device too."""
        for each in kernel.configs:
            made = kernel._precompile_config(each).kernel
            self.kernels.append((kernel.fn.__name__, made.metadata.shared, *resources(made.asm["cubin"])))


def resources(code: bytes) -> tuple[int, int]:
    """-> (registers, bytes of the stack) of a thread, as cuobjdump reads them."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [tool, "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(USED.findall(said))
    return int(found["REG"]), int(found["STACK"])


def train(model: str, rows: int, T: int, shape: dict) -> None:
    """Forward and backward of a compiled net on fake tensors."""
    size = {"layers": 1, "context": T, **({"decoder_layers": 1} if model == "encdec" else {})}
    settings = registry.find("model", model).Settings(**(size | shape))
    with torch.device("meta"):
        net = heads.build(settings, "lm")
    with FakeTensorMode(allow_non_fake_inputs=True):
        net.to_empty(device="cuda")
        net.compile()
        tokens = torch.zeros(rows, T, dtype=torch.int64, device="cuda")
        segments = torch.ones(rows, T, dtype=torch.int32, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            if model == "encoder":  # how many positions have a label is not known here
                share = net.hidden(tokens, segments).float().sum()
            elif model == "encdec":
                share = net.nll(tokens, segments, tokens, source=tokens, source_segments=segments).sum()
            else:
                share = net.nll(tokens, segments, tokens).sum()
        share.backward()


def attention(kernels, backward: bool) -> str:
    """What FlexAttention's kernels of one side take."""
    flex = [k for k in kernels if k[0].startswith("triton_tem_") and "flex_attention" in k[0]]
    wanted = {k[1:] for k in flex if ("backward" in k[0]) == backward}
    return (
        "; ".join(f"{shared / 1024:.0f}, {regs}, {spilled}" for shared, regs, spilled in sorted(wanted))
        or "none"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="nets whose name contains this")
    given = parser.parse_args()
    if "LD_PRELOAD" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "bench.gpu_kernels", *sys.argv[1:]]
            sys.exit(subprocess.call(command, env=device.environment(Path(folder))))
    pretend()
    plain = torch.compile
    print(f"torch {torch.__version__}, Triton {triton.__version__}, sm_90\n")
    print("| net | graphs | kernels | seconds | Flex forward: KiB, registers, spilled | backward |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, net in NETS.items():
        if given.only not in name:
            continue
        compiler, start = Compiler(), time.perf_counter()
        torch._dynamo.reset()
        torch.compile = lambda f, backend=compiler.backend, **_: plain(f, backend=backend, dynamic=False)
        train(*net)
        kernels, seconds = compiler.kernels, time.perf_counter() - start
        counts = f"{compiler.graphs} | {len(kernels)} | {seconds:.0f}"
        print(f"| {name} | {counts} | {attention(kernels, False)} | {attention(kernels, True)} |", flush=True)


if __name__ == "__main__":
    main()
