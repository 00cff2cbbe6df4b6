"""How far the planner is from what real runs hold: bytes of tensors counted while training on a CPU.

    python bench/planner_error.py [--ranks 2] [--only zero2]

Each row trains three steps on real tensors with the real backends (DDP, DeepSpeed ZeRO 1-3) and counts every
storage that an operator makes, from the empty process on; beside it the plan, made from fake tensors. None of
the rows was used to make the plan's formulas. Its data are those that a plan makes up, grey images for a GAN.
Prints a Markdown table; the one measured last is in planner_error.md. On a GPU the run itself prints the
comparison with max_memory_allocated after step 2.
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
EXPERTS = SMALL | {"experts": 4, "experts_per_token": 2, "mlp_dim": 160}
BERT = SMALL | {"name": "encoder", "style": "bert"}
MODERNBERT = SMALL | {"name": "encoder", "style": "modernbert", "layers": 6}
T5, BART = SMALL | {"name": "encdec", "style": "t5"}, WIDE | {"name": "encdec", "style": "bart"}
GAN = {"name": "gan", "width": 24, "layers": 2, "latent_dim": 16, "size": 16, "channels": 3}
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
    ("ddp", "adamw", 1, 4, EXPERTS), ("zero2", "adamw", 2, 2, EXPERTS),
    ("ddp", "adamw", 2, 4, BERT), ("zero2", "adamw", 1, 4, BERT), ("zero3", "adamw", 1, 3, MODERNBERT),
    ("ddp", "adamw", 1, 3, T5), ("zero1", "adamw", 2, 3, T5), ("zero3", "adamw", 1, 3, BART),
    ("ddp", "adamw", 1, 8, GAN), ("zero1", "adamw", 1, 8, GAN), ("zero2", "adamw", 2, 8, GAN),
]  # fmt: skip
"""(backend and other keys of `parallel`, optimiser, micro-batches, rows of one, model)"""


def parallel(layout: str) -> dict[str, str]:
    """The keys of `parallel` that a case names."""
    backend, *others = layout.split()
    return {"backend": backend, "precision": "fp32", "compile": "off", **dict(o.split("=") for o in others)}


def label(layout: str, optimiser: str, accumulate: int, rows: int, model: dict) -> str:
    """The first columns of a case."""
    kind = model.get("style", "experts" if "experts" in model else model.get("name", "decoder"))
    shape = f"{kind} {model['width']} x {model['layers']}, {model.get('recompute', 'none')}"
    return f"{layout} | {optimiser} | {accumulate} x {rows} | {shape}"


def recipe(layout: str, optimiser: str, accumulate: int, rows: int, model: dict, world: int):
    """The recipe of a case."""
    from llmkit.engine.recipe import TrainRecipe

    name = model.get("name", "decoder")
    objective = {"decoder": "causal", "encoder": "masked", "encdec": "denoise", "gan": "gan"}[name]
    noise = {"masked": {"noise": {"name": "masked"}}, "denoise": {"noise": {"name": "span"}}}
    data = {"name": "images", "source": "none"}
    if name != "gan":
        kind = "documents" if objective in noise else "tokens"
        data = {"name": kind, "shards": "none", "seq_len": model["context"], **noise.get(objective, {})}
    return TrainRecipe.model_validate({
        "run": {"steps": 3}, "model": {"name": name, **model}, "objective": {"name": objective},
        "data": data, "optim": {"name": optimiser, "ema": 0.99 if name == "gan" else 0},
        "batch": {"rows": world * rows * accumulate}, "parallel": parallel(layout),
    })  # fmt: skip


class Images:
    """The data of a GAN."""

    def __len__(self):
        return 1000

    def batch(self, ids):
        n = len(ids)
        pixels = torch.full((n, GAN["channels"], GAN["size"], GAN["size"]), 128, dtype=torch.uint8)
        valid, key = torch.ones(n, dtype=torch.bool), torch.arange(n)
        return {"image": pixels, "label": torch.zeros_like(key), "key": key, "valid": valid}


def count(made, rows: int, accumulate: int) -> int:
    """The largest number of bytes alive during the third step of a run on this rank."""
    from llmkit import registry
    from llmkit.engine import plan
    from llmkit.engine.backend import denominators
    from llmkit.engine.backend_ddp import Ddp
    from llmkit.engine.backend_zero import Zero
    from llmkit.engine.live import Live
    from llmkit.models.heads import build
    from llmkit.objectives.phase import add

    objective = registry.find("objective", made.objective.name)(made.objective)
    data = Images() if made.model.name == "gan" else None
    gc.collect()
    with Live() as live:
        with torch.device("meta"):
            nets = objective.build(lambda head="lm": build(made.model, head))
        optims = {phase.net: made.optim for phase in objective.phases}
        engine = (Ddp if made.parallel.backend == "ddp" else Zero)(objective, nets, optims, made.parallel, 1)
        for step in range(3):
            live.peak = live.now
            for phase in objective.phases:
                group = [plan.rows(made, data, rows) for _ in range(accumulate)]
                engine.begin(phase, step, 1.0)
                total = denominators(engine.total(add(objective.count(phase, batch) for batch in group)))
                for i, batch in enumerate(group):
                    engine.micro(phase, batch, total, last=i + 1 == len(group))
                engine.step(phase)
                del group, batch
    engine.close()
    return live.peak


def planned(made, rows: int, accumulate: int, world: int) -> int:
    """What the planner says of the same, the host's part included."""
    from llmkit.engine import plan

    backend, offload = made.parallel.backend, made.parallel.offload
    layout = plan.Layout(backend, world, rows, accumulate, offload=offload)
    data = Images() if made.model.name == "gan" else None
    found = plan.predict(made, data, layout, bf16=False)[0]
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
    chosen = [case for case in CASES if only in label(*case)]
    for case in chosen:
        accumulate, rows = case[2:4]
        made = recipe(*case, world)
        found = count(made, rows, accumulate)
        if index == 0:
            said = planned(made, rows, accumulate, world)
            worst = max(worst, abs(said / found - 1))
            figures = f"{found / 2**20:.2f} | {said / 2**20:.2f} | {said / found - 1:+.1%}"
            print(f"| {label(*case)} | {figures} |", flush=True)
        dist.barrier("planned")
    if index == 0:
        print(f"\nworst of {len(chosen)}: {worst:.1%}")
    dist.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", default="", help="rows that contain this")
    given = parser.parse_args()
    print(f"{given.ranks} ranks, CPU, torch {torch.__version__}\n")
    print("| layout | optimiser | micro-batches x rows | model, width x layers, recompute | counted, MiB "
          "| planned, MiB | error |\n|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
    port = random.randint(20_000, 30_000)
    torch.multiprocessing.spawn(rank, (given.ranks, port, given.only), nprocs=given.ranks)


if __name__ == "__main__":
    main()
