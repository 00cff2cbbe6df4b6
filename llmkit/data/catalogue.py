"""`llmkit data catalogue`: sources to collect by name, their licences and where they come from."""

from typing import Any

from rich.console import Console
from rich.table import Table

from llmkit import registry


def entries() -> list[dict[str, Any]]:
    """{name, kind, licence, origin, size, command} of every source; kind is "any" where it is a setting."""
    rows = []
    for name in registry.names("source"):
        source = registry.find("source", name)
        kind = getattr(source, "kind", "any")
        facts = {key: getattr(source, key, "as it is") for key in ("licence", "origin", "size")}
        needed = [f"{key}=..." for key, field in source.Settings.model_fields.items() if field.is_required()]
        fetched = f"llmkit data collect source='[{{name: {name}{''.join(f', {n}' for n in needed)}}}]'"
        command = f"llmkit data collect source={name}" if not needed else fetched
        command += f" kind={kind}" if kind not in ("any", "documents") else ""
        rows.append({"name": name, "kind": kind, **facts, "command": command.replace("=...", ": ...")})
    return rows


def show() -> None:
    """Print the catalogue as a table."""
    table = Table(title="llmkit data collect source=NAME", title_justify="left")
    for heading in ("name", "kind", "size", "licence", "origin", "command"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in entries():
        table.add_row(*(str(row[key]) for key in ("name", "kind", "size", "licence", "origin", "command")))
    Console().print(table)
