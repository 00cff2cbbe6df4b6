"""Where the log-probabilities of the reference come from: asked for every batch, or once for every row."""

from typing import Literal

from pydantic import Field

from llmkit.config import Section


class ReferenceSettings(Section):
    """Settings of losses that compare with a reference."""

    reference: Literal["live", "cached"] = Field(
        "live",
        description="live: a frozen net in memory; cached: its answers, computed once before the first step "
        "and kept on disk for every later run with the same weights, rows and template",
    )
    cache: str | None = Field(
        None, description="directory of cached answers; default: llmkit/columns in the user's cache"
    )
    only_with = {"cache": ("reference", "cached")}
