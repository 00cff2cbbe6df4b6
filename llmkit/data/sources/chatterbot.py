"""Short questions and answers in English: the corpus of the ChatterBot library, topic by topic."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section, parse_yaml
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "pypi", "chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"
)


@register("source", "chatterbot")
class Chatterbot:
    """One exchange per entry: its first line asks, its second answers; further lines are left out."""

    class Settings(Section):
        name: Literal["chatterbot"] = "chatterbot"
        chars: int = Field(200, gt=0, description="longer answers (pages of code, mostly) are left out")

    kind = "conversations"
    licence = "BSD"
    language = "en"
    origin = "PyPI chatterbot-corpus 1.3.3 (its metadata says BSD License)"
    size = "1,923 exchanges"
    counts = {"conversations": 842}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        for member, content in fetch.members(PACKAGE, "chatterbot_corpus/data/english/*.yml"):
            entries = parse_yaml(content.decode(), member)["conversations"]
            yield from self._exchanges(PurePosixPath(member).stem, entries)

    def _exchanges(self, topic: str, entries: list[list[Any]]) -> Iterator[dict[str, Any]]:
        for number, entry in enumerate(entries):
            if len(entry) >= 2 and len(str(entry[1])) <= self.settings.chars:
                roles = zip(("user", "assistant"), entry)
                messages = [{"role": role, "content": str(text).strip()} for role, text in roles]
                yield {"id": f"{topic}-{number}", "source": "chatterbot", "messages": messages}
