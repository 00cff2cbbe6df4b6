"""A model of images as config.json and model.safetensors, opened again by llmkit: no pickle, no code inside.

    publish(net, out) ─► config.json {model_type, model, part, settings}, model.safetensors, README.md
                         of a captioner also the files of its tokenizer
                      ─► gate: `read(out)` makes the same tensors and the same images ── no ─► ExportRefused
    llmkit sample OUT --out grid.png      llmkit eval OUT ...      open_model(OUT)

transformers has no VAE, GAN or PixelCNN, so this is a format of llmkit's own. Of a model of two nets it holds
the one that makes images (its moving average, where the run keeps one), as `llmkit sample` does.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from llmkit import manifest, registry, trust
from llmkit.errors import ConfigError, ExportRefused, TrustError
from llmkit.models import heads, size
from llmkit.models.hf import card, importing, weights
from llmkit.opened import Opened, build, fill

MODEL_TYPE = "llmkit_images"
FIELDS: dict[str, type | tuple[type, ...]] = {"model_type": str, "model": str, "part": str, "settings": dict}


def is_one(net: nn.Module) -> bool:
    """Whether `net` is a model of images."""
    return hasattr(net.settings, "channels")


def holds_one(folder: Path) -> bool:
    """Whether `folder` is an export of such a model."""
    path = folder / "config.json"
    stated = trust.plain_config(path, {"model_type": str}) if path.is_file() else {}
    return stated.get("model_type") == MODEL_TYPE


def publish(net: nn.Module, out: Path, kind: torch.dtype, shard_bytes: int) -> dict[str, Any]:
    """Write config and weights to `out` and prove them -> the gate's figures. `net` is rounded to `kind`."""
    out.mkdir(parents=True, exist_ok=True)
    net.eval().float()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(kind))
    name = net.settings.name
    several = heads.parts(net.settings)
    part = next((part for part, Net in several.items() if isinstance(net, Net)), "")
    settings = net.settings.model_dump(mode="json")
    facts = {"model_type": MODEL_TYPE, "model": name, "part": part, "settings": settings}
    manifest.write_json(out / "config.json", {**facts, "dtype": str(kind).removeprefix("torch.")})
    weights.write(out, net.state_dict(), kind, shard_bytes)
    again = read(out).eval().float()
    tensors = dict(again.state_dict())
    apart = max(float((value - tensors[key]).abs().max()) for key, value in net.state_dict().items())
    told, wanted = shown(again), shown(net)
    apart = max(apart, float((told - wanted).abs().max()))
    if not apart == 0:
        raise ExportRefused(
            f"{out}: what was read back differs by {apart:.1e}, and has to be equal; nothing was published"
        )
    return {
        "model": name,
        "part": part or None,
        "dtype": str(kind).removeprefix("torch."),
        "parameters": size.parameters(net),
        "max_abs_diff": apart,
    }


@torch.no_grad()
def shown(net: Any) -> Tensor:
    """What the net makes of a few keyed images or keys: equal for equal nets, whatever kind they are of."""
    s: Any = net.settings
    count = s.channels * s.size**2
    image = (torch.arange(2 * count) * 37 % 256).view(2, s.channels, s.size, s.size)
    label = torch.arange(2) % (getattr(s, "classes", None) or 1)
    if heads.kind(net) == "caption":
        return net.logits(net.hidden(torch.arange(4).repeat(2, 1), source=image.to(torch.uint8)))
    if hasattr(net, "nll"):
        return net.nll((image > 127).float() * 2 - 1, label)
    if hasattr(net, "codebook"):
        return net(image / 255)[0]
    if hasattr(net, "features"):
        return net(image / 255)
    return net.sample(torch.tensor([1, -5]), label)


def read(folder: Path) -> nn.Module:
    """The net in an export. TrustError or CheckpointError for what is not one."""
    path = folder / "config.json"
    facts = trust.plain_config(path, FIELDS)
    if facts.keys() != FIELDS.keys() or facts["model"] not in registry.names("model"):
        known = ", ".join(registry.names("model"))
        raise ConfigError(f"{path}: states no model that llmkit knows ({known}); export it again")
    for key, value in _counts(facts["settings"]):
        if not -1 <= value <= importing.COUNT_LIMIT:
            raise TrustError(f"{path}: {key} is {value}; no model has that")
    try:
        settings = registry.find("model", facts["model"]).Settings.model_validate(facts["settings"])
    except ValidationError as error:
        rule = str(error).splitlines()[1:3]
        raise ConfigError(f"{path}: settings: {' '.join(rule)}; export it again") from None
    several = heads.parts(settings)
    if several and facts["part"] not in several:
        raise ConfigError(f"{path}: part: {facts['part']!r} is none of {', '.join(several)}; export it again")
    importing.refuse_pickles(folder)
    for file in weights.files(folder):
        trust.tensor_header(file)
    net = build(settings, facts["part"] or "lm")
    fill(net, dict(weights.read(folder)), folder)
    return net


def _counts(settings: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Every whole number in `settings`, and in the settings of a model inside it."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif isinstance(value, int):
            yield key, value


def write_card(out: Path, opened: Opened, figures: dict[str, Any], title: str, evaluation: dict | None):
    """README.md: what it is, how it is opened, its sources and its proof."""
    licences = {str(facts.get("licence")) for facts in (opened.lineage.get("sources") or {}).values()}
    front = {
        "library_name": "llmkit",
        "license": "other" if len(licences) != 1 else licences.pop().lower(),
        "tags": ["llmkit", figures["model"]],
    }
    s, part = opened.net.settings, figures["part"]
    verbs = {"image": f"sample {title} --out grid.png", "caption": f"generate {title} --image picture.png"}
    what = f"`{figures['model']}`" + (f", its net `{part}`" if part else "")
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {title}",
        f"A model of {s.size} x {s.size} images with {s.channels} channel(s): {what}, "
        f"{figures['parameters']:,} parameters, made with llmkit, stored in {figures['dtype']}.",
        "## Use",
        *(f"```\nllmkit {verb}\n```" for head, verb in verbs.items() if head == opened.head),
        f"```python\nfrom llmkit.opened import open_model\n\nnet = open_model({title!r}).net\n```",
        "## Data and licences",
        card.sources_table(opened.lineage.get("sources") or {}),
        "## Training",
        card.training(card.history(opened)),
        *(["## Evaluation", card.metrics(evaluation)] if evaluation else []),
        "## Proof of this export",
        "Read back from disk, every tensor and the output on two inputs are equal, bit for bit.",
    ]
    (out / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
