"""card.md: what a collection holds, where it is from, on what terms, and what was left out, for people."""

from collections import Counter
from typing import Any

from llmkit.data.collection import Collect

NAME = "card.md"


def written(settings: Collect, result: dict[str, Any]) -> str:
    """The card of a collection, out of the facts that its manifest holds."""
    counts, sources = result["counts"], result["by_source"]
    lines = [
        f"# {settings.kind.capitalize()} of {len(sources)} source{'s' * (len(sources) > 1)}",
        "",
        f"{counts['kept']:,} records kept of {counts['in']:,}: {counts['train']:,} to train on, "
        f"{counts['heldout']:,} held out; {counts['bytes'] / 1e6:,.1f} MB of text. Every record carries its "
        "`id`, `source` and `licence`; the packages' own texts of licences are in `licences/`.",
        "",
        *table(
            "source",
            ("in", "kept", "bytes", "language", "licence"),
            [_row(*item) for item in sources.items()],
        ),
        "",
        "## What each step kept",
        "",
        *table("source", _steps(sources), [_passed(*item) for item in sources.items()]),
    ]
    if counts["rejected"]:
        rows = [(reason, f"{number:,}") for reason, number in counts["rejected"].items()]
        lines += ["", "## What was rejected, and why", "", *table("reason", ("records",), rows)]
    if result.get("found"):
        rows = [
            (step, ", ".join(f"{k} {n:,}" for k, n in found.items()))
            for step, found in result["found"].items()
        ]
        lines += ["", "## What steps found", "", *table("step", ("found",), rows)]
    by_licence = sum((Counter(facts["licences"]) for facts in sources.values()), Counter())
    rows = [(licence, f"{number:,}") for licence, number in by_licence.most_common()]
    lines += ["", "## Licences of the records", "", *table("licence", ("records",), rows)]
    lines += ["", "## Where it is from", ""]
    for label, facts in sources.items():
        lines += [f"**{label}**: {facts['origin']}. {facts['licence']}.", ""]
        lines += [f"- {package(p)}" for p in facts["packages"]]
        lines += [f"- e.g. {_quoted(text)}" for text in facts["examples"]]
        lines.append("")
    return "\n".join(lines)


def package(facts: dict[str, str]) -> str:
    """A package as the card names it."""
    named = f"{facts['registry']} {facts['name']} {facts['version']}"
    return f"{named}, sha256 {facts['sha256']}, fetched {facts['retrieved']}"


def table(first: str, heads, rows) -> list[str]:
    """A table in Markdown; `|` and line ends in cells are written otherwise."""
    plain = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    head = (first, *heads)
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *plain)]


def _row(label: str, facts: dict[str, Any]) -> tuple[str, ...]:
    numbers = (f"{facts[key]:,}" for key in ("in", "kept", "bytes"))
    return label, *numbers, facts["language"], facts["licence"]


def _steps(sources: dict[str, dict]) -> list[str]:
    return ["in", *next(iter(sources.values()))["steps"]]


def _passed(label: str, facts: dict[str, Any]) -> tuple[str, ...]:
    return label, f"{facts['in']:,}", *(f"{step['out']:,}" for step in facts["steps"].values())


def _quoted(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split())[:160] + "`"
