"""The accounts of a source: what came in, what each step rejected and why, what was kept where."""

from collections import Counter
from typing import Any

from llmkit.errors import DataError

EXAMPLES = 3
LICENCES = 1000
"""Different licences of one source's records that are counted by name."""
STEPS = ("read", "clean", "dedup")


class Book:
    """The accounts of one source; `facts` gives them, if they balance."""

    def __init__(self, source, filters: tuple[str, ...] = ()):
        self.licence, self.origin = source.licence, source.origin
        self.language = getattr(source, "language", "not stated")
        self.packages: list[dict[str, str]] = []
        self.lengths: Counter = Counter()
        self.examples: list[str] = []
        self.read = self.bytes = 0
        self.rejected: dict[str, Counter] = {step: Counter() for step in (*STEPS, *filters)}
        self.kept: Counter = Counter(train=0, heldout=0)
        self._own_licences: Counter = Counter()

    def count(self, split: str, num_bytes: int, licence: str | None = None) -> None:
        """One more record is kept in `split`, with `num_bytes` of text; `licence` if it has its own."""
        self.kept[split] += 1
        if licence:
            few = licence in self._own_licences or len(self._own_licences) < LICENCES
            self._own_licences[licence if few else "others"] += 1
        self.bytes += num_bytes
        self.lengths[num_bytes.bit_length()] += 1

    def wants_example(self) -> bool:
        """Whether there are too few examples yet of what was kept."""
        return len(self.examples) < EXAMPLES

    def reasons(self) -> dict[str, int]:
        """How many records were rejected, by reason."""
        return dict(sum(self.rejected.values(), Counter()).most_common())

    def licences(self) -> dict[str, int]:
        """How many kept records have which licence."""
        rest = self.kept.total() - self._own_licences.total()
        return dict((self._own_licences + Counter({self.licence: rest})).most_common())

    def check(self, label: str) -> None:
        """DataError if nothing of the source was kept."""
        if not self.kept.total():
            why = ", ".join(f"{reason} {n}" for reason, n in self.reasons().items()) or "it is empty"
            raise DataError(
                f"{label}: none of {self.read} records can be used ({why}); look at the files, or name others"
            )

    def facts(self) -> dict[str, Any]:
        """in = kept + rejected, over all and step by step."""
        steps, left = {}, self.read
        for step, rejected in self.rejected.items():
            steps[step] = {"in": left, "out": left - rejected.total()}
            left -= rejected.total()
        assert left == self.kept.total(), "a record was neither kept nor rejected"
        kept = {"kept": left, **self.kept, "bytes": self.bytes}
        about = {key: getattr(self, key) for key in ("origin", "licence", "language", "packages", "examples")}
        lengths = {str(1 << bits >> 1): self.lengths[bits] for bits in sorted(self.lengths)}
        return {
            "in": self.read,
            **kept,
            "rejected": self.reasons(),
            "steps": steps,
            "lengths": lengths,
            "licences": self.licences(),
            **about,
        }
