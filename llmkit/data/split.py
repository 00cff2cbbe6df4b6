"""Which records are held out: a hash of the prompt decides, so that no prompt stands on both sides."""

import json
from pathlib import Path
from typing import Any

import xxhash

from llmkit.data import shapes
from llmkit.data.dedup import normal


def place(kind: str, seed: int, record: dict[str, Any]) -> float:
    """A number in [0, 1) that is the same for equal prompts, whatever else is collected."""
    text = normal(shapes.prompt(kind, record))
    return xxhash.xxh3_64_intdigest(text.encode(), seed) / 2**64


def move_nearest(kind: str, seed: int, full: Path, empty: Path) -> dict[str, Any]:
    """Move the record of `full` that came nearest to being in `empty` there -> that record.

    `full` and `empty` are the files of the two splits; `full` holds at least two records.
    """
    nearest = min if empty.stem == "heldout" else max
    with full.open(encoding="utf-8") as file:
        places = ((place(kind, seed, json.loads(line)), number) for number, line in enumerate(file))
        chosen = nearest(places)[1]
    rest = full.with_suffix(".rest")
    with full.open(encoding="utf-8") as lines, rest.open("w", encoding="utf-8") as kept:
        for number, line in enumerate(lines):
            if number == chosen:
                moved = line
            else:
                kept.write(line)
    empty.write_text(moved, encoding="utf-8")
    rest.replace(full)
    return json.loads(moved)
