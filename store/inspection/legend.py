"""Legend of the pictures of `codistill store show`: what the colours mean, and their scale, for each teacher."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from store.inspection.scales import CLIP_PERCENT, TeacherScale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT_POINTS = 7.0
LINE_INCHES = 0.135
CHARACTER_INCHES = 0.056
STRIP_INCHES = (0.75, 0.085)  # width, height
MARGIN_INCHES = 0.14
GAP_INCHES = 0.1  # between a strip and its text

Entry = tuple[str, str]  # what the strip shows ("pca", a colour map, or "" for no strip), text


def entries(
    scales: Mapping[str, TeacherScale], *, chosen_rows: int, photograph: bool, notes: Sequence[str] = ()
) -> list[Entry]:
    """Return the legend's lines.

    Args:
        scales: scales of the teachers shown.
        chosen_rows: number of rows of all pages.
        photograph: whether a photograph is shown.
        notes: further lines.
    """
    lines: list[Entry] = []
    if scales:
        lines += _of_tokens(scales, chosen_rows=chosen_rows)
    frames = ["yellow frame: the view's crop in the photograph"] if photograph else []
    frames += ["white frame: the patch compared to"] if scales else []
    lines.append(("", "; ".join([*frames, "grey panel: not there, with the reason"])))
    return lines + [("", note) for note in notes]


def height_inches(lines: Sequence[Entry], *, width_inches: float) -> float:
    """Return the height that a legend needs in a figure of a width."""
    return MARGIN_INCHES + LINE_INCHES * sum(len(_wrapped(entry, width_inches)) for entry in lines)


def draw(figure: "Figure", lines: Sequence[Entry]) -> None:
    """Draw a legend at the bottom of a figure."""
    width, height = figure.get_size_inches()
    top = height_inches(lines, width_inches=width) - MARGIN_INCHES / 2
    for entry in lines:
        texts = _wrapped(entry, width)
        left = 0.02 * width
        if entry[0]:
            bottom = top - LINE_INCHES / 2 - STRIP_INCHES[1] / 2
            box = (left / width, bottom / height, STRIP_INCHES[0] / width, STRIP_INCHES[1] / height)
            axes = figure.add_axes(box)
            _draw_strip(axes, entry[0])
            left += STRIP_INCHES[0] + GAP_INCHES
        style: dict[str, Any] = {"fontsize": FONT_POINTS, "color": "0.25", "va": "center", "parse_math": False}
        for text in texts:
            figure.text(left / width, (top - LINE_INCHES / 2) / height, text, **style)
            top -= LINE_INCHES


def _of_tokens(scales: Mapping[str, TeacherScale], *, chosen_rows: int) -> Iterator[Entry]:
    first = next(iter(scales.values()))
    used = max(scale.rows for scale in scales.values())
    if used == 1:
        of_rows = "one row"
    else:
        of_rows = f"all {used} rows" if used == chosen_rows else f"{used} rows spread over the {chosen_rows:,} chosen"
    shares = "; ".join(
        f"{name} {' + '.join(f'{100 * share:.0f}' for share in scale.explained)} %" for name, scale in scales.items()
    )
    yield (
        "pca",
        f"principal components: red, green and blue are the 1st, 2nd and 3rd of a teacher's patch tokens, one basis a "
        f"teacher from {of_rows}, clipped at {CLIP_PERCENT:g} %. Equal colours are equal features within a teacher and "
        f"say nothing across teachers. Variance along the three: {shares}",
    )
    lowest = "; ".join(f"{name} {scale.lowest_cosine:.2f} to 1" for name, scale in scales.items())
    patches = {scale.patch for scale in scales.values()}
    where = f" (row {first.patch[0]}, column {first.patch[1]} of the grid)" if len(patches) == 1 else ""
    yield "viridis", f"similarity: cosine to the outlined patch of the same row{where}, no unit. Scale: {lowest}"
    norms = "; ".join(f"{name} {_range(scale)}" for name, scale in scales.items())
    yield (
        "magma",
        "norm: Euclidean length of a patch token, in the teacher's own feature units; under a picture its range and "
        f"the norms of its prefix tokens (CLS, registers). Scale: {norms}",
    )


def _range(scale: TeacherScale) -> str:
    low, high = scale.norm_range
    return f"{low:.3g} to {high:.3g}" if high - low > scale.norm_rounding else f"all {(low + high) / 2:.3g}"


def _wrapped(entry: Entry, width_inches: float) -> list[str]:
    strip = STRIP_INCHES[0] + GAP_INCHES if entry[0] else 0.0
    characters = int((0.96 * width_inches - strip) / CHARACTER_INCHES)
    return textwrap.wrap(entry[1], max(20, characters)) or [""]


def _draw_strip(axes: "object", kind: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    axes.set_axis_off()
    if kind == "pca":
        axes.imshow(np.eye(3)[None], aspect="auto", interpolation="nearest")
    else:
        gradient: npt.NDArray[np.float64] = np.linspace(0.0, 1.0, 128)[None]
        axes.imshow(gradient, aspect="auto", cmap=kind, vmin=0.0, vmax=1.0)
