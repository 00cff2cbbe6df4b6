"""Open any CKPT as a net and its tokenizer: a run directory, a checkpoint or a Hugging Face directory.

    runs/x ─► its best if it remembers one, else its newest ─► checkpoints/step_00000400 ─► verify ─► net
    a directory with config.json and safetensors ───────────────────────────────────────────────────► net

Everything that needs a trained model (evaluation, export, generation, a new run) comes in through here.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from llmkit import adapted, registry, trust
from llmkit.checkpoint import store
from llmkit.checkpoint.fragments import Reader
from llmkit.config import Section
from llmkit.errors import CheckpointError, ConfigError
from llmkit.log import say, warn
from llmkit.models import heads
from llmkit.tokenizer.vocabulary import Tokenizer


@dataclass(frozen=True)
class Opened:
    """A checkpoint in memory. `net` is in evaluation mode."""

    net: Any
    """An nn.Module with `settings`; which other methods it has depends on its head."""
    tokenizer: Any
    """A Tokenizer; None if the checkpoint has none."""
    path: Path
    """The checkpoint or Hugging Face directory that was read."""
    recipe: dict[str, Any] | None
    """The resolved recipe that made it, as plain data; None for a Hugging Face directory."""
    lineage: dict[str, Any] = field(default_factory=dict)
    """What it was made from: fingerprints of its inputs and, under `sources`, the data and its licences."""

    @property
    def head(self) -> str:
        """What it ends in: `heads.kind`."""
        return heads.kind(self.net)


def resolve(ckpt: str | Path) -> Path:
    """The checkpoint or Hugging Face directory that `ckpt` means; for a run directory the choice is said.

    CheckpointError, in one line, if there is none there, or if a file of it is not as it was saved.
    """
    path = directory(ckpt)
    if (path / "checkpoints").is_dir():
        return _of_run(path)
    if (path / "index.json").is_file():
        store.verify(path)
        return path
    if (path / "config.json").is_file():
        return path
    raise CheckpointError(
        f"{ckpt}: is no run, checkpoint or Hugging Face directory; look one level up or down"
    )


def directory(ckpt: str | Path) -> Path:
    """The directory that `ckpt` names, whatever it holds. CheckpointError if there is none."""
    path = Path(ckpt).expanduser()
    if not path.is_dir():
        raise CheckpointError(
            f"{ckpt}: there is no such directory; give a run, a checkpoint or a HF directory"
        )
    return path


def _of_run(run: Path) -> Path:
    """The best checkpoint of `run` if it remembers one, else the newest that is whole."""
    if (run / "best.json").is_file():
        step = trust.read_json(run / "best.json")["step"]
        path = run / "checkpoints" / f"step_{step:08d}"
        if path.is_dir():
            store.verify(path)
            say(f"{run}: the best checkpoint, of step {step}")
            return path
    chosen = store.Store(run / "checkpoints")
    newest = chosen.newest()
    for line in chosen.damaged:
        warn(f"passed over: {line}")
    if newest is None:
        raise CheckpointError(f"{run}: holds no checkpoint yet; train it first")
    say(f"{run}: the newest checkpoint, of step {store.step_of(newest)}")
    return newest


def open_model(
    ckpt: str | Path, head: str | None = None, device: torch.device | str = "cpu", dtype=torch.float32
) -> Opened:
    """The net and tokenizer of any CKPT, on `device`, in `dtype`.

    Where a run kept a moving average of its weights, that is what is read. `head` is what the caller needs,
    as `heads.kind` calls it, or several separated by "|"; CheckpointError if the checkpoint ends in another.
    """
    path = resolve(ckpt)
    opened = _checkpoint(path, head) if (path / "index.json").is_file() else _hub(path)
    if head and opened.head not in head.split("|"):
        kinds = {
            "lm": "language model",
            "masked": "masked language model",
            "seq2seq": "encoder-decoder",
            "score": "reward model",
            "classify": "classifier of texts",
            "tag": "tagger",
            "span": "finder of answers",
            "caption": "captioner of images",
            "image": "model of images",
            "features": "recogniser",
            "none": "net of no use here",
        }
        wanted = kinds[head.partition("|")[0]]
        raise CheckpointError(f"{path}: is a {kinds[opened.head]}, a {wanted} is needed; give another one")
    opened.net.to(device=device, dtype=dtype).eval()
    return opened


def _checkpoint(path: Path, head: str | None) -> Opened:
    recipe = adapted.recipe_of(path)
    reader, settings = adapted.reader(path), model_settings(recipe, path)
    several = heads.parts(settings)
    name = next(iter(several)) if several else choose(reader, head)
    tensors = reader.whole(name, "param") | reader.whole(name, "buffer")
    if "ema" in reader.kinds(name):
        tensors |= reader.whole(name, "ema")  # not of weights that are frozen
    tensors.pop("value_head.weight", None)  # PPO's, of no use to a language model
    labelled = heads.label_head(tensors)
    outputs = len(tensors[f"{labelled}_head.weight"]) if labelled else None
    end = labelled or ("score" if "score.weight" in tensors else "lm")
    net = build(settings, name if several else end, outputs)
    if labelled:
        stated = recipe.get("objective") or {}
        net.labels, net.several = stated.get("labels") or net.labels, stated.get("several", False)
    fill(net, tensors, path)
    tokenizer = Tokenizer.load(path / "tokenizer") if (path / "tokenizer").is_dir() else None
    lineage = trust.read_json(path / "lineage.json") if (path / "lineage.json").is_file() else {}
    return Opened(net, tokenizer, path, recipe, lineage)


def _hub(path: Path) -> Opened:
    from llmkit.models.hf import images, importing
    from llmkit.models.hf import net as hub

    has_tokenizer = any((path / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))
    if images.holds_one(path):
        net = images.read(path)
    else:
        try:
            net = importing.read(path)
        except ConfigError:  # none of our architectures
            net = hub.read(path)
            say(f"{path}: {net.settings.architecture}, computed by transformers")
    return Opened(net, Tokenizer.load(path) if has_tokenizer else None, path, None, importing.lineage(path))


def choose(reader: Reader, head: str | None) -> str:
    """The net that a caller means: the first with the wanted head (default lm), else the first."""
    nets = reader.nets()
    if not nets:
        raise CheckpointError(f"{reader.folder}: holds no net; the checkpoint is not of a training run")
    ends = ("score.weight", "score_head.weight")
    scored = [net for net in nets if any(f"{net}/{end}" in reader.names(net) for end in ends)]
    wanted = scored if head == "score" else [net for net in nets if net not in scored]
    return (wanted or nets)[0]


def model_settings(recipe: dict[str, Any], path: Path) -> Section:
    """The typed settings of the net that a checkpoint's recipe describes."""
    try:
        return registry.find("model", recipe["model"]["name"]).Settings.model_validate(recipe["model"])
    except (KeyError, TypeError, ValidationError) as error:
        line = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path / 'recipe.yaml'}: describes no model that llmkit knows: {line}"
        ) from None


def build(settings: Section, head: str, outputs: int | None = None) -> nn.Module:
    """An empty net (on the meta device) of these settings, to be filled."""
    with torch.device("meta"):
        return heads.build(settings, head, outputs)


def fill(net: nn.Module, tensors: dict[str, torch.Tensor], where: Path) -> None:
    """Give `net` the tensors by name, or raise one CheckpointError that lists all that does not fit."""
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    problems = []
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            expected, there = (list(shapes[name]) if name in shapes else "none" for shapes in (wanted, found))
            problems.append(f"{name}: expected {expected}, found {there}")
        elif tensors[name].is_floating_point() != net.state_dict()[name].is_floating_point():
            problems.append(f"{name}: expected floating-point numbers, found {tensors[name].dtype}")
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(f"{where}: {len(problems)} tensors do not fit the model\n  {listed}")
    net.load_state_dict(tensors, assign=True)
