"""`llmkit data catalogue`: sources to collect by name: how many records, on what terms, from where.

A ready set states `counts`, {kind: records that `data collect` keeps of it with the default settings}; a test
collects every one of them and compares. What is only known once it is read (files, hub, urls) has none.
"""

from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from llmkit import registry

SHOWN = ("name", "kind", "records", "size", "licence", "origin", "command")


def entries() -> list[dict[str, Any]]:
    """{name, kind, counts, records, licence, origin, size, command} of every source, by default settings."""
    rows = []
    for name in registry.names("source"):
        cls = registry.find("source", name)
        fields = cls.Settings.model_fields
        needed = [key for key, field in fields.items() if field.is_required()]
        source = cls if needed else cls(cls.Settings())
        kind = getattr(source, "kind", "any")
        facts = {key: getattr(source, key, "as it is") for key in ("licence", "origin", "size")}
        counts = getattr(cls, "counts", {})
        records = ", ".join(f"{n:,} {what}" if len(counts) > 1 else f"{n:,}" for what, n in counts.items())
        given = "".join(f", {key}: ..." for key in needed)
        command = "llmkit data collect source=" + (f"'[{{name: {name}{given}}}]'" if needed else name)
        command += f" kind={kind}" if kind not in ("any", "documents") else ""
        command = f"llmkit train vision/dcgan_tiny data.source={name}" if kind == "images" else command
        row = {"name": name, "kind": kind, "counts": counts, "records": records or "as it is"}
        rows.append({**row, **facts, "command": command})
    return rows


def kinds(source: Any) -> tuple[str, ...]:
    """What a source can be collected as."""
    field = source.Settings.model_fields.get("kind")
    return get_args(field.annotation) if field else (source.kind,)


def show() -> None:
    """Print the catalogue as a table."""
    table = Table(title="llmkit data collect source=NAME", title_justify="left")
    for heading in SHOWN:
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in entries():
        table.add_row(*(str(row[key]) for key in SHOWN))
    Console().print(table)
