"""Muon against AdamW: steps to a fixed held-out loss, on the tiny decoder and the quickstart's shards.

    python bench/muon.py SHARDS [--out DIR] [--jobs 2]   prints bench/muon.md; 11 minutes of a core

Both take the same grid of 5 learning rates x 2 weight decays, at one seed; the best cell of each (lowest
final held-out loss) then runs at 3 fresh seeds. The rate is constant after its warm-up, so that a run does
not depend on where it was meant to end. The target is the worst loss that AdamW's three end with, so that
all reach it; steps are read off between evaluations. DIR keeps finished runs: the same command continues.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import llmkit

LRS, DECAYS, SEEDS, STEPS, EVERY = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), (0.0, 0.1), (11, 12, 13), 150, 10
Curve = list[tuple[int, float]]


def curve(folder: Path, shards: str, cell: tuple[str, float, float], seed: int) -> Curve:
    """(step, held-out nats per token) of one run, of a (optimiser, lr, decay)."""
    optimizer, lr, decay = cell
    out = folder / f"{optimizer}_{lr:g}_{decay:g}_{seed}"
    settings = {
        "data.shards": shards, "optim.name": optimizer, "optim.lr": lr, "optim.weight_decay": decay,
        "run.seed": seed, "run.steps": STEPS, "run.eval_every": EVERY, "run.eval_rows": 32, "batch.rows": 4,
        "parallel.threads": 1, "schedule.name": "constant", "schedule.warmup_frac": 0.05,
        "parallel.compile": "off",
    }  # fmt: skip
    if not (out / "done.json").exists():
        llmkit.train("pretrain/llama_tiny", settings, out=str(out))
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found = [(row["step"], row["heldout/loss"]) for row in rows if "heldout/loss" in row]
        (out / "done.json").write_text(json.dumps(found))
    return [tuple(point) for point in json.loads((out / "done.json").read_text())]


def reached(points: Curve, target: float) -> float:
    """The step at which the loss first is `target`, between two evaluations linearly; inf if it never is."""
    for (a, high), (b, low) in zip(points, points[1:], strict=False):
        if low <= target < high:
            return a + (b - a) * (high - target) / (high - low)
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards")
    parser.add_argument("--out", default="", help="where runs are kept")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each of one thread")
    given = parser.parse_args()
    folder = Path(given.out or tempfile.mkdtemp())
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:

        def curves(cells: list, seeds: tuple[int, ...]) -> dict:
            begun = {(c, s): pool.submit(curve, folder, given.shards, c, s) for c in cells for s in seeds}
            return {key: future.result() for key, future in begun.items()}

        cells = [(name, lr, decay) for name in ("adamw", "muon") for lr in LRS for decay in DECAYS]
        grid = {cell: points[-1][1] for (cell, _), points in curves(cells, (1,)).items()}
        best = {n: min((c for c in cells if c[0] == n), key=lambda c: grid[c]) for n in ("adamw", "muon")}
        fresh = curves(list(best.values()), SEEDS)
    curves_of = {name: [fresh[cell, seed] for seed in SEEDS] for name, cell in best.items()}
    target = max(points[-1][1] for points in curves_of["adamw"])

    print(f"Held-out nats per token after {STEPS} steps, seed 1\n")
    print("| optimiser, decay | " + " | ".join(f"lr {lr:g}" for lr in LRS) + " |")
    print("|---" * (len(LRS) + 1) + "|")
    for optimizer in best:
        for decay in DECAYS:
            cells = " | ".join(f"{grid[optimizer, lr, decay]:.3f}" for lr in LRS)
            print(f"| {optimizer}, {decay:g} | {cells} |")
    print(f"\nThe best of each at seeds {SEEDS}; the target is {target:.3f} nats, AdamW's worst at the end\n")
    print(
        "| optimiser | lr, decay | final loss | steps to the target: mean, least, most |\n|---|---|---|---|"
    )
    for name, lines in curves_of.items():
        _, lr, decay = best[name]
        ends = [points[-1][1] for points in lines]
        steps = [reached(points, target) for points in lines]
        print(f"| {name} | {lr:g}, {decay:g} | {statistics.mean(ends):.3f} ± {statistics.stdev(ends):.3f} | "
              f"{statistics.mean(steps):.0f}, {min(steps):.0f}, {max(steps):.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
