"""The reply has the wanted form, whether or not it is right."""

import re
from typing import Literal

from pydantic import Field, field_validator

from llmkit.registry import register
from llmkit.verifiers.verifier import Verifier, VerifierSettings


@register("verifier", "format")
class Format(Verifier):
    """1 if the whole reply matches a regular expression. Give it little weight: form is easily hacked."""

    class Settings(VerifierSettings):
        name: Literal["format"] = "format"
        weight: float = Field(0.1, description="what the right form adds to the reward")
        pattern: str = Field(description="Python regular expression; `.` matches line ends too")

        @field_validator("pattern")
        @classmethod
        def _compiles(cls, pattern):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from None
            return pattern

    needs = ()

    def score(self, reply, record):
        return float(re.fullmatch(self.settings.pattern, reply.strip(), re.DOTALL) is not None)
