"""What every verb takes from its caller: the options of all verbs, and `key=value` settings.

The command line needs these before any verb is chosen, so nothing heavy is imported until a setting is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmkit.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """What every verb takes, wherever it is called from."""

    ranks: int = 0
    """Processes on each machine; 0: one per GPU, or one."""
    device: str = "auto"
    quick: bool = False
    debug: bool = False
    fresh: bool = False
    plugins: list[str] = field(default_factory=list)

    def argv(self) -> list[str]:
        """These options as command-line words, for a worker."""
        flags = [f"--{name}" for name in ("quick", "debug", "fresh") if getattr(self, name)]
        plugins = [word for file in self.plugins for word in ("--plugin", file)]
        return ["--device", self.device, *flags, *plugins]


def assignments(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as typed values. ConfigError if one is not of that form."""
    from llmkit import config

    out = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r}: an override is written key=value")
        out[key] = config.parse_yaml(value, key)
    return out
