"""Charts of the page as inline SVG: no scripts, no fonts, and the CSS variables of the page as colours.

They follow the theme of the page and have tooltips; matplotlib's SVG takes no CSS variable as a colour and writes no
tooltip. Coordinates are in the SVG's own units; the page scales a chart to the available width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 44
COLOURS = 8
MAX_POINTS = 400
CHARACTER_WIDTH = 6.4
HOLLOW = '<span class="key"><span class="ring"></span>hollow: no better than a baseline</span>'


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve: its legend entry, its points, the number of its colour and whether it is dashed."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A value with its interval (NaN for none) in one line of a dot chart; `hollow` if no better than a baseline."""

    label: str
    value: float
    low: float
    high: float
    colour: int = 0
    hollow: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Map from values to coordinates, with round ticks."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def coordinate(self, value: float) -> float:
        """Return the coordinate of a value, clipped to the frame."""
        low, high, clipped = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, clipped = math.log10(low), math.log10(high), math.log10(clipped)
        return self.start + (self.end - self.start) * (clipped - low) / (high - low)

    def ticks(self) -> list[float]:
        """Return round values inside the axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = _round_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Draw curves in one frame, with a legend below.

    Points that are not finite, or not positive on a log axis, are left out.

    Args:
        lines: the curves.
        x_label: label of the x axis.
        y_label: label of the y axis.
        log_x: logarithmic x axis.
        y_range: lower and upper end of the y axis; None fits the points.

    Returns:
        HTML of a figure.
    """
    finite = [_finite(line, log_x=log_x) for line in lines]
    points_x = [value for line in finite for value in line.x]
    points_y = [value for line in finite for value in line.y]
    if not points_x:
        return _empty("nothing to draw yet")
    low, high = y_range or _padded(min(points_y), max(points_y))
    left, right = _not_empty(min(points_x), max(points_x))
    x_axis = Axis(low=left, high=right, start=LEFT, end=WIDTH - RIGHT, log=log_x)
    y_axis = Axis(low=low, high=high, start=HEIGHT - BOTTOM, end=TOP)
    parts = _frame(x_axis, y_axis, x_label=x_label, y_label=y_label)
    for line in finite:
        if line.x:
            parts.append(_polyline(line, x_axis, y_axis))
    svg = _svg(parts, height=HEIGHT, title=f"{y_label} against {x_label}")
    return f'<figure class="chart">{svg}{_legend(lines)}</figure>'


def dot_chart(
    rows: Sequence[tuple[str, Sequence[Dot]]], *, x_label: str, best: float | None = None, from_zero: bool = True
) -> str:
    """Draw one line of dots with intervals for each row, with a legend below.

    Args:
        rows: name and dots of each row.
        x_label: label of the x axis.
        best: value of a perfect prediction, drawn as a vertical line; None draws none.
        from_zero: include 0 in the x axis.

    Returns:
        HTML of a figure.
    """
    finite = [
        bound for _, dots in rows for dot in dots for bound in (dot.value, dot.low, dot.high) if math.isfinite(bound)
    ]
    if not finite:
        return _empty("nothing to draw yet")
    pitch = 34
    label_width = 24 + CHARACTER_WIDTH * max(len(name) for name, _ in rows)
    height = TOP + pitch * len(rows) + BOTTOM
    low, high = _padded(
        min([*finite, 0.0] if from_zero else finite), max(finite) if best is None else max([*finite, best])
    )
    x_axis = Axis(low=low, high=high, start=label_width, end=WIDTH - RIGHT)
    bottom = height - BOTTOM
    parts = [_vertical(x_axis.coordinate(tick), bottom, _number(tick)) for tick in x_axis.ticks()]
    parts.append(_text((label_width + WIDTH - RIGHT) / 2, height - 8, x_label, "middle", css="axis-label"))
    if best is not None:
        x = x_axis.coordinate(best)
        parts.append(f'<line class="best" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
    for index, (name, dots) in enumerate(rows):
        y = TOP + pitch * (index + 0.5)
        parts.append(f'<line class="grid" x1="{label_width}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(label_width - 10, y + 4, name, "end"))
        # Dots are shifted vertically, so that equal values do not hide each other.
        shift = min(5.0, 20.0 / max(len(dots), 1))
        for position, dot in enumerate(dots):
            if math.isfinite(dot.value):
                parts.append(_dot(dot, x_axis, y + shift * (position - (len(dots) - 1) / 2)))
    legend: dict[str, Line] = {}
    for _, dots in rows:
        for dot in dots:
            legend.setdefault(dot.label, Line(label=dot.label, x=(), y=(), colour=dot.colour))
    svg = _svg(parts, height=height, title=x_label)
    hollow = any(dot.hollow and math.isfinite(dot.value) for _, dots in rows for dot in dots)
    return f'<figure class="chart">{svg}{_legend(list(legend.values()), more=HOLLOW if hollow else "")}</figure>'


def _finite(line: Line, *, log_x: bool) -> Line:
    """Thin a line to about `MAX_POINTS` and leave out what cannot be drawn."""
    stride = max(1, len(line.x) // MAX_POINTS)
    pairs = list(zip(line.x, line.y, strict=True))
    thinned = pairs[::stride] + (pairs[-1:] if (len(pairs) - 1) % stride else [])
    finite = [(x, y) for x, y in thinned if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x)]
    return replace(line, x=[x for x, _ in finite], y=[y for _, y in finite])


def _frame(x_axis: Axis, y_axis: Axis, *, x_label: str, y_label: str) -> list[str]:
    parts = [_vertical(x_axis.coordinate(tick), HEIGHT - BOTTOM, _number(tick)) for tick in x_axis.ticks()]
    for tick in y_axis.ticks():
        y = y_axis.coordinate(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, _number(tick), "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle", css="axis-label"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis-label" transform="translate(14 {middle:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return parts


def _polyline(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    points = " ".join(
        f"{x_axis.coordinate(x):.1f},{y_axis.coordinate(y):.1f}" for x, y in zip(line.x, line.y, strict=True)
    )
    dash = " dashed" if line.dashed else ""
    last = f"{line.label}: {line.y[-1]:.4g} at {line.x[-1]:.6g}"
    title = f"<title>{escape(last)}</title>"
    if len(line.x) == 1:
        x, y = points.split(",")
        return f'<circle class="point c{line.colour % COLOURS}" cx="{x}" cy="{y}" r="3">{title}</circle>'
    return f'<polyline class="line c{line.colour % COLOURS}{dash}" points="{points}">{title}</polyline>'


def _dot(dot: Dot, x_axis: Axis, y: float) -> str:
    title = f"{dot.label}: {dot.value:.3f}"
    css = f"c{dot.colour % COLOURS}"
    whisker = ""
    if math.isfinite(dot.low) and math.isfinite(dot.high):
        title += f" [{dot.low:.3f}, {dot.high:.3f}]"
        whisker = (
            f'<line class="whisker {css}" x1="{x_axis.coordinate(dot.low):.1f}" x2="{x_axis.coordinate(dot.high):.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    shape = f"point {css}"
    if dot.hollow:
        shape, title = f"{shape} hollow", f"{title}, no better than a baseline"
    circle = f'<circle class="{shape}" cx="{x_axis.coordinate(dot.value):.1f}" cy="{y:.1f}" r="5"/>'
    return f"<g><title>{escape(title)}</title>{whisker}{circle}</g>"


def _vertical(x: float, bottom: float, label: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
    return line + _text(x, bottom + 16, label, "middle")


def _text(x: float, y: float, text: str, anchor: str, *, css: str = "tick") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], *, height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )


def _legend(lines: Sequence[Line], *, more: str = "") -> str:
    entries = []
    for line in {(line.label, line.colour, line.dashed): line for line in lines}.values():
        css = f"swatch c{line.colour % COLOURS}" + (" dashed" if line.dashed else "")
        entries.append(f'<span class="key"><span class="{css}"></span>{escape(line.label)}</span>')
    return f'<figcaption class="legend">{"".join(entries)}{more}</figcaption>'


def _empty(reason: str) -> str:
    return f'<p class="muted">{escape(reason)}</p>'


def _padded(low: float, high: float) -> tuple[float, float]:
    low, high = _not_empty(low, high)
    padding = 0.04 * (high - low)
    return (low - padding if low != 0 else low), high + padding


def _not_empty(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low, low + max(abs(low), 1.0))


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9)) * power


def _number(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.10g}" if abs(value) < 1e4 else f"{value:,.0f}".replace(",", "\u2009")
