"""Whole vision runs that take a fraction of a second, on images made of arithmetic."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from llmkit import config
from llmkit.checkpoint import fragments
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe
from tests.checkpoint.small import digest, newest

MODELS = {
    "vae": {"name": "vae", "net": "conv", "width": 4, "layers": 2, "latent_dim": 3},
    "gan": {"name": "gan", "width": 4, "layers": 2, "latent_dim": 5, "conditional": True},
    "class_norm": {
        "name": "gan",
        "width": 4,
        "layers": 2,
        "latent_dim": 5,
        "conditional": True,
        "class_in": "norm",
    },
    "dcgan": {"name": "gan", "width": 4, "layers": 2, "latent_dim": 5, "norm": "batch"},
    "vaegan": {"name": "vaegan", "net": "conv", "width": 4, "layers": 2, "latent_dim": 3, "critic_width": 4},
    "vq": {"name": "vq", "width": 4, "layers": 1, "blocks": 1, "codes": 8, "code_dim": 2},
    "vq2": {"name": "vq2", "width": 4, "layers": 1, "blocks": 1, "codes": 8, "code_dim": 2},
    "vq_average": {
        "name": "vq",
        "codebooks": "average",
        "width": 4,
        "layers": 1,
        "blocks": 1,
        "codes": 8,
        "code_dim": 2,
    },
    "vq2_average": {
        "name": "vq2",
        "codebooks": "average",
        "width": 4,
        "layers": 1,
        "blocks": 1,
        "codes": 8,
        "code_dim": 2,
    },
    "recogniser": {"name": "recogniser", "width": 4, "layers": 2},
    "stylegan": {"name": "stylegan", "latent_dim": 6, "width": 4, "stddev_group": 0, "conditional": True},
    "stylegan3": {
        "name": "stylegan3",
        "latent_dim": 6,
        "width": 4,
        "layers": 3,
        "stddev_group": 0,
        "conditional": True,
    },
    "pixelcnnpp": {"name": "pixelcnnpp", "width": 4, "layers": 1, "levels": 2, "conditional": True},
    "vq_prior": {"name": "vq_prior", "width": 8, "layers": 1, "conditional": True},
    "pixel": {"name": "pixel", "net": "snail", "width": 8, "layers": 1, "conditional": True},
    "sngan": {"name": "gan", "net": "resnet", "width": 4, "layers": 2, "latent_dim": 5, "spectral": True},
    "captioner": {"name": "captioner", "width": 16, "layers": 1, "heads": 2, "vocab_size": 400},
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "vae": {"name": "vae", "binarise": "dynamic", "anneal_steps": 4},
    "gan": {"name": "gan", "loss": "wasserstein", "gradient_penalty": 10, "critic_updates": 2},
    "class_norm": {"name": "gan", "loss": "hinge"},
    "dcgan": {"name": "gan", "r1": 0.1, "r1_every": 2},
    "vaegan": {"name": "vaegan"},
    "vq": {"name": "vq"},
    "vq2": {"name": "vq"},
    "vq_average": {"name": "vq", "decay": 0.5, "restart": 4.0},
    "vq2_average": {"name": "vq", "decay": 0.5},
    "recogniser": {"name": "recognise"},
    "stylegan": {
        "name": "stylegan",
        "r1_every": 2,
        "path_every": 2,
        "ada_target": 0.9,
        "ada_images": 32,
        "ada_every": 1,
    },
    "stylegan3": {"name": "stylegan", "r1": 0.1, "r1_every": 2, "path_weight": 0},
    "pixelcnnpp": {"name": "pixel", "binarise": "dynamic"},
    "vq_prior": {"name": "pixel"},
    "pixel": {"name": "pixel", "binarise": "dynamic"},
    "sngan": {"name": "gan", "loss": "hinge"},
    "captioner": {"name": "caption"},
}


GANS = ("gan", "class_norm", "dcgan", "vaegan", "stylegan", "stylegan3", "sngan")


def archive(folder: Path) -> Path:
    """40 blurred blots, 8 x 8, of four classes."""
    path = folder / "blots.npz"
    y, x = np.mgrid[0:8, 0:8]
    centre = np.random.default_rng(0).uniform(2, 6, (2, 40, 1, 1))
    images = 255 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 4)
    captions = [f"blot of kind {i % 4}" for i in range(40)]
    np.savez(path, images=images.astype(np.uint8), labels=np.arange(40) % 4, captions=captions)
    return path


def recipe(data: str, out: str, kind: str, **overrides: Any) -> TrainRecipe:
    """6 steps of 8 rows with a checkpoint after every second; `__` in an override's key stands for a dot."""
    tree = {
        "run": {"out": out, "steps": 6, "save_every": 2, "log_every": 1, "eval_rows": 4, "keep": 3},
        "model": MODELS[kind],
        "objective": OBJECTIVES[kind],
        "data": {"name": "captioned" if kind == "captioner" else "images", "source": data},
        "batch": {"rows": 8, "micro_rows": 4},
        "schedule": {"name": "constant", "warmup_frac": 0.0},
        "optim": {"lr": 1e-3, "eps": 1e-5, "clip": 0, "nets": {"g": {"ema": 0.9}} if kind in GANS else {}},
        "parallel": {"backend": "ddp", "precision": "fp32", "compile": "off", "threads": 1, "timeout_s": 20},
    }
    return config.resolve(
        TrainRecipe, tree, {key.replace("__", "."): value for key, value in overrides.items()}
    )


def train(data: str, out: str, kind: str, overrides: dict[str, Any] | None = None) -> None:
    """Run it, as `llmkit train` would on this rank."""
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)  # a second run meets elsewhere
    run.train(recipe(data, out, kind, **(overrides or {})), "cpu")


def every(data: str, out: str, kinds: list[str], overrides: dict[str, Any]) -> None:
    """Several kinds, one after the other in one process."""
    for kind in kinds:
        train(data, f"{out}/{kind}", kind, overrides)


def tensors(out: str | Path, kind: str = "param") -> dict[str, Any]:
    """Everything of one kind in a run's newest checkpoint, by net and name."""
    reader = fragments.Reader(newest(out))
    return {f"{net}/{name}": t for net in reader.nets() for name, t in reader.whole(net, kind).items()}


__all__ = ["archive", "digest", "every", "newest", "recipe", "tensors", "train"]
