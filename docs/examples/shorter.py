r"""A verifier of one's own: the reply holds the answer, and the shorter it is the better.

llmkit train rlhf/quickstart_grpo --plugin docs/examples/shorter.py init=RUN data.data=D data.tokenizer=T \
    'objective.rewards=[{name: shorter}]'
"""

from typing import Literal

from llmkit.config import Field
from llmkit.registry import register
from llmkit.verifiers.verifier import Verifier, VerifierSettings


@register("verifier", "shorter")
class Shorter(Verifier):
    """0 without the answer; with it, 1 down to 0.5 at `longest` characters and beyond."""

    class Settings(VerifierSettings):
        name: Literal["shorter"] = "shorter"
        longest: int = Field(200, gt=0, description="characters that halve the score")

    def score(self, reply, record):
        if record["answer"] not in reply:
            return 0.0
        return 1 - 0.5 * min(1.0, len(reply) / self.settings.longest)
