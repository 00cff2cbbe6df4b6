"""What a verifier is: a few settings, and a score between 0 and 1 for one reply.

One file in llmkit/verifiers with `@register("verifier", NAME)` adds one; so does a plug-in. It runs in a
process of its own (contained.py), so it may hang, crash or fork: that costs the reply its score, and is
counted. The process starts anew for every run; what must be kept from reply to reply does not belong in it.
"""

from typing import Any, ClassVar

from pydantic import Field

from llmkit.config import Section


class VerifierSettings(Section):
    """What every verifier has; subclasses add a `name` and what else they need."""

    weight: float = Field(1.0, description="what a full score adds to the reward")
    timeout_s: float = Field(10.0, gt=0, description="seconds for one reply; one that takes longer scores 0")
    workers: int = Field(1, ge=1, le=64, description="processes that score at the same time, on each rank")


class Verifier:
    """Base of all verifiers."""

    Settings: ClassVar[type[VerifierSettings]]
    needs: ClassVar[tuple[str, ...]] = ("answer",)
    """Keys that every record must have."""

    def __init__(self, settings: Any):
        self.settings = settings

    def score(self, reply: str, record: dict[str, Any]) -> float:
        """How good `reply` is, 0..1. `record` is the data set's: messages, answer, and what else it holds."""
        raise NotImplementedError
