"""The judge that reasoning-gym has for a task; records come from the source of the same name."""

from typing import Any, Literal

from pydantic import Field

from llmkit.errors import ConfigError
from llmkit.registry import register
from llmkit.verifiers.verifier import Verifier, VerifierSettings


@register("verifier", "reasoning_gym")
class ReasoningGym(Verifier):
    """What the judge gives the reply, 0..1: some tasks reward a part of the answer, or its form.

    Needs `pip install 'llmkit[gym]'`.
    """

    class Settings(VerifierSettings):
        name: Literal["reasoning_gym"] = "reasoning_gym"
        whole: bool = Field(False, description="a score below 1 counts as 0")

    needs = ("answer", "metadata")

    def __init__(self, settings):
        super().__init__(settings)
        module()

    def score(self, reply, record):
        score = judged(reply.strip(), record)
        return float(score >= 1) if self.settings.whole else score


def module():
    """reasoning-gym itself. ConfigError where it is not installed."""
    try:
        import reasoning_gym
    except ImportError:
        raise ConfigError("reasoning_gym: is not installed; pip install 'llmkit[gym]'") from None
    return reasoning_gym


def judged(answer: str, record: dict[str, Any]) -> float:
    """What the judge of the record's task gives `answer`, 0..1."""
    question = next(m["content"] for m in record["messages"] if m["role"] == "user")
    entry = {"question": question, "answer": record["answer"], "metadata": record["metadata"]}
    return float(module().get_score_answer_fn(record["metadata"]["source_dataset"])(answer, entry))
