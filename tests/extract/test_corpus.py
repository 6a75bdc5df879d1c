"""One folder with an image of every kind and with every defect, through the whole command."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import store
from store.format.schema import FAILED, OK
from tests.extract import builders
from tests.extract.builders import encoded, picture, run_extract, small_catalogue
from tests.extract.views.test_decode import animated, bomb, palette, png_16_bit_colour

RGB = picture(5, height=20, width=30)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


GOOD: dict[str, Callable[[], bytes]] = {
    "colour.jpg": lambda: encoded(RGB, "JPEG"),
    "grey.jpg": lambda: encoded(RGB[..., 0], "JPEG"),
    "cmyk.jpg": lambda: encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "progressive.JPEG": lambda: encoded(RGB, "JPEG", progressive=True),
    "really a png.jpg": lambda: encoded(RGB),
    "8 bit.png": lambda: encoded(RGB),
    "16 bit.png": png_16_bit_colour,
    "16 bit grey.png": lambda: encoded(RGB[..., 0].astype(np.uint16) << 8),
    "palette.png": lambda: palette()[0],
    "alpha.png": lambda: encoded(np.dstack([RGB, RGB[..., 0]])),
    "profile.png": lambda: encoded(RGB, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()),
    "lossy.webp": lambda: encoded(RGB, "WEBP"),
    "moving.webp": lambda: animated("WEBP"),
    "moving.gif": lambda: animated("GIF"),
    "pages.tif": lambda: animated("TIFF"),
    "plain.bmp": lambda: encoded(RGB, "BMP"),
    "one pixel.png": lambda: encoded(RGB[:1, :1]),
    "30000 wide.png": lambda: encoded(np.tile(RGB[:2], (1, 1000, 1))),
    "日本/ünï cödé.png": lambda: encoded(RGB),
    "new\nline.png": lambda: encoded(RGB),
} | {f"orientation {n}.jpg": (lambda n=n: encoded(RGB, "JPEG", exif=exif(n))) for n in range(1, 9)}
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb.png": (lambda: bomb(30_000), "too large"),
    "nothing.jpg": (lambda: b"", "empty file"),
    "text.jpg": (lambda: b"not an image", "not an image"),
    "truncated.jpg": (lambda: encoded(RGB, "JPEG")[:-60], "damaged image"),
    "truncated.png": (lambda: encoded(RGB)[:-100], "damaged image"),
    "floats.tif": (lambda: encoded(np.ones((4, 4), np.float32), "TIFF"), "unknown range"),
    "vanishes.png": (lambda: encoded(RGB), "missing file"),
    "changes.png": (lambda: encoded(RGB), "changed file"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_kind_of_input(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name, make in [*GOOD.items(), *((name, make) for name, (make, _) in BAD.items())]:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(make())
    reasons = {name: reason for name, (_, reason) in BAD.items()}
    os.mkfifo(images / "pipe.png")
    (images / "outside.png").symlink_to("/etc/hostname")
    (images / "loop.png").symlink_to(images / "loop.png")
    (Path(os.fsdecode(os.fsencode(images) + b"/caf\xe9.png"))).write_bytes(encoded(RGB))
    reasons |= {"pipe.png": "unreadable file", "outside.png": "outside the root", "loop.png": "unreadable file"}
    reasons["caf\\udce9.png"] = "unreadable file"
    (images / ".hidden.png").write_bytes(encoded(RGB))
    catalogue = small_catalogue(tmp_path, datasets=builders.dataset_entry("corpus", 'pattern = "**/*.*"'))
    cache = ("--cache", tmp_path / "cache", "--max-failed", "100%")
    assert run_extract(catalogue, *cache, "--stages", "index") == 0
    (images / "vanishes.png").unlink()
    (images / "changes.png").write_bytes(encoded(RGB, "BMP"))
    assert run_extract(catalogue, *cache, "--stages", "views,features,seal") == 0
    rows = store.open(tmp_path / "cache")["corpus"].manifest().to_pylist()
    assert {row["path"] for row in rows} == {*GOOD, *reasons}
    for row in rows:
        expected = (OK, None) if row["path"] in GOOD else (FAILED, reasons[row["path"]])
        assert (row["status"], row["error"] and row["error"].partition(":")[0]) == expected, row["path"]
    shapes = {row["path"]: (row["source_height"], row["source_width"]) for row in rows}
    assert [shapes[f"orientation {n}.jpg"] for n in range(1, 9)] == [(20, 30)] * 4 + [(30, 20)] * 4
