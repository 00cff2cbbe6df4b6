"""Checkpoints with an adapter, exported: added into their base, or alone and in peft's own format.

form=merged    base + adapter ─► the sum against both side by side, 1e-5 ─► an export like any other
form=adapter   adapter_config.json, adapter_model.safetensors ─► gate: plain peft puts it on the
               exported base, in a process without llmkit, and computes the same
"""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmkit import adapted
from llmkit.errors import ConfigError, ExportRefused
from llmkit.models.adapter import Adapter, canonical, is_part, owner
from llmkit.models.heads import trunk_of
from llmkit.models.hf import gate
from llmkit.opened import Opened, choose

SUM_TOLERANCE = 1e-5
"""Largest difference of outputs, relative to the largest output if that is above 1."""
TASKS = {
    "lm": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
    "score": "SEQ_CLS",
    "classify": "SEQ_CLS",
    "tag": "TOKEN_CLS",
    "span": "QUESTION_ANS",
}
"""peft's names of what a head is for."""


def settings_of(opened: Opened) -> Adapter | None:
    """The adapter of a checkpoint; None if it has none."""
    given = (opened.recipe or {}).get("adapter")
    return Adapter.model_validate(given) if given else None


@torch.no_grad()
def side_by_side(opened: Opened, settings: Adapter) -> nn.Module:
    """The net of an adapter's checkpoint as it was trained: the base, and the adapter on it."""
    from llmkit.models import lora

    reader: Any = adapted.reader(opened.path)
    name = choose(reader, opened.head)
    net, parts = lora.inject(copy.deepcopy(opened.net), settings), reader.parts(name)
    for key, p in net.named_parameters():
        own = canonical(key)
        p.copy_(parts[own] if own in parts else reader.lent(f"{name}/{own}"))
    return net.eval()


@torch.no_grad()
def prove_sum(opened: Opened, both: nn.Module, heldout: str | None) -> dict[str, float]:
    """How far the merged net is from base and adapter side by side; ExportRefused if it is too far.

    Both are computed in double precision: what is left is that the sum was rounded to fp32.
    """
    sides = [gate.Original(net, opened.head, opened.tokenizer, {}, False) for net in (opened.net, both)]
    tokens, lengths = gate.pick_rows(sides[0], heldout, rows=2, length=64)
    found = [gate.outputs(side, tokens, lengths) for side in _in_double(sides)]
    away = float((found[0] - found[1]).abs().max() / found[1].abs().max().clamp(min=1))
    if not away <= SUM_TOLERANCE:
        raise ExportRefused(
            f"export: the merged net is {away:.2g} away from base and adapter side by side (at most "
            f"{SUM_TOLERANCE:.0e} of the largest output); nothing was published"
        )
    return {"merge_diff": away, "merge_tolerance": SUM_TOLERANCE}


def _in_double(sides: list[gate.Original]):
    for side in sides:
        side.net.double()
        yield side
        side.net.float()


# ---- peft's format -----------------------------------------------------------------------------------------


def names(family, net: nn.Module) -> dict[str, str]:
    """{our parameter: theirs} of those that `family` keeps as they are, neither turned nor put together."""
    theirs = {_place(tensor): name for name, tensor in family.give(net)}
    found = {name: theirs.get(_place(p)) for name, p in net.named_parameters()}
    return {name: their for name, their in found.items() if their}


def _place(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def write(out: Path, opened: Opened, settings: Adapter, family, base: str, both: nn.Module) -> None:
    """Write adapter_config.json and adapter_model.safetensors for the base exported to `base`.

    ExportRefused if the family has a layer of the adapter in another form, as GPT-2 has queries.
    """
    from llmkit.models import lora

    their, tensors = names(family, opened.net), {}
    for key, p in both.named_parameters():
        own = canonical(key)
        if key not in both.borrowed:
            place = owner(own) if is_part(own) else own
            if place not in their:
                raise ExportRefused(
                    f"export: {family.model_type} keeps {place} in another form, which an adapter of peft "
                    "cannot be put on; export with form=merged"
                )
            suffix = own.removeprefix(place.removesuffix("weight")) if is_part(own) else ""
            name = their[place].removesuffix("weight") + suffix if suffix else their[place]
            name = name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")
            tensors[f"base_model.model.{name}"] = p.detach().float().contiguous()
    on = [their[owner(own)] for own in map(canonical, dict(both.named_parameters())) if ".lora_A." in own]
    heads = sorted({their[own] for own in _heads(both)})
    described = lora.config(
        settings,
        target_modules=_shortest({name.removesuffix(".weight") for name in on}, set(their.values())),
        modules_to_save=sorted({name.rpartition(".")[0] for name in heads}) or None,
        task_type=TASKS.get(opened.head),
        base_model_name_or_path=base,
        inference_mode=True,
    )
    described.target_modules = sorted(described.target_modules)  # peft keeps a set, in an order of its own
    described.save_pretrained(str(out))
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    (out / "adapter_model.safetensors").chmod(0o644)


def _heads(net: Any) -> list[str]:
    learning = [canonical(name) for name, _ in net.named_parameters() if name not in net.borrowed]
    return [name for name in learning if not is_part(name)]


def _shortest(modules: set[str], parameters: set[str]) -> list[str]:
    """The last words of `modules` if they mean those modules alone, else their whole names."""
    every = {name.removesuffix(".weight") for name in parameters}
    words = {name.rpartition(".")[2] for name in modules}
    meant = {name for name in every if name.rpartition(".")[2] in words}
    return sorted(words if meant == modules else modules)


def publish(
    opened: Opened,
    settings: Adapter,
    both: nn.Module,
    family,
    out: Path,
    base: str | None,
    heldout: str | None,
) -> dict[str, Any]:
    """Write the adapter to `out`, prove that plain peft computes the same on `base` -> the gate's figures."""
    if base is None or not (Path(base) / "config.json").is_file():
        raise ConfigError(
            "base: an adapter is put on an exported base; run `llmkit export BASE DIR`, then give base=DIR"
        )
    out.mkdir(parents=True, exist_ok=True)
    write(out, opened, settings, family, base, both)
    trunk = trunk_of(both)
    tied = trunk is both and both.settings.tie
    original = gate.Original(both, opened.head, opened.tokenizer, family.trace(both), tied)
    original.base = str(Path(base).resolve())
    figures = gate.prove(out, original, heldout)
    return {"architecture": family.architectures[opened.head], "dtype": "float32", "base": base, **figures}
