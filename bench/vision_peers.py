"""llmkit's VAE and VQ-VAE beside pythae's (0.1.2): the same net, images, epochs and optimiser, Fashion-MNIST.

    pip install pythae==0.1.2 && python bench/vision_peers.py vae --images 10000 --epochs 3
    python bench/vision_peers.py vq --images 3200 --epochs 2                       (bench/vision_peers.md)

vae: 784-512-16-512-784, Bernoulli on grey levels. vq: the same convolutional halves and first weights in
both, in pythae of torch.nn's layers like its own nets; 128 codes of 16 dimensions, squared error; each
library with its own codebook loss. Adam 1e-3, batch 128, fp32; in turn, after a warm-up. Prints a Markdown
table, mean and range over seeds: -ELBO in nats (vae) or the squared error summed over pixels (vq) on the
same 1,000 held-out images; images/s of either training loop, with what it saves at its end; and images per
second of this process's CPU time, which others disturb less. Below it, of either speed, the median over seeds
of the ratio of two runs that followed each other: a machine's own speed changes from minute to minute.
"""

import argparse
import contextlib
import io
import json
import math
import statistics
import tempfile
from pathlib import Path

import torch
from clock import clocked

from llmkit import config
from llmkit.data.sets.images import Images
from llmkit.engine import loop, run
from llmkit.engine.evaluate import Evaluator
from llmkit.engine.recipe import TrainRecipe
from llmkit.models.blocks import initialise
from llmkit.vision.layers import Conv2d, ConvTranspose2d
from llmkit.vision.vq import Vq

HELDOUT = 1000
SIGMA = 0.5**0.5
"""Of the gaussian whose -log p is the squared error, but for a constant."""
VQ = {"name": "vq", "codes": 128, "code_dim": 16, "width": 16, "layers": 2, "blocks": 1, "sigma": SIGMA}
MODELS = {
    "vae": {"name": "vae", "net": "mlp", "width": 512, "layers": 1, "latent_dim": 16},
    "vq": VQ,
}
TORCH = {Conv2d: torch.nn.Conv2d, ConvTranspose2d: torch.nn.ConvTranspose2d}
Row = tuple[float, float, float]


def ours(kind: str, seed: int, images: int, epochs: int) -> Row:
    """-> (held-out loss, images/s, images/s of CPU time)"""
    steps = epochs * -(-images // 128)
    with tempfile.TemporaryDirectory() as out:
        tree = {
            "run": {"out": out, "seed": seed, "steps": steps, "log_every": 20, "eval_rows": HELDOUT},
            "model": MODELS[kind],
            "objective": {"name": kind},
            "data": {"name": "images", "source": "fashion-mnist", "rows": images},
            "batch": {"rows": 128},
            "optim": {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0, "clip": 0},
            "schedule": {"name": "constant", "warmup_frac": 0},
            "parallel": {"precision": "fp32", "compile": "off", "threads": torch.get_num_threads()},
        }
        with clocked(loop, "train") as spent, clocked(Evaluator, "run") as evaluation:
            run.train(config.resolve(TrainRecipe, tree), "cpu")
        last = json.loads((Path(out) / "metrics.jsonl").read_text().splitlines()[-1])
    constant = 784 * (0.5 * math.log(2 * math.pi) + math.log(SIGMA))
    loss = last["heldout/loss"] if kind == "vae" else last["heldout/reconstruction"] - constant
    wall_s, cpu_s = spent.wall_s - evaluation.wall_s, spent.cpu_s - evaluation.cpu_s
    return loss, images * epochs / wall_s, images * epochs / cpu_s


def pythae(kind: str, seed: int, images: int, epochs: int) -> Row:
    """The same of pythae."""
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    rows = Images.Settings(source="fashion-mnist", rows=images)
    train, held = (Images(rows, split, 0) for split in ("train", "heldout"))
    torch.manual_seed(seed)
    net = theirs(kind, seed)
    with tempfile.TemporaryDirectory() as out:
        batch = {"per_device_train_batch_size": 128, "learning_rate": 1e-3}
        how = BaseTrainerConfig(output_dir=out, num_epochs=epochs, no_cuda=True, seed=seed, **batch)
        pipeline = TrainingPipeline(model=net, training_config=how)
        with clocked(BaseTrainer, "train") as spent:
            pipeline(train_data=train.images.float() / 255)
    with torch.no_grad():
        found = net.eval()({"data": _first(held)})
    loss = found.loss if kind == "vae" else found.recon_loss
    return float(loss), images * epochs / spent.wall_s, images * epochs / spent.cpu_s


def theirs(kind: str, seed: int) -> torch.nn.Module:
    """pythae's own VAE, or its VQ-VAE around llmkit's halves."""
    from pythae.models import VAE, VQVAE, VAEConfig, VQVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    if kind == "vae":
        return VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="bce"))
    halves = Vq(Vq.Settings(**VQ, size=28, channels=1))
    initialise(halves, seed, torch.device("cpu"))
    halves.codebook = None  # pythae has one
    for layer in halves.modules():  # pythae's own nets are of these
        layer.__class__ = TORCH.get(type(layer), type(layer))

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net = halves

        def forward(self, x):
            return ModelOutput(embedding=self.net.encode(x).permute(0, 3, 1, 2))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = halves

        def forward(self, z):
            return ModelOutput(reconstruction=self.net.decode(z.permute(0, 2, 3, 1))[:, 0])

    shape = VQVAEConfig(input_dim=(1, 28, 28), latent_dim=VQ["code_dim"], num_embeddings=VQ["codes"])
    return VQVAE(shape, Encoder(), Decoder())


def _first(held: Images) -> torch.Tensor:
    """The held-out images that llmkit's evaluation uses."""
    from llmkit.data.order import Order

    order = Order(len(held), seed=0)
    return held.images[[order.row(i) for i in range(HELDOUT)]].float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=MODELS)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, list[Row]] = {"llmkit": [], "pythae 0.1.2": []}
    for train in (ours, pythae):  # what the first run of a process imports and allocates is no training
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train(args.kind, 0, 1280, 1)
    for seed in range(1, args.seeds + 1):
        for name, train in zip(found, (ours, pythae)):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found[name].append(train(args.kind, seed, args.images, args.epochs))
    loss = {"vae": "-ELBO, nats", "vq": "squared error"}[args.kind]
    print(f"| | {loss} (range) | images/s (range) | images per CPU second (range) |\n|---|---|---|---|")
    for name, rows in found.items():
        cells = [
            f"{sum(c) / len(c):.{n}f} ({min(c):.{n}f} to {max(c):.{n}f})"
            for c, n in zip(zip(*rows), (2, 0, 0))
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    for i, unit in enumerate(("images/s", "images per CPU second"), 1):
        ratios = [mine[i] / theirs[i] for mine, theirs in zip(*found.values())]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"\n{unit}, llmkit's by pythae's, median (range) of {len(ratios)}: {shown}")


if __name__ == "__main__":
    main()
