"""Charts as inline SVG: no scripts, no fonts, coloured by the page's own variables so that they follow its theme.

Coordinates are in the SVG's own units; the page scales a chart to the width it has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 44
COLOURS = 8
MAX_POINTS = 400
CHARACTER_WIDTH = 6.4


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve: its legend entry, points, the colour's number and whether it is dashed."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A value with its interval (or none) in one line of a dot chart."""

    label: str
    value: float
    low: float
    high: float
    colour: int = 0


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From values to coordinates, with round ticks."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """The coordinate of a value, kept inside the frame."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values inside the axis."""
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
    """Curves in one frame, with a legend below.

    Points that aren't finite, or not positive on a log axis, are left out.
    """
    kept = [_finite(line, log_x=log_x) for line in lines]
    points_x = [value for line in kept for value in line.x]
    points_y = [value for line in kept for value in line.y]
    if not points_x:
        return _empty("nothing to draw yet")
    low, high = y_range or _padded(min(points_y), max(points_y))
    across = _wide(min(points_x), max(points_x))
    x_axis = Axis(low=across[0], high=across[1], start=LEFT, end=WIDTH - RIGHT, log=log_x)
    y_axis = Axis(low=low, high=high, start=HEIGHT - BOTTOM, end=TOP)
    parts = _frame(x_axis, y_axis, x_label=x_label, y_label=y_label)
    for line in kept:
        if line.x:
            parts.append(_polyline(line, x_axis, y_axis))
    svg = _svg(parts, height=HEIGHT, title=f"{y_label} against {x_label}")
    return f'<figure class="chart">{svg}{_legend(lines)}</figure>'


def dot_chart(
    rows: Sequence[tuple[str, Sequence[Dot]]], *, x_label: str, best: float | None = None, from_zero: bool = True
) -> str:
    """One line of dots with intervals for each row; `best` is drawn as a line, the value of a perfect prediction."""
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
    parts = [_vertical(x_axis.place(tick), bottom, _number(tick)) for tick in x_axis.ticks()]
    parts.append(_text((label_width + WIDTH - RIGHT) / 2, height - 8, x_label, "middle", css="axis-label"))
    if best is not None:
        at = x_axis.place(best)
        parts.append(f'<line class="best" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>')
    for index, (name, dots) in enumerate(rows):
        y = TOP + pitch * (index + 0.5)
        parts.append(f'<line class="grid" x1="{label_width}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(label_width - 10, y + 4, name, "end"))
        # Side by side, so that equal values don't hide each other.
        apart = min(5.0, 20.0 / max(len(dots), 1))
        for place, dot in enumerate(dots):
            if math.isfinite(dot.value):
                parts.append(_dot(dot, x_axis, y + apart * (place - (len(dots) - 1) / 2)))
    legend: dict[str, Line] = {}
    for _, dots in rows:
        for dot in dots:
            legend.setdefault(dot.label, Line(label=dot.label, x=(), y=(), colour=dot.colour))
    svg = _svg(parts, height=height, title=x_label)
    return f'<figure class="chart">{svg}{_legend(list(legend.values()))}</figure>'


def _finite(line: Line, *, log_x: bool) -> Line:
    stride = max(1, len(line.x) // MAX_POINTS)
    pairs = list(zip(line.x, line.y, strict=True))
    thinned = pairs[::stride] + (pairs[-1:] if (len(pairs) - 1) % stride else [])
    good = [(x, y) for x, y in thinned if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x)]
    return Line(
        label=line.label, x=[x for x, _ in good], y=[y for _, y in good], colour=line.colour, dashed=line.dashed
    )


def _frame(x_axis: Axis, y_axis: Axis, *, x_label: str, y_label: str) -> list[str]:
    parts = [_vertical(x_axis.place(tick), HEIGHT - BOTTOM, _number(tick)) for tick in x_axis.ticks()]
    for tick in y_axis.ticks():
        y = y_axis.place(tick)
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
    points = " ".join(f"{x_axis.place(x):.1f},{y_axis.place(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
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
            f'<line class="whisker {css}" x1="{x_axis.place(dot.low):.1f}" x2="{x_axis.place(dot.high):.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    circle = f'<circle class="point {css}" cx="{x_axis.place(dot.value):.1f}" cy="{y:.1f}" r="5"/>'
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


def _legend(lines: Sequence[Line]) -> str:
    entries = []
    for line in {(line.label, line.colour, line.dashed): line for line in lines}.values():
        css = f"swatch c{line.colour % COLOURS}" + (" dashed" if line.dashed else "")
        entries.append(f'<span class="key"><span class="{css}"></span>{escape(line.label)}</span>')
    return f'<figcaption class="legend">{"".join(entries)}</figcaption>'


def _empty(reason: str) -> str:
    return f'<p class="muted">{escape(reason)}</p>'


def _padded(low: float, high: float) -> tuple[float, float]:
    low, high = _wide(low, high)
    padding = 0.04 * (high - low)
    return (low - padding if low != 0 else low), high + padding


def _wide(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low, low + max(abs(low), 1.0))


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9)) * power


def _number(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.10g}" if abs(value) < 1e4 else f"{value:,.0f}".replace(",", "\u2009")
