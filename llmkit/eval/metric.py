"""What a metric is: a few settings, the head it needs, and one measurement of an opened model.

    measure(opened) -> Measured(figures, rows)
      figures   JSON-able numbers for report.json; `figures[headline]` is the one that stands for the task
      rows      one {"id", "value", "weight"?} per sample, whose weighted mean is the headline again

The rows are what makes two evaluations comparable sample by sample (`llmkit compare`).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from llmkit.config import Section


@dataclass(frozen=True)
class Measured:
    """Figures of one task, and what every single sample contributed to the headline."""

    figures: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)


class Metric:
    """Base of all metrics. One file in llmkit/eval/metrics with `@register("metric", NAME)` adds one."""

    Settings: ClassVar[type[Section]]
    head: ClassVar[
        Literal["lm", "lm|seq2seq", "masked", "score", "classify", "tag", "span", "caption", "image"]
    ] = "lm"
    headline: ClassVar[str]
    better: ClassVar[Literal["higher", "lower", "none"]] = "higher"

    def __init__(self, settings: Any):
        self.settings = settings

    def measure(self, opened: Any) -> Measured:
        """Evaluate what `llmkit.opened.open_model` returned. DataError for data that cannot be used."""
        raise NotImplementedError
