"""The picture of mup_check.py as a plain SVG: a panel a family, a line for every place in its net.

Across: the width; up: the move since the start relative to the narrowest net's; both logarithmic. muP in one
colour a place, which ought to be flat; the standard parametrisation in dashed grey.
"""

import math
from collections.abc import Iterable, Sequence

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by colour-blind eyes (Okabe and Ito 2008)
WIDE, HIGH, LEFT, TOP, BOTTOM, GAP = 170, 200, 46, 40, 64, 32
LEAST, MOST = 0.5, 64.0
"""The range of the vertical axis; what leaves it is drawn at its edge."""

Moves = dict[tuple[str, bool], list[list[float]]]
"""(family, muP?) -> for every width the relative moves at every place."""


def chart(moves: Moves, widths: Sequence[int], places: Sequence[str]) -> str:
    """The whole picture."""
    families = list(dict.fromkeys(family for family, _ in moves))
    x = {width: WIDE * i / (len(widths) - 1) for i, width in enumerate(widths)}
    parts: list[str] = []
    for number, family in enumerate(families):
        inside = [_text(WIDE / 2, -10, family, "middle", "bold"), *_axes(x, labelled=number == 0)]
        for mup in (False, True):
            for place, colour in enumerate(COLOURS[: len(places)]):
                points = [(x[w], _y(row[place])) for w, row in zip(widths, moves[family, mup], strict=True)]
                inside.append(_line(points, colour if mup else "#999", dashed=not mup))
        left = LEFT + number * (WIDE + GAP)
        parts.append(f'<g transform="translate({left},{TOP})">{"".join(inside)}</g>')
    whole = LEFT + len(families) * (WIDE + GAP)
    parts += _legend(places)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {TOP + HIGH + BOTTOM}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _y(move: float) -> float:
    share = math.log(min(max(move, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return HIGH * (1 - share)


def _axes(x: dict[int, float], labelled: bool) -> Iterable[str]:
    for move in (0.5, 1, 2, 4, 8, 16, 32, 64):
        y = _y(move)
        yield f'<path d="M0 {y:.1f}H{WIDE}" stroke="{"#888" if move == 1 else "#e5e5e5"}"/>'
        if labelled:
            yield _text(-6, y + 4, f"{move:g}x", "end")
    for width, at in x.items():
        yield _text(at, HIGH + 16, str(width), "middle")
    yield _text(WIDE / 2, HIGH + 32, "width", "middle")


def _legend(places: Sequence[str]) -> Iterable[str]:
    entries = [*((f"muP, {place}", colour) for place, colour in zip(places, COLOURS, strict=False))]
    for i, (name, colour) in enumerate([*entries, ("standard, the same places", "#999")]):
        x, y = LEFT + 150 * i, TOP + HIGH + BOTTOM - 12
        yield _line([(x, y - 4), (x + 24, y - 4)], colour, dashed=colour == "#999")
        yield _text(x + 30, y, name, "start")


def _line(points: Sequence[tuple[float, float]], colour: str, dashed: bool) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    style = ' stroke-dasharray="4 3"' if dashed else ' stroke-width="2"'
    return f'<path d="M{path}" fill="none" stroke="{colour}"{style}/>'


def _text(x: float, y: float, said: str, anchor: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{said}</text>'
