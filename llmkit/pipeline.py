"""A pipeline: stages in order, each with a recipe and settings that point at earlier stages' directories.

    stages:
      - {name: data, verb: data.collect, recipe: data/sotu}
      - {name: tokenizer, verb: tokenizer.train, recipe: llama_4k, set: {data: "${data.out}"}}

What is done is skipped, so the same command continues after an interruption. `data.source=FOLDER` sets
`source` of the stage called `data`; `${out}` is the pipeline's directory.
"""

import re
import time
from pathlib import Path
from typing import Any

from llmkit import config, manifest, verbs
from llmkit.config import Field, Section
from llmkit.errors import ConfigError
from llmkit.log import say


class Stage(Section):
    """One step of a pipeline."""

    name: str = Field(description="also the directory under the pipeline's out")
    verb: str = Field(description="data.collect, tokenizer.train, data.shard, train, eval or export")
    recipe: str | None = Field(
        None, description="path or name of the stage's recipe; default: `set` says it all"
    )
    set: dict[str, Any] = Field({}, description="dotted key: value, with ${stage.out} of earlier stages")
    gpu: dict[str, Any] = Field(
        {}, description="like set, with --device gpu; the key recipe replaces the recipe"
    )


class Pipeline(Section):
    """Stages that run one after the other, and a report over all of them."""

    title: str = Field("", description="heading of the report")
    stages: list[Stage] = Field(description="in order")


def run(name: str, assignments: dict[str, Any], options: verbs.Options) -> Path:
    """Run the pipeline called `name` to its end -> its report. Stages that are done are not run again."""
    pipeline = config.load(Pipeline, name, folder="recipes/pipeline")
    assignments = dict(assignments)
    out = Path(str(assignments.pop("out", f"runs/{Path(name).stem}")))
    asked = _by_stage(pipeline, assignments)
    rows: list[dict[str, Any]] = []
    places = {"out": str(out)}
    begun = time.monotonic()
    for number, step in enumerate(pipeline.stages, 1):
        gpu = step.gpu if options.device == "gpu" else {}
        values = {key: _fill(value, places, step.name) for key, value in {**step.set, **gpu}.items()}
        recipe = values.pop("recipe", step.recipe) or {}
        tree = config.override(verbs.read(step.verb, recipe), values)  # what `quick` may still make small
        folder = out / step.name
        after = f"{time.monotonic() - begun:.0f} s"
        say(f"[{number}/{len(pipeline.stages)}] {step.name}: {step.verb} {recipe or ''}  ({after})")
        facts = verbs.perform(step.verb, tree, {**asked[step.name], "out": str(folder)}, options)
        places[f"{step.name}.out"] = str(folder)
        row = {"name": step.name, "verb": step.verb, "out": str(folder)}
        rows.append({**row, **{key: facts.get(key) for key in ("seconds", "status", "result")}})
        manifest.write_json(out / "pipeline.json", {"title": pipeline.title, "stages": rows})
    from llmkit.report import pipeline as report

    page = report.write(out, rows)
    say(f"report: {page}")
    return page


def _by_stage(pipeline: Pipeline, assignments: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`stage.key=value` overrides by stage. ConfigError if a key starts with no stage's name."""
    out: dict[str, dict[str, Any]] = {step.name: {} for step in pipeline.stages}
    for key, value in assignments.items():
        stage, dot, rest = key.partition(".")
        if not dot or stage not in out:
            raise ConfigError(
                f"{key}: a pipeline's override is STAGE.KEY=VALUE; its stages: {', '.join(out)}"
            )
        out[stage][rest] = value
    return out


def _fill(value: Any, places: dict[str, str], stage: str) -> Any:
    """`value` with every ${stage.out} replaced by that stage's directory."""
    if isinstance(value, dict):
        return {key: _fill(inner, places, stage) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, places, stage) for inner in value]
    if not isinstance(value, str):
        return value

    def place(match: re.Match) -> str:
        if match[1] not in places:
            raise ConfigError(
                f"stages.{stage}: {match[0]} names no earlier stage; known: {', '.join(places)}"
            )
        return places[match[1]]

    return re.sub(r"\$\{([^}]+)\}", place, value)
