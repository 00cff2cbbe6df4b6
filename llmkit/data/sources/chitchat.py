"""Chats between people of the BYU Chit-Chat Challenge (Myers et al. 2020), with their ratings.

a chat = an opening question, turns of two people, ratings 1-10 (witty, upbeat, interesting) or none
  as a conversation   the question and every second turn are the user's, the others the assistant's
  as a document       the question and the turns, one a line
  as a pair           two chats about one question, the better rated transcript preferred, each chat used once
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from statistics import mean
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "pypi", "chitchat-dataset", "0.9.0", "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e"
)


@register("source", "chitchat")
class Chitchat:
    """Multi-turn conversations, or pairs of transcripts whose mean ratings differ by at least `gap`."""

    class Settings(Section):
        name: Literal["chitchat"] = "chitchat"
        kind: Literal["conversations", "pairs", "documents"] = Field(
            "conversations", description="what the records are"
        )
        turns: int = Field(6, ge=2, description="chats with fewer turns are left out")
        gap: float = Field(3.0, gt=0, le=9, description="pairs: least difference of mean ratings")
        chars: int = Field(400, gt=0, description="pairs: longest transcript, in whole turns")
        limit: int | None = Field(
            None, gt=0, description="at most so many chats (not for pairs); default: all"
        )

    licence = "MIT"
    language = "en"
    origin = "PyPI chitchat-dataset 0.9.0"
    size = "7,168 chats"
    counts = {"conversations": 2859, "pairs": 1016, "documents": 2867}

    def __init__(self, settings: Settings):
        self.settings = settings
        self.kind = settings.kind

    def records(self) -> Iterator[dict[str, Any]]:
        chats = json.loads(fetch.read(PACKAGE, "chitchat_dataset/dataset.json"))
        kept = [name for name, chat in chats.items() if self._usable(chat)]
        if self.kind == "pairs":
            yield from self._pairs({name: chats[name] for name in kept})
        else:
            for name in kept[: self.settings.limit]:
                yield {"id": name, "source": "chitchat", **self._whole(chats[name])}

    def _whole(self, chat: dict[str, Any]) -> dict[str, Any]:
        if self.kind == "conversations":
            return {"messages": _conversation(chat)}
        return {"text": "\n".join([chat["prompt"], *_turns(chat)])}

    def _usable(self, chat: dict[str, Any]) -> bool:
        return bool(chat.get("prompt")) and len(chat["messages"]) >= self.settings.turns

    def _pairs(self, chats: dict[str, Any]) -> Iterator[dict[str, Any]]:
        by_question = defaultdict(list)
        for name, chat in chats.items():
            if chat.get("ratings"):
                by_question[chat["prompt"]].append((mean(map(float, chat["ratings"].values())), name))
        for question, rated in sorted(by_question.items()):
            rated.sort()
            for (low, worse), (high, better) in zip(rated[: len(rated) // 2], reversed(rated)):
                if high - low >= self.settings.gap:
                    yield {
                        "id": f"{better}-{worse}",
                        "source": "chitchat",
                        "prompt": [{"role": "user", "content": question}],
                        "chosen": self._transcript(chats[better]),
                        "rejected": self._transcript(chats[worse]),
                        "margin": high - low,
                    }

    def _transcript(self, chat: dict[str, Any]) -> str:
        text = ""
        for line in _turns(chat):
            if text and len(text) + len(line) >= self.settings.chars:
                break
            text += ("\n" if text else "") + line
        return text[: self.settings.chars]


def _turns(chat: dict[str, Any]) -> list[str]:
    """What is said in each turn; utterances of one turn follow each other in one line."""
    return [" ".join(" ".join(said["text"].split()) for said in turn) for turn in chat["messages"]]


def _conversation(chat: dict[str, Any]) -> list[dict[str, str]]:
    said = [chat["prompt"], *_turns(chat)]
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
