"""Starting a run from the weights of another one: a checkpoint of ours, in whatever layout it was written.

init: runs/pretrain  ─►  its shape (when the recipe has no `model`), its tokenizer's fingerprint, its weights
"""

import json
from collections.abc import Iterator
from typing import Any

import torch

from llmkit import config, manifest, registry
from llmkit.checkpoint import fragments
from llmkit.engine.backend import Backend
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import CheckpointError, ConfigError
from llmkit.models.heads import LABELLED, label_head
from llmkit.opened import resolve

FRESH = ("score.", "value_head.", "pooler.", *(f"{head}_head." for head in LABELLED))
"""What a net may have beside the net that it starts from: it keeps its fresh values."""


class Start:
    """The checkpoint that `init` names, read once: its moving average if it has one, else its weights."""

    def __init__(self, init: str):
        self.path = resolve(init)
        if not (self.path / fragments.INDEX).exists():
            raise ConfigError(
                f"init: {self.path} is not a checkpoint of llmkit; run `llmkit import {self.path} OUT` first"
            )
        recipe = config.parse_yaml((self.path / "recipe.yaml").read_text(), str(self.path / "recipe.yaml"))
        self.model = registry.find("model", recipe["model"]["name"]).Settings.model_validate(recipe["model"])
        self.lineage: dict[str, Any] = json.loads((self.path / "lineage.json").read_text())
        self.fingerprint = manifest.digest(manifest.read(self.path)["files"])
        self.reader = fragments.Reader(self.path)
        nets = self.reader.nets()
        self.labels = (recipe.get("objective") or {}).get("labels")
        self.net = next((name for name in ("model", "policy") if name in nets), nets[0])
        self.kind = "ema" if "ema" in self.reader.kinds(self.net) else "param"

    def check(self, recipe: TrainRecipe, dataset) -> None:
        """ConfigError if the data was made with another tokenizer than the weights were trained with."""
        mine = dataset.tokenizer_dir and manifest.fingerprint(dataset.tokenizer_dir)
        theirs = self.lineage.get("tokenizer")
        if mine and theirs and mine != theirs:
            raise ConfigError(
                f"data: made with tokenizer {mine[:12]}, the weights of {self.path} with {theirs[:12]}; "
                "make the data with the tokenizer/ of that checkpoint"
            )

        labels = getattr(recipe.objective, "labels", None)
        head = label_head({name.partition("/")[2] for name in self.reader.names(self.net)})
        if labels and head == recipe.objective.name and labels != self.labels:
            raise ConfigError(
                f"init: the head of {self.path} ends in the labels {', '.join(map(str, self.labels or ()))}, "
                f"not {', '.join(labels)}; start from the run before it, or set data.labels to the former"
            )

    def fill(self, backend: Backend, name: str) -> None:
        """Put the weights into the net called `name`, whatever its engine has made of it."""
        if name in backend.trained:
            self.reader.into(self._renamed(backend.pieces(name, writing=False)))
            backend.refresh(name)
            return
        named = backend.nets[name].named_parameters()
        self.reader.into(self._renamed((n, p.shape, 0, {"param": p.detach().view(-1)}) for n, p in named))

    def _renamed(self, pieces) -> Iterator[tuple[str, torch.Size, int, dict[str, torch.Tensor]]]:
        """`pieces` under their names in the checkpoint; a head that it lacks keeps its fresh values."""
        stored = {name.partition("/")[2] for name in self.reader.names(self.net)}
        for name, shape, start, views in pieces:
            if "param" not in views:
                continue  # state of an optimiser that is not elementwise
            found = next(
                (n for n in (name, name.removeprefix("trunk."), f"trunk.{name}") if n in stored), None
            )
            if found:
                yield f"{self.net}/{found}", shape, start, {self.kind: views["param"]}
            elif not name.startswith(FRESH):
                raise CheckpointError(
                    f"{self.path}: holds no {name}; its model and the recipe's model differ"
                )
