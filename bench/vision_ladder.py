"""A ladder of likelihoods: every kind of model on the same binarised digits, for the same epochs.

    python bench/vision_ladder.py --steps 400 --seeds 3

5,000 MNIST digits at 14 x 14 (or --size), dynamically binarised; batch 64, Adam with a cosine. -log p(x)
in nats on the same held-out images: exact where the model gives it, else importance-weighted with 500
draws. Prints a Markdown table, and says of neighbours whether the seeds separate them (a gap of more
than 3 sigma of the difference).
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from llmkit import config
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe

VAE = {"name": "vae", "net": "mlp", "width": 256, "layers": 1, "latent_dim": 16}
DRAWS = {"name": "vae", "binarise": "dynamic", "eval_particles": 500}
EXACT = {"name": "pixel", "binarise": "dynamic"}
RUNGS = {
    "Bernoulli mixture": ({"name": "bernoulli_mixture", "components": 50}, EXACT, 2e-2),
    "VAE": (VAE, DRAWS, 2e-3),
    "IWAE(50)": (VAE, DRAWS | {"bound": "iwae", "particles": 50}, 2e-3),
    "PixelCNN": ({"name": "pixel", "net": "pixelcnn", "width": 32, "layers": 4}, EXACT, 2e-3),
    "gated PixelCNN": ({"name": "pixel", "net": "gated", "width": 24, "layers": 4}, EXACT, 2e-3),
    "PixelSNAIL": ({"name": "pixel", "net": "snail", "width": 32, "layers": 2}, EXACT, 2e-3),
}


def rung(model: dict, objective: dict, lr: float, seed: int, steps: int, size: int) -> tuple[float, float]:
    """-> (nats on held-out images, seconds of CPU for training and evaluation)"""
    with tempfile.TemporaryDirectory() as out:
        tree = {
            "run": {"out": out, "seed": seed, "steps": steps, "log_every": steps, "eval_rows": 500},
            "model": model,
            "objective": objective,
            "data": {"name": "images", "source": "mnist-5k", "size": size},
            "batch": {"rows": 64},
            "optim": {"lr": lr, "betas": [0.9, 0.999], "weight_decay": 0, "clip": 1, "ema": 0.98},
            "schedule": {"name": "cosine", "warmup_frac": 0.02},
            "parallel": {"precision": "fp32", "compile": "off", "threads": 1},
        }
        began = time.process_time()
        run.train(config.resolve(TrainRecipe, tree), "cpu")
        line = json.loads((Path(out) / "metrics.jsonl").read_text().splitlines()[-1])
        return line.get("heldout/nll", line["heldout/loss"]), time.process_time() - began


def verdict(better: list[float], worse: list[float]) -> str:
    """Whether the gap of two rungs is more than 3 sigma of the difference of single runs."""
    gap = statistics.mean(worse) - statistics.mean(better)
    sigma = (statistics.variance(better) + statistics.variance(worse)) ** 0.5
    told = "separated" if gap > 3 * sigma else "not separated"
    return f"{gap:+.2f} nats, {gap / sigma if sigma else float('inf'):.1f} sigma: {told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=14)
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNGS}
    for seed in range(1, args.seeds + 1):
        for name, (model, objective, lr) in RUNGS.items():
            found[name].append(rung(model, objective, lr, seed, args.steps, args.size))
            print(f"# seed {seed}, {name}: {found[name][-1][0]:.2f} nats", flush=True)
    print(
        "| model | nats (range over seeds) | CPU seconds | better than the one above by |\n|---|---|---|---|"
    )
    above: list[float] = []
    for name, rows in found.items():
        nats, seconds = ([row[i] for row in rows] for i in (0, 1))
        told = verdict(nats, above) if len(above) > 1 else ""
        shown = f"{statistics.mean(nats):.2f} ({min(nats):.2f} to {max(nats):.2f})"
        print(f"| {name} | {shown} | {statistics.mean(seconds):.0f} | {told} |")
        above = nats


if __name__ == "__main__":
    main()
