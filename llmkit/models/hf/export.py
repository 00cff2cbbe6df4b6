"""`llmkit export CKPT OUT`: a Hugging Face directory, proved to compute what the checkpoint computes.

    CKPT ─► open ─► config.json, generation_config.json, model.safetensors, tokenizer files
                 ─► gate: plain transformers reloads it and agrees ── no ─► ExportRefused, nothing at OUT
                 ─► README.md (model card), export_report.json

Models of images go through images.py. `stage.perform` gives a staging directory and publishes it by rename,
so a refusal leaves nothing behind.
"""

import shutil
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from llmkit import manifest, registry, trust
from llmkit.config import Field, Section
from llmkit.errors import ConfigError, DataError, ExportRefused
from llmkit.log import say, warn
from llmkit.models import heads
from llmkit.models.hf import adapters, card, gate, images, labels, weights
from llmkit.opened import Opened, open_model
from llmkit.tokenizer.export import FILES
from llmkit.tokenizer.vocabulary import Tokenizer


class Export(Section):
    """What to export, and the text that it is proved on."""

    ckpt: str = Field(description="run, checkpoint or Hugging Face directory")
    heldout: str | None = Field(None, description="file of held-out text for the gate; without: random ids")
    family: str = Field("auto", description="architecture to export as; auto: the one that fits the net")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights on disk")
    shard_bytes: int = Field(4_000_000_000, gt=0, description="largest size of a safetensors file, in bytes")
    title: str | None = Field(None, description="heading of the model card; default: the run's name")
    evaluation: str | None = Field(None, description="directory of `llmkit eval` that the card quotes")
    form: Literal["merged", "adapter"] = Field(
        "merged", description="of a run with an adapter: added into its base, or alone in peft's format"
    )
    base: str | None = Field(None, description="form=adapter: the exported base that it is for")

    def inputs(self) -> dict[str, str]:
        """The stage directories it reads: when one of them is made anew, so is the export."""
        named = {"ckpt": self.ckpt, "evaluation": self.evaluation or ""}
        return {label: folder for label, folder in named.items() if (Path(folder) / manifest.NAME).is_file()}


def work(settings: Export, out: Path) -> dict:
    """Write the directory `out` and prove it; -> the gate's figures. ExportRefused names what departs."""
    heldout = read_text(settings.heldout) if settings.heldout else None
    evaluation = trust.read_json(Path(settings.evaluation) / "report.json") if settings.evaluation else None
    opened = open_model(settings.ckpt)
    if images.is_one(opened.net):
        return _images(settings, opened, out, evaluation)
    figures = _publish(settings, opened, out, heldout)
    card.write(out, opened, figures, settings.title or name_of(opened), evaluation)
    manifest.write_json(out / "export_report.json", figures)
    texts, amount = figures.get("lines", 0) + figures.get("strings", 0), figures["max_abs_logit_diff"]
    say(f"export: logits agree within {amount:.1e}, the ids of {texts} texts are equal")
    return {**figures, "licences": opened.lineage.get("sources") or {}}


def _publish(settings: Export, opened: Opened, out: Path, heldout: str | None) -> dict:
    """`publish`; of a checkpoint with an adapter, their sum after its proof, or the adapter by itself."""
    adapter = adapters.settings_of(opened)
    if adapter is None:
        if settings.form == "adapter":
            raise ConfigError(f"form: {opened.path} has no adapter; leave form out")
        return publish(opened.net, opened.tokenizer, out, settings, heldout)
    both = adapters.side_by_side(opened, adapter)
    proof = adapters.prove_sum(opened, both, heldout)
    if settings.form == "merged":
        return proof | publish(opened.net, opened.tokenizer, out, settings, heldout)
    family = family_of(opened.net, settings.family)
    copy_tokenizer(opened.tokenizer, out)
    return proof | adapters.publish(opened, adapter, both, family, out, settings.base, heldout)


def _images(settings: Export, opened: Opened, out: Path, evaluation: dict | None) -> dict:
    """The same for a model of images, which has a format of its own."""
    for key in ("heldout", "family"):
        if getattr(settings, key) != Export.model_fields[key].default:
            warn(f"{key}: a model of images has none; it is not read")
    figures = images.publish(opened.net, out, getattr(torch, settings.dtype), settings.shard_bytes)
    copy_tokenizer(opened.tokenizer, out)
    images.write_card(out, opened, figures, settings.title or name_of(opened), evaluation)
    manifest.write_json(out / "export_report.json", figures)
    say(f"export: {figures['model']}, read back equal bit for bit")
    return {**figures, "licences": opened.lineage.get("sources") or {}}


def publish(
    net: nn.Module, tokenizer: Tokenizer | None, out: Path, settings: Export, heldout: str | None
) -> dict:
    """Write the files that transformers reads to `out` and prove them -> the gate's figures.

    `net` is changed: to fp32, with weights rounded to `settings.dtype`, so that like is compared with like.
    """
    out.mkdir(parents=True, exist_ok=True)
    family = family_of(net, settings.family)
    head = heads.kind(net)
    kind = getattr(torch, settings.dtype)
    round_to(net.eval().float(), kind)
    ids = special_ids(tokenizer)
    if head == "seq2seq":
        first = ids[f"{net.settings.start}_token_id"]
        if first is not None:
            ids["decoder_start_token_id"] = first[0] if isinstance(first, list) else first
    config = family.config(net.settings, head, ids, settings.dtype) | labels.config(net, head)
    manifest.write_json(out / "config.json", config)
    if head in ("lm", "seq2seq"):
        stated = {key: value for key, value in ids.items() if value is not None}
        manifest.write_json(out / "generation_config.json", stated)
    weights.write(out, dict(family.give(net)), kind, settings.shard_bytes)
    copy_tokenizer(tokenizer, out)
    tied = net is heads.trunk_of(net) and net.settings.tie
    original = gate.Original(net, head, tokenizer, family.trace(net), tied)
    figures = gate.prove(out, original, heldout)
    return {"architecture": family.architectures[head], "dtype": settings.dtype, **figures}


def copy_tokenizer(tokenizer: Tokenizer | None, out: Path) -> None:
    """Put the tokenizer's files into the directory `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES if tokenizer else ():
        if (tokenizer.folder / name).is_file():
            shutil.copyfile(tokenizer.folder / name, out / name)


def read_text(file: str) -> str:
    """A file of held-out text. DataError if it is missing or not UTF-8."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"heldout: cannot read {file}: {error}; give a file of raw text") from None


def family_of(net: nn.Module, name: str = "auto"):
    """The exporter called `name`, or the first that fits `net`.

    ExportRefused if no family of transformers computes what `net` does, ConfigError if `name` does not.
    """
    known = registry.names("export")
    for candidate in known if name == "auto" else [name]:
        family = registry.find("export", candidate)
        if family.matches(net):
            return family
    if name == "auto" and (options := getattr(net.settings, "options", None)):
        stated = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ExportRefused(f"model: no family of transformers has {stated} together; nothing was published")
    raise ConfigError(f"family: {name} does not fit a {type(net).__name__}; known: {', '.join(known)}")


@torch.no_grad()
def round_to(net: nn.Module, kind: torch.dtype) -> None:
    """Give every weight of `net` the value that it will have on disk."""
    for p in net.parameters():
        p.copy_(p.to(kind))


def special_ids(tokenizer: Tokenizer | None) -> dict[str, int | list[int] | None]:
    """The ids that config.json and generation_config.json state; the end of a reply ends a text too."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    ends = gate.stop_ids(tokenizer)
    eos = ends if len(ends) > 1 else tokenizer.eos
    return {"bos_token_id": tokenizer.bos, "eos_token_id": eos, "pad_token_id": tokenizer.pad}


def name_of(opened: Opened) -> str:
    """The run's name for a checkpoint, the directory's for anything else."""
    path = opened.path.resolve()
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.name
