"""State in every layout: trained, saved, loaded into every other one. Runs on ranks, for test_layouts.py."""

import contextlib
import os
import shutil
from pathlib import Path

import torch

from llmkit import dist
from llmkit.checkpoint import fragments
from tests.checkpoint import small
from tests.parity import cases
from tests.parity.problems import PROBLEMS

LAYOUTS = {
    "ddp": {},
    "zero1": {},
    "zero2": {},
    "zero3": {},
    "zero1 offload": {"offload": "optimizer"},
    "zero2 offload": {"offload": "optimizer"},
    "zero3 offload": {"offload": "optimizer"},
    "zero3 all offloaded": {"offload": "params"},
    "ddp autocast": {"precision": "bf16"},
    "zero1 autocast": {"precision": "bf16"},
    "zero2 autocast": {"precision": "bf16"},
    "zero3 autocast": {"precision": "bf16"},
    "zero1 bf16": {"weights": "bf16"},
    "zero2 bf16": {"weights": "bf16"},
    "zero3 bf16": {"weights": "bf16"},
    "zero2 bf16 offload": {"weights": "bf16", "offload": "optimizer"},
    "zero3 bf16 offload": {"weights": "bf16", "offload": "params"},
}
SAVED = ("ddp", "zero1", "zero2", "zero3", "zero3 offload", "zero1 bf16", "zero2 bf16", "zero3 bf16")
"""Where the checkpoints come from; the others differ in where the same state lies."""


def engine(layout: str, problem: str, steps: int, **found):
    """The backend of `layout` after `steps` steps; in `found["sink"]` what they saw."""
    backend = layout.split()[0]
    made, found["sink"] = cases.train(PROBLEMS[problem], backend, 2, steps, **LAYOUTS[layout])
    return made


def save(made, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [p for net in made.trained for p in fragments.of_net(net, made.pieces(net, writing=True))]
    fragments.write(folder, dist.rank(), pieces)
    dist.barrier("written")
    if dist.rank() == 0:
        fragments.write_index(folder)
    dist.barrier("indexed")


def load(made, folder: Path, steps: int) -> None:
    reader = fragments.Reader(folder)
    for net in made.trained:
        made.allocate(net, steps)
        reader.into(fragments.of_net(net, made.pieces(net, writing=False)))
        made.refresh(net)


def state(folder: Path) -> dict[str, torch.Tensor]:
    reader = fragments.Reader(folder)
    return {
        f"{net} {kind} {name}": tensor
        for net in reader.nets()
        for kind in ("param", *reader.kinds(net))
        for name, tensor in reader.whole(net, kind).items()
    }


def write(folder: str) -> dict[str, str]:
    """Train two steps in each layout of SAVED and save -> what its weights are held in."""
    dist.start("cpu", 60, group=True)
    held = {}
    for layout in SAVED:
        made = engine(layout, "causal", 2)
        save(made, Path(folder) / layout)
        p = next(p for name in made.trained for p in made.nets[name].parameters())
        held[layout] = str(getattr(p, "ds_tensor", p).dtype)
        made.close()
    return held
    dist.stop()


def read(folder: str, layouts: list[str]) -> list[str]:
    """Load every saved checkpoint into each of `layouts` -> what is not bit for bit as it was."""
    dist.start("cpu", 60, group=True)
    wrong = []
    for layout in layouts:
        made = engine(layout, "causal", 0)
        for source in SAVED:
            load(made, Path(folder) / source, steps=2)
            here = Path(folder) / f"{dist.world()} {layout} from {source}"
            save(made, here)
            if dist.rank() == 0:
                want, got = state(Path(folder) / source), state(here)
                equal = set(want) == set(got) and all(torch.equal(want[key], got[key]) for key in want)
                wrong += [] if equal and made.steps_taken("model") == 2 else [f"{source} -> {layout}"]
        made.close()
    dist.stop()
    return wrong


def resumed(folder: str, layouts: list[str], forget: str = "") -> dict[str, str]:
    """Train 6 steps, and the last 2 again from the checkpoint of step 4 -> whether both ends are equal.

    `forget` names a method of the backend that does not do its work on the resuming side: a planted fault.
    """
    out = {}
    for layout in layouts:
        changes = {"backend": layout.split()[0], **LAYOUTS[layout]}
        settings = {f"parallel__{key}": value for key, value in changes.items()} | {"run__steps": 6}
        for kind in ("causal",) if LAYOUTS[layout] else ("toy", "causal", "dpo", "toygan"):
            straight, again = (Path(folder) / f"{layout} {kind} {name}" for name in ("straight", "again"))
            small.train(str(straight), kind, settings)
            if os.environ["RANK"] == "0":
                middle = "checkpoints/step_00000004"
                shutil.copytree(straight / middle, again / middle)
                shutil.copy(straight / "recipe.yaml", again)
            with forgetting(cases.backend_class(changes["backend"]), forget):
                small.train(str(again), kind, settings)
            ends = [small.digest(small.newest(end)) for end in (straight, again)]
            out[f"{layout} {kind}"] = "equal" if ends[0] == ends[1] else "different"
    return out


@contextlib.contextmanager
def forgetting(cls, method: str):
    """`allocate` takes the optimiser's step count for 0; any other method does nothing."""
    if not method:
        yield
        return
    honest = getattr(cls, method)
    setattr(cls, method, lambda self, net, *steps: honest(self, net, 0) if steps else None)
    try:
        yield
    finally:
        setattr(cls, method, honest)
