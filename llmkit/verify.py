"""Certificates that anyone can make on their own machine: real runs of a recipe, compared.

    resume   straight ── 8 steps ──────────────┐
             again ── 4 steps, SIGKILL, the same command ──┴─► equal, bit for bit?
    parity   one step: micro-batches, ranks, ZeRO stages ────► same loss, same gradient?
    export   checkpoint ─► Hugging Face directory ─► its gate ► same logits, same ids?

Each writes OUT/certificate.json and prints a table; what fails has the exit code of its kind.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llmkit import config, manifest
from llmkit.checkpoint import fragments, store
from llmkit.checkpoint.runstate import read_exit
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import CheckpointError, ConfigError, RankError, of_code
from llmkit.log import say
from llmkit.verbs import Options, perform

LIMIT = 2e-5
"""Largest departure of a loss or a gradient between layouts, relative, in fp32: the order of sums differs."""


def resume(recipe: str, values: dict[str, Any], options: Options, out: Path, steps: int) -> dict[str, Any]:
    """A run that is killed half way and continued, beside one that is not. CheckpointError if they differ."""
    config.resolve(TrainRecipe, config.read(recipe), values, options.quick)
    half = steps // 2
    schedule = {"run.steps": steps, "run.tokens": None, "run.save_every": half, "run.eval_every": 0}
    values = {**values, **schedule}
    train(recipe, values, options, out / "straight")
    killed = train(recipe, values, options, out / "again", kill_at=half + (steps - half) // 2)
    train(recipe, values, options, out / "again")
    ends = [tensors(out / name) for name in ("straight", "again")]
    different = sorted(
        key for key in ends[0].keys() | ends[1].keys()
        if key not in ends[0] or key not in ends[1] or not torch.equal(ends[0][key], ends[1][key])
    )  # fmt: skip
    rows = [("killed, exit code", killed), ("tensors compared", len(ends[0])), ("different", len(different))]
    certify(
        out, "resume", recipe, rows, not different, different=different[:20], steps=steps, killed_after=half
    )
    if different:
        raise CheckpointError(
            f"{out}: {len(different)} tensors differ after the resume, first {different[0]}"
        )
    return {"tensors": len(ends[0])}


def parity(
    recipe: str, values: dict[str, Any], options: Options, out: Path, stages: list[str]
) -> dict[str, Any]:
    """One step in several layouts, compared with the first. RankError if a loss or a gradient departs."""
    tree = config.resolve(TrainRecipe, config.read(recipe), values, options.quick)
    # written out: ranks that are told --quick would put its values above those given here
    recipe, values = str(_written(tree, out)), {}
    rows, ranks, options = tree.batch.rows, max(2, options.ranks), replace(options, quick=False)
    fixed = {
        "run.steps": 1, "run.tokens": None, "run.log_every": 1, "run.eval_every": 0, "run.eval_rows": 1,
        "optim.name": "adamw", "optim.ema": 0.0, "parallel.precision": "fp32", "parallel.compile": "off",
    }  # fmt: skip
    if hasattr(tree.model, "dropout"):
        fixed["model.dropout"] = 0.0
    micro = -(-rows // (2 * ranks))
    layouts = {
        "1 rank, whole batch": (1, "ddp", rows),
        "1 rank, micro-batches": (1, "ddp", micro),
        f"{ranks} ranks, ddp": (ranks, "ddp", -(-rows // ranks)),
        f"{ranks} ranks, ddp, micro-batches": (ranks, "ddp", micro),
        **{f"{ranks} ranks, {stage}": (ranks, stage, micro) for stage in stages},
    }
    found, first = [], None
    for number, (name, (world, backend, each)) in enumerate(layouts.items()):
        here = out / f"layout_{number}"
        settings = {**values, **fixed, "parallel.backend": backend, "batch.micro_rows": each}
        train(recipe, settings, options, here, ranks=world)
        state = {key: value for key, value in tensors(here).items() if key.endswith(" exp_avg")}
        loss = _loss(here)
        first = first or (loss, state)
        off = (abs(loss / first[0] - 1), _departure(state, first[1]))
        found.append((name, f"{loss:.7f}", f"{off[0]:.1e}", f"{off[1]:.1e}", max(off) <= LIMIT))
    wrong = [name for name, *_, fine in found if not fine]
    lines = [(name, f"loss {loss}, off {a}; gradient off {b}") for name, loss, a, b, _ in found]
    certify(out, "parity", recipe, lines, not wrong, limit=LIMIT, departing=wrong)
    if wrong:
        raise RankError(f"{out}: {len(wrong)} layouts compute something else, first: {wrong[0]}")
    return {"layouts": len(found)}


def export(ckpt: str, values: dict[str, Any], options: Options, out: Path) -> dict[str, Any]:
    """Export a checkpoint, or one that the recipe `ckpt` trains now. ExportRefused if the gate says no."""
    if not Path(ckpt).is_dir():
        train(ckpt, values, options, out / "run")
        ckpt, values = str(out / "run"), {}
    facts = perform("export", {}, {**values, "ckpt": ckpt, "out": str(out / "hf")}, options)
    figures = {key: value for key, value in facts["result"].items() if isinstance(value, (int, float, str))}
    certify(out, "export", ckpt, list(figures.items()), True)
    return figures


# ---- runs and what they leave ------------------------------------------------------------------------------


def train(
    recipe: str,
    values: dict,
    options: Options,
    out: Path,
    ranks: int | None = None,
    kill_at: int | None = None,
) -> int:
    """`llmkit train` in a process of its own -> its exit code: 0, unless it is to die at step `kill_at`."""
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    count = options.ranks if ranks is None else ranks
    numbers = ["-n", str(count)] if count else []
    command = [
        sys.executable,
        "-m",
        "llmkit",
        "train",
        recipe,
        *words,
        f"out={out}",
        *numbers,
        *replace(options, fresh=False).argv(),
    ]
    fault = {"LLMKIT_FAULT": f"phase0@{kill_at}:*"} if kill_at is not None else {}
    done = subprocess.run(command, env=os.environ | fault, capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or ["no output"])[-1].removeprefix("llmkit: ")
    if kill_at is None and done.returncode:
        raise of_code((read_exit(out) or {}).get("code", done.returncode), last)
    if kill_at is not None and not done.returncode:
        raise ConfigError(f"{out}: the run ended before it could be killed; use --fresh, or more --steps")
    say(f"verify: {out.name} {'killed' if kill_at is not None else 'done'}")
    return done.returncode


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint of `run`, as `net/name kind`."""
    newest = store.Store(run / "checkpoints").newest()
    if newest is None:
        raise CheckpointError(f"{run}: holds no checkpoint; look at its logs")
    reader = fragments.Reader(newest)
    return {
        f"{net}/{name} {kind}": tensor
        for net in reader.nets()
        for kind in ("param", "buffer", *reader.kinds(net))
        for name, tensor in reader.whole(net, kind).items()
    }


def _written(tree: TrainRecipe, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "asked.yaml"
    file.write_text(config.dump(tree))
    return file


def _loss(run: Path) -> float:
    line = config.parse_yaml((run / "metrics.jsonl").read_text().splitlines()[0], "metrics.jsonl")
    return next(value for key, value in line.items() if key.endswith("loss"))


def _departure(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    if state.keys() != other.keys():
        return float("inf")
    off = sum((state[key].double() - other[key].double()).square().sum() for key in state)
    return float((off / sum(value.double().square().sum() for value in other.values())).sqrt())


def certify(out: Path, kind: str, what: str, rows: list[tuple[str, Any]], passed: bool, **facts: Any) -> None:
    """Write OUT/certificate.json and print it as a table."""
    out.mkdir(parents=True, exist_ok=True)
    tree = {
        "verify": kind,
        "of": what,
        "passed": passed,
        "rows": dict(rows),
        "torch": torch.__version__,
        **facts,
    }
    manifest.write_json(out / "certificate.json", tree)
    width = max(len(str(name)) for name, _ in rows)
    for name, value in rows:
        print(f"  {name!s:{width}}  {value}")
    print(f"verify {kind} {what}: {'PASSED' if passed else 'FAILED'} ({out / 'certificate.json'})")
