"""Starting a run from the weights of another one: a checkpoint of ours, in whatever layout it was written.

init: runs/pretrain  ─►  its shape (when the recipe has no `model`), its tokenizer's fingerprint, its weights
"""

import json
from collections.abc import Iterator
from typing import Any

import torch

from llmkit import adapted, manifest, registry
from llmkit.checkpoint import fragments
from llmkit.config import Section
from llmkit.engine.backend import Backend
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import CheckpointError, ConfigError
from llmkit.models.adapter import canonical, is_magnitude, is_part, owner
from llmkit.models.heads import LABELLED, label_head
from llmkit.opened import resolve

FRESH = ("score.", "value_head.", "score_head.", "pooler.", "prior.", *(f"{head}_head." for head in LABELLED))
"""What a net may have beside the net that it starts from: it keeps its fresh values."""


SAME = (
    "heads", "kv_heads", "head_dim", "style", "positions", "norm", "qk_norm", "mlp", "bias", "tie", "experts",
    "mup_width", "net", "likelihood",
)  # fmt: skip
"""Settings of a model without which its weights are those of another net, though they may fit."""
FREE = ("dropout", "recompute", "init_std", "init_scale", "depth_scaled", "mixing")
"""Settings that may differ from those of the weights: they do not change what these compute."""


class Start:
    """The checkpoint that `init` names, read once: its moving average if it has one, else its weights."""

    def __init__(self, init: str):
        self.path = resolve(init)
        if not (self.path / fragments.INDEX).exists():
            raise ConfigError(
                f"init: {self.path} is not a checkpoint of llmkit; run `llmkit import {self.path} OUT` first"
            )
        recipe = adapted.recipe_of(self.path)
        self.model = registry.find("model", recipe["model"]["name"]).Settings.model_validate(recipe["model"])
        self.lineage: dict[str, Any] = json.loads((self.path / "lineage.json").read_text())
        self.fingerprint = manifest.digest(manifest.read(self.path)["files"])
        self.labels = (recipe.get("objective") or {}).get("labels")
        self.reader = adapted.reader(self.path)
        self.net, self.kind = adapted.start_net(self.reader)
        self._held = set(self.reader.names(self.net))

    def check(self, recipe: TrainRecipe, dataset) -> None:
        """ConfigError if the data is told in another tokenizer, template or words than the weights know."""
        mine = dataset.tokenizer_dir and manifest.fingerprint(dataset.tokenizer_dir)
        theirs = self.lineage.get("tokenizer")
        if mine and theirs and mine != theirs:
            raise ConfigError(
                f"data: made with tokenizer {mine[:12]}, the weights of {self.path} with {theirs[:12]}; "
                "make the data with the tokenizer/ of that checkpoint"
            )
        mine, theirs = getattr(dataset, "template", None), self.lineage.get("chat_template")
        if mine and theirs and mine != theirs:
            raise ConfigError(
                f"data: has chat template {mine[:12]}, the weights of {self.path} know {theirs[:12]}; "
                "set data.tokenizer to the tokenizer/ of that checkpoint"
            )
        told, known = getattr(dataset, "words", ()), tuple(getattr(self.model, "words", None) or ())
        if told and known and told != known:
            raise ConfigError(
                f"data: its captions have {len(told)} words, others than the {len(known)} that {self.path} "
                "knows; set data as it was there"
            )
        labels = getattr(recipe.objective, "labels", None)
        head = label_head({name.partition("/")[2] for name in self.reader.names(self.net)})
        if labels and head == recipe.objective.name and labels != self.labels:
            raise ConfigError(
                f"init: the head of {self.path} ends in the labels {', '.join(map(str, self.labels or ()))}, "
                f"not {', '.join(labels)}; start from the run before it, or set data.labels to the former"
            )

    def compare(self, model: Section) -> list[str]:
        """How the `model` that a recipe states departs from the one whose weights these are, a line each.

        ConfigError for what would read the same tensors as others, or leave some of them out.
        """
        if type(model) is not type(self.model):
            return []
        names = [name for name in type(model).model_fields if name not in FREE]
        pairs = {name: (getattr(model, name), getattr(self.model, name)) for name in names}
        lines = {n: f"model.{n}: {a}, but {b} in {self.path}" for n, (a, b) in pairs.items() if a != b}
        if wrong := [name for name in lines if name in SAME]:
            raise ConfigError(f"{lines[wrong[0]]}, whose weights mean nothing so; leave model out")
        return list(lines.values())

    def fill(self, backend: Backend, name: str, resumed: bool = False) -> None:
        """Put the weights into the net called `name`, whatever its engine has made of it.

        Of a trained net in a `resumed` run only those that its adapter borrows: it has the others already.
        """
        if name in backend.trained:
            pieces = list(backend.pieces(name, writing=False))
            if resumed:
                borrowed: Any = backend.nets[name].borrowed
                pieces = [piece for piece in pieces if piece[0] in borrowed]
            self.reader.into(self._renamed(pieces))
            self._measure(pieces)
            if not resumed:
                self.reader.into(self._buffers(backend.nets[name]))
            backend.refresh(name)
            return
        named = backend.nets[name].named_parameters()
        self.reader.into(self._renamed((n, p.shape, 0, {"param": p.detach().view(-1)}) for n, p in named))

    def _renamed(self, pieces) -> Iterator[tuple[str, torch.Size, int, dict[str, torch.Tensor]]]:
        """`pieces` under their names in the checkpoint; a head that it lacks keeps its fresh values."""
        for raw, shape, start, views in pieces:
            name = canonical(raw)
            if "param" not in views or is_part(name):
                continue  # state of an optimiser that is not elementwise; an adapter that begins here
            if found := self._stored(name):
                yield found, shape, start, {self.kind: views["param"]}
            elif not name.startswith(FRESH):
                raise CheckpointError(
                    f"{self.path}: holds no {name}; its model and the recipe's model differ"
                )

    def _buffers(
        self, net: torch.nn.Module
    ) -> Iterator[tuple[str, torch.Size, int, dict[str, torch.Tensor]]]:
        """The persistent buffers of `net` that the checkpoint has too: running means, averaged codebooks."""
        for name, shape, start, views in fragments.buffers(net):
            if found := self._stored(name):
                yield found, torch.Size(shape), start, views

    def _stored(self, name: str) -> str | None:
        """What the checkpoint calls the parameter `name`, whichever of the two has a head, or None."""
        names = (f"{self.net}/{n}" for n in (name, name.removeprefix("trunk."), f"trunk.{name}"))
        return next((n for n in names if n in self._held), None)

    @torch.no_grad()
    def _measure(self, pieces) -> None:
        """DoRA's magnitudes begin as the lengths of the base's rows (Liu et al. 2024, section 4.1)."""
        for raw, _, start, views in pieces:
            if is_magnitude(raw):
                rows = self.reader.tensor(self._stored(owner(canonical(raw))), self.kind).norm(dim=1)
                views["param"].copy_(rows[start : start + len(views["param"])])
