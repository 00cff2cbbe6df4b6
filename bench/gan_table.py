"""Every GAN on Fashion-MNIST at equal images seen: Frechet distance, KID, precision and recall; class hits.

    python bench/gan_table.py OUT [MODEL ...]    prints two Markdown tables (bench/gan_table.md); default: all

16 x 16; "seen" counts the real images that d was trained on, so a critic that is stepped twice leaves its g
half of the steps, and a smaller batch gives both more. Distances are in the features of a recogniser that
OUT/recogniser is, trained first; class hits are judged by OUT/judge, of another seed and width. 2,500 images
of either kind. OUT keeps finished runs and the picture: the same command continues.
"""

import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw

from llmkit import config
from llmkit.data.sets.images import Images
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe
from llmkit.eval.metrics.frechet import Frechet
from llmkit.opened import Opened, open_model
from llmkit.vision import gallery, noise

SEEN, ASKED, COUNT = 51_200, 153_600, 2500
SMALL = {"latent_dim": 32, "width": 16, "layers": 2}
BASIC = {"name": "gan", "net": "mlp", "latent_dim": 32, "width": 256, "layers": 2}
DCGAN = {"name": "gan", "net": "dcgan", **SMALL, "norm": "batch"}
PLAIN = {"name": "gan", "net": "dcgan", **SMALL, "norm": "group"}
TOLD = PLAIN | {"spectral": True, "conditional": True, "class_in": "norm"}
STYLE = {"name": "stylegan", "latent_dim": 32, "width": 8, "mapping": 2, "stddev_group": 4, "mixing": 0}
CLIP = {"nets": {"d": {"clamp": 0.03}}}
"""Weights drawn from N(0, 0.02) leave little room in +-0.01."""
RELATIVISTIC = {"loss": "relativistic", "r1": 0.05, "r1_every": 1, "r2": 0.05}
LAZY = {"name": "stylegan", "r1": 0.05, "path_weight": 0}
"""As the authors do for small images (CIFAR-10, Karras et al. 2020a): no path length, no mixing, weak R1."""
WASSERSTEIN = {"loss": "wasserstein", "critic_updates": 2}
"""The papers have 5 and a hundred thousand steps of g; of 51,200 images these would leave 640 at batch 16."""


class Entry(NamedTuple):
    """How one GAN is trained: sections of its recipe, images of a batch, seeds."""

    model: dict[str, Any]
    objective: dict[str, Any]
    optim: dict[str, Any]
    rows: int = 64
    seeds: tuple[int, ...] = (1,)


MODELS = {
    "basic (fully connected)": Entry(BASIC, {}, {"lr": 2e-4, "betas": [0.5, 0.999]}, 16),
    "DCGAN": Entry(DCGAN, {}, {"lr": 5e-4, "betas": [0.5, 0.999]}, 32, (1, 2, 3)),
    "WGAN, clipped": Entry(PLAIN, WASSERSTEIN, {"lr": 1e-3, "betas": [0, 0.9], **CLIP}, 16),
    "WGAN-GP": Entry(
        PLAIN, WASSERSTEIN | {"gradient_penalty": 10}, {"lr": 1e-3, "betas": [0, 0.9]}, 16, (1, 2, 3)
    ),
    "SNGAN": Entry(PLAIN | {"spectral": True}, {"loss": "hinge"}, {"lr": 1e-3, "betas": [0, 0.9]}, 32),
    "R3GAN": Entry(PLAIN, RELATIVISTIC, {"lr": 1e-3, "betas": [0, 0.99]}, 32),
    "StyleGAN2": Entry(STYLE, LAZY, {"lr": 1e-2, "betas": [0, 0.99]}, 32, (1, 2, 3)),
    "conditional DCGAN": Entry(
        DCGAN | {"conditional": True, "class_in": "norm"},
        {},
        {"lr": 5e-4, "betas": [0.5, 0.999]},
        32,
        (1, 2, 3),
    ),
    "conditional SNGAN": Entry(TOLD, {"loss": "hinge"}, {"lr": 1e-3, "betas": [0, 0.9]}, seeds=(1, 2, 3)),
}
LONGER = "conditional SNGAN"
"""The model that is trained on for longer, ASKED images, to be asked for classes."""
ACROSS = 10
"""Images beside each other in the picture; of a model that knows classes, one of each."""


def tree(
    out: Path, steps: int, seed: int, model: dict, objective: dict, optim: dict, rows: int = 64
) -> dict[str, Any]:
    return {
        "run": {"out": str(out), "seed": seed, "steps": steps, "log_every": 100, "eval_rows": 256},
        "model": model,
        "objective": objective,
        "data": {"name": "images", "source": "fashion-mnist", "size": 16},
        "batch": {"rows": rows},
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


def opened(out: Path) -> Opened:
    return open_model(str(out), "image", torch.device("cpu"))


def place(folder: Path, name: str, seed: int, seen: int = SEEN) -> Path:
    return folder / f"{name.split(' (')[0].replace(', ', '_').replace(' ', '_')}_{seed}_{seen}"


def measured(folder: Path, name: str, seed: int, seen: int) -> dict[str, Any]:
    """The figures of one run, from `folder` if they are there."""
    out = place(folder, name, seed, seen)
    if not (out / "figures.json").exists():
        model, objective, optim, rows, _ = MODELS[name]
        objective = {"name": "gan", **objective}
        steps = seen // (rows * objective.get("critic_updates", 1))
        optim = optim | {"nets": {"g": {"ema": 0.99}, **optim.get("nets", {})}}
        began = time.process_time()
        train(tree(out, steps, seed, model, objective, optim, rows))
        seconds = time.process_time() - began
        images = Images.Settings(source="fashion-mnist", size=16, rows=COUNT)
        figures = {"cpu_s": seconds, "steps": steps}
        for extractor in ("recogniser", "judge")[: 1 + model.get("conditional", False)]:
            of = Frechet.Settings(images=images, extractor=str(folder / extractor), count=COUNT)
            figures[extractor] = Frechet(of).measure(opened(out)).figures
        (out / "figures.json").write_text(json.dumps(figures))
        print(f"# {name}, seed {seed}: {figures}", file=sys.stderr)
    return json.loads((out / "figures.json").read_text())


def cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def picture(folder: Path, names: list[str]) -> bytes:
    """A PNG of held-out images, then of each model's first seed: of the first 30 keys, none chosen."""
    of = Images.Settings(source="fashion-mnist", size=16, rows=3 * ACROSS)
    grids = {"held-out images": gallery.grid(Images(of, "heldout", 0).images / 255, ACROSS)}
    key, label = noise.keys(0, 3 * ACROSS), torch.arange(3 * ACROSS) % ACROSS
    for name in names:
        grids[name] = gallery.grid(opened(place(folder, name, 1)).net.sample(key, label), ACROSS)
    height, width = (2 * side + 16 for side in grids["held-out images"].shape[:2])
    sheet = Image.new("L", (2 * width, -(-len(grids) // 2) * height), 255)
    for i, (name, grid) in enumerate(grids.items()):
        x, y = i % 2 * width, i // 2 * height
        ImageDraw.Draw(sheet).text((x + 4, y + 2), name, fill=0)
        sheet.paste(Image.fromarray(grid[..., 0].repeat(2, 0).repeat(2, 1)), (x, y + 14))
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    return content.getvalue()


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    classifier(folder / "recogniser", 1, 16)
    classifier(folder / "judge", 2, 24)
    names = sys.argv[2:] or list(MODELS)
    found = {name: [measured(folder, name, seed, SEEN) for seed in MODELS[name].seeds] for name in names}
    (folder / "gans.png").write_bytes(picture(folder, names))
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
        told[LONGER, ASKED] = [measured(folder, LONGER, seed, ASKED) for seed in MODELS[LONGER].seeds]
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
