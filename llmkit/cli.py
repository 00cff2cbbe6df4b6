"""The command line: verbs, typed `key=value` overrides, one line for what went wrong, a telling exit code.

Everything heavy is imported inside the verb that needs it.
"""

import difflib
import errno
import inspect
import os
import sys
import traceback
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkit.errors import ConfigError, LlmkitError
from llmkit.log import EXIT_DIR
from llmkit.options import Options, assignments

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Raw text to a trained, tuned, evaluated and exported model, with one launcher and one engine.",
)  # fmt: skip
data = typer.Typer(no_args_is_help=True, help="Collect, shard and look at data.")
tokenizer = typer.Typer(no_args_is_help=True, help="Train, check and export tokenizers.")
verify = typer.Typer(no_args_is_help=True, help="Certificates to run on your own cluster.")
app.add_typer(data, name="data")
app.add_typer(tokenizer, name="tokenizer")
app.add_typer(verify, name="verify")

GLOBAL = {
    "ranks": (
        int,
        typer.Option(0, "-n", "--ranks", help="Processes on each machine; 0: one per GPU, or one.", min=0),
    ),
    "device": (str, typer.Option("auto", "--device", help="cpu, gpu or auto.")),
    "quick": (bool, typer.Option(False, "--quick", help="A smoke run: tiny and short.")),
    "debug": (bool, typer.Option(False, "--debug", help="Show tracebacks.")),
    "fresh": (bool, typer.Option(False, "--fresh", help="Move an earlier result aside and start again.")),
    "plugins": (list[str], typer.Option([], "--plugin", help="Python file with components of yours.")),
}
Recipe = Annotated[str, typer.Argument(help="Path or name of a recipe.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value settings, out=DIR among them.", metavar="[KEY=VALUE]...")
]
Ckpt = Annotated[str, typer.Argument(help="Run, checkpoint or Hugging Face directory.", metavar="CKPT")]


def verb(group: typer.Typer, name: str):
    """Register `function(..., options)` as a verb that takes the global options as well."""

    def keep(function):
        own = [
            p.replace(kind=p.KEYWORD_ONLY, default=None if p.annotation is Overrides else p.default)
            for p in inspect.signature(function).parameters.values()
            if p.name != "options"
        ]
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=option)
            for key, (kind, option) in GLOBAL.items()
            if key not in inspect.signature(function).parameters
        ]

        def call(**arguments):
            shared_names = {p.name for p in shared}
            options = Options(
                **{f.name: arguments.pop(f.name) for f in fields(Options) if f.name in shared_names}
            )
            if options.device not in ("cpu", "gpu", "auto"):
                raise ConfigError(f"--device {options.device}: is one of cpu, gpu, auto")
            return function(**arguments, options=options)

        call.__signature__ = inspect.Signature([*own, *shared])
        call.__doc__ = function.__doc__
        group.command(name)(call)
        return function

    return keep


def stage_verb(group: typer.Typer, name: str, stage: str, help_: str):
    """A verb that runs one stage from its recipe."""

    @verb(group, name)
    def call(recipe: Recipe, overrides: Overrides, options: Options):
        from llmkit import verbs

        words = overrides or []
        if "=" in recipe:  # no recipe: the settings say it all
            verbs.perform(stage, {}, assignments([recipe, *words]), options)
        else:
            verbs.perform(stage, recipe, assignments(words), options)

    group.registered_commands[-1].callback.__doc__ = help_


stage_verb(
    data, "collect", "data.collect", "Sources to clean, deduplicated, split documents with a manifest."
)
stage_verb(data, "shard", "data.shard", "Documents to memory-mapped token shards.")
stage_verb(
    tokenizer, "train", "tokenizer.train", "Train a tokenizer on collected documents, and prove its export."
)
stage_verb(app, "train", "train", "Train any objective: pretraining, tuning, reward models, preferences.")


@verb(app, "run")
def run(pipeline: Recipe, overrides: Overrides, options: Options):
    """Run a whole pipeline; the same command continues it after an interruption."""
    from llmkit import pipeline as pipelines

    pipelines.run(pipeline, assignments(overrides or []), options)


@verb(data, "catalogue")
def catalogue(options: Options):
    """The data sets that can be fetched by name."""
    from llmkit.data import catalogue

    catalogue.show()


@verb(data, "inspect")
def inspect_data(folder: Annotated[str, typer.Argument(metavar="DIR")], options: Options):
    """Look into a collected directory or shards."""
    from llmkit.data import inspect

    inspect.show(Path(folder))


@verb(data, "upload")
def upload(
    folder: Annotated[str, typer.Argument(metavar="DIR")],
    url: Annotated[str, typer.Argument(metavar="URL")],
    options: Options,
):
    """Copy shards to an object store; recipes may then name the URL."""
    from llmkit.data import remote

    remote.upload(Path(folder), url)


@verb(tokenizer, "check")
def check(
    folder: Annotated[str, typer.Argument(metavar="DIR")],
    text: Annotated[str | None, typer.Argument(metavar="[TEXT_FILE|DATA_DIR]")] = None,
    *,
    options: Options,
):
    """Prove that a tokenizer and its Hugging Face form give the same ids."""
    from llmkit.tokenizer import check

    check.show(Path(folder), Path(text) if text else None)


@verb(tokenizer, "extend")
def extend(
    ckpt: Annotated[str, typer.Argument(metavar="CKPT|DIR")],
    overrides: Overrides,
    options: Options,
):
    """Add control tokens or words of a domain to a model's vocabulary, or to a tokenizer's."""
    from llmkit import verbs

    verbs.perform("tokenizer.extend", {}, {**assignments(overrides or []), "ckpt": ckpt}, options)


@verb(tokenizer, "export")
def export_tokenizer(folder: Annotated[str, typer.Argument(metavar="DIR")], out: str, options: Options):
    """Copy a tokenizer as a Hugging Face tokenizer directory."""
    from llmkit.tokenizer import export

    export.copy(Path(folder), Path(out))


@verb(app, "eval")
def evaluate(
    ckpt: Ckpt,
    overrides: Overrides,
    suite: str = typer.Option(..., "--suite"),
    out: str = typer.Option(None, "--out"),
    *,
    options: Options,
):
    """Evaluate a model with a suite of metrics."""
    from llmkit import verbs
    from llmkit.opened import directory

    directory(ckpt)  # before the suite's own settings: what is missing is most likely this
    values = {**assignments(overrides or []), "ckpt": ckpt}
    verbs.perform("eval", suite, values | ({"out": out} if out else {}), options)


@verb(app, "compare")
def compare(a: str, b: str, options: Options):
    """Compare two evaluations, sample by sample."""
    from llmkit.eval import compare

    compare.show(Path(a), Path(b))


@verb(app, "export")
def export(
    ckpt: Ckpt, out: Annotated[str, typer.Argument(metavar="OUT")], overrides: Overrides, options: Options
):
    """Export to a Hugging Face directory, or refuse."""
    from llmkit import verbs

    verbs.perform("export", {}, {**assignments(overrides or []), "ckpt": ckpt, "out": out}, options)


@verb(app, "import")
def import_(
    source: Annotated[str, typer.Argument(metavar="HF_DIR", help="Or a .gguf file.")],
    out: Annotated[str, typer.Argument(metavar="OUT")],
    options: Options,
):
    """Import a Hugging Face directory as a checkpoint."""
    from llmkit.models.hf import importing

    importing.work(Path(source), Path(out))


@verb(app, "generate")
def generate(
    ckpt: Ckpt,
    prompt: list[str] = typer.Option([], "--prompt", help="Text to continue; may be given several times."),
    image: list[Path] = typer.Option([], "--image", help="Image to caption; may be given several times."),
    max_tokens: int = typer.Option(128, "--max-tokens"),
    temperature: float = typer.Option(None, "--temperature", help="Default: 0.8, of captions 0 (greedy)."),
    top_p: float = typer.Option(0.95, "--top-p"),
    seed: int = typer.Option(0, "--seed"),
    chat: bool = typer.Option(False, "--chat", help="Put the prompt through the chat template."),
    beams: int = typer.Option(1, "--beams", help="Search for the most likely text among so many; 1: draw."),
    *,
    options: Options,
):
    """Continue prompts, or say what images show."""
    from llmkit import generating

    if bool(prompt) == bool(image):
        raise ConfigError("generate: give --prompt to go on with, or --image to caption")
    if image and chat:
        raise ConfigError("--chat: is about prompts; leave it out")
    asked: dict[str, Any] = {
        "max_tokens": max_tokens, "top_p": top_p, "seed": seed, "beams": beams, "device": options.device,
    }  # fmt: skip
    if temperature is not None:
        asked["temperature"] = temperature
    if image:
        texts = generating.captions(ckpt, image, **asked)
    else:
        texts = generating.generate(ckpt, prompt, chat=chat, **asked)
    for text in texts:
        typer.echo(text)


@verb(app, "chat")
def chat(
    ckpt: Ckpt,
    temperature: float = typer.Option(0.7, "--temperature"),
    top_p: float = typer.Option(0.95, "--top-p"),
    *,
    options: Options,
):
    """Talk to a model in the terminal."""
    from llmkit import chat

    chat.chat(ckpt, temperature=temperature, top_p=top_p, device=options.device)


@verb(app, "sample")
def sample(
    ckpt: Ckpt,
    out: Path = typer.Option(..., "--out", help="PNG file; of a walk also a GIF."),
    count: int = typer.Option(0, "--count", min=0, help="Images, rows or ways; default: 64, 8 or 12."),
    class_: int = typer.Option(
        None, "--class", min=0, help="Class of a conditional model; default: all in turn."
    ),
    caption: str = typer.Option("", "--caption", help="What a model of captions is to draw."),
    truncation: float = typer.Option(
        1.0, "--truncation", min=0, help="Scale of the noise: less varied, cleaner."
    ),
    seed: int = typer.Option(0, "--seed"),
    classes: bool = typer.Option(False, "--classes", help="A column for each class, the noise by row."),
    interpolate: bool = typer.Option(False, "--interpolate", help="Ways from image to image."),
    traverse: bool = typer.Option(False, "--traverse", help="One image along each latent dimension."),
    steps: int = typer.Option(0, "--steps", min=0, help="Images of a way; default: 9, of a GIF 24."),
    *,
    options: Options,
):
    """A grid of images from a generative vision model, or a walk through its latent space."""
    from llmkit import sampling

    named = {"classes": classes, "interpolate": interpolate, "traverse": traverse}
    chosen = [what for what, wanted in named.items() if wanted] or ["grid"]
    if len(chosen) > 1:
        raise ConfigError(f"--{chosen[0]}, --{chosen[1]}: one at a time")
    asked = sampling.Asked(chosen[0], count, class_, caption, truncation, seed, steps)
    sampling.sample(ckpt, out, asked, options.device)
    typer.echo(out)


@verb(app, "report")
def report(folder: Annotated[str, typer.Argument(metavar="RUN")], options: Options):
    """Write a run's HTML page again."""
    from llmkit.report import page

    typer.echo(page.write(Path(folder)))


@verb(app, "launch")
def launch(
    recipe: Recipe,
    overrides: Overrides,
    nodes: int = typer.Option(1, "--nodes", min=1),
    with_: str = typer.Option("slurm", "--with", help="slurm, torchrun, accelerate or k8s."),
    print_: bool = typer.Option(False, "--print", help="Show the job, do not submit it."),
    extra: list[str] = typer.Option([], "--extra", help="Option of the scheduler: --extra=--time=02:00:00"),
    *,
    options: Options,
):
    """Describe a multi-node job once, and submit it."""
    from llmkit.cluster import render

    render.launch(
        recipe, overrides or [], nodes=nodes, scheduler=with_, show=print_, options=options, extra=extra
    )


@verb(app, "plan")
def plan(
    recipe: Recipe,
    overrides: Overrides,
    device: str = typer.Option("h200", "--device", help="h200, h100, a100, b200, mi300x, l40s, l4, 4090."),
    world: int = typer.Option(1, "--world", min=1, help="Devices."),
    efficiency: float = typer.Option(0.4, "--efficiency", min=0.01, max=1, help="Share of the peak rate."),
    price: float = typer.Option(0.0, "--price", min=0, help="Of a device and hour; 0: not said."),
    *,
    options: Options,
):
    """Memory, time and cost of a run before anything starts, and a layout that fits."""
    from llmkit import config
    from llmkit.engine import plan
    from llmkit.engine.recipe import TrainRecipe

    found = config.resolve(TrainRecipe, config.read(recipe), assignments(overrides or []), options.quick)
    typer.echo(plan.table(plan.plan(found, device, world, efficiency, price)))


@verb(verify, "resume")
def verify_resume(
    recipe: Recipe,
    overrides: Overrides,
    steps: int = typer.Option(8, "--steps", min=2, help="Optimiser steps; the kill is after half of them."),
    *,
    options: Options,
):
    """Kill a run, continue it, and compare with one that was not killed, bit for bit."""
    _verified("resume", recipe, overrides, options, steps=steps)


@verb(verify, "parity")
def verify_parity(
    recipe: Recipe,
    overrides: Overrides,
    stages: list[str] = typer.Option(["zero1", "zero2", "zero3"], "--stage", help="ZeRO stages to compare."),
    *,
    options: Options,
):
    """The same loss and gradient for any micro-batches, ranks and ZeRO stages."""
    _verified("parity", recipe, overrides, options, stages=stages)


@verb(verify, "export")
def verify_export(ckpt: Ckpt, overrides: Overrides, options: Options):
    """Export a checkpoint, or a recipe that is trained for it, through the gate."""
    _verified("export", ckpt, overrides, options)


def _verified(kind: str, what: str, overrides: list[str] | None, options: Options, **more) -> None:
    from llmkit import stage
    from llmkit import verify as certificates

    values = assignments(overrides or [])
    out = Path(str(values.pop("out", f"runs/verify_{kind}")))
    if options.fresh:
        stage.move_aside(out)
    elif out.exists():
        raise ConfigError(f"{out}: is there already; use --fresh to make it anew, or out=DIR")
    getattr(certificates, kind)(what, values, options, out, **more)


@verb(app, "doctor")
def doctor(options: Options):
    """What this machine has, and what llmkit will therefore use."""
    from llmkit.cluster import doctor

    doctor.show()


@verb(app, "schema")
def schema(
    kind: Annotated[
        str, typer.Argument(help="train, collect, shard, tokenizer, extend, eval, export or pipeline.")
    ],
    options: Options,
):
    """The JSON schema of a kind of recipe, for editors."""
    from llmkit import reference

    typer.echo(reference.schema(kind))


def main(argv: list[str] | None = None) -> int:
    """Run a verb -> the exit code. One line on stderr says what went wrong; --debug shows where."""
    words = sys.argv[1:] if argv is None else argv
    try:
        app(args=words, prog_name="llmkit", standalone_mode=False)
        return 0
    except LlmkitError as error:
        return _tell(str(error), error.code, words)
    except (KeyboardInterrupt, typer.Abort):
        return _tell("interrupted", 130, words)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        what = f"{error.strerror or error}"
        if error.errno == errno.ENOSPC:
            what += "; make room, or name another disk with out=DIR; nothing half-written was left"
        return _tell(f"{where}{what}", 3, words)
    except Exception as error:
        if (usage := getattr(error, "format_message", None)) is not None:
            return _tell(usage().replace("\n", " ") + _nearest(words), 2, words) if usage() else 2
        # a defect of ours: say so in one line, and how to see more
        return _tell(f"defect in llmkit: {type(error).__name__}: {error}; --debug shows where", 1, words)


def _nearest(words: list[str]) -> str:
    """Click suggests our verbs; this suggests those of launch.sh."""
    close = difflib.get_close_matches(words[0], ("quickstart", "test"), 1) if words else []
    return f" Did you mean ./launch.sh {close[0]}?" if close else ""


def _tell(line: str, code: int, words: list[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    print(f"llmkit: {line}", file=sys.stderr, flush=True)
    if folder := os.environ.get(EXIT_DIR):
        from llmkit.checkpoint.runstate import write_exit

        write_exit(Path(folder), code, line)
    return code


if __name__ == "__main__":
    sys.exit(main())
