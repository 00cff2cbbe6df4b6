"""The documentation of the Linux kernel: technical English, the domain corpus of the adaptation recipes."""

import zlib
from collections.abc import Iterator
from typing import Any, Literal

from llmkit.config import Section
from llmkit.data import fetch
from llmkit.registry import register

PACKAGE = fetch.Package(
    "debian",
    "linux-doc-6.1",
    "6.1.192-2",
    "d1d1b5a602f0d439ecc39e713e044bf2df30d839fb4bf8a7b859ba3273c47993",
)
ROOT = "./usr/share/doc/linux-doc-6.1/Documentation/"
MAX_BYTES = 1 << 24
"""Of one file after decompression; the largest has 0.3 MB."""


@register("source", "linux_doc")
class LinuxDoc:
    """The reStructuredText files under Documentation/, without the translations of them."""

    class Settings(Section):
        name: Literal["linux_doc"] = "linux_doc"

    kind = "documents"
    licence = "GPL-2.0"
    language = "en"
    origin = "Debian linux-doc-6.1 6.1.192-2 (bookworm)"
    size = "21 MB"
    counts = {"documents": 2841}

    def __init__(self, settings: Settings):
        self.settings = settings

    def records(self) -> Iterator[dict[str, Any]]:
        """{id, text} in order of path."""
        for name, content in fetch.members(PACKAGE, f"{ROOT}*.rst", f"{ROOT}*.rst.gz"):
            path = name.removeprefix(ROOT)
            if path.startswith("translations/"):
                continue
            if path.endswith(".gz"):
                content = zlib.decompressobj(31).decompress(content, MAX_BYTES)
            yield {"id": path.removesuffix(".gz"), "text": content.decode("utf-8", "replace")}
