"""Texts that hold what a model will be evaluated on: sequences of words shared with the evaluation's files.

Brown et al. 2020 (GPT-3, appendix C) compare 13-word sequences. Those that stand in many texts of the
evaluation are phrases of the language or of a form, and say nothing: they are left out (`max_texts`).
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import xxhash
from pydantic import Field

from llmkit.config import Section
from llmkit.data.filters.words import WORD_SIGN, words
from llmkit.errors import DataError
from llmkit.registry import register


@register("filter", "decontaminate")
class Decontaminate:
    class Settings(Section):
        name: Literal["decontaminate"] = "decontaminate"
        against: list[str] = Field(
            description="files not to be met: .jsonl (every text in it counts), or plain text by paragraphs"
        )
        words: int = Field(13, ge=3, description="words of a sequence; texts of 8 words up count whole")
        max_texts: int = Field(10, ge=1, description="sequences in more texts of the evaluation are ignored")

    def __init__(self, settings: Settings):
        self.settings = settings
        met: Counter = Counter()
        for file in settings.against:
            for text in texts(Path(file).expanduser()):
                met.update(self._sequences(text))
        self._forbidden = {digest for digest, count in met.items() if count <= settings.max_texts}
        self._lengths = sorted({length for length, _ in self._forbidden})

    def judge(self, text: str) -> tuple[str, str | None]:
        found = _plain(text)
        for length in self._lengths:
            if any((length, digest) in self._forbidden for digest in _digests(found, length)):
                return text, "contaminated"
        return text, None

    def _sequences(self, text: str) -> set[tuple[int, int]]:
        found = _plain(text)
        length = min(self.settings.words, len(found))
        return {(length, digest) for digest in _digests(found, length)} if length >= 8 else set()


def texts(path: Path):
    """What stands in a file of the evaluation, text by text. DataError if there is no such file."""
    if not path.is_file():
        raise DataError(f"decontaminate.against: {path}: there is no such file; name the evaluation's files")
    with path.open(encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            for line in file:
                yield from _strings(json.loads(line))
        else:
            yield from file.read().split("\n\n")


def _strings(value: Any):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _strings(inside)


def _plain(text: str) -> list[str]:
    return [word for word in words(text.lower()) if WORD_SIGN.search(word)]


def _digests(found: list[str], length: int):
    runs = (" ".join(found[i : i + length]) for i in range(len(found) - length + 1))
    return (xxhash.xxh3_64_intdigest(run.encode()) for run in runs)
