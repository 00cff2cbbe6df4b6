"""A line on the terminal that says how far a pass over data has come; nothing where there is no terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

T = TypeVar("T")
EVERY = 64


def watched(items: Iterable[T], label: str, book=None, total: int | None = None) -> Iterator[T]:
    """`items`, shown as they pass; `book.bytes`, if given, is shown in megabytes."""
    console = Console(stderr=True)
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
    ]
    if not console.is_terminal:
        yield from items
        return
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(label, total=total, done="")
        for number, item in enumerate(items, 1):
            if number % EVERY == 0:
                size = f", {book.bytes / 1e6:.1f} MB" if book else ""
                progress.update(task, completed=number, done=f"{number:,} records{size}")
            yield item
