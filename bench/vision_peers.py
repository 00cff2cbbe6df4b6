"""llmkit's VAE beside pythae's (0.1.2): the same net, images, epochs and optimiser on Fashion-MNIST.

    pip install pythae==0.1.2 && python bench/vision_peers.py --images 10000 --epochs 3 --seeds 3

784-512-16-512-784, Bernoulli on grey levels, Adam 1e-3, batch 128, fp32, one thread. Prints a Markdown table:
-ELBO in nats on the same 1,000 held-out images, and images/s of training, mean and range over seeds.
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path

import torch

from llmkit import config
from llmkit.data.sets.images import Images
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe

HELDOUT = 1000


def ours(seed: int, images: int, epochs: int) -> tuple[float, float]:
    """-> (-ELBO, images/s)"""
    steps = epochs * -(-images // 128)
    with tempfile.TemporaryDirectory() as out:
        tree = {
            "run": {"out": out, "seed": seed, "steps": steps, "log_every": steps, "eval_rows": HELDOUT},
            "model": {"name": "vae", "net": "mlp", "width": 512, "layers": 1, "latent_dim": 16},
            "objective": {"name": "vae"},
            "data": {"name": "images", "source": "fashion-mnist", "rows": images},
            "batch": {"rows": 128},
            "optim": {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0, "clip": 0},
            "schedule": {"name": "constant", "warmup_frac": 0},
            "parallel": {"precision": "fp32", "compile": "off", "threads": 1},
        }
        run.train(config.resolve(TrainRecipe, tree), "cpu")
        line = json.loads((Path(out) / "metrics.jsonl").read_text().splitlines()[-1])
        return line["heldout/loss"], line["images_per_s"]


def pythae(seed: int, images: int, epochs: int) -> tuple[float, float]:
    """-> (-ELBO, images/s)"""
    from pythae.models import VAE, VAEConfig
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainerConfig

    train, held = (
        Images(Images.Settings(source="fashion-mnist"), split, 0) for split in ("train", "heldout")
    )
    torch.manual_seed(seed)
    shape = VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="bce")
    net = VAE(shape)
    with tempfile.TemporaryDirectory() as out:
        batch = {"per_device_train_batch_size": 128, "learning_rate": 1e-3}
        how = BaseTrainerConfig(output_dir=out, num_epochs=epochs, no_cuda=True, seed=seed, **batch)
        pipeline = TrainingPipeline(model=net, training_config=how)
        began = time.perf_counter()
        pipeline(train_data=train.images[:images].float() / 255)
        seconds = time.perf_counter() - began
    x = _first(held)
    with torch.no_grad():
        loss = net.eval()({"data": x}).loss
    return float(loss), images * epochs / seconds


def _first(held: Images) -> torch.Tensor:
    """The held-out images that llmkit's evaluation uses."""
    from llmkit.data.order import Order

    order = Order(len(held), seed=0)
    return held.images[[order.row(i) for i in range(HELDOUT)]].float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, float]]] = {"llmkit": [], "pythae 0.1.2": []}
    for seed in range(1, args.seeds + 1):  # in turn, so that other work on the machine hits both
        for name, train in zip(found, (ours, pythae)):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found[name].append(train(seed, args.images, args.epochs))
    print("| | -ELBO, nats (range) | images/s (range) |\n|---|---|---|")
    for name, rows in found.items():
        cells = [
            f"{sum(c) / len(c):.{n}f} ({min(c):.{n}f} to {max(c):.{n}f})" for c, n in zip(zip(*rows), (2, 0))
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
