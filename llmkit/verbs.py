"""The verbs behind the command line, pipelines and `import llmkit`: each takes a recipe and gives a manifest.

perform("data.collect", "data/sotu", {"out": "runs/data"}, Options())  ->  the manifest of runs/data
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit import config, manifest, registry, stage
from llmkit.config import Section
from llmkit.errors import ConfigError
from llmkit.options import Options


@dataclass(frozen=True)
class Work:
    """Where a stage's settings class, function and recipes are, and which settings are directories."""

    settings: str
    function: str
    folder: str
    inputs: tuple[str, ...] = ()


STAGES = {
    "data.collect": Work("llmkit.data.collect:Collect", "llmkit.data.collect:work", "recipes"),
    "data.shard": Work("llmkit.data.shard:Shard", "llmkit.data.shard:work", "recipes", ("data", "tokenizer")),
    "tokenizer.train": Work(
        "llmkit.tokenizer.train:TokenizerSpec", "llmkit.tokenizer.train:work", "tokenizer", ("data",)
    ),
    "tokenizer.extend": Work("llmkit.extending:Extend", "llmkit.extending:work", "recipes"),
    "eval": Work("llmkit.eval.suite:Suite", "llmkit.eval.suite:work", "eval"),
    "export": Work("llmkit.models.hf.export:Export", "llmkit.models.hf.export:work", "recipes"),
}


def perform(verb: str, recipe: str | dict, assignments: dict[str, Any], options: Options) -> dict[str, Any]:
    """Run one stage, or find it done -> its manifest. `recipe` is a path, a name, or the mapping itself.

    `out` among the assignments names the output directory. Raises LlmkitError subclasses.
    """
    for file in options.plugins:
        registry.load_plugin(file)
    if verb == "train":
        return train(recipe, assignments, options)
    if verb not in STAGES:
        raise ConfigError(f"{verb}: no such stage; known: {', '.join([*STAGES, 'train'])}")
    work = STAGES[verb]
    model = load(work.settings)
    if "device" in model.model_fields and options.device != "auto":
        assignments = {"device": options.device, **assignments}
    settings, out = _settings(model, verb, recipe, assignments, options)
    inputs = (
        settings.inputs()
        if hasattr(settings, "inputs")
        else {label: getattr(settings, label) for label in work.inputs}
    )
    return stage.perform(
        verb, settings, out, inputs, lambda staging: load(work.function)(settings, staging), options.fresh
    )


def read(verb: str, recipe: str | dict) -> dict[str, Any]:
    """The mapping that a recipe of `verb` is, given as itself, a path or a name."""
    folder = STAGES[verb].folder if verb in STAGES else "recipes"
    return dict(recipe) if isinstance(recipe, dict) else config.read(recipe, folder)


def train(recipe: str | dict, assignments: dict[str, Any], options: Options) -> dict[str, Any]:
    """Train a recipe, here or, on several ranks, under a supervised launcher -> the run's manifest."""
    from llmkit.engine.recipe import TrainRecipe

    settings, out = _settings(TrainRecipe, "train", recipe, assignments, options)
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"out": str(out)})})
    from llmkit.cluster import place, supervise

    ranks = options.ranks or place.default_ranks(options.device)
    if supervise.needed(ranks):
        supervise.train(config.dump(settings), options.argv(), ranks, out)
        return manifest.read(out)
    from llmkit.cluster import preflight
    from llmkit.engine.run import train as run

    def met():
        preflight.check(manifest.digest(settings.model_dump(mode="json")))

    return run(settings, options.device, options.fresh, met)


def _settings(model: type[Section], verb: str, recipe, assignments, options: Options) -> tuple[Any, Path]:
    """The validated settings, and the output directory: `out=`, else the recipe's, else runs/<its name>."""
    tree, assignments = read(verb, recipe), dict(assignments)
    name = model.__name__.lower() if isinstance(recipe, dict) else Path(recipe).stem
    inside = tree.get("run") if isinstance(tree.get("run"), dict) else {}
    out = (
        assignments.pop("out", None)
        or assignments.pop("run.out", None)
        or inside.get("out")
        or f"runs/{name}"
    )
    return config.resolve(model, tree, assignments, options.quick), Path(str(out))


def load(where: str) -> Any:
    """The object that `module:name` means."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
