"""What a run keeps: when to save, what a checkpoint holds beside tensors, and where a run starts from.

step_00000123/  rank_*.safetensors + index.json   every trained net, its optimiser's moments, EMA, buffers
                state.json                        step, optimiser step counts, objective state, figures so far
                recipe.yaml  lineage.json  tokenizer/

In the background (`run.save_in_background`) the loop waits for a copy of all that in host memory, and a
thread writes the copy. One is in flight at a time: the next save, and the end of the run, wait for it.
"""

import copy
import json
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

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
        behind = self.run.save_in_background
        gather = dist.channel() if behind else dist.gather
        self.store = Store(
            self.folder / "checkpoints", self.run.keep, self.run.max_failed_saves, backend.rank, gather
        )
        self.writer = ThreadPoolExecutor(1, "saver") if behind else None
        self._pending: tuple[Future[Path | None], dict | None] | None = None
        self._copies: dict[tuple[str, str], torch.Tensor] = {}
        self.best: dict | None = None
        self.figures: dict[str, float] = {}
        self._newest: Path | None = None

    def newest(self) -> Path | None:
        """The newest checkpoint that this run has saved or started from."""
        if self._pending and self._pending[0].done() and not self._pending[0].exception():
            return self._pending[0].result() or self._newest
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
        if last:
            self._land()
        if self.objective.warning:
            return
        better = self._is_best(done, figures)
        due = self.run.save_every and done % self.run.save_every == 0
        if not (due or better or last):
            return
        self.meter.count()
        self._land()
        pieces: Iterable[fragments.Piece] = self._pieces(writing=True)
        state, best = self._state(done), self.best["step"] if self.run.best and self.best else None
        self._pending = self._begin(done, pieces, state, best), self.best if better else None
        if last or not self.writer:
            self._land(last)

    def _begin(self, done: int, pieces, state: dict, best: int | None) -> "Future[Path | None]":
        if self.writer:
            return self.writer.submit(self._publish, done, self._copied(pieces), state, best)
        future: Future[Path | None] = Future()
        future.set_result(self._publish(done, pieces, state, best))
        return future

    def _publish(self, done: int, pieces, state: dict, best: int | None) -> Path | None:
        return self.store.save(
            done,
            lambda staging: [fragments.write(staging, self.backend.rank, pieces, done)],
            lambda staging: self._finish(staging, state),
            best=best,
            recipe=manifest.digest(self.recipe.model_dump(mode="json")),
            tokenizer=self.lineage.get("tokenizer"),
        )

    def _land(self, last: bool = False) -> None:
        """Wait for the save in flight, if any, and take note of how it ended; all ranks at the same step."""
        if not self._pending:
            return
        (future, best), self._pending = self._pending, None
        if path := future.result():
            self._newest = path
            if best and self.backend.rank == 0:
                manifest.write_json(self.folder / "best.json", best)
        elif last:  # nothing comes behind it that could be saved instead
            raise CheckpointError(f"{self.store.failure}; make room, and the same command continues")
        elif self.backend.rank == 0:
            warn(self.store.failure)

    def close(self) -> None:
        """Let a save in flight come to its end, however the run came to its own."""
        if self.writer:
            self.writer.shutdown()
            self.store.gather = lambda value: [value]  # lets go of the process group before it is destroyed

    def _copied(self, pieces: Iterable[fragments.Piece]) -> list[fragments.Piece]:
        """`pieces` in host memory of their own, page-locked where there is a GPU, the same at every save."""
        copies = []
        for piece in pieces:
            where = f"{piece.name}|{piece.start}"
            views = {kind: self._copy(where, kind, view) for kind, view in piece.views.items()}
            copies.append(piece._replace(views=views))
        if self.backend.device.type == "cuda":
            torch.cuda.synchronize(self.backend.device)
        return copies

    def _copy(self, name: str, kind: str, view: torch.Tensor) -> torch.Tensor:
        held = self._copies.get((name, kind))
        if held is None or held.dtype != view.dtype:
            held = torch.empty(view.shape, dtype=view.dtype, pin_memory=self.backend.device.type == "cuda")
            self._copies[name, kind] = held
        return held.copy_(view, non_blocking=True)

    def _is_best(self, done: int, figures: dict[str, float]) -> bool:
        name, mode = f"heldout/{self.objective.metric}", self.objective.metric_mode
        if not self.run.best or name not in figures:
            return False
        value = figures[name]
        if self.best and (value <= self.best["value"] if mode == "max" else value >= self.best["value"]):
            return False
        self.best = {"step": done, "metric": name, "value": value}
        return True

    def _state(self, done: int) -> dict[str, Any]:
        """What a checkpoint holds beside tensors, as of now."""
        return {
            "step": done,
            "optimizer_steps": {net: self.backend.steps_taken(net) for net in self.backend.trained},
            "objective": copy.deepcopy(self.objective.state),
            "meter": self.meter.state(),
            "best": self.best,
            "figures": dict(self.figures),
        }

    def _finish(self, staging: Path, state: dict[str, Any]) -> list[str]:
        """What rank 0 adds when all ranks have written their fragments."""
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
