"""What the tunes of a pipeline's model are like, beside those of n-gram models and real ones."""

from typing import Any

from llmkit.report import markup
from llmkit.report.markup import number, percent, span

WRITERS = {"unigram": "unigram model", "kn4": "Kneser-Ney 4-gram", "real": "held-out tunes"}
"""Whose tunes stand beside the model's."""

TOLD = (
    "Each wrote tunes after the headers of the held-out ones. A bar is right if its notes last as long as "
    "the metre asks; upbeats and what completes them are left out."
)


def part(task: dict[str, Any]) -> markup.Part:
    """The figures of a `tunes` task; an empty part without one."""
    writers = {"this model": task, **{told: task[name] for name, told in WRITERS.items() if name in task}}
    rows = [
        (
            name,
            percent(one["bars_right"]),
            span(one["ci95"]),
            percent(one["sound"]),
            percent(one["ends_on_key"]),
            percent(one["different"]),
            number(one["copied_bars"], 0),
            percent(one["copies"]),
        )
        for name, one in (writers.items() if task else ())
    ]
    heads = (
        "", "bars right", "95 % interval", "tunes all ABC", "end on the key's note", "bars unlike others",
        "longest run of a training tune (median)", "8 bars or more of one",
    )  # fmt: skip
    return markup.part("tunes", "Tunes", markup.table("Bars of written tunes", heads, rows, 1), lead=TOLD)
