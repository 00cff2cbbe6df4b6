"""A reinforcement learning run of seconds: short lists, a two-layer decoder, an opinion as the reward."""

import os
from pathlib import Path
from typing import Any

from llmkit import config, manifest, registry
from llmkit.data.collect import Collect
from llmkit.data.collect import work as collect
from llmkit.engine import run
from llmkit.engine.recipe import TrainRecipe

ODD = str(Path(__file__).parents[2] / "verifiers" / "odd.py")
MODEL = {"name": "decoder", "width": 16, "layers": 2, "heads": 2, "context": 64}
LISTS = {"name": "lists", "words": 2, "prompts": 40}


def lists(out: Path) -> None:
    """Collect forty prompts into `out`, a quarter of them held out."""
    out.mkdir()
    result = collect(Collect(kind="conversations", source=[LISTS], heldout_frac=0.25), out)
    lifted = {key: result.pop(key) for key in ("counts", "licences")}
    manifest.write(out, verb="data.collect", config={}, result=result, status="done", **lifted)


def recipe(out: str, data: str, tokenizer: str, objective: dict[str, Any], **overrides: Any) -> TrainRecipe:
    """6 steps of 4 prompts a minibatch, a checkpoint after every second one."""
    registry.load_plugin(ODD)
    tree = {
        "run": {"out": out, "steps": 6, "save_every": 2, "log_every": 1, "eval_every": 3, "eval_rows": 4,
                "keep": 9},
        "model": MODEL,
        "objective": {"max_new": 6, "rewards": [{"name": "odd"}], **objective},
        "data": {"name": "prompts", "data": data, "tokenizer": tokenizer, "prompt_len": 48},
        "batch": {"rows": 4, "micro_rows": 2},
        "optim": {"lr": 1e-3, "eps": 1e-5},
        "schedule": {"name": "constant", "warmup_frac": 0.0},
        "parallel": {"backend": "ddp", "precision": "fp32", "compile": "off", "threads": 1, "timeout_s": 30},
    }  # fmt: skip
    return config.resolve(
        TrainRecipe, tree, {key.replace("__", "."): value for key, value in overrides.items()}
    )


def train(
    out: str, data: str, tokenizer: str, objective: dict[str, Any], overrides: dict[str, Any] | None = None
):
    """Run it, as `llmkit train` would on this rank."""
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)  # a second run meets elsewhere
    run.train(recipe(out, data, tokenizer, objective, **(overrides or {})), "cpu")
