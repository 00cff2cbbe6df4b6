"""Several datasets as one, in proportions that count tokens: of corpora, of noises, of both.

    parts     web: {name: tokens, shards: ...}      books: {name: tokens, shards: ...}
    weights   web: 0.7                              books: 0.3            shares of the tokens trained on
    stages    after 0.9 of the run: other weights, to end on the best text (annealing)

Each part has its own shuffled order and its own epochs. Held out, every part has figures of its own:
heldout/web/loss, heldout/books/loss, and heldout/loss over them all.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from llmkit import manifest, registry
from llmkit.config import Component, Section
from llmkit.data.mix import Mix, Source
from llmkit.data.order import Order
from llmkit.errors import ConfigError
from llmkit.registry import register
from llmkit.splitmix import mix


class Stage(Section):
    """Other weights from some point of the run on."""

    after: float = Field(gt=0, lt=1, description="share of the run's steps after which these weights hold")
    weights: dict[str, float] = Field(description="share of the tokens by part; a part left out gets none")


@register("dataset", "mixture")
class Mixture:
    """The rows of all parts. What a row holds, and its keys, are the parts' own and must be alike."""

    class Settings(Section):
        name: Literal["mixture"] = "mixture"
        parts: dict[str, Annotated[Section, Component("dataset")]] = Field(description="datasets by a label")
        weights: dict[str, float] = Field(description="share of the tokens by part, relative to their sum")
        max_epochs: dict[str, float] = Field(
            {}, description="passes after which a part gives no more rows, and the others its share"
        )
        stages: list[Stage] = Field([], description="other weights later in the run, in order")
        rows: int | None = Field(
            None, gt=0, description="rows of the whole run, of which stages are shares; leave it to the run"
        )

        @model_validator(mode="after")
        def _consistent(self):
            if not self.parts:
                raise ValueError("parts: a mixture needs one at least")
            named = [("weights", self.weights), ("max_epochs", self.max_epochs)]
            named += [(f"stages.{i}.weights", stage.weights) for i, stage in enumerate(self.stages)]
            for where, numbers in named:
                for label, number in numbers.items():
                    if label not in self.parts:
                        raise ValueError(
                            f"{where}: there is no part {label!r}; parts: {', '.join(self.parts)}"
                        )
                    if number < 0:
                        raise ValueError(f"{where}.{label}: {number} is negative")
                if where != "max_epochs" and not sum(numbers.values()) > 0:
                    raise ValueError(f"{where}: they sum to 0; give a part some weight")
            points = [0.0, *(stage.after for stage in self.stages)]
            if points != sorted(set(points)):
                raise ValueError(f"stages: their `after` must grow, these are {points[1:]}")
            return self

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        self.settings, self.split = settings, split
        self.parts = {
            label: registry.find("dataset", part.name)(part, split, seed)
            for label, part in settings.parts.items()
        }
        _alike(self.parts)
        first = next(iter(self.parts.values()))
        self.seq_len, self.vocab_size = first.seq_len, first.vocab_size
        self.start = getattr(first, "start", None)
        self.tokenizer_dir = first.tokenizer_dir
        self.fingerprint = manifest.digest([part.fingerprint for part in self.parts.values()])
        sizes = [len(part) for part in self.parts.values()]
        self.groups = {
            label: range(sum(sizes[:i]), sum(sizes[: i + 1])) for i, label in enumerate(self.parts)
        }
        self.counts = {
            f"{label}_{key}": n for label, part in self.parts.items() for key, n in part.counts.items()
        }

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def plan(self, rows: int) -> Settings:
        """The settings with the rows of the run in them. ConfigError if the parts' epochs are over before."""
        settings = self.settings.model_copy(update={"rows": rows}) if self.settings.stages else self.settings
        end = self.order(0, settings).mix.end
        if end is not None and end < rows:
            raise ConfigError(
                f"data.max_epochs: the parts are used up after {end:,} of the run's {rows:,} rows; "
                "raise max_epochs, or train fewer steps"
            )
        self.settings = settings
        return settings

    def order(self, seed: int, settings: Settings | None = None) -> "MixedOrder":
        """Which row each sample of the run is."""
        settings = settings or self.settings
        if settings.stages and settings.rows is None:
            raise ConfigError("data.stages: are shares of a run, and data.rows does not say how long it is")
        sources = [
            Source(len(part), _tokens(part), _most(settings.max_epochs.get(label), len(part)))
            for label, part in self.parts.items()
        ]
        stages = [(0, settings.weights)]
        stages += [(round(stage.after * settings.rows), stage.weights) for stage in settings.stages]
        every = [(start, [weights.get(label, 0.0) for label in self.parts]) for start, weights in stages]
        return MixedOrder(Mix(sources, every), seed)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """The rows in the order in which they are asked for, whichever part they come from."""
        asked: dict[str, list[int]] = {}
        for place, (_, row) in enumerate(rows):
            label = next(label for label, group in self.groups.items() if row in group)
            asked.setdefault(label, []).append(place)
        if len(asked) <= 1:
            label = next(iter(asked), next(iter(self.parts)))
            return self.parts[label].batch([(s, row - self.groups[label].start) for s, row in rows])
        batches = [
            self.parts[label].batch([(rows[i][0], rows[i][1] - self.groups[label].start) for i in places])
            for label, places in asked.items()
        ]
        back = torch.tensor([place for places in asked.values() for place in places]).argsort()
        return {key: torch.cat([batch[key] for batch in batches])[back] for key in batches[0]}


class MixedOrder:
    """`Order` for a mixture: each part shuffled by itself, epoch after epoch of its own."""

    def __init__(self, mix_: Mix, seed: int):
        self.mix = mix_
        self._orders = [Order(source.rows, mix(seed + i)) for i, source in enumerate(mix_.sources)]
        self._offsets = [sum(s.rows for s in mix_.sources[:i]) for i in range(len(mix_.sources))]

    def row(self, sample: int) -> int:
        """The row id, in range(len(mixture)), of global sample number `sample`."""
        source, nth = self.mix.place(sample)
        return self._offsets[source] + self._orders[source].row(nth)


def _tokens(part) -> int:
    """Tokens of all rows of a dataset: its own word for it, or full rows."""
    return getattr(part, "num_tokens", None) or part.counts.get("tokens") or len(part) * part.seq_len


def _most(epochs: float | None, rows: int) -> int | None:
    return None if epochs is None else int(epochs * rows)


def _alike(parts: dict[str, Any]) -> None:
    """ConfigError if the parts' rows cannot stand in one batch, or are made by different tokenizers."""
    for label, part in parts.items():
        if not hasattr(part, "seq_len"):
            raise ConfigError(f"data.parts.{label}: {part.settings.name} is no text; a mixture is of text")
    (first, one), *others = parts.items()
    shapes = {key: (value.shape[1:], value.dtype) for key, value in one.batch([]).items()}
    for label, part in others:
        theirs = {key: (value.shape[1:], value.dtype) for key, value in part.batch([]).items()}
        if theirs != shapes:
            odd = sorted(key for key in shapes | theirs if shapes.get(key) != theirs.get(key))
            raise ConfigError(
                f"data.parts.{label}: its rows differ from those of {first} in {', '.join(odd)}; "
                "give all parts the same kind of dataset and the same seq_len"
            )
        mine, other = (manifest.fingerprint(p.tokenizer_dir) for p in (one, part))
        if mine != other:
            raise ConfigError(
                f"data.parts.{label}: made with tokenizer {other[:12]}, {first} with {mine[:12]}; "
                "shard both with the same one"
            )
