"""Models of images in a pipeline: what each made, and how far that is from real images.

{stage: {objective, model, seconds, images_per_second, heldout {figure: value}, samples [PNG files],
         evaluation {frechet, frechet_of_heldout, kid, precision, recall, class_hits, ..., extractor}}}
"""

from pathlib import Path
from typing import Any

from llmkit.report import markup
from llmkit.report.markup import duration, number, percent
from llmkit.report.records import Roles, Stage, inside

EVALUATED = (
    "frechet", "frechet_of_heldout", "kid", "precision", "recall", "class_hits", "class_hits_of_heldout",
    "samples", "extractor", "reference",
)  # fmt: skip
"""What is taken over from an evaluation by the metric `frechet`."""


def trainings(roles: Roles) -> list[Stage]:
    """The stages that train on images."""
    return [s for s in roles.stages if s.objective and (s.config.get("data") or {}).get("name") == "images"]


def summary(roles: Roles) -> dict[str, Any]:
    """The figures of every such stage, by its name."""
    return {stage.name: _one(stage, roles) for stage in trainings(roles)}


def _one(stage: Stage, roles: Roles) -> dict[str, Any]:
    result, run = stage.result, stage.config.get("run") or {}
    steps, rows = result.get("steps"), (stage.config.get("batch") or {}).get("rows")
    seconds = result.get("train_seconds")
    held = {k.removeprefix("heldout/"): v for k, v in result.items() if k.startswith("heldout/")}
    part = {
        "objective": stage.objective,
        "model": (stage.config.get("model") or {}).get("name"),
        "steps": steps,
        "seconds": seconds,
        "images_per_second": round(steps * rows / seconds, 1) if steps and rows and seconds else None,
        "seed": run.get("seed"),
        "heldout": held,
        "samples": [str(file) for file in newest(stage.out / "samples")],
    }
    figures = [
        other.task("frechet")
        for other in roles.stages
        if other.verb == "eval" and inside(str(other.config.get("ckpt", "")), stage.out)
    ]
    for task in filter(None, figures):
        part["evaluation"] = {key: task[key] for key in EVALUATED if task.get(key) is not None}
    return part


def newest(folder: Path) -> list[Path]:
    """The PNG files of the last step that left any."""
    files = sorted(folder.glob("step_*.png"))
    return [file for file in files if file.name[:13] == files[-1].name[:13]]


def part(figures: dict[str, Any]) -> markup.Part:
    """Grids and reconstructions, the held-out figures, and the distances of all that were evaluated."""
    grids = [
        markup.picture(Path(file), f"{name}: {Path(file).stem.split('_', 2)[-1]}")
        for name, facts in figures.items()
        for file in facts["samples"]
        if Path(file).is_file()
    ]
    held = [
        (name, ", ".join(f"{key} {number(value)}" for key, value in facts["heldout"].items()),
         number(facts["images_per_second"], 0), duration(facts["seconds"]))
        for name, facts in figures.items()
    ]  # fmt: skip
    measured = {name: facts["evaluation"] for name, facts in figures.items() if "evaluation" in facts}
    rows = [
        (name, number(e["frechet"]), number(e["kid"], 4), percent(e["precision"]), percent(e["recall"]),
         percent(e.get("class_hits")))
        for name, e in measured.items()
    ]  # fmt: skip
    note = ""
    for e in list(measured.values())[:1]:
        rows.append(("real held-out images", number(e["frechet_of_heldout"]), "-", "-", "-",
                     percent(e.get("class_hits_of_heldout"))))  # fmt: skip
        note = (
            f"Distances are between {e['samples']} generated images and {e['reference']}, in the features "
            f"of the {e['extractor']}, which llmkit trained: they are no FID and compare in this table only."
        )
    head = ("model", "Frechet distance", "KID", "precision", "recall", "asked class hit")
    return markup.part(
        "vision",
        "Models of images",
        markup.row(*grids),
        markup.table("Training", ("model", "held-out figures", "images/s", "time"), held),
        markup.table("Generated images", head, rows, 1),
        markup.paragraph(note),
    )
