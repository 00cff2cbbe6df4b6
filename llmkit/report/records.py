"""What lies in the directories that a report is about; half a pipeline gives half a report."""

import json
import os.path
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmkit import manifest
from llmkit.errors import DataError


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file, or an empty one where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that was cut by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    out = []
    for line in lines:
        try:
            out.append(json.loads(line))
        except ValueError:
            break
    return out


def series(metrics: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) wherever a line has `key`."""
    return [(line["step"], line[key]) for line in metrics if isinstance(line.get(key), (int, float))]


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline, with what it left in its directory."""

    name: str
    verb: str
    out: Path
    seconds: float | None
    status: str | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Stage":
        """From a row of the pipeline: {name, verb, out, seconds, status}."""
        return cls(row["name"], row["verb"], Path(row["out"]), row.get("seconds"), row.get("status"))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.out / manifest.NAME)

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest.get("config") or {}

    @property
    def result(self) -> dict[str, Any]:
        return self.manifest.get("result") or {}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.out / "metrics.jsonl")

    @cached_property
    def report(self) -> dict[str, Any]:
        """The report.json of an evaluation."""
        return read_json(self.out / "report.json") if self.verb == "eval" else {}

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The tasks of an evaluation by label."""
        return self.report.get("tasks", {})

    def task(self, metric: str) -> dict[str, Any]:
        """The first task measured by `metric`, or nothing."""
        return next((task for task in self.tasks.values() if task.get("metric") == metric), {})

    @property
    def objective(self) -> str | None:
        """The objective of a training stage."""
        return (self.config.get("objective") or {}).get("name") if self.verb == "train" else None

    @property
    def fingerprint(self) -> str | None:
        """What identifies the content of the directory, in full."""
        try:
            return manifest.fingerprint(self.out)
        except DataError:
            return None

    def reads(self, other: "Stage") -> bool:
        """Whether a setting of this stage names the directory of `other`, or something in it."""
        return any(inside(value, other.out) for value in _strings(self.config))


def inside(path: str, folder: Path) -> bool:
    """Whether `path` is `folder` or lies in it, by name alone."""
    path, home = os.path.abspath(path), os.path.abspath(folder)
    return path == home or path.startswith(home + os.sep)


def _strings(value: Any):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


@dataclass(frozen=True)
class Roles:
    """Which stage plays which part: by its name, else by what it does and to which checkpoint."""

    stages: list[Stage]

    def named(self, name: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def training(self, role: str) -> Stage | None:
        """The stage that trains `role`: pretrain, sft, reward or dpo."""
        objective = "causal" if role == "pretrain" else role
        fitting = (stage for stage in self.stages if stage.objective == objective)
        return self.named(role) or next(fitting, None)

    def evaluation(self, role: str) -> Stage | None:
        """The evaluation of what `role` trained."""
        return self.named(f"eval_{role}") or self._of_checkpoint("eval", self.training(role))

    def export(self, role: str | None = None) -> Stage | None:
        """The export of what `role` trained; without a role, the last one made."""
        exports = [stage for stage in self.stages if stage.verb == "export"]
        if role is None:
            return self.named("export") or (exports[-1] if exports else None)
        return self.named(f"export_{role}") or self._of_checkpoint("export", self.training(role))

    def documents(self) -> Stage | None:
        """The stage that collected the text."""
        collected = (stage for stage in self.stages if stage.verb == "data.collect")
        return self.named("data") or next(collected, None)

    def _of_checkpoint(self, verb: str, trained: Stage | None) -> Stage | None:
        if trained is None:
            return None
        mine = (
            s for s in self.stages if s.verb == verb and inside(str(s.config.get("ckpt", "")), trained.out)
        )
        return next(mine, None)
