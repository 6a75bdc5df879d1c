"""What a catalogue costs in each form: float16 tokens or codes of several ratios, with raw pixels or JPEG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from extract.plan.plan import Plan
from extract.views.stored_bytes import pixels_row_bytes
from store.common.text import human_bytes, human_duration
from store.format.schema import PIXELS

FORMS: tuple[int | None, ...] = (None, 8, 16, 32)
COPYING_BYTES_PER_SECOND = 1e9  # a 10 Gbit/s network, or one slow NVMe drive


@dataclass(frozen=True, kw_only=True)
class StoredForm:
    """Cost of one form of tokens.

    Attributes:
        ratio: float16 bytes over stored bytes; None for float16.
        row_bytes: bytes of the tokens of a training row of all teachers; None if a teacher's are not known, or if it
            has no code of this ratio.
        tokens: bytes of all tokens.
        raw_pixels: bytes of all pixels as they are.
        jpeg_pixels: bytes of all pixels as JPEG, an estimate.
        unknown: what stands for bytes that are None: `?` not known, `none` no such code.
    """

    ratio: int | None
    row_bytes: int | None
    tokens: int | None
    raw_pixels: int
    jpeg_pixels: int
    unknown: str = "?"

    @property
    def name(self) -> str:
        return "fp16" if self.ratio is None else f"{self.ratio}x"

    @property
    def bytes_with_raw(self) -> int | None:
        return None if self.tokens is None else self.tokens + self.raw_pixels

    @property
    def bytes_with_jpeg(self) -> int | None:
        return None if self.tokens is None else self.tokens + self.jpeg_pixels


def stored_form(plan: Plan, ratio: int | None, *, train_rows: int | None = None) -> StoredForm:
    """Return the cost of a catalogue with the tokens of training datasets at one ratio.

    Args:
        plan: plan of the catalogue.
        ratio: float16 bytes over stored bytes; None for float16.
        train_rows: number of training rows; None for the plan's own.
    """
    pixels = plan.arrays[0]
    train, val = pixels.rows["train"] if train_rows is None else train_rows, pixels.rows["val"]
    shapes = [array.shape for array in plan.arrays if array.array != PIXELS]
    coded = [None if shape is None else shape.row_bytes_or_none(ratio) for shape in shapes]
    plain = [None if shape is None else shape.row_bytes(None) for shape in shapes]
    row_bytes = None if None in coded else sum(size or 0 for size in coded)
    tokens = None if row_bytes is None else train * row_bytes + val * sum(size or 0 for size in plain)
    raw, jpeg = (
        (train + val) * pixels_row_bytes(plan.image_size, form, jpeg_bytes_per_px=plan.jpeg_bytes_per_px)
        for form in ("raw", "jpeg")
    )
    unknown = "?" if None in shapes else "none"
    return StoredForm(
        ratio=ratio, row_bytes=row_bytes, tokens=tokens, raw_pixels=raw, jpeg_pixels=jpeg, unknown=unknown
    )


def forms_table(plans: Sequence[Plan]) -> Table:
    """Table of one line for each plan and form, side by side: bytes, and the time to copy or write them."""
    rate = COPYING_BYTES_PER_SECOND
    table = Table(title="float16 tokens or codes, raw pixels or JPEG", title_justify="left")
    names = ("px", "views", "rows", "tokens", "bytes a row", "all tokens", "with raw pixels", "with JPEG")
    timed = any(array.rows_per_second for array in plans[0].arrays)
    for name in (*names, f"JPEG at {rate / 1e9:.0f} GB/s", *(["extraction"] if timed else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for plan in plans:
        views = "/".join(map(str, sorted({d.entry.views for d in plan.datasets if d.entry.split == "train"})))
        for form in (stored_form(plan, ratio) for ratio in FORMS):
            jpeg = form.bytes_with_jpeg
            table.add_row(
                str(plan.image_size),
                views,
                f"{plan.rows:,}",
                form.name,
                form.unknown if form.row_bytes is None else f"{form.row_bytes:,}",
                *(
                    form.unknown if size is None else human_bytes(size)
                    for size in (form.tokens, form.bytes_with_raw, jpeg)
                ),
                form.unknown if jpeg is None else human_duration(jpeg / rate),
                *([_extraction(plan)] if timed else []),
            )
    return table


def forms_sentences(plans: Sequence[Plan]) -> Iterator[str]:
    """Sentences below the table: what it assumes."""
    per_px, held_out = plans[0].jpeg_bytes_per_px, plans[0].arrays[0].rows["val"]
    yield f"JPEG pixels are estimated at {per_px:.2f} bytes a pixel"
    if held_out:
        size = stored_form(plans[0], None, train_rows=0).tokens
        told = "" if size is None else f", {human_bytes(size)}"
        yield f"datasets of split 'val' keep float16 tokens whatever the ratio: {held_out:,} rows{told}"


def _extraction(plan: Plan) -> str:
    """Time to make all rows of all arrays one after another; encoding runs beside it."""
    seconds = [array.seconds_of(sum(array.rows.values())) for array in plan.arrays]
    return "?" if None in seconds else human_duration(sum(second or 0.0 for second in seconds))
