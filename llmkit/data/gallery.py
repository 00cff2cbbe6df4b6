"""inspect.html: a collection to look at, with counts, lengths, languages, samples and what was rejected."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from llmkit import manifest
from llmkit.data import card
from llmkit.report import markup
from llmkit.report.curves import bars
from llmkit.report.markup import Part

NAME = "inspect.html"
SAMPLES = 12
PER_REASON = 3
LOOKED_AT = 20_000
"""Rejected records that are looked through for examples of each reason."""
WIDTH = 1_500


def write(folder: Path) -> Path:
    """Write inspect.html into a collected directory -> the page."""
    facts = manifest.read(folder)
    result = facts["result"]
    counts, sources = facts["counts"], result["by_source"]
    opening = markup.tiles(
        [
            ("records kept", f"{counts['kept']:,}", f"of {counts['in']:,}"),
            ("held out", f"{counts['heldout']:,}", f"{markup.percent(counts['heldout'] / counts['kept'])}"),
            ("text", f"{counts['bytes'] / 1e6:,.1f} MB", f"{len(sources)} sources"),
        ]
    )
    subtitle = f"{facts['config']['kind']}, collected in {markup.duration(facts['seconds'])}"
    page = folder / NAME
    parts = [
        _sources(sources),
        _lengths(sources),
        _languages(result),
        _samples(folder),
        _rejected(folder, counts),
    ]
    page.write_text(markup.page(folder.name, subtitle, opening, parts), encoding="utf-8")
    return page


def _sources(sources: dict[str, dict]) -> Part:
    names = list(next(iter(sources.values()))["steps"])
    rows = [
        (label, f"{f['in']:,}", *(f"{f['steps'][name]['out']:,}" for name in names), f"{f['bytes']:,}")
        for label, f in sources.items()
    ]
    terms = [(label, f["licence"], f["origin"], f["language"]) for label, f in sources.items()]
    made = [card.package(package) for f in sources.values() for package in f["packages"]]
    return markup.part(
        "sources",
        "Sources",
        markup.figure(
            bars(
                [(label[-18:], f["bytes"] / 1e6, False) for label, f in sources.items()], "MB", "Text kept", 1
            ),
            "MB of text kept",
        ),
        markup.table("Records after each step", ("source", "in", *names, "bytes"), rows, 1),
        markup.table("Terms and origins", ("source", "licence", "origin", "language"), terms),
        markup.bullets(dict.fromkeys(made)),
    )


def _lengths(sources: dict[str, dict]) -> Part:
    total: dict[int, int] = {}
    for facts in sources.values():
        for least, number in facts["lengths"].items():
            total[int(least)] = total.get(int(least), 0) + number
    rows = [(f"{least:,} and more", float(total[least]), False) for least in sorted(total)]
    return markup.part(
        "lengths",
        "Lengths",
        markup.figure(
            bars(rows, "records", "Bytes of a record", 0), "bytes of a record, up to twice as many"
        ),
    )


def _languages(result: dict[str, Any]) -> Part:
    found = next((f for name, f in result["found"].items() if name.startswith("language")), {})
    rows = [
        (name, float(number), False) for name, number in sorted(found.items(), key=lambda item: -item[1])[:20]
    ]
    return markup.part(
        "languages",
        "Languages",
        markup.figure(bars(rows, "records", "Language", 0), "of the records asked about, kept or not"),
    )


def _samples(folder: Path) -> Part:
    shown = [markup.details(str(r["id"]), _beginning(r)) for r in _records(folder / "train.jsonl", SAMPLES)]
    return markup.part("samples", "Samples", *shown, lead="The first records of train.jsonl.")


def _rejected(folder: Path, counts: dict[str, Any]) -> Part:
    examples: dict[str, list[str]] = {}
    for record in _records(folder / "rejected.jsonl", LOOKED_AT):
        of_reason = examples.setdefault(record["reason"], [])
        if len(of_reason) < PER_REASON:
            of_reason.append(f"{record['id']}: {record['excerpt']}")
    rows = [(reason, float(number), False) for reason, number in counts["rejected"].items()]
    shown = [markup.details(reason, "\n\n".join(texts)) for reason, texts in examples.items()]
    return markup.part(
        "rejected", "Rejected", markup.figure(bars(rows, "records", "Reason", 0), "records by reason"), *shown
    )


def _records(path: Path, most: int) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, islice(file, most))


def _beginning(record: dict[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != "id"}
    text = record.get("text") or json.dumps(rest, ensure_ascii=False, indent=1)
    return text if len(text) <= WIDTH else text[:WIDTH] + " ..."
