"""A recipe of llmkit, trained a few steps in every layout: how far apart the curves are, and single steps.

python -m tests.parity.curves runs/quickstart/shards        the quickstart's pretraining, at full size
"""

import sys
import tempfile
from pathlib import Path

import torch

from llmkit import config, dist, registry
from llmkit.checkpoint import fragments
from llmkit.data.loader import Loader
from llmkit.engine import loop
from llmkit.engine.backend import denominators
from llmkit.engine.recipe import Optim, Parallel, TrainRecipe
from llmkit.objectives.phase import add
from tests import ranks
from tests.parity.cases import Sink, backend_class

STEPS = 20
PARITY = {"optim.lr": 1e-3, "optim.eps": 1e-5, "schedule.name": "constant", "schedule.warmup_frac": 0.0}
"""The settings under which rounding stays rounding over many steps (docs/design/parity.md)."""
BACKENDS = ("ddp", "zero1", "zero2", "zero3")


class Layout:
    """One backend with the recipe's net and data, without what a run has around them."""

    def __init__(self, recipe: TrainRecipe, backend: str):
        self.objective = registry.find("objective", recipe.objective.name)(recipe.objective)
        dataset = registry.find("dataset", recipe.data.name)(recipe.data, "train", recipe.run.seed)
        model = recipe.model.model_copy(update={"vocab_size": recipe.model.vocab_size or dataset.vocab_size})
        with torch.device("meta"):
            nets = {"model": registry.find("model", model.name)(model)}
        parallel = Parallel(backend=backend, precision="fp32", compile="off")
        optims: dict[str, Optim] = {"model": recipe.optim}
        self.backend = backend_class(backend)(self.objective, nets, optims, parallel, recipe.run.seed)
        world, rows = dist.world(), recipe.batch.rows
        self.data = Loader(dataset, rows, -(-rows // world), dist.rank(), world, recipe.run.seed)
        self.losses: list[float] = []

    def step(self, number: int) -> tuple[float, float]:
        """Take one step as the loop does -> its loss per token, and the gradient's norm."""
        (phase,) = self.objective.phases
        group = self.backend.place(self.data.group(number))
        total = denominators(self.backend.total(add(self.objective.count(phase, batch) for batch in group)))
        self.backend.begin(phase, number, 1.0)
        sink = _Loss(self.backend)
        loop.take_update(self.objective, phase, self.backend, group, sink, sink)
        nll = float(self.backend.total({"nll": sink.seen["nll"]})["nll"])
        return nll / float(total["tokens"]), sink.norms["model"][-1]

    def state(self, folder: Path) -> dict[str, torch.Tensor]:
        """The weights and moments, whole, on every rank."""
        folder.mkdir(parents=True, exist_ok=True)
        pieces = fragments.of_net("model", self.backend.pieces("model", writing=True))
        fragments.write(folder, dist.rank(), pieces)
        dist.barrier("written")
        if dist.rank() == 0:
            fragments.write_index(folder)
        dist.barrier("indexed")
        return fragments.Reader(folder).whole("model")

    def load(self, folder: Path, steps: int) -> None:
        self.backend.allocate("model", steps)
        fragments.Reader(folder).into(fragments.of_net("model", self.backend.pieces("model", writing=False)))
        self.backend.refresh("model")

    def close(self) -> None:
        self.data.close()
        self.backend.close()


class _Loss(Sink):
    """Keeps what the update saw."""

    def add(self, phase, seen, outcome):
        super().add(phase, seen, outcome)
        self.seen = seen


def curves(recipe: dict, backends: list[str], steps: int = STEPS) -> dict[str, list[float]]:
    """Loss of each of `steps` steps, by backend."""
    dist.start("cpu", 300, group=True)
    torch.set_num_threads(1)
    out = {}
    for name in backends:
        layout = Layout(TrainRecipe.model_validate(recipe), name)
        out[name] = [layout.step(number)[0] for number in range(steps)]
        layout.close()
    dist.stop()
    return out


def single_steps(recipe: dict, backends: list[str], folder: str, steps: int = STEPS) -> dict[str, dict]:
    """From each of `steps` states on the first backend's way, a step on the others: how far off they are.

    Loss and gradient norm relative; weights as the norm of the difference over that of the step.
    """
    dist.start("cpu", 300, group=True)
    torch.set_num_threads(1)
    settings, root = TrainRecipe.model_validate(recipe), Path(folder)
    guide, *others = (Layout(settings, name) for name in backends)
    out = {name: {"loss": 0.0, "grad_norm": 0.0, "weights": 0.0} for name in backends[1:]}
    for number in range(steps):
        before = guide.state(root / "before") if number else None
        expected = guide.step(number)
        after = guide.state(root / "after")
        for name, layout in zip(backends[1:], others):
            if number:
                layout.load(root / "before", number)
            found = layout.step(number)
            here = layout.state(root / name)
            relative = [abs(a - b) / b for a, b in zip(found, expected)]
            moved = norm(after, before) if before else float("inf")
            new = {"loss": relative[0], "grad_norm": relative[1], "weights": norm(here, after) / moved}
            out[name] = {key: max(out[name][key], new[key]) for key in new}
        dist.barrier("compared")
    for layout in (guide, *others):
        layout.close()
    dist.stop()
    return out


def norm(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return sum(float((a[name] - b[name]).double().square().sum()) for name in a) ** 0.5


def recipe(shards: str, quick: bool, **changes) -> dict:
    """The quickstart's pretraining on `shards`, as plain data."""
    tree = config.read("pretrain/quickstart")
    return config.resolve(TrainRecipe, tree, {"data.shards": shards, **changes}, quick).model_dump(
        mode="json"
    )


def main(shards: str) -> None:
    flat = {}
    for world in (1, 2):
        found = ranks.run(curves, world, recipe(shards, False, **PARITY), list(BACKENDS), timeout_s=1200)[0]
        flat |= {f"{name} x{world}": losses for name, losses in found.items()}
    first = flat["ddp x1"]
    for name, losses in flat.items():
        far = max(abs(a - b) / b for a, b in zip(losses, first))
        print(f"{name}: {STEPS} steps at the parity learning rate, {far:.1e} from ddp x1 ({losses[-1]:.5f})")
    for world in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            own = recipe(shards, False)
            found = ranks.run(single_steps, world, own, list(BACKENDS), folder, timeout_s=1200)[0]
        for name, off in found.items():
            print(f"{name} x{world}: {STEPS} single steps at its own learning rate, {off}")


if __name__ == "__main__":
    main(sys.argv[1])
