"""Personal data: mail and IP addresses, phone and card numbers, IBANs and keys, replaced or the text dropped.

Patterns find what looks like such data; card numbers must pass Luhn's check and IBANs ISO 7064's. Names and
postal addresses are not looked for.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Literal

from pydantic import Field

from llmkit.config import Section
from llmkit.registry import register

Kind = Literal["mail", "ip", "key", "iban", "card", "phone"]


def luhn(text: str) -> bool:
    """Whether the digits of `text` are a card number's: 13 to 19 that pass Luhn's check."""
    digits = [int(sign) for sign in text if sign.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and not (sum(digits[::-2]) + sum(doubled)) % 10


def iban(text: str) -> bool:
    """Whether `text` is an IBAN: the remainder of its digits by 97 is 1 (ISO 7064)."""
    plain = "".join(text.split())
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def public(text: str) -> bool:
    """Whether `text` is an IP address of the internet; private and example ranges tell nothing of anybody."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def phone(text: str) -> bool:
    return 8 <= sum(map(str.isdigit, text)) <= 15


def always(text: str) -> bool:
    return True


PATTERNS: dict[Kind, tuple[re.Pattern, Callable[[str], bool]]] = {
    "mail": (
        re.compile(r"(?<![\w.+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
        always,
    ),
    "ip": (re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)"), public),
    "key": (
        re.compile(
            r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|sk-[A-Za-z0-9_-]{20,200}|hf_[A-Za-z0-9]{30,60}"
            r"|xox[abprs]-[A-Za-z0-9-]{10,200}|AIza[0-9A-Za-z_-]{35})(?![A-Za-z0-9])"
        ),
        always,
    ),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), iban),
    "card": (re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d])"), luhn),
    "phone": (
        re.compile(
            r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
            r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?![\w-])"
        ),
        phone,
    ),
}
"""What to look for, in this order, and what else must hold of it."""
INSTEAD: dict[Kind, str] = {kind: f"<{kind}>" for kind in PATTERNS}


@register("filter", "pii")
class Pii:
    """`counts` says how many of each kind were found, whether they were replaced or their texts dropped."""

    class Settings(Section):
        name: Literal["pii"] = "pii"
        kinds: list[Kind] = Field(list(PATTERNS), description=f"which of {', '.join(PATTERNS)}")
        action: Literal["replace", "drop"] = Field(
            "replace", description="put <mail> there, or drop the text"
        )

    def __init__(self, settings: Settings):
        self.settings = settings
        self.counts: Counter = Counter()

    def judge(self, text: str) -> tuple[str, str | None]:
        before = self.counts.total()
        hidden = text
        for kind in self.settings.kinds:
            hidden = PATTERNS[kind][0].sub(partial(self._put, kind), hidden)
        if self.settings.action == "drop" and self.counts.total() > before:
            return text, "personal_data"
        return hidden if self.settings.action == "replace" else text, None

    def _put(self, kind: Kind, found: re.Match[str]) -> str:
        if not PATTERNS[kind][1](found[0]):
            return found[0]
        self.counts[kind] += 1
        return INSTEAD[kind]
