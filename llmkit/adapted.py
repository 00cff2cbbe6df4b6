"""Checkpoints that hold an adapter alone, read as if they held the whole net that base and adapter make.

    runs/tuned/checkpoints/step_00000300      A, B, head ───────────┐
        lineage.json  bases: {model: {path, fingerprint}}           ▼
                                 └──► runs/base/checkpoints/... ─► W + scale B A

So whatever opens a checkpoint (evaluation, export, generation, the start of another run) opens these too. A
base that is gone or has changed is an error: an adapter is never added to another base than it was trained
on. A base may itself be an adapter on another.
"""

import os
from pathlib import Path
from typing import Any

import torch

from llmkit import manifest, registry, trust
from llmkit.checkpoint import fragments, store
from llmkit.config import parse_yaml
from llmkit.errors import CheckpointError, DataError
from llmkit.models import heads
from llmkit.models.adapter import Adapter, is_part, merged


def recipe_of(path: Path) -> dict[str, Any]:
    """The resolved recipe of the checkpoint `path`, as plain data."""
    return parse_yaml((path / "recipe.yaml").read_text(encoding="utf-8"), str(path / "recipe.yaml"))


def reader(path: Path) -> fragments.Reader:
    """The tensors of the checkpoint `path`: of an adapter's, those of the whole net."""
    settings = recipe_of(path).get("adapter")
    return Adapted(path, Adapter.model_validate(settings)) if settings else fragments.Reader(path)


def start_net(stored: fragments.Reader) -> tuple[str, str]:
    """(net, kind) that others start from: the language model, its moving average if it has one."""
    nets = stored.nets()
    net = next((name for name in ("model", "policy") if name in nets), nets[0])
    return net, "ema" if "ema" in stored.kinds(net) else "param"


# ---- which base --------------------------------------------------------------------------------------------


def note(base: Path, fingerprint: str, run: Path) -> dict[str, str]:
    """What the checkpoints of `run` say of their base: where it is, and what identifies it."""
    base = base.resolve()
    return {"path": str(base), "from_run": os.path.relpath(base, run.resolve()), "fingerprint": fingerprint}


def find(noted: dict[str, str], run: Path) -> Path:
    """The base that `note` noted for `run`. CheckpointError if it is gone or is not the same any more."""
    there = False
    for path in (Path(noted["path"]), run / noted["from_run"]):
        try:
            there = there or path.is_dir()
            if manifest.digest(manifest.read(path)["files"]) == noted["fingerprint"]:
                return path
        except (DataError, KeyError):
            continue
    raise CheckpointError(
        f"{run}: holds an adapter whose base {noted['path']} ({noted['fingerprint'][:12]}) "
        f"{'is another one now' if there else 'is gone'}; bring back the base that it was trained on"
    )


def same_bases(checkpoint: Path, now: dict[str, Any]) -> None:
    """CheckpointError if `checkpoint` has an adapter on another base than a run whose lineage is `now`."""
    then = trust.read_json(checkpoint / "lineage.json").get("bases") or {}
    for net, facts in (now.get("bases") or {}).items():
        old, new = then.get(net, {}).get("fingerprint", "none"), facts["fingerprint"]
        if old != new:
            raise CheckpointError(
                f"init: {facts['path']} is {new[:12]}, the adapter in {checkpoint} was trained on "
                f"{old[:12]}; start from that base, or --fresh"
            )


# ---- reading -----------------------------------------------------------------------------------------------


class Adapted(fragments.Reader):
    """`param` of every tensor of the whole nets, summed as it is read. Moments of the run are not shown."""

    def __init__(self, folder: Path, settings: Adapter):
        self.folder, self.settings = Path(folder), settings
        self.own = fragments.Reader(folder)
        self._bases: dict[str, tuple[fragments.Reader, str, str]] = {}
        """name -> (base's reader, name there, kind)"""
        for net, noted in (trust.read_json(self.folder / "lineage.json").get("bases") or {}).items():
            self._borrow(net, find(noted, self.folder.parent.parent))
        shapes = {name: base.shape(stored) for name, (base, stored, _) in self._bases.items()}
        heads = [name for net in self.own.nets() for name in self.own.names(net) if not is_part(name)]
        shapes |= {name: self.own.shape(name) for name in heads}
        param = {"param": {"dtype": "F32", "ranges": []}}
        self._tensors = {name: {"shape": shape, "kinds": param} for name, shape in shapes.items()}

    def _borrow(self, net: str, path: Path) -> None:
        """Note the tensors of the base in `path` under the names that `net` has for them."""
        store.verify(path)
        base = reader(path)
        name, kind = start_net(base)
        there = {stored.partition("/")[2].removeprefix("trunk."): stored for stored in base.names(name)}
        mine = {own.partition("/")[2] for own in self.own.names(net)}
        for own in self._parameters(net, mine) - mine:
            stored = there.get(own.removeprefix("trunk."))
            if stored is None:
                raise CheckpointError(f"{self.folder}: its base {path} holds no {own}")
            self._bases[f"{net}/{own}"] = (base, stored, kind)

    def _parameters(self, net: str, mine: set[str]) -> set[str]:
        """The names of all parameters of `net`, whose head is among `mine`."""
        model = recipe_of(self.folder)["model"]
        settings = registry.find("model", model["name"]).Settings.model_validate(model)
        labelled = heads.label_head(mine)
        end = labelled or ("score" if "score.weight" in mine else "lm")
        outputs = self.own.shape(f"{net}/{labelled}_head.weight")[0] if labelled else None
        with torch.device("meta"):
            return {name for name, _ in heads.build(settings, end, outputs).named_parameters()}

    def _read(self, name: str, kind: str, start: int, view: torch.Tensor) -> None:
        view.copy_(self.tensor(name).flatten()[start : start + view.numel()])

    def tensor(self, name: str, kind: str = "param") -> torch.Tensor:
        if name not in self._bases:
            return self._own(name)
        base, stored, base_kind = self._bases[name]
        weight, stem = base.tensor(stored, base_kind), name.removesuffix(".weight")
        a, b, magnitude = (self._own(f"{stem}.lora_{part}.weight") for part in ("A", "B", "magnitude_vector"))
        return weight if a is None else merged(weight, a, b, magnitude, self.settings.scale)

    def _own(self, name: str) -> torch.Tensor | None:
        """A tensor of this checkpoint itself, averaged if it keeps an average; None if it has none such."""
        net = name.partition("/")[0]
        if name not in self.own.names(net):
            return None
        return self.own.tensor(name, "ema" if "ema" in self.own.kinds(net) else "param")

    def lent(self, name: str) -> torch.Tensor:
        """A tensor of the base, without what the adapter adds, by the name that this net has for it."""
        base, stored, kind = self._bases[name]
        return base.tensor(stored, kind)

    def parts(self, net: str) -> dict[str, torch.Tensor]:
        """The adapter of `net` and its head, by their names within the net."""
        return {name.partition("/")[2]: self._own(name) for name in self.own.names(net)}
