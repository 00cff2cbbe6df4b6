r"""The reply's final number is that of the answer: 1,000 = 1e3, 0.5 = 1/2 = \frac{1}{2} = 50 %.

The final number is the one in the last \boxed{...}, else the one behind the last ####, else the last number
of the text. What is not handled: symbols, intervals, several answers, units.
"""

import re
from fractions import Fraction
from typing import Literal

from pydantic import Field

from llmkit.registry import register
from llmkit.verifiers.verifier import Verifier, VerifierSettings

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*-?\d[\d,]*(?:\.\d+)?)?\s*(?:\\?%)?")
MOST_DIGITS = 200
"""Longer numbers are nobody's answer, and arithmetic on them takes long."""


@register("verifier", "math")
class Math(Verifier):
    """1 if the final number of the reply is that of the record's `answer`, computed exactly, else 0."""

    class Settings(VerifierSettings):
        name: Literal["math"] = "math"
        tolerance: float = Field(0.0, ge=0, description="largest relative difference that still counts")

    def score(self, reply, record):
        found, wanted = number(reply), number(record["answer"])
        if found is None or wanted is None:
            return 0.0
        return float(abs(found - wanted) <= Fraction(self.settings.tolerance) * abs(wanted))


def number(text: str) -> Fraction | None:
    """The final number of `text`; None if it has none."""
    text = re.sub(r"\\[dt]?frac\{(-?[\d.,]+)\}\{(-?[\d.,]+)\}", r"\1/\2", text)
    boxed = re.findall(r"\\boxed\{([^{}]*)\}", text)
    if boxed:
        text = boxed[-1]
    elif "####" in text:
        text = text.rpartition("####")[2]
    found = NUMBER.findall(text)
    return _value(found[-1]) if found and len(found[-1]) <= MOST_DIGITS else None


def _value(text: str) -> Fraction | None:
    plain = text.replace(",", "").replace("\\", "").replace(" ", "")
    above, _, below = plain.removesuffix("%").partition("/")
    try:
        value = Fraction(above) / Fraction(below or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return value / 100 if plain.endswith("%") else value
