"""llmkit: raw text to a trained, tuned, evaluated and exported generative model.

import llmkit
llmkit.run("quickstart", out="runs/quickstart")
llmkit.train("pretrain/llama_tiny", {"run.steps": 200}, out="runs/mine")
net = llmkit.open_model("runs/mine").net
llmkit.generate("runs/mine", "My fellow citizens")
"""

from typing import Any

__all__ = ["generate", "open_model", "run", "train"]


def train(
    recipe: str | dict, settings: dict[str, Any] | None = None, *, out: str | None = None, **options: Any
) -> dict[str, Any]:
    """Train `recipe` (a path, a name, or the mapping) with dotted `settings` over it -> the run's manifest.

    `options` are those of the command line: ranks, device, quick, fresh, plugins. Raises an LlmkitError.
    """
    from llmkit import verbs

    values = {**(settings or {}), **({"out": out} if out else {})}
    return verbs.perform("train", recipe, values, verbs.Options(**options))


def run(pipeline: str, settings: dict[str, Any] | None = None, *, out: str | None = None, **options: Any):
    """Run a pipeline with `{"stage.key": value}` settings -> the path of its report.

    `options` are those of the command line: ranks, device, quick, fresh, plugins. Raises an LlmkitError.
    """
    from llmkit import pipeline as pipelines
    from llmkit import verbs

    values = {**(settings or {}), **({"out": out} if out else {})}
    return pipelines.run(pipeline, values, verbs.Options(**options))


def generate(ckpt: str, prompts: str | list[str], **options: Any) -> list[str]:
    """What the language model in `ckpt` writes after each prompt: see llmkit.generating.generate."""
    from llmkit import generating

    return generating.generate(ckpt, prompts, **options)


def open_model(ckpt: str, **options: Any):
    """The model and tokenizer of any run, checkpoint or Hugging Face directory: see llmkit.opened."""
    from llmkit import opened

    return opened.open_model(ckpt, **options)
