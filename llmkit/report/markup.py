"""The few HTML shapes that reports are made of. Everything that comes from a run is escaped here."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """A titled part of a page; one without content is left out, from the page and from its contents."""

    name: str
    heading: str
    content: str


def page(title: str, subtitle: str, opening: str, parts: Sequence[Part]) -> str:
    """One self-contained document: the style inside, nothing fetched, no script."""
    shown = [part for part in parts if part.content]
    links = "".join(f'<a href="#{part.name}">{escape(part.heading)}</a>' for part in shown)
    style = files("llmkit.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1>\n<p class=subtitle>{escape(subtitle)}</p>\n"
        f'<nav aria-label="Contents">{links}</nav></header>\n{opening}\n'
        f"{''.join(map(_section, shown))}</main>\n</body>\n</html>\n"
    )


def _section(part: Part) -> str:
    return f'<section id="{part.name}">\n<h2>{escape(part.heading)}</h2>\n{part.content}\n</section>\n'


def part(name: str, heading: str, *content: str, lead: str = "") -> Part:
    """A part made of those pieces that are not empty; `lead` is a first sentence that needs company."""
    inside = "\n".join(piece for piece in content if piece)
    opening = f"<p class=lead>{escape(lead)}</p>\n" if lead and inside else ""
    return Part(name, heading, opening + inside)


def tiles(figures: Iterable[tuple[str, str, str]]) -> str:
    """Headline figures: (label, value, remark)."""
    cards = (
        f"<div class=tile><dt>{escape(label)}</dt>"
        f"<dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for label, value, remark in figures
    )
    return f"<dl class=tiles>{''.join(cards)}</dl>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table whose first column names the row; columns from `numbers` on are figures (0: none)."""

    def cell(i: int, text: str) -> str:
        if i == 0:
            return f'<th scope="row">{escape(text)}</th>'
        return f"<td{' class=num' if numbers and i >= numbers else ''}>{escape(text)}</td>"

    titles = "".join(
        f'<th scope="col"{" class=num" if numbers and i >= numbers else ""}>{escape(text)}</th>'
        for i, text in enumerate(head)
    )
    body = "\n".join(f"<tr>{''.join(cell(i, text) for i, text in enumerate(row))}</tr>" for row in rows)
    if not body:
        return ""
    return (
        f"<div class=scroll><table><caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" if svg else ""


def picture(file: Path, caption: str) -> str:
    """A PNG or JPEG file, put into the page itself."""
    content = base64.b64encode(file.read_bytes()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/{file.suffix[1:]};base64,{content}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def row(*figures: str) -> str:
    """Figures side by side where there is room."""
    shown = [f for f in figures if f]
    return f"<div class=row>{''.join(shown)}</div>" if shown else ""


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def bullets(items: Iterable[str], kind: str = "") -> str:
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul class={kind or 'plain'}>{lines}</ul>" if lines else ""


def details(summary: str, text: str) -> str:
    """Long preformatted text behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>" if text else ""


def number(value: float | None, digits: int = 3) -> str:
    """A figure for people: digits after the point, none for large ones, a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def span(interval: Sequence[float] | None, as_percent: bool = True, signed: bool = False) -> str:
    """`61.2 to 66.0 %`"""
    if not interval:
        return "-"
    scale, unit, digits = (100, " %", 1) if as_percent else (1, "", 3)
    shape = f"{'+' if signed else ''}.{digits}f"
    return f"{format(scale * interval[0], shape)} to {format(scale * interval[1], shape)}{unit}"


def duration(seconds: float | None) -> str:
    """`48 s`, `3 min 20 s`, `2 h 5 min`"""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
