"""`llmkit eval`: the tasks of a suite, measured on one checkpoint.

suite.yaml + CKPT ─► open once per head ─► metric by metric ─► OUT/report.json          the figures
                                                          └──► OUT/results/TASK.jsonl   every sample
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from llmkit import manifest, registry
from llmkit.config import Component, Quick, Section
from llmkit.errors import CheckpointError, ConfigError
from llmkit.eval.records import digest

FOLDERS = ("data", "before", "reference", "extractor", "blind")
"""Settings of metrics that name directories."""
FILES = ("text", "train_text")
"""Settings of metrics that name a file of one."""


class Suite(Section):
    """What to measure, and on what."""

    quick: Quick = Field(False, description="a smoke evaluation: few samples of everything")
    ckpt: str = Field(description="run directory, checkpoint directory or Hugging Face directory")
    tasks: dict[str, Annotated[Section, Component("metric")]] = Field(
        description="metrics by the label they report under"
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="where the nets run; auto: a GPU if there is one"
    )

    def inputs(self) -> dict[str, str]:
        """The stage directories it reads, by label: when one of them is made anew, so is the evaluation."""
        named = {"ckpt": self.ckpt}
        for label, task in self.tasks.items():
            named |= {f"{label}.{key}": value for key, value in task if key in FOLDERS and value}
            named |= {
                f"{label}.{key}": str(Path(value).parent) for key, value in task if key in FILES and value
            }
        return {label: folder for label, folder in named.items() if (Path(folder) / manifest.NAME).is_file()}


def work(settings: Suite, out: Path) -> dict[str, Any]:
    """Measure every task; write the report and all samples into `out`, print a table, return the report."""
    if not settings.tasks:
        raise ConfigError(
            "tasks: the suite names no task; known metrics: " + ", ".join(registry.names("metric"))
        )
    metrics = {label: registry.find("metric", task.name)(task) for label, task in settings.tasks.items()}
    opened: dict[str, Any] = {}
    report: dict[str, Any] = {"ckpt": settings.ckpt, "tasks": {}}
    (out / "results").mkdir(parents=True, exist_ok=True)
    for label, metric in metrics.items():
        if metric.head not in opened:
            opened[metric.head] = _open(settings.ckpt, metric.head, settings.device)
        start = time.monotonic()
        measured = metric.measure(opened[metric.head])
        report["tasks"][label] = {
            "metric": metric.settings.name,
            "headline": metric.headline,
            "better": metric.better,
            "seconds": round(time.monotonic() - start, 2),
            **_heldout(metric.settings),
            **measured.figures,
        }
        _write_rows(out / "results" / f"{label}.jsonl", measured.rows)
    used = next(iter(opened.values()))
    report |= {"checkpoint": str(used.path), "parameters": sum(p.numel() for p in used.net.parameters())}
    manifest.write_json(out / "report.json", report)
    show(report)
    return report


def _heldout(settings: Section) -> dict[str, str]:
    """A digest of the held-out records that a metric reads, for `llmkit compare`."""
    path = Path(getattr(settings, "data", "")) / "heldout.jsonl"
    return {"heldout": digest(path.read_bytes())} if path.is_file() else {}


def _open(ckpt: str, head: str, device: str):
    from llmkit.opened import open_model

    opened = open_model(ckpt, head, pick(device))
    if opened.tokenizer is None and head not in ("image", "features"):
        raise CheckpointError(
            f"{opened.path}: has no tokenizer; evaluate a checkpoint or export that carries one"
        )
    return opened


def pick(device: str) -> str:
    """The torch device that auto, cpu or gpu means here. ConfigError for a GPU that is not there."""
    import torch

    if device == "gpu" and not torch.cuda.is_available():
        raise ConfigError("device: gpu was asked for and torch sees none; use device=cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _write_rows(path: Path, rows: list[dict]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def show(report: dict[str, Any]) -> None:
    """Print the headline figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "task",
        "headline",
        "value",
        "95 % interval",
        "samples",
        title=report["checkpoint"],
        title_justify="left",
    )
    for label, task in report["tasks"].items():
        value, interval = task[task["headline"]], task.get("ci95")
        figure = f"{value:.4f}" if isinstance(value, float) else str(value)
        span = "{:.4f} to {:.4f}".format(*interval) if interval else ""
        table.add_row(label, task["headline"], figure, span, str(task.get("samples", "")))
    Console().print(table)
