"""Where llmkit keeps what it can make or fetch again."""

import os
from pathlib import Path


def folder(kind: str) -> Path:
    """$XDG_CACHE_HOME or ~/.cache, then llmkit/`kind`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "llmkit" / kind
