"""`llmkit export CKPT OUT`: a Hugging Face directory that has been proved to compute what the checkpoint computes.

    CKPT ─► open ─► config.json, generation_config.json, model.safetensors, tokenizer files
                 ─► gate (reload by plain transformers, compare)  ─ no ─► ExportRefused, nothing at OUT
                 ─► README.md (model card), export_report.json

`stage.perform` gives a staging directory and publishes it by rename, so a refusal leaves nothing behind.
"""

import shutil
from pathlib import Path

import torch
from torch import nn

from llmkit import manifest, registry
from llmkit.config import Field, Literal, Section
from llmkit.errors import ConfigError
from llmkit.models.heads import ScoreNet
from llmkit.models.hf import card, gate, weights

TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
"""What travels from a tokenizer's directory. save_pretrained would leave out tokenizer.model, which converters want."""


class Export(Section):
    """What to export, and the text that it is proved on."""

    ckpt: str = Field(description="run, checkpoint or Hugging Face directory")
    heldout: str | None = Field(None, description="raw held-out text for the gate; without it random ids are compared")
    family: str = Field("auto", description="the architecture to export as; auto: the one that fits the net")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="type of the written weights")
    shard_bytes: int = Field(4_000_000_000, gt=0, description="largest size of one safetensors file, in bytes")
    title: str | None = Field(None, description="heading of the model card; default: the run's name")


def work(settings: Export, out: Path) -> dict:
    """Write the directory `out` and prove it; -> the gate's figures. Raises ExportRefused, naming what departs."""
    from llmkit.opened import open_model

    opened = open_model(settings.ckpt)
    heldout = Path(settings.heldout).read_text(encoding="utf-8") if settings.heldout else None
    result = publish(opened.net, opened.tokenizer, opened.tokenizer_dir, out, settings, heldout)
    card.write(out, settings, opened, result)
    manifest.write_json(out / "export_report.json", result)
    return result


def publish(net: nn.Module, tokenizer, tokenizer_dir: Path | None, out: Path, settings: Export, heldout: str | None) -> dict:
    """The files that transformers reads, written to `out` and proved. `net` is changed: to fp32, rounded to `dtype`."""
    out.mkdir(parents=True, exist_ok=True)
    family = family_of(net, settings.family)
    head = "score" if isinstance(net, ScoreNet) else "lm"
    kind = getattr(torch, settings.dtype)
    round_to(net.eval().float(), kind)
    ids = special_ids(tokenizer)
    manifest.write_json(out / "config.json", family.config(net.settings, head, ids, settings.dtype))
    if head == "lm":
        manifest.write_json(out / "generation_config.json", {key: value for key, value in ids.items() if value is not None})
    weights.write(out, {family.export_name(n): p for n, p in net.named_parameters()}, kind, settings.shard_bytes)
    for name in TOKENIZER_FILES if tokenizer_dir else ():
        if (tokenizer_dir / name).is_file():
            shutil.copyfile(tokenizer_dir / name, out / name)
    original = gate.Original(
        net=net,
        head=head,
        tokenizer=tokenizer,
        trace=family.trace(net),
        tied=head == "lm" and net.settings.tie,
        max_len=net.settings.context,
    )
    figures = gate.prove(out, original, heldout)
    return {"family": family.model_type, "architecture": family.architectures[head], "dtype": settings.dtype, **figures}


def family_of(net: nn.Module, name: str = "auto"):
    """The exporter called `name`, or the first that fits `net`; ConfigError if it does not fit, or none does."""
    names = registry.names("export") if name == "auto" else [name]
    for candidate in names:
        family = registry.find("export", candidate)
        if family.matches(net):
            return family
    raise ConfigError(f"export.family: {name} does not fit a {type(net).__name__}; known: {', '.join(registry.names('export'))}")


@torch.no_grad()
def round_to(net: nn.Module, kind: torch.dtype) -> None:
    """Give every weight the value that it will have on disk, so that the gate compares like with like."""
    for p in net.parameters():
        p.copy_(p.to(kind))


def special_ids(tokenizer) -> dict[str, int | list[int] | None]:
    """The ids that config.json and generation_config.json state."""
    ids = {f"{name}_token_id": getattr(tokenizer, name, None) for name in ("bos", "eos", "pad")}
    end = getattr(tokenizer, "end_of_turn", None)
    if end is not None and end != ids["eos_token_id"]:
        ids["eos_token_id"] = [ids["eos_token_id"], end]
    return ids
