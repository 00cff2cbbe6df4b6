"""State in every layout: trained, saved, loaded into every other one. Runs on ranks, for test_layouts.py."""

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


def write(folder: str) -> None:
    """Train two steps in each layout of SAVED and save."""
    dist.start("cpu", 60, group=True)
    for layout in SAVED:
        made = engine(layout, "causal", 2)
        save(made, Path(folder) / layout)
        made.close()
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
    """Train 4 steps, and 2 plus a resume plus 2, in each layout -> whether both ends are equal.

    `forget` names a method of the backend that does nothing on the resuming side: the test's planted fault.
    """
    out = {}
    for layout in layouts:
        backend = layout.split()[0]
        kinds = (
            ("causal",) if LAYOUTS[layout].get("weights") == "bf16" else ("toy", "causal", "dpo", "toygan")
        )
        if len(layout.split()) > 1:
            kinds = kinds[:1]
        for kind in kinds:
            settings = {"parallel__backend": backend} | {
                f"parallel__{k}": v for k, v in LAYOUTS[layout].items()
            }
            straight, broken = (f"{folder}/{layout} {kind} {name}" for name in ("straight", "broken"))
            small.train(straight, kind, {**settings, "run__steps": 6})
            small.train(broken, kind, {**settings, "run__steps": 4})
            _resume(broken, kind, settings, backend, forget)
            ends = [small.digest(small.newest(end)) for end in (straight, broken)]
            out[f"{layout} {kind}"] = "equal" if ends[0] == ends[1] else "different"
    return out


def _resume(out, kind, settings, backend, forget):
    cls = cases.backend_class(backend)
    kept = getattr(cls, forget) if forget else None
    if forget:
        setattr(cls, forget, lambda self, *args: kept(self, args[0], 0) if forget == "allocate" else None)
    try:
        small.train(out, kind, {**settings, "run__steps": 6})
    finally:
        if forget:
            setattr(cls, forget, kept)
