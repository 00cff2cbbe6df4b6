"""A data set of the Hugging Face hub, or a folder laid out like one, as a stream: no download of all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data import shapes
from llmkit.errors import DataError
from llmkit.registry import register


@register("source", "hub")
class Hub:
    """Rows of one split. Each shard is a task: an interrupted run goes on after those that are whole.

    A data set's own code is never run: `datasets` reads parquet, JSON, CSV and text alone since version 4.
    """

    class Settings(Section):
        name: Literal["hub"] = "hub"
        id: str = Field(description="OWNER/NAME on the hub, or a folder")
        config: str | None = Field(None, description="configuration of the data set, where it has several")
        split: str = Field("train", description="split to read")
        revision: str | None = Field(None, description="commit; without it, whatever is newest that day")
        kind: shapes.Kind = Field("documents", description="what the rows hold")
        text: str = Field("text", description="column that holds a document's text")
        licence: str = Field("not stated", description="licence of the data set, for manifest and model card")

    size = "as it is"
    licence = "as the set's card says"
    origin = "huggingface.co, by id"

    def __init__(self, settings: Settings):
        self.settings = settings
        self.kind, self.licence = settings.kind, settings.licence
        self.origin = f"Hugging Face {settings.id} at {settings.revision or 'no fixed revision'}"
        self._stream: Any = None

    def pieces(self) -> list[list[int]]:
        """[[shard, number of shards], ...]. DataError if the data set cannot be had."""
        num = self._opened().num_shards
        return [[shard, num] for shard in range(num)]

    def records(self, piece: list[int] | None = None) -> Iterator[dict[str, Any]]:
        for shard, num in [piece] if piece else self.pieces():
            for number, row in enumerate(self._opened().shard(num_shards=num, index=shard)):
                chosen = shapes.chosen(self.kind, row, self.settings.text)
                yield {"id": str(row.get("id", f"{shard}:{number}"))[:200], **chosen}

    def _opened(self):
        import datasets

        if self._stream is None:
            s = self.settings
            folder = Path(s.id).expanduser()
            where = str(folder) if folder.is_dir() else s.id
            try:
                self._stream = datasets.load_dataset(
                    where, s.config, split=s.split, revision=s.revision, streaming=True
                )
            except (OSError, ValueError, RuntimeError) as error:  # every failure of the hub is one of these
                said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise DataError(
                    f"hub: {s.id}: cannot be read ({said}); check id, config, split and network"
                ) from None
        return self._stream
