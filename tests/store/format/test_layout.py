"""The bytes on disk, computed by hand: nothing of our reading code is used, so that errors cannot cancel out."""

import hashlib
import json
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow.parquet as pq
import safetensors.numpy

from tests.store.builders import IMAGE_SIZE, fill, make_dataset, pixels_of, tokens_of, write_pixels

ABSENT = 2**64 - 1
TOKEN_ROW_BYTES = 7 * 5 * 2
TOKEN_STRIDE = TOKEN_ROW_BYTES + 4


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def test_a_shard_is_slots_then_trailer_then_index(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, images=5, views=2, shard_rows=4)  # rows 0..9, shard 2 holds rows 8 and 9 only
    fill(dataset, failed_pixels=[5])
    folder = tmp_path / "features.zarr" / "bedlam"
    assert sorted(p.name for p in (folder / "pixels").iterdir()) == [
        "c.0.0.0.0",
        "c.1.0.0.0",
        "c.2.0.0.0",
        "zarr.json",
    ]

    data = (folder / "t" / "tokens" / "c.1.0.0").read_bytes()
    for slot, row in enumerate([4, 5, 6, 7]):
        stored = data[slot * TOKEN_STRIDE : (slot + 1) * TOKEN_STRIDE]
        if row == 5:
            assert stored == bytes(TOKEN_STRIDE)
        else:
            assert stored[:TOKEN_ROW_BYTES] == tokens_of(row).astype("<f2").tobytes()
            assert stored[TOKEN_ROW_BYTES:] == struct.pack("<I", crc(stored[:TOKEN_ROW_BYTES]))

    index = data[-(4 * 16 + 4) :]
    entries = struct.unpack("<8Q", index[:64])
    assert entries == (0, 74, ABSENT, ABSENT, 2 * 74, 74, 3 * 74, 74)
    assert struct.unpack("<I", index[64:]) == (crc(index[:64]),)

    middle = data[4 * TOKEN_STRIDE : -(4 * 16 + 4)]
    blob, (length, checksum) = middle[:-12], struct.unpack("<QI", middle[-12:])
    assert (length, checksum) == (len(blob), crc(blob))


def test_the_last_shard_has_only_its_own_slots(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    write_pixels(dataset, 2)
    data = (tmp_path / "features.zarr" / "bedlam" / "pixels" / "c.2.0.0.0").read_bytes()
    stride = IMAGE_SIZE * IMAGE_SIZE * 3 + 4
    index = struct.unpack("<8Q", data[-(4 * 16 + 4) : -4])
    assert index == (0, stride, stride, stride, ABSENT, ABSENT, ABSENT, ABSENT)
    (length,) = struct.unpack("<Q", data[-(4 * 16 + 4) - 12 : -(4 * 16 + 4) - 4])
    assert len(data) == 2 * stride + length + 12 + 4 * 16 + 4


def test_the_trailer_is_safetensors_that_the_library_reads(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    fill(dataset, failed_pixels=[5])
    folder = tmp_path / "features.zarr" / "bedlam"

    pixels = (folder / "pixels" / "c.1.0.0.0").read_bytes()
    stride = IMAGE_SIZE * IMAGE_SIZE * 3 + 4
    pixels_blob = pixels[4 * stride : -(4 * 16 + 4) - 12]
    tensors = safetensors.numpy.load(pixels_blob)
    row_crcs = [0 if row == 5 else crc(pixels_of(row).tobytes()) for row in (4, 5, 6, 7)]
    assert tensors["crc32c"].tolist() == row_crcs
    assert tensors["status"].tolist() == [1, 2, 1, 1]
    (tmp_path / "manifest.parquet").write_bytes(tensors["manifest"].tobytes())
    table = pq.read_table(tmp_path / "manifest.parquet")
    assert table["row"].to_pylist() == [4, 5, 6, 7]
    assert table["error"].to_pylist() == [None, "decode: broken", None, None]

    tokens = (folder / "t" / "tokens" / "c.1.0.0").read_bytes()
    tokens_blob = tokens[4 * TOKEN_STRIDE : -(4 * 16 + 4) - 12]
    (header_length,) = struct.unpack_from("<Q", tokens_blob)
    metadata = json.loads(tokens_blob[8 : 8 + header_length])["__metadata__"]
    ok_rows = [(row, value) for row, value in zip([4, 5, 6, 7], row_crcs, strict=True) if row != 5]
    pixels_digest = hashlib.sha256(b"".join(struct.pack("<qI", *pair) for pair in ok_rows)).hexdigest()
    assert metadata["pixels_digest"] == pixels_digest
    assert (metadata["dataset"], metadata["array"], metadata["shard"], metadata["rows"]) == ("bedlam", "t", "1", "4:8")
    assert json.loads(metadata["errors"]) == {"5": "overflow: channel 3"}

    values = np.stack([tokens_of(row) for row in (4, 6, 7)]).astype(np.float64)
    moments = safetensors.numpy.load(tokens_blob)["moments"]
    assert moments.shape == (2, 5, 5)
    for kind, part in enumerate([values[:, :1], values[:, 1:]]):
        flat = part.reshape(-1, 5)
        expected = [np.full(5, len(flat)), flat.mean(0), ((flat - flat.mean(0)) ** 2).sum(0), flat.min(0), flat.max(0)]
        np.testing.assert_allclose(moments[kind], expected, rtol=1e-12)


def test_array_metadata_is_plain_zarr_with_ours_under_one_key(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    document = json.loads((tmp_path / "features.zarr/bedlam/t/tokens/zarr.json").read_text())
    assert document["attributes"]["codistill"].keys() == {"groups", "identity", "layout", "patch_grid", "prefix_tokens"}
    assert document["attributes"]["codistill"]["layout"] == {"stride": TOKEN_STRIDE, "shard_rows": 4}
    assert document["dimension_names"] == ["row", "token", "channel"]
    assert document["fill_value"] == "NaN"
    pixels = json.loads((tmp_path / "features.zarr/bedlam/pixels/zarr.json").read_text())
    assert pixels["dimension_names"] == ["row", "height", "width", "rgb"]
    assert "consolidated_metadata" not in (tmp_path / "features.zarr/zarr.json").read_text()
