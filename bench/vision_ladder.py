"""A ladder of likelihoods: all kinds of models on the same binarised digits, at equal epochs and minutes.

    python bench/vision_ladder.py OUT            prints two Markdown tables; a quarter of an hour

MNIST-5k (4,498 training images) at 20 x 20, black where the grey is above a half; batch 16, Adam with a
cosine, averaged weights. -log p(x) in nats on the same 500 held-out images: exact where the model gives it,
else importance-weighted with 500 draws. Equal minutes are SECONDS of this process's CPU time in the loop,
without start and evaluation: as many steps as the rung takes in them at the speed of its first run of EPOCHS.
Of neighbours the table says whether the seeds separate them: a gap of more than 3 sigma of the difference of
two runs. Rates and widths were chosen with seed 1, which is not one of SEEDS (vision_ladder.md). OUT keeps
finished runs: the same command continues.
"""

import contextlib
import io
import json
import statistics
import sys
import tempfile
from pathlib import Path

from clock import clocked

from llmkit import config
from llmkit.engine import loop, run
from llmkit.engine.evaluate import Evaluator
from llmkit.engine.recipe import TrainRecipe

EPOCHS, SECONDS, SEEDS, ROWS, IMAGES, SIZE = 1, 24, (2, 3, 4), 16, 4498, 20
VAE = {"name": "vae", "net": "mlp", "width": 512, "layers": 1, "latent_dim": 16}
DRAWS = {"name": "vae", "binarise": "threshold", "eval_particles": 500}
EXACT = {"name": "pixel", "binarise": "threshold"}
RUNGS = {
    "Bernoulli mixture": ({"name": "bernoulli_mixture", "components": 200}, EXACT, 4e-1),
    "VAE": (VAE, DRAWS, 8e-3),
    "IWAE(50)": (VAE, DRAWS | {"bound": "iwae", "particles": 50}, 8e-3),
    "PixelCNN": ({"name": "pixel", "net": "pixelcnn", "width": 64, "layers": 2}, EXACT, 1e-2),
    "gated PixelCNN": ({"name": "pixel", "net": "gated", "width": 16, "layers": 3}, EXACT, 1e-2),
    "PixelSNAIL": ({"name": "pixel", "net": "snail", "width": 16, "layers": 1}, EXACT, 1e-2),
}
Found = dict[str, float]


def trained(folder: Path, name: str, seed: int, steps: int) -> Found:
    """{nats: on held-out images, cpu_s: of training, steps}, from `folder` if it is there."""
    kept = folder / f"{name.replace(' ', '_')}_{seed}_{steps}.json"
    if not kept.exists():
        model, objective, lr = RUNGS[name]
        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
            tree = {
                "run": {"out": out, "seed": seed, "steps": steps, "log_every": steps, "eval_rows": 500},
                "model": model,
                "objective": objective,
                "data": {"name": "images", "source": "mnist-5k", "size": SIZE},
                "batch": {"rows": ROWS},
                "optim": {"lr": lr, "betas": [0.9, 0.999], "weight_decay": 0, "clip": 1, "ema": 0.98},
                "schedule": {"name": "cosine", "warmup_frac": 0.02},
                "parallel": {"precision": "fp32", "compile": "off", "threads": 1},
            }
            with clocked(loop, "train") as whole, clocked(Evaluator, "run") as evaluation:
                run.train(config.resolve(TrainRecipe, tree), "cpu")
            line = json.loads((Path(out) / "metrics.jsonl").read_text().splitlines()[-1])
        nats, seconds = line.get("heldout/nll", line["heldout/loss"]), whole.cpu_s - evaluation.cpu_s
        kept.write_text(json.dumps({"nats": nats, "cpu_s": seconds, "steps": steps}))
        print(f"# {name}, seed {seed}, {steps} steps: {nats:.2f} nats, {seconds:.0f} s", file=sys.stderr)
    return json.loads(kept.read_text())


def verdict(better: list[float], worse: list[float]) -> str:
    """Whether the gap of two rungs is more than 3 sigma of the difference of single runs, and which way."""
    gap = statistics.mean(worse) - statistics.mean(better)
    sigma = (statistics.variance(better) + statistics.variance(worse)) ** 0.5
    told = "not separated" if abs(gap) <= 3 * sigma else "separated" if gap > 0 else "separated, it is worse"
    return f"{gap:+.2f} nats, {gap / sigma if sigma else float('inf'):.1f} sigma: {told}"


def table(found: dict[str, list[Found]]) -> None:
    print("| model | nats (range over seeds) | epochs | CPU s of training | better than the one above by |")
    print("|---|---|---|---|---|")
    above: list[float] = []
    for name, rows in found.items():
        nats = [row["nats"] for row in rows]
        told = verdict(nats, above) if above else ""
        epochs = rows[0]["steps"] * ROWS / IMAGES
        seconds = statistics.mean(row["cpu_s"] for row in rows)
        shown = f"{statistics.mean(nats):.2f} ({min(nats):.2f} to {max(nats):.2f})"
        print(f"| {name} | {shown} | {epochs:.0f} | {seconds:.0f} | {told} |")
        above = nats
    for name in ("PixelCNN", "gated PixelCNN", "PixelSNAIL"):
        for other in ("VAE", "IWAE(50)"):
            told = verdict([row["nats"] for row in found[name]], [row["nats"] for row in found[other]])
            print(f"\n{name} against {other}: {told}")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    steps = EPOCHS * IMAGES // ROWS
    alike: dict[str, list[Found]] = {name: [] for name in RUNGS}
    timed: dict[str, list[Found]] = {name: [] for name in RUNGS}
    for seed in SEEDS:
        for name in RUNGS:
            alike[name].append(trained(folder, name, seed, steps))
            speed = steps / alike[name][0]["cpu_s"]
            timed[name].append(trained(folder, name, seed, round(SECONDS * speed)))
    print(f"Equal epochs: {EPOCHS}\n")
    table(alike)
    print(f"\nEqual minutes: {SECONDS} s of CPU time\n")
    table(timed)


if __name__ == "__main__":
    main()
