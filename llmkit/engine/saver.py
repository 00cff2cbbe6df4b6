"""What a run keeps: when to save, what a checkpoint holds beside tensors, and where a run starts from.

step_00000123/  rank_*.safetensors + index.json   every trained net, its optimiser's moments, EMA, buffers
                state.json                        step, optimiser step counts, objective state, figures so far
                recipe.yaml  lineage.json  tokenizer/
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from llmkit import adapted, config, dist, manifest
from llmkit.checkpoint import fragments
from llmkit.checkpoint.store import Store
from llmkit.engine.backend import Backend
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import CheckpointError
from llmkit.log import say, warn
from llmkit.models.adapter import kept
from llmkit.objectives.phase import Objective


class Saver:
    """Saves and restores one run. All ranks call `resume` and `save` together."""

    def __init__(
        self,
        recipe: TrainRecipe,
        backend: Backend,
        objective: Objective,
        meter,
        lineage: dict,
        tokenizer: Path | None,
    ):
        self.recipe, self.backend, self.objective, self.meter = recipe, backend, objective, meter
        self.lineage, self.tokenizer = lineage, tokenizer
        self.run, self.seed = recipe.run, recipe.run.seed
        self.folder = Path(recipe.run.out)
        self.store = Store(
            self.folder / "checkpoints", self.run.keep, self.run.max_failed_saves, backend.rank, dist.gather
        )
        self.best: dict | None = None
        self.figures: dict[str, float] = {}
        self._newest: Path | None = None

    def newest(self) -> Path | None:
        """The newest checkpoint that this run has saved or started from."""
        return self._newest

    # ---- starting ------------------------------------------------------------------------------------------

    def resume(self) -> int:
        """Restore the newest whole checkpoint -> the number of steps it has taken; 0 if there is none."""
        path = dist.broadcast(str(self.store.newest() or "") if self.backend.rank == 0 else None)
        if self.backend.rank == 0:
            for line in self.store.damaged:
                warn(f"passed over: {line}")
        if not path:
            return 0
        self._newest = Path(path)
        adapted.same_bases(self._newest, self.lineage)
        state = json.loads((self._newest / "state.json").read_text())
        for net in self.backend.trained:
            self.backend.allocate(net, state["optimizer_steps"][net])
        fragments.Reader(self._newest).into(self._pieces(writing=False))
        for net in self.backend.trained:
            self.backend.refresh(net)
        self.objective.state.update(state["objective"])
        self.meter.restore(state["meter"])
        self.best, self.figures = state["best"], state["figures"]
        step = dist.agree(state["step"], "resumed step")
        say(f"continuing from step {step} ({self._newest})")
        return step

    # ---- saving --------------------------------------------------------------------------------------------

    def save(self, done: int, figures: dict[str, float], last: bool) -> None:
        """Publish a checkpoint after `done` steps if one is due: periodic, best so far, or the last.

        None is published while the objective warns: the newest stays the last good one.
        """
        self.figures |= figures
        if self.objective.warning:
            return
        better = self._is_best(done, figures)
        due = self.run.save_every and done % self.run.save_every == 0
        if not (due or better or last):
            return
        self.meter.count()
        path = self.store.save(
            done,
            lambda staging: [fragments.write(staging, self.backend.rank, self._pieces(writing=True), done)],
            lambda staging: self._finish(staging, done),
            best=self.best["step"] if self.run.best and self.best else None,
            recipe=manifest.digest(self.recipe.model_dump(mode="json")),
            tokenizer=self.lineage.get("tokenizer"),
        )
        if path is None:
            if last:  # nothing comes behind it that could be saved instead
                raise CheckpointError(f"{self.store.failure}; make room, and the same command continues")
            if self.backend.rank == 0:
                warn(self.store.failure)
            return
        self._newest = path
        if better and self.backend.rank == 0:
            manifest.write_json(self.folder / "best.json", self.best)

    def _is_best(self, done: int, figures: dict[str, float]) -> bool:
        name, mode = f"heldout/{self.objective.metric}", self.objective.metric_mode
        if not self.run.best or name not in figures:
            return False
        value = figures[name]
        if self.best and (value <= self.best["value"] if mode == "max" else value >= self.best["value"]):
            return False
        self.best = {"step": done, "metric": name, "value": value}
        return True

    def _finish(self, staging: Path, done: int) -> list[str]:
        """What rank 0 adds when all ranks have written their fragments."""
        state = {
            "step": done,
            "optimizer_steps": {net: self.backend.steps_taken(net) for net in self.backend.trained},
            "objective": self.objective.state,
            "meter": self.meter.state(),
            "best": self.best,
            "figures": self.figures,
        }
        manifest.write_json(staging / "state.json", state)
        manifest.write_json(staging / "lineage.json", self.lineage)
        (staging / "recipe.yaml").write_text(config.dump(self.recipe))
        files = [fragments.write_index(staging), "state.json", "lineage.json", "recipe.yaml"]
        if self.tokenizer:
            shutil.copytree(self.tokenizer, staging / "tokenizer")
            files += [
                p.relative_to(staging).as_posix()
                for p in sorted((staging / "tokenizer").rglob("*"))
                if p.is_file()
            ]
        return files

    def _pieces(self, writing: bool) -> Iterator[fragments.Piece]:
        for net in self.backend.trained:
            yield from fragments.of_net(net, kept(self.backend.nets[net], self.backend.pieces(net, writing)))
            if not writing or self.backend.rank == 0:
                yield from fragments.of_net(net, fragments.buffers(self.backend.nets[net]))
