"""Which stage was made from which, as a graph from left to right."""

from html import escape

from llmkit.report.records import Stage

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 124, 42, 32, 14


def graph(stages: list[Stage]) -> str:
    """SVG of the stages and of who reads whom; a box names the stage and begins its fingerprint."""
    if len(stages) < 2:
        return ""
    parents = {s.name: [p.name for p in stages[:i] if s.reads(p)] for i, s in enumerate(stages)}
    direct = {name: _direct(name, parents) for name in parents}
    places = _places(stages, direct)
    width = max(x for x, _ in places.values()) + BOX_WIDTH + 2
    height = max(y for _, y in places.values()) + BOX_HEIGHT + 2
    curves = [_curve(places[p], places[name]) for name, above in direct.items() for p in above]
    boxes = [_box(stage, *places[stage.name]) for stage in stages]
    told = "; ".join(f"{name} from {' and '.join(above)}" for name, above in direct.items() if above)
    return (
        f'<svg class="lineage" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Lineage: {escape(told)}" xmlns="http://www.w3.org/2000/svg">{"".join(curves)}{"".join(boxes)}</svg>'
    )


def _direct(name: str, parents: dict[str, list[str]]) -> list[str]:
    """The parents of a stage that are not also reached through another parent."""
    through = set()
    for parent in parents[name]:
        through |= _ancestors(parent, parents)
    return [parent for parent in parents[name] if parent not in through]


def _ancestors(name: str, parents: dict[str, list[str]]) -> set[str]:
    found = set(parents[name])
    for parent in parents[name]:
        found |= _ancestors(parent, parents)
    return found


def _places(stages: list[Stage], direct: dict[str, list[str]]) -> dict[str, tuple[float, float]]:
    """Upper left corners. Within a column, stages stand in the order of the mean height of their parents."""
    column: dict[str, int] = {}
    for stage in stages:
        column[stage.name] = 1 + max((column[p] for p in direct[stage.name]), default=-1)
    columns = [[s.name for s in stages if column[s.name] == c] for c in range(max(column.values()) + 1)]
    tallest = max(map(len, columns))
    places: dict[str, tuple[float, float]] = {}
    for c, names in enumerate(columns):
        names.sort(key=lambda n: _mean([places[p][1] for p in direct[n]]))
        top = (tallest - len(names)) * (BOX_HEIGHT + GAP_Y) / 2
        for row, name in enumerate(names):
            places[name] = 1 + c * (BOX_WIDTH + GAP_X), 1 + top + row * (BOX_HEIGHT + GAP_Y)
    return places


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _curve(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT / 2
    x2, y2 = end[0], end[1] + BOX_HEIGHT / 2
    bend = max(14, (x2 - x1) / 2)
    return f'<path class="edge" d="M{x1:g},{y1:g} C{x1 + bend:g},{y1:g} {x2 - bend:g},{y2:g} {x2:g},{y2:g}"/>'


def _box(stage: Stage, x: float, y: float) -> str:
    mark = (stage.fingerprint or "")[:8]
    kind = stage.verb.split(".")[0]
    return (
        f'<g class="box {escape(kind)}"><title>{escape(stage.name)}: {escape(stage.verb)}, '
        f"fingerprint {escape(stage.fingerprint or 'none')}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="4"/>'
        f'<text class="name" x="{x + 10:g}" y="{y + 18:g}">{escape(stage.name)}</text>'
        f'<text class="mark" x="{x + 10:g}" y="{y + 33:g}">{escape(mark)}</text></g>'
    )
