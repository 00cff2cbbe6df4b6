"""llmkit's VAE beside pythae's (0.1.2): the same net, images, epochs and optimiser on Fashion-MNIST.

    pip install pythae==0.1.2 && python bench/vision_peers.py --images 10000 --epochs 3 --seeds 3

784-512-16-512-784, Bernoulli on grey levels, Adam 1e-3, batch 128, fp32, one thread; in turn, after a
warm-up. Prints a Markdown table: -ELBO in nats on the same 1,000 held-out images; images/s of training
without evaluation; and images per second of this process's CPU time, which other work on the machine
disturbs less: mean and range over seeds.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from llmkit import config
from llmkit.data.sets.images import Images
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe

HELDOUT = 1000


def ours(seed: int, images: int, epochs: int) -> tuple[float, float, float]:
    """-> (-ELBO, images/s, images/s of CPU time)"""
    steps = epochs * -(-images // 128)
    every = max(1, steps // 5)  # the last interval holds the evaluation, and is left out
    with tempfile.TemporaryDirectory() as out:
        tree = {
            "run": {"out": out, "seed": seed, "steps": steps, "log_every": every, "eval_rows": HELDOUT},
            "model": {"name": "vae", "net": "mlp", "width": 512, "layers": 1, "latent_dim": 16},
            "objective": {"name": "vae"},
            "data": {"name": "images", "source": "fashion-mnist", "rows": images},
            "batch": {"rows": 128},
            "optim": {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0, "clip": 0},
            "schedule": {"name": "constant", "warmup_frac": 0},
            "parallel": {"precision": "fp32", "compile": "off", "threads": 1},
        }
        with timed() as spent:
            run.train(config.resolve(TrainRecipe, tree), "cpu")
        lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
        speed = statistics.harmonic_mean(line["images_per_s"] for line in lines[:-1])
        return lines[-1]["heldout/loss"], speed, steps * 128 / spent[0]


@contextlib.contextmanager
def timed():
    """A list that gets the seconds of CPU time spent inside."""
    spent, began = [], time.process_time()
    yield spent
    spent.append(time.process_time() - began)


def pythae(seed: int, images: int, epochs: int) -> tuple[float, float, float]:
    """-> (-ELBO, images/s, images/s of CPU time)"""
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
        with timed() as spent:
            pipeline(train_data=train.images[:images].float() / 255)
        seconds = time.perf_counter() - began
    x = _first(held)
    with torch.no_grad():
        loss = net.eval()({"data": x}).loss
    return float(loss), images * epochs / seconds, images * epochs / spent[0]


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
    found: dict[str, list[tuple[float, float, float]]] = {"llmkit": [], "pythae 0.1.2": []}
    for train in (ours, pythae):  # what the first run of a process imports and allocates is no training
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train(0, 1280, 1)
    for seed in range(1, args.seeds + 1):  # in turn, so that other work on the machine hits both
        for name, train in zip(found, (ours, pythae)):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found[name].append(train(seed, args.images, args.epochs))
    print("| | -ELBO, nats (range) | images/s (range) | images per CPU second (range) |\n|---|---|---|---|")
    for name, rows in found.items():
        cells = [
            f"{sum(c) / len(c):.{n}f} ({min(c):.{n}f} to {max(c):.{n}f})"
            for c, n in zip(zip(*rows), (2, 0, 0))
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
