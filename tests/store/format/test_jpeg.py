"""Pixels as JPEG: how they are encoded, that decoders agree, and the arithmetic of shards found through their index."""

import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from store import errors
from store.format import jpeg
from store.format.indexed_layout import IndexedLayout
from store.format.layout import checksum
from store.verify.jpeg_scan import scan

SIZE_PX = 56
ROOT = Path(__file__).parents[3]


def picture(seed: int) -> np.ndarray:
    """Smooth colours with some noise, uint8 (56, 56, 3)."""
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX]
    waves = np.stack([np.sin(x / (5 + c) + seed) + np.cos(y / (9 - c)) for c in range(3)], axis=-1)
    noise = np.random.default_rng(seed).normal(0, 2, waves.shape)
    return np.clip(128 + 55 * waves + noise, 0, 255).astype(np.uint8)


def decoded_by_pillow(data: bytes) -> np.ndarray:
    out = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    jpeg._pillow()[1](data, out)
    return out


def decoded(data: bytes) -> np.ndarray:
    out = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    jpeg.decode(data, out)
    return out


def test_quality_and_sampling_are_as_promised_and_the_dct_is_the_slow_one() -> None:
    pixels = picture(1)
    data = jpeg.encoded(pixels).data
    fast = simplejpeg.encode_jpeg(pixels, quality=95, colorspace="RGB", colorsubsampling="444")
    with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(fast)) as other:
        assert image.quantization == other.quantization  # type: ignore[attr-defined]
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]
    assert data != fast
    errors_of = [np.square(decoded(d).astype(int) - pixels).mean() for d in (data, fast)]
    assert errors_of[0] < errors_of[1]


def test_decoders_agree_and_give_what_the_checksum_says() -> None:
    for seed in range(5):
        row = jpeg.encoded(picture(seed))
        assert np.array_equal(decoded(row.data), decoded_by_pillow(row.data))
        assert checksum(decoded(row.data)) == row.crc32c
        assert np.abs(decoded(row.data).astype(int) - picture(seed)).mean() < 3


WITHOUT_VECTOR_INSTRUCTIONS = """
from store.format import jpeg
from tests.store.format.test_jpeg import picture
print(*(f"{row.crc32c:08x}{hash(row.data):x}" for row in map(jpeg.encoded, map(picture, range(5)))))
"""


def test_pixels_do_not_depend_on_vector_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    outputs = set()
    for variable in ("NOTHING", "JSIMD_FORCENONE", "JSIMD_FORCESSE2"):  # the rest are decoded with AVX2
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            outputs.add(subprocess.check_output([sys.executable, "-c", WITHOUT_VECTOR_INSTRUCTIONS], cwd=ROOT))
    assert len(outputs) == 1


@pytest.mark.parametrize("decode", [jpeg.decode, jpeg._pillow()[1]], ids=["simplejpeg", "pillow"])
def test_what_is_no_image_of_this_size_is_refused(decode: jpeg.Decoder) -> None:
    data = jpeg.encoded(picture(1)).data
    for broken in (b"", data[:300], data[:-40], b"\x89PNG" + data[4:]):
        with pytest.raises(errors.InvalidInput, match="no JPEG of 56 x 56 x 3"):
            decode(broken, np.empty((SIZE_PX, SIZE_PX, 3), np.uint8))
    for height, width in ((SIZE_PX * 2, SIZE_PX), (SIZE_PX, SIZE_PX - 1), (SIZE_PX * 2, SIZE_PX // 2)):
        with pytest.raises(errors.InvalidInput, match=rf"{height} x {width} x 3"):
            decode(data, np.empty((height, width, 3), np.uint8))


def test_without_a_decoder_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg.encoded(picture(1)).data
    jpeg._decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert jpeg.decoder_name().startswith("pillow ")
    assert np.array_equal(decoded(data), decoded_by_pillow(data))
    jpeg._decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(errors.MissingExtra, match=r"nothing that decodes them is installed.*\[inspect\]"):
        decoded(data)
    jpeg._decoder.cache_clear()


def test_an_index_is_read_back_and_only_one_of_ours() -> None:
    layout = IndexedLayout.of((7, 2, 2, 3), np.dtype(np.uint8), 4)
    ends = np.array([10, 10, 35, 36], np.uint64)
    index = layout.index(ends)
    assert len(index) == layout.index_bytes
    assert np.frombuffer(index[:-4], "<u8").tolist() == [0, 10, 2**64 - 1, 2**64 - 1, 10, 25, 35, 1]
    np.testing.assert_array_equal(layout.ends(index, rows=4), ends)
    np.testing.assert_array_equal(layout.ends(layout.index(ends[:3]), rows=3), ends[:3])  # the last shard
    entries = np.frombuffer(index[:-4], "<u8").copy()
    for place, value in ((0, 1), (1, 9), (4, 11), (5, 2**64 - 2), (7, 0)):  # gaps, overlaps, far too long
        changed = entries.copy()
        changed[place] = value
        data = changed.tobytes()
        assert layout.ends(data + checksum(data).to_bytes(4, "little"), rows=4) is None


def test_whole_chunks_are_found_again_without_an_index() -> None:
    chunks = []
    for seed in range(4):
        data = jpeg.encoded(picture(seed)).data
        chunks.append(data + checksum(data).to_bytes(4, "little"))
    bounds = np.cumsum([0, *map(len, chunks)]).tolist()
    whole = b"".join(chunks) + b'8\0\0\0\0\0\0\0{"__metadata__'
    places = list(pairwise(bounds))
    assert scan(whole) == places
    for offset in (bounds[1] + 1, bounds[1] + 5, bounds[1] + 700, bounds[2] - 3, bounds[2] - 5):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x10
        assert scan(bytes(damaged)) == [places[0], *places[2:]]
    assert scan(whole[: bounds[3] - 1]) == places[:2]
