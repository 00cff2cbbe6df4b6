"""The reply is the answer, surrounding white space aside."""

from typing import Literal

from llmkit.registry import register
from llmkit.verifiers.verifier import Verifier, VerifierSettings


@register("verifier", "exact")
class Exact(Verifier):
    """1 if the reply equals the record's `answer` as a string, else 0."""

    class Settings(VerifierSettings):
        name: Literal["exact"] = "exact"

    def score(self, reply, record):
        return float(reply.strip() == record["answer"].strip())
