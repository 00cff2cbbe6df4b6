"""A whole training run in a fraction of a second, for tests that stop, kill and resume it.

Four kinds: `toy` (a regression with a buffer and a moving average, whose samples can be poisoned), `causal`
and `dpo` (llmkit's own, on a two-layer decoder), `toygan` (two nets, two optimisers, an adaptive state).
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from llmkit import config
from llmkit.checkpoint import fragments, store
from llmkit.config import Section
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe
from llmkit.objectives.phase import Objective, Phase, keyed
from llmkit.registry import register
from tests.parity import problems

ROWS = 96


@register("dataset", "toy")
class Toy:
    """Rows drawn from their number alone. `poison` maps global sample numbers to nan, inf or gradient."""

    class Settings(Section):
        name: Literal["toy"] = "toy"
        kind: Literal["toy", "causal", "dpo", "toygan"] = "toy"
        poison: dict[int, Literal["nan", "inf", "gradient"]] = {}

    tokenizer_dir = None
    vocab_size = problems.VOCABULARY
    sources = ()

    def __init__(self, settings: Settings, split: str, seed: int):
        self.settings, self.split = settings, split
        self.fingerprint = f"toy-{settings.kind}"

    def __len__(self) -> int:
        return ROWS if self.split == "train" else 8

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        make = getattr(self, f"_{self.settings.kind}")
        batches = [make(sample, row) for sample, row in rows] or [make(None, 0)]
        return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}

    def _toy(self, sample, row):
        x = torch.randn(1, 6, generator=keyed("x", self.split, row))
        poison = self.settings.poison.get(sample) if self.split == "train" else None
        if poison in ("nan", "inf"):
            x[0, 0] = float(poison)
        flag = 0.0 if poison == "gradient" else 1.0
        return {"x": x, "here": torch.tensor([[float(sample is not None)]]), "flag": torch.tensor([[flag]])}

    def _causal(self, sample, row):
        batch = problems.packed(0, 0, 2 + row)
        labels = batch["labels"] if sample is not None else torch.full_like(batch["labels"], -100)
        return {**batch, "labels": labels}

    def _dpo(self, sample, row):
        batch = problems.pairs(0, 0, 2 + row)
        return {**batch, "valid": batch["valid"] & (sample is not None)}

    def _toygan(self, sample, row):
        batch = problems.images(0, 0, 2 * row)
        return {key: value[: 4 * (sample is not None)] for key, value in batch.items()}


class Regressor(nn.Module):
    """Two layers, and a persistent buffer that counts the rows it has been trained on."""

    def __init__(self):
        super().__init__()
        self.layers = problems.mlp("toy", 6, 7, 3)
        self.fixed = nn.Parameter(torch.full((5,), 0.5), requires_grad=False)
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return self.layers(x) * self.fixed.mean()


@register("objective", "toy")
class ToyObjective(Objective):
    """Mean squared output; the gradient of its root is NaN where `flag` is 0."""

    class Settings(Section):
        name: Literal["toy"] = "toy"

    phases = (Phase("train", "model"),)

    def build(self, make):
        return {"model": Regressor()}

    def count(self, phase, batch):
        return {"rows": batch["here"].sum()}

    def loss(self, phase, nets, batch, total):
        if torch.is_grad_enabled():
            nets["model"].rows += 1
        out = nets["model"](batch["x"])
        error = ((out * batch["flag"]).square().sum(1, keepdim=True).sqrt() * batch["here"]).sum()
        return error / total["rows"], {"loss": error.detach(), **self.count(phase, batch)}

    def metrics(self, phase, seen):
        return {"loss": seen["loss"] / seen["rows"]}


@register("objective", "toygan")
class GanObjective(problems.Gan):
    """The two-net problem of the parity tests."""

    class Settings(Section):
        name: Literal["toygan"] = "toygan"

    def build(self, make):
        return {name: problems.mlp(name, *widths) for name, widths in problems.GAN_NETS.items()}

    def metrics(self, phase, seen):
        return {"images": seen["images"]}


SHAPE = {"width": 16, "layers": 2, "heads": 2, "vocab_size": problems.VOCABULARY, "context": problems.LENGTH}


def recipe(out: str, kind: str = "toy", **overrides: Any) -> TrainRecipe:
    """8 steps of 4 rows, a checkpoint after every second; `overrides` by dotted key, `__` for a dot."""
    tree = {
        "run": {"out": out, "steps": 8, "save_every": 2, "log_every": 1, "eval_rows": 4, "keep": 3},
        "model": {"name": "decoder", **SHAPE},
        "objective": {"name": kind},
        "data": {"name": "toy", "kind": kind},
        "batch": {"rows": 4, "micro_rows": 1},
        "schedule": {"name": "constant", "warmup_frac": 0.0},
        "optim": {"lr": 1e-3, "eps": 1e-5, "ema": 0.9 if kind in ("toy", "toygan") else 0.0, "clip": 1.0},
        "parallel": {"backend": "ddp", "precision": "fp32", "compile": "off", "threads": 1, "timeout_s": 20},
    }
    return config.resolve(
        TrainRecipe, tree, {key.replace("__", "."): value for key, value in overrides.items()}
    )


def train(out: str, kind: str = "toy", overrides: dict[str, Any] | None = None) -> None:
    """Run it, as `llmkit train` would on this rank."""
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)  # a second run meets elsewhere
    run.train(recipe(out, kind, **(overrides or {})), "cpu")


def newest(out: str | Path) -> Path:
    """The newest whole checkpoint of a run."""
    return store.Store(Path(out) / "checkpoints").newest()


def digest(checkpoint: Path) -> str:
    """sha256 of all that a run continues from: tensors of every kind, in their shapes, and its counters."""
    reader, out = fragments.Reader(checkpoint), hashlib.sha256()
    for net in reader.nets():
        for kind in ("param", "buffer", *reader.kinds(net)):
            for name, tensor in sorted(reader.whole(net, kind).items()):
                out.update(f"{net} {kind} {name} {list(tensor.shape)}".encode())
                out.update(tensor.contiguous().numpy().tobytes())
    state = json.loads((checkpoint / "state.json").read_text())
    kept = {key: state[key] for key in ("step", "optimizer_steps", "objective")}
    out.update(json.dumps(kept, sort_keys=True).encode())
    return out.hexdigest()


def lines(out: str | Path) -> list[dict[str, Any]]:
    """metrics.jsonl of a run."""
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
