"""Curves and bars as inline SVG: sized by their viewBox, coloured by the page's style sheet.

ticks │ ─── held out (dots)
      │ ═══ training, smoothed, over its raw values
      └──────────────────────── step
"""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 16, 36

Points = Sequence[tuple[float, float]]


def line_chart(training: Points, heldout: Points = (), unit: str = "", what: str = "loss") -> str:
    """Figures of a run over its steps; empty where there is nothing to draw."""
    training, heldout = _finite(training), _finite(heldout)
    if len(training) + len(heldout) < 2:
        return ""
    shown = smooth(training, span=max(1, len(training) // 12))
    last = max(x for x, _ in [*training, *heldout])
    frame = _Frame(
        [x for x in ticks(0, last) if x <= last],
        ticks(*_bounds([y for _, y in [*training, *shown, *heldout]])),
        last,
    )
    parts = [_axes(frame, unit)]
    if len(training) > 24:
        parts += [frame.path(training, "raw"), frame.path(shown, "smooth")]
    else:
        parts += [frame.path(shown, "smooth")]
    parts += [frame.path(heldout, "heldout"), *(frame.dot(x, y) for x, y in heldout)]
    parts.append(_legend(bool(training), bool(heldout)))
    return _svg(WIDTH, HEIGHT, _told(what, unit, shown, heldout), parts)


def smooth(points: Points, span: int) -> list[tuple[float, float]]:
    """Exponential moving average over about `span` points, without the bias of its start (as in Adam)."""
    keep, total, weight, out = 1 - 1 / span, 0.0, 0.0, []
    for x, y in points:
        total, weight = keep * total + y, keep * weight + 1
        out.append((x, total / weight))
    return out


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def bars(rows: Sequence[tuple[str, float, bool]], unit: str, what: str, digits: int = 3) -> str:
    """Horizontal bars from zero: (label, value, emphasised), in the order given."""
    if not rows:
        return ""
    line, left, room = 30, 128, WIDTH - 128 - 62
    most = max(value for _, value, _ in rows) or 1
    parts = []
    for i, (label, value, strong) in enumerate(rows):
        y = 8 + i * line
        length = max(1, room * value / most)
        parts.append(
            f'<text class="label{strong * " strong"}" x="{left - 10}" y="{y + 15}" text-anchor="end">'
            f'{escape(label)}</text><rect class="bar{strong * " strong"}" x="{left}" y="{y}" '
            f'width="{length:.1f}" height="20" rx="2"/>'
            f'<text class="value" x="{left + length + 8:.1f}" y="{y + 15}">{value:.{digits}f}</text>'
        )
    told = f"{what}, {unit}: " + ", ".join(f"{label} {value:.{digits}f}" for label, value, _ in rows)
    return _svg(WIDTH, 8 + line * len(rows), told, parts)


class _Frame:
    """From values to places in the drawing."""

    def __init__(self, x_axis: list[float], y_axis: list[float], last: float):
        self.x_axis, self.y_axis, self.last = x_axis, y_axis, last

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.last

    def y(self, value: float) -> float:
        share = (value - self.y_axis[0]) / (self.y_axis[-1] - self.y_axis[0])
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(1.0, max(0.0, share))

    def path(self, points: Points, kind: str) -> str:
        if len(points) < 2:
            return ""
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline class="{kind}" points="{places}"/>'

    def dot(self, x: float, y: float) -> str:
        told = f"<title>step {x:g}: {y:.4f}</title>"
        return f'<circle class="dot" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3">{told}</circle>'


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _bounds(values: list[float]) -> tuple[float, float]:
    """The y range: of all values, but a spike far above all others (a first step) leaves the chart."""
    values = sorted(values)
    low, high = values[len(values) // 20], values[(len(values) - 1) * 19 // 20]
    return values[0], max(value for value in values if value <= high + 2 * (high - low))


def _axes(frame: _Frame, unit: str) -> str:
    parts = []
    for y in frame.y_axis:
        place = frame.y(y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{_short(y)}</text>'
        )
    for x in frame.x_axis:
        at = f'x="{frame.x(x):.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text class="tick" {at} text-anchor="middle">{_short(x)}</text>')
    parts.append(f'<text class="unit" x="{LEFT}" y="{TOP - 5}">{escape(unit)}</text>')
    parts.append(f'<text class="unit" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step</text>')
    return "".join(parts)


def _legend(training: bool, heldout: bool) -> str:
    named = [("smooth", "training")] * training + [("heldout", "held out")] * heldout
    parts, x = [], WIDTH - RIGHT - 92 * len(named)
    for kind, name in named:
        parts.append(
            f'<line class="{kind}" x1="{x}" x2="{x + 18}" y1="7" y2="7"/>'
            f'<text class="tick" x="{x + 24}" y="11">{name}</text>'
        )
        x += 92
    return "".join(parts)


def _short(value: float) -> str:
    """`3`, `0.25`, `20k`, `1.5M`"""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / min(size, 1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


def _told(what: str, unit: str, training: Points, heldout: Points) -> str:
    """The chart in a sentence, for who cannot see it."""
    parts = [
        f"{name} from {points[0][1]:.3f} to {points[-1][1]:.3f}"
        for name, points in (("training", training), ("held out", heldout))
        if points
    ]
    steps = max(points[-1][0] for points in (training, heldout) if points)
    return f"{what} ({unit}) over {steps:g} steps: {'; '.join(parts)}"


def _svg(width: int, height: int, told: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(told)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
