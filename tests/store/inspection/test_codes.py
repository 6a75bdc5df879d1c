"""Codes in what people look at: info, pictures, exports, failures."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import store
from store.__main__ import main
from store.inspection import info_table
from store.inspection.export import export
from store.inspection.failures import failures
from store.inspection.info import inspect
from store.inspection.row_view import Tokens, gather
from tests.store import caches, damage
from tests.store.caches import CODED_TEACHERS, DATASETS, DatasetSpec

FLOWERS = DatasetSpec("flowers", "generic", images=5, views=2, failed={3}, failed_tokens={"vit": {9}})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("codes") / "cache"
    caches.make_cache(root, (FLOWERS, DATASETS[1]), CODED_TEACHERS)
    return root


def test_info_tells_size_noise_and_slope_of_every_dataset(whole: Path) -> None:
    info = inspect(store.open(whole))
    vit = next(array for array in info.datasets[0].arrays if array.name == "vit")
    sealed = store.open(whole)["flowers"].distortion("vit")
    assert vit.code is not None
    assert (vit.code.ratio, vit.code.row_bytes, vit.code.stored_patches) == (4.0, 57, 16)
    assert vit.code.patch is not None
    assert vit.code.patch.noise == sealed.noise("patch")
    assert vit.code.patch.worst_slope == sealed.worst_slope("patch")
    text = io.StringIO()
    info_table.render(info, Console(file=text, width=160))
    lines = [line.split() for line in text.getvalue().splitlines()]
    quality = vit.code.patch
    numbers = (f"{quality.noise:.4f}", f"{quality.slope:.3f}", f"{quality.worst_slope:.3f}")
    assert ["vit", "flowers", "4x", "57", "all", *numbers] in [line[:8] for line in lines]
    assert ["part", "rooms", "16x", "16", "8", "of", "16"] in [line[:7] for line in lines]


def test_info_as_json_has_the_same_and_says_where_no_seal_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: Path
) -> None:
    assert main(["info", str(whole), "--json"]) == 0
    arrays = {array["name"]: array for array in json.loads(capsys.readouterr().out)["datasets"][0]["arrays"]}
    assert arrays["pixels"]["code"] is None
    assert arrays["part"]["code"]["prefix"] is None  # it has no prefix tokens
    assert 0.9 < arrays["vit"]["code"]["patch"]["slope"] < 1.1
    caches.make_cache(tmp_path / "cache", DATASETS[:1], CODED_TEACHERS[:1], seal=False)
    damage.overwrite(tmp_path / "cache/features.zarr/flowers/vit/code/mean/c.0.0", b"")
    assert main(["info", str(tmp_path / "cache")]) == 0
    told = capsys.readouterr().out
    assert "not sealed" in told
    assert "damaged or gone in flowers/vit (" in told


def test_pictures_show_decoded_tokens_and_fill_patches_that_are_not_stored(whole: Path, tmp_path: Path) -> None:
    flowers = store.open(whole)["flowers"]
    shown = gather(flowers, [0, 9])
    whole_tokens, part = shown.rows[0].tokens["vit"], shown.rows[0].tokens["part"]
    assert isinstance(whole_tokens, Tokens)
    np.testing.assert_array_equal(whole_tokens.patches.reshape(16, 8), flowers.read([0], ["vit"])["vit"][0, 1:])
    assert isinstance(part, Tokens)
    stored = flowers.stored_tokens("part", [0])
    assert stored is not None
    np.testing.assert_array_equal(
        part.patches.reshape(16, 8)[stored[0]], flowers.read([0], ["part"])["part"][0][stored[0]]
    )
    cell = part.patches[:2, :2].reshape(4, 8).astype(np.float32)
    kept = [patch for patch in (0, 1, 4, 5) if patch in stored[0]]
    mean = flowers.read([0], ["part"])["part"][0][kept].astype(np.float32).mean(axis=0)
    missing = [number for number, patch in enumerate((0, 1, 4, 5)) if patch not in kept]
    np.testing.assert_allclose(cell[missing], np.broadcast_to(mean, (len(missing), 8)), rtol=2e-3)
    assert "overflow" in str(shown.rows[1].tokens["vit"])
    assert main(["show", str(whole), "flowers", "0", "9", "--out", str(tmp_path / "rows.png")]) == 0


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
def test_exports_have_decoded_tokens(whole: Path, tmp_path: Path, suffix: str) -> None:
    flowers, rows = store.open(whole)["flowers"], [8, 0, 1]
    assert export(flowers, rows, ["vit"], tmp_path / f"rows.{suffix}") == 3
    expected = flowers.read(rows, ["vit"])["vit"]
    if suffix == "npz":
        with np.load(tmp_path / "rows.npz") as file:
            np.testing.assert_array_equal(file["vit"], expected)
            assert json.loads(str(file["metadata"]))["teachers"]["vit"]["decoded_from_code"]
    assert (tmp_path / f"rows.{suffix}").stat().st_size > expected.nbytes // 4


def test_failed_rows_of_codes_are_listed(whole: Path) -> None:
    listed = failures(store.open(whole), datasets=["flowers"]).to_pylist()
    assert [(row["array"], row["row"], row["kind"]) for row in listed] == [
        ("pixels", 3, "decode"),
        ("vit", 9, "overflow"),
    ]
