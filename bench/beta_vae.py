"""VAE beside beta-VAE on dSprites: does each latent dimension know of one factor alone?

    python bench/beta_vae.py OUT            prints a Markdown table (bench/beta_vae.md); a quarter of an hour

32 x 32, all combinations of factors but the held-out ones, drawn at random; the same net, steps and optimiser
for all, ten latent dimensions. MIG, SAP and DCI of the posterior means of 10,000 images. OUT keeps finished
runs: the same command continues.
"""

import contextlib
import io
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_ind

from llmkit import config
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe
from llmkit.eval.metrics.disentanglement import Disentanglement
from llmkit.opened import open_model

SEEDS, STEPS, ROWS = (6, 7, 8, 9, 10), 5000, 64
MODELS: dict[str, dict[str, Any]] = {
    "VAE": {},
    "beta-VAE, 4": {"beta": 4},
    "beta-VAE, 30, of a KL led to 12 nats": {"beta": 30, "capacity": 12, "anneal_steps": STEPS},
}
NET = {"name": "vae", "net": "mlp", "width": 256, "layers": 2, "latent_dim": 10, "likelihood": "bernoulli"}
Found = dict[str, float]


def trained(out: Path, objective: dict[str, Any], seed: int, steps: int = STEPS) -> Found:
    """The scores of one run, with its held-out terms; from `out` if they are there."""
    kept = out / "found.json"
    if not kept.exists():
        tree = {
            "run": {"out": str(out), "seed": seed, "steps": steps, "log_every": 500, "eval_rows": 2048},
            "model": NET,
            "objective": {"name": "vae", **objective},
            "data": {"name": "dsprites", "size": 32},
            "batch": {"rows": ROWS},
            "optim": {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0, "clip": 0},
            "schedule": {"name": "constant", "warmup_frac": 0},
            "parallel": {"precision": "fp32", "compile": "off", "threads": 1},
        }
        with contextlib.redirect_stdout(io.StringIO()):
            run.train(config.resolve(TrainRecipe, tree), "cpu")
        metric = Disentanglement(Disentanglement.Settings())
        scores = metric.measure(open_model(str(out), "image", torch.device("cpu"))).figures
        line = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        terms = {name: line[f"heldout/{name}"] for name in ("reconstruction", "kl")}
        kept.write_text(json.dumps({**scores, **terms}))
        print(f"# {out.name}: {kept.read_text()}", file=sys.stderr)
    return json.loads(kept.read_text())


def cell(values: list[float], digits: int = 3) -> str:
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    torch.set_num_threads(1)
    found: dict[str, list[Found]] = {name: [] for name in MODELS}
    for seed in SEEDS:
        for name, objective in MODELS.items():
            found[name].append(trained(folder / f"{name.replace(', ', '_')}_{seed}", objective, seed))
    print("| objective | MIG | SAP | DCI: disentanglement | completeness | -log p(x given z) | KL |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in found.items():
        columns = ("mig", "sap", "dci_disentanglement", "dci_completeness")
        scores = " | ".join(cell([row[c] for row in rows]) for c in columns)
        terms = " | ".join(cell([row[c] for row in rows], 1) for c in ("reconstruction", "kl"))
        print(f"| {name} | {scores} | {terms} |")
    plain, *others = ([row["mig"] for row in rows] for rows in found.values())
    for name, weighed in zip(list(MODELS)[1:], others, strict=True):
        low, high = ttest_ind(weighed, plain, equal_var=False).confidence_interval()
        gap = statistics.mean(weighed) - statistics.mean(plain)
        print(f"\nMIG of {name}, above the VAE's: {gap:+.3f}, {low:+.3f} to {high:+.3f}")
    print(f"\nIntervals: Welch's, of 95 %; {len(SEEDS)} seeds each.")


if __name__ == "__main__":
    main()
