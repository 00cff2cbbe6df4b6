"""Every GAN on Fashion-MNIST at equal images seen: Frechet distance, KID, precision and recall; class hits.

    python bench/gan_table.py OUT [MODEL ...]    prints two Markdown tables (bench/gan_table.md); default: all

16 x 16, batch 64; "seen" counts the real images that d was trained on, so a critic that is stepped five times
leaves its g a fifth of the steps. Distances are in the features of a recogniser that OUT/recogniser is,
trained first; class hits are judged by OUT/judge, of another seed and width. 2,500 images of either kind.
OUT keeps finished runs and the grids: the same command continues.
"""

import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from llmkit import config
from llmkit.data.sets.images import Images
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe
from llmkit.eval.metrics.frechet import Frechet
from llmkit.opened import open_model

SEEN, ASKED, ROWS, COUNT = 51_200, 153_600, 64, 2500
SMALL = {"latent_dim": 32, "width": 16, "layers": 2}
BASIC = {"name": "gan", "net": "mlp", "latent_dim": 32, "width": 256, "layers": 2}
DCGAN = {"name": "gan", "net": "dcgan", **SMALL, "norm": "batch"}
PLAIN = {"name": "gan", "net": "dcgan", **SMALL, "norm": "group"}
TOLD = PLAIN | {"spectral": True, "conditional": True, "class_in": "norm"}
STYLE = {"name": "stylegan", "latent_dim": 32, "width": 8, "mapping": 2, "stddev_group": 4}
CLIP = {"nets": {"d": {"clamp": 0.03}}}
"""Weights drawn from N(0, 0.02) leave little room in +-0.01."""
RELATIVISTIC = {"loss": "relativistic", "r1": 1, "r1_every": 1, "r2": 1}
LAZY = {"name": "stylegan", "r1": 0.1, "path_weight": 2, "path_every": 8}
WASSERSTEIN = {"loss": "wasserstein", "critic_updates": 5}
MODELS: dict[str, tuple[dict, dict, dict, tuple[int, ...]]] = {
    "basic (fully connected)": (BASIC, {}, {"lr": 2e-4, "betas": [0.5, 0.999]}, (1,)),
    "DCGAN": (DCGAN, {}, {"lr": 5e-4, "betas": [0.5, 0.999]}, (1, 2, 3)),
    "WGAN, clipped": (PLAIN, WASSERSTEIN, {"lr": 5e-4, "betas": [0, 0.9], **CLIP}, (1,)),
    "WGAN-GP": (PLAIN, WASSERSTEIN | {"gradient_penalty": 10}, {"lr": 1e-3, "betas": [0, 0.9]}, (1, 2, 3)),
    "SNGAN": (PLAIN | {"spectral": True}, {"loss": "hinge"}, {"lr": 1e-3, "betas": [0, 0.9]}, (1,)),
    "R3GAN": (PLAIN | {"norm": "none"}, RELATIVISTIC, {"lr": 5e-4, "betas": [0, 0.99]}, (1,)),
    "StyleGAN2": (STYLE, LAZY, {"lr": 2e-3, "betas": [0, 0.99]}, (1,)),
    "conditional DCGAN": (DCGAN | {"conditional": True}, {}, {"lr": 5e-4, "betas": [0.5, 0.999]}, (1,)),
    "conditional SNGAN": (TOLD, {"loss": "hinge"}, {"lr": 1e-3, "betas": [0, 0.9]}, (1, 2, 3)),
}  # fmt: skip
LONGER = "conditional SNGAN"
"""The model that is trained on for longer, ASKED images, to be asked for classes."""


def tree(out: Path, steps: int, seed: int, model: dict, objective: dict, optim: dict) -> dict[str, Any]:
    return {
        "run": {"out": str(out), "seed": seed, "steps": steps, "log_every": 100, "eval_rows": 256},
        "model": model,
        "objective": objective,
        "data": {"name": "images", "source": "fashion-mnist", "size": 16},
        "batch": {"rows": ROWS},
        "optim": {"weight_decay": 0, "clip": 0, **optim},
        "schedule": {"name": "constant", "warmup_frac": 0},
        "parallel": {"precision": "fp32", "compile": "off", "threads": 1},
    }


def classifier(out: Path, seed: int, width: int) -> str:
    """A recogniser, trained if it is not there."""
    model = {"name": "recogniser", "width": width, "layers": 3}
    settings = tree(out, 800, seed, model, {"name": "recognise"}, {"lr": 5e-3, "weight_decay": 0.01})
    settings["schedule"] = {"name": "cosine", "warmup_frac": 0.05}
    train(settings)
    return str(out)


def train(settings: dict[str, Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        run.train(config.resolve(TrainRecipe, settings), "cpu")


def measured(folder: Path, name: str, seed: int, seen: int) -> dict[str, Any]:
    """The figures of one run, from `folder` if they are there."""
    out = folder / f"{name.split(' (')[0].replace(', ', '_').replace(' ', '_')}_{seed}_{seen}"
    if not (out / "figures.json").exists():
        model, objective, optim, _ = MODELS[name]
        objective = {"name": "gan", **objective}
        steps = seen // (ROWS * objective.get("critic_updates", 1))
        optim = optim | {"nets": {"g": {"ema": 0.99}, **optim.get("nets", {})}}
        began = time.process_time()
        train(tree(out, steps, seed, model, objective, optim))
        seconds = time.process_time() - began
        images = Images.Settings(source="fashion-mnist", size=16, rows=COUNT)
        figures = {"cpu_s": seconds, "steps": steps}
        for extractor in ("recogniser", "judge")[: 1 + model.get("conditional", False)]:
            of = Frechet.Settings(images=images, extractor=str(folder / extractor), count=COUNT)
            figures[extractor] = (
                Frechet(of).measure(open_model(str(out), "image", torch.device("cpu"))).figures
            )
        (out / "figures.json").write_text(json.dumps(figures))
        print(f"# {name}, seed {seed}: {figures}", file=sys.stderr)
    return json.loads((out / "figures.json").read_text())


def cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    classifier(folder / "recogniser", 1, 16)
    classifier(folder / "judge", 2, 24)
    names = sys.argv[2:] or list(MODELS)
    found = {name: [measured(folder, name, seed, SEEN) for seed in MODELS[name][3]] for name in names}
    real = found[names[0]][0]["recogniser"]
    print(f"{SEEN:,} images seen; reference: {real['reference']}; {real['extractor']}\n")
    print("| model | seeds | Frechet distance | KID | precision | recall | steps of g | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, rows in found.items():
        figures = [row["recogniser"] for row in rows]
        cells = " | ".join(
            cell([f[key] for f in figures]) for key in ("frechet", "kid", "precision", "recall")
        )
        seconds = statistics.mean(row["cpu_s"] for row in rows)
        print(f"| {name} | {len(rows)} | {cells} | {rows[0]['steps']} | {seconds:.0f} |")
    print(f"| held-out images | | {real['frechet_of_heldout']:.3f} | | | | | |")
    told = {(name, SEEN): rows for name, rows in found.items() if "judge" in rows[0]}
    if LONGER in names:
        told[LONGER, ASKED] = [measured(folder, LONGER, 1, ASKED)]
    if told:
        print("\n| told the class | images seen | seeds | hits, by the judge | its own accuracy | recall |")
        print("|---|---|---|---|---|---|")
    for (name, seen), rows in told.items():
        judged = [row["judge"] for row in rows]
        hits, recall = (cell([f[key] for f in judged]) for key in ("class_hits", "recall"))
        real = judged[0]["class_hits_of_heldout"]
        print(f"| {name} | {seen:,} | {len(rows)} | {hits} | {real:.3f} | {recall} |")


if __name__ == "__main__":
    main()
