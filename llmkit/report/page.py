"""A page per run: how it went, what came out, what was asked for. A pipeline gets the pipeline's page."""

from pathlib import Path
from typing import Any

from llmkit import film, manifest
from llmkit.errors import DataError
from llmkit.report import markup, pipeline
from llmkit.report.curves import line_chart
from llmkit.report.markup import duration, number
from llmkit.report.records import read_json, read_metrics, series

CHARTS = (
    ("loss", "nats", "Loss"),
    ("accuracy", "share right", "Accuracy"),
    ("bits_per_byte", "bits", "Bits per byte"),
    ("lr", "", "Learning rate"),
    ("grad_norm", "", "Gradient norm"),
    ("tokens_per_s", "tokens/s", "Throughput"),
    ("images_per_s", "images/s", "Throughput"),
)
"""(key in metrics.jsonl, unit, heading). `heldout/` + key is drawn into the same chart."""

PLAIN = ("step", "time", "tokens", "eta_s", "skipped", "step_s", "memory_gib", "mfu", "useful_tokens_per_s")
"""Logged figures that make no curve of interest."""


def write(folder: Path) -> Path:
    """Write report.html (and report.json, unless an evaluation left one) into a run or pipeline -> the page.

    DataError if there is nothing in `folder` to report on.
    """
    if (folder / "pipeline.json").is_file():
        return pipeline.write(folder, read_json(folder / "pipeline.json")["stages"])
    metrics, facts = read_metrics(folder / "metrics.jsonl"), read_json(folder / manifest.NAME)
    if not metrics:
        raise DataError(f"{folder}: holds neither metrics.jsonl nor pipeline.json; name a run or a pipeline")
    figures = {"status": facts.get("status", "unfinished"), **_last(metrics), **(facts.get("result") or {})}
    manifest.write_json(folder / "report.json", figures)
    objective = ((facts.get("config") or {}).get("objective") or {}).get("name", "run")
    done = f"{objective}, step {metrics[-1]['step']:,}, {figures['status']}"
    subtitle = f"{done}, {duration(facts.get('seconds'))} of training. llmkit {manifest.llmkit_version()}."
    page = folder / "report.html"
    page.write_text(
        markup.page(
            folder.name, subtitle, markup.tiles(_headline(metrics)), contents(folder, metrics, figures)
        ),
        encoding="utf-8",
    )
    return page


def contents(folder: Path, metrics: list[dict[str, Any]], figures: dict[str, Any]) -> list[markup.Part]:
    """Curves, samples, the figures in full, and the recipe."""
    rows = [(key, _told(value)) for key, value in figures.items()]
    recipe = folder / "recipe.yaml"
    asked = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    return [
        markup.part("curves", "Curves", markup.row(*_charts(metrics))),
        markup.part("samples", "Samples", *_samples(folder / "samples")),
        markup.part("figures", "Figures", markup.table("At the end", ("figure", "value"), rows, 1)),
        markup.part("recipe", "Recipe", markup.details("All that the run depends on", asked)),
    ]


def _told(value: Any) -> str:
    return number(value, 4) if isinstance(value, (int, float)) else str(value)


def _last(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The latest value of every logged figure."""
    out: dict[str, Any] = {}
    for line in metrics:
        out |= {key: value for key, value in line.items() if key not in ("time", "eta_s")}
    return out


def _headline(metrics: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    last = _last(metrics)
    named = (("loss", "Loss"), ("heldout/loss", "Held-out loss"), ("heldout/accuracy", "Held-out accuracy"))
    shown = []
    for key, label in named:
        points = series(metrics, key)
        if points:
            first = f"from {number(points[0][1])}" if len(points) > 1 else ""
            shown.append((label, number(last[key]), first))
    if "tokens_per_s" in last:
        shown.append(("Tokens per second", number(float(last["tokens_per_s"]), 0), "in the last interval"))
    return [*shown, ("Steps", number(last["step"]), "")]


def _charts(metrics: list[dict[str, Any]]) -> list[str]:
    """A chart for every known figure, then for whatever else this objective logs."""
    known = [key for key, _, _ in CHARTS]
    logged = dict.fromkeys(key.removeprefix("heldout/") for line in metrics for key in line)
    others = [(key, "", key) for key in logged if key not in (*known, *PLAIN)]
    drawn = []
    for key, unit, heading in (*CHARTS, *others):
        chart = line_chart(series(metrics, key), series(metrics, f"heldout/{key}"), unit, heading)
        drawn.append(markup.figure(chart, heading))
    return drawn


def _samples(folder: Path) -> list[str]:
    """The newest picture of each kind and the film of all samples, put into the page itself; sample texts."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    newest = {file.name.split("_", 2)[-1]: file for file in files if file.suffix in (".png", ".jpg")}
    texts = [file for file in files if file.suffix == ".txt"]
    drawn = [markup.picture(file, file.stem) for file in newest.values()]
    if path := film.write(folder):
        drawn.append(markup.picture(path, f"samples of all {len(film.shown(folder))} evaluations"))
    return [*drawn, *(markup.details(file.stem, file.read_text(encoding="utf-8")) for file in texts)]
