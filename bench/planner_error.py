"""How far the planner is from what real runs hold: bytes of tensors counted while training on a CPU.

    python bench/planner_error.py [--ranks 2] [--only zero2]

Each row trains three steps on real tensors with the real backends (DDP, DeepSpeed ZeRO 1-3) and counts every
storage that an operator makes, from the empty process on; beside it the plan, made from fake tensors. None of
the rows was used to make the plan's formulas. Prints a Markdown table; the one measured last is in
planner_error.md. On a GPU the run itself prints the comparison with max_memory_allocated after step 2.
"""

import argparse
import gc
import os
import random

import torch
import torch.multiprocessing

SMALL = {"width": 192, "layers": 3, "heads": 6, "context": 96, "vocab_size": 700}
DEEP = {"width": 96, "layers": 8, "heads": 4, "kv_heads": 2, "context": 128, "vocab_size": 300, "tie": False}
WIDE = {"width": 320, "layers": 2, "heads": 5, "context": 48, "vocab_size": 3000}
CASES = [
    ("ddp", "adamw", 1, 6, SMALL), ("ddp", "adamw", 3, 2, DEEP | {"recompute": "full"}),
    ("ddp", "lion", 1, 4, WIDE), ("ddp", "muon", 2, 3, SMALL | {"recompute": "selective"}),
    ("ddp", "adafactor", 1, 2, DEEP), ("ddp", "adamw_rms", 2, 2, WIDE),
    ("zero1", "adamw", 1, 4, SMALL), ("zero1", "adamw", 2, 3, WIDE), ("zero1", "lion", 1, 2, DEEP),
    ("zero2", "adamw", 1, 4, SMALL), ("zero2", "adamw", 2, 3, WIDE),
    ("zero2", "adamw", 1, 2, DEEP | {"recompute": "full"}),
    ("zero3", "adamw", 1, 4, SMALL), ("zero3", "adamw", 2, 3, WIDE),
    ("zero3", "lion", 1, 2, DEEP | {"recompute": "selective"}),
    ("zero1 offload=optimizer", "adamw", 1, 4, SMALL), ("zero1 offload=optimizer", "lion", 2, 2, DEEP),
    ("zero2 offload=optimizer", "adamw", 1, 3, WIDE), ("zero2 offload=optimizer", "adamw", 2, 4, DEEP),
    ("zero3 offload=optimizer", "adamw", 1, 4, SMALL), ("zero3 offload=params", "adamw", 2, 3, WIDE),
    ("zero1 weights=bf16", "adamw", 1, 4, SMALL), ("zero2 weights=bf16", "adamw", 2, 3, DEEP),
    ("zero2 weights=bf16", "lion", 1, 2, WIDE), ("zero3 weights=bf16", "adamw", 1, 4, SMALL),
    ("zero1 weights=bf16 offload=optimizer", "adamw", 2, 2, DEEP),
    ("zero2 weights=bf16 offload=optimizer", "adamw", 1, 4, SMALL),
    ("zero3 weights=bf16 offload=params", "adamw", 1, 3, WIDE),
]  # fmt: skip
"""(backend and other keys of `parallel`, optimiser, micro-batches, rows of one, model)"""


def parallel(layout: str) -> dict[str, str]:
    """The keys of `parallel` that a case names."""
    backend, *others = layout.split()
    return {"backend": backend, "precision": "fp32", "compile": "off", **dict(o.split("=") for o in others)}


def count(layout: str, optimiser: str, accumulate: int, rows: int, shape: dict) -> int:
    """The largest number of bytes alive during the third step of a run on this rank."""
    from llmkit import registry
    from llmkit.engine.backend import denominators
    from llmkit.engine.backend_ddp import Ddp
    from llmkit.engine.backend_zero import Zero
    from llmkit.engine.live import Live
    from llmkit.engine.recipe import Optim, Parallel
    from llmkit.models.decoder import Settings
    from llmkit.models.heads import build
    from llmkit.objectives.phase import add

    causal = registry.find("objective", "causal")
    objective, (phase,) = causal(causal.Settings()), causal.phases
    settings = Parallel(**parallel(layout))
    gc.collect()
    with Live() as live:
        with torch.device("meta"):
            net = build(Settings(**shape))
        engine = (Ddp if settings.backend == "ddp" else Zero)(
            objective, {"model": net}, {"model": Optim(name=optimiser)}, settings, 1
        )
        for step in range(3):
            live.peak = live.now
            tokens = torch.randint(shape["vocab_size"], (accumulate, rows, shape["context"]))
            segments = torch.ones(tokens.shape[1:], dtype=torch.int32)
            group = [{"tokens": t, "segments": segments, "labels": t} for t in tokens]
            engine.begin(phase, step, 1.0)
            total = denominators(engine.total(add(objective.count(phase, batch) for batch in group)))
            for i, batch in enumerate(group):
                engine.micro(phase, batch, total, last=i + 1 == len(group))
            engine.step(phase)
    engine.close()
    return live.peak


def planned(parts: str, optimiser: str, accumulate: int, rows: int, shape: dict, world: int) -> int:
    """What the planner says of the same, the host's part included."""
    from llmkit.engine import plan
    from llmkit.engine.recipe import TrainRecipe

    recipe = TrainRecipe.model_validate({
        "run": {"steps": 3}, "model": {"name": "decoder", **shape}, "objective": {"name": "causal"},
        "data": {"name": "tokens", "shards": "none", "seq_len": shape["context"]},
        "optim": {"name": optimiser}, "batch": {"rows": world * rows * accumulate},
        "parallel": parallel(parts),
    })  # fmt: skip
    backend, offload = recipe.parallel.backend, recipe.parallel.offload
    layout = plan.Layout(backend, world, rows, accumulate, offload=offload)
    found = plan.predict(recipe, None, layout, bf16=False)[0]
    return found["total"] + found["host"]  # on a CPU both are one memory


def rank(index: int, world: int, port: int, only: str) -> None:
    """One process of the measurement."""
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({key: str(value) for key, value in place.items()})
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    from llmkit import dist

    dist.start("cpu", 120, group=True)
    worst = 0.0
    for case in [case for case in CASES if only in case[0]]:
        found = count(*case)
        if index == 0:
            said = planned(*case, world)
            worst = max(worst, abs(said / found - 1), key=abs)
            layout, optimiser, accumulate, rows, shape = case
            model = f"{shape['width']} x {shape['layers']}, {shape.get('recompute', 'none')}"
            print(
                f"| {layout} | {optimiser} | {accumulate} x {rows} | {model} | {found / 2**20:.2f} | "
                f"{said / 2**20:.2f} | {said / found - 1:+.1%} |",
                flush=True,
            )
        dist.barrier("planned")
    if index == 0:
        print(f"\nworst of {sum(only in case[0] for case in CASES)}: {worst:.1%}")
    dist.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", default="", help="layouts whose name contains this")
    given = parser.parse_args()
    print(f"{given.ranks} ranks, CPU, torch {torch.__version__}\n")
    print("| layout | optimiser | micro-batches x rows | width x layers, recompute | counted, MiB "
          "| planned, MiB | error |\n|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
    port = random.randint(20_000, 30_000)
    torch.multiprocessing.spawn(rank, (given.ranks, port, given.only), nprocs=given.ranks)


if __name__ == "__main__":
    main()
