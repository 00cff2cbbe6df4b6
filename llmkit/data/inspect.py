"""`llmkit data inspect DIR`: what collected data or token shards hold, in figures and examples."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from llmkit import manifest
from llmkit.data import gallery, shard
from llmkit.data.indexed import Indexed
from llmkit.errors import DataError
from llmkit.tokenizer.vocabulary import Tokenizer

EXAMPLES = 3
WIDTH = 400


def show(folder: Path) -> None:
    """Print the figures of `folder` and the beginnings of some records. DataError if it has none."""
    folder = Path(folder)
    if (folder / shard.INDEX).is_file():
        lines = _shards(folder)
    elif (folder / "train.jsonl").is_file():
        lines = _records(folder)
    else:
        raise DataError(f"{folder}: neither collected data (train.jsonl) nor token shards ({shard.INDEX})")
    console = Console(highlight=False)
    if (folder / "train.jsonl").is_file() and (folder / manifest.NAME).is_file():
        lines.append(("page", str(gallery.write(folder))))
    for heading, text in lines:
        console.print(f"[bold]{escape(heading)}[/bold]  {escape(text)}")


def _records(folder: Path) -> list[tuple[str, str]]:
    facts = manifest.read(folder) if (folder / manifest.NAME).exists() else {}
    lines: list[tuple[str, str]] = [
        (key, json.dumps(facts[key], ensure_ascii=False)) for key in ("counts", "licences") if key in facts
    ]
    for name in ("train", "heldout", "rejected"):
        with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
            for line in islice(file, EXAMPLES):
                record = json.loads(line)
                lines.append((f"{name} {record['id']}", _beginning(record)))
    return lines


def _beginning(record: dict[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != "id"}
    text = record.get("text") or json.dumps(rest, ensure_ascii=False)
    return text if len(text) <= WIDTH else text[:WIDTH] + " ..."


def _shards(folder: Path) -> list[tuple[str, str]]:
    """Figures of the shards, and the first tokens of some documents with the borders between them."""
    index = shard.verify(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    lines = [("tokenizer", f"{index['tokenizer'][:12]}..., {index['vocab_size']} pieces")]
    for split, counts in index["splits"].items():
        per_token = counts["bytes"] / counts["tokens"]
        lines.append((split, f"{json.dumps(counts)}, {per_token:.2f} bytes of text per token"))
        shown = Indexed(folder / f"{split}_00000")
        start = 0
        for length in shown.lengths[:EXAMPLES]:
            ids = shown.ids[start : start + min(int(length), 60)]
            lines.append((f"  document of {length} tokens", "|".join(tokenizer.decode([i]) for i in ids)))
            start += int(length)
    return lines
