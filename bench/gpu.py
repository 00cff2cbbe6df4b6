"""MFU and tokens/s of llmkit's decoder on this GPU: 124M to 3B at T 2048, compiled or not, recomputed or not.

    python bench/gpu.py [--sizes 124M 350M 1B 3B] [--rows 8]
    python bench/gpu.py --quick           a tiny net, on a CPU too: that the bench itself runs

Real engine steps (ddp backend of one rank, bf16 autocast, fused AdamW, clipping) on random tokens; the first
three are dropped. MFU is the model FLOPs of a step over seconds times the data sheet's dense bf16 peak;
"unknown" where the peak is not known. The last column names the attention kernels that the profiler saw, as
proof of what ran.
"""

import argparse
import time

import torch

from llmkit import dist, registry
from llmkit.engine.backend import denominators
from llmkit.engine.backend_ddp import Ddp
from llmkit.engine.recipe import Optim, Parallel
from llmkit.models import size
from llmkit.models.decoder import Settings
from llmkit.models.heads import build
from llmkit.objectives.phase import add

SIZES = {
    "124M": {"width": 768, "layers": 12, "heads": 12, "vocab_size": 50_304},
    "350M": {"width": 1024, "layers": 24, "heads": 16, "vocab_size": 50_304},
    "1B": {"width": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "mlp_dim": 8192, "vocab_size": 128_256},
    "3B": {"width": 3072, "layers": 28, "heads": 24, "kv_heads": 8, "mlp_dim": 8192, "vocab_size": 128_256},
    "quick": {"width": 64, "layers": 2, "heads": 2, "vocab_size": 512},
}


def steps(shape: dict, rows: int, T: int, compiled: bool, recompute: str, count: int):
    """-> (settings, median seconds of a step, peak GiB, kernels)"""
    settings = Settings(**shape, context=T, recompute=recompute)
    causal = registry.find("objective", "causal")
    objective, (phase,) = causal(causal.Settings()), causal.phases
    with torch.device("meta"):
        net = build(settings)
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    parallel = Parallel(backend="ddp", precision=precision, compile="off")
    engine = Ddp(objective, {"model": net}, {"model": Optim()}, parallel, 1)
    if compiled:
        net.compile()
    tokens = torch.randint(settings.vocab_size, (rows, T))
    batch = {"tokens": tokens, "segments": torch.ones(rows, T, dtype=torch.int32), "labels": tokens}
    group = engine.place([batch])
    seconds, kernels = [], set()
    for step in range(count + 3):
        with torch.profiler.profile() if step == 2 else _Nothing() as seen:
            start = time.perf_counter()
            engine.begin(phase, step, 1.0)
            total = denominators(engine.total(add(objective.count(phase, b) for b in group)))
            engine.micro(phase, group[0], total, last=True)
            float(engine.step(phase).grad_norm)
            seconds.append(time.perf_counter() - start)
        if step == 2:
            names = {event.key for event in seen.key_averages()}
            kernels = {n for n in names if any(w in n.lower() for w in ("flash", "flex", "efficient_att"))}
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if torch.cuda.is_available() else "unknown"
    engine.close()
    return settings, sorted(seconds[3:])[count // 2], peak, kernels


class _Nothing:
    def __enter__(self):
        return None

    def __exit__(self, *what):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["124M", "350M", "1B", "3B"], choices=SIZES)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    sizes, T, count = (["quick"], 128, 2) if given.quick else (given.sizes, 2048, given.steps)
    dist.start("auto", 600, group=False)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{name}, torch {torch.__version__}, {given.rows} rows of {T}\n")
    print("| size | compile | recompute | ms/step | tokens/s | MFU | peak, GiB | attention |")
    print("|---|---|---|---|---|---|---|---|")
    for label in sizes:
        for compiled in (False, True):
            for recompute in ("none", "selective", "full"):
                torch._dynamo.reset()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                row = f"| {label} | {'yes' if compiled else 'no'} | {recompute} |"
                try:
                    s, step, peak, kernels = steps(SIZES[label], given.rows, T, compiled, recompute, count)
                except torch.OutOfMemoryError:
                    print(f"{row} out of memory |||||", flush=True)
                    continue
                rate = given.rows * T / step
                mfu = size.utilisation(s, T, rate, name)
                shown = f"{mfu:.1%}" if mfu else "unknown"
                seen = ", ".join(sorted(k.split("::")[-1][:40] for k in kernels)[:2]) or "plain"
                print(f"{row} {step * 1e3:,.1f} | {rate:,.0f} | {shown} | {peak} | {seen} |", flush=True)
    dist.stop()


if __name__ == "__main__":
    main()
