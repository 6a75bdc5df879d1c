"""Commands that show a cache: info, show, failures, export, and the command line around them."""

import io
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file

import store
from store import errors
from store.__main__ import main
from store.inspection import figure, info_table
from store.inspection.export import export
from store.inspection.failures import counts_by_kind, failures
from store.inspection.info import inspect
from store.inspection.row_view import Photograph, Tokens, gather, read_photograph
from store.inspection.token_images import cosine_map, norms
from tests.store import caches, damage
from tests.store.damage import DINO, FLOWERS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspect") / "cache"
    caches.make_cache(root)
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return caches.write_images(tmp_path_factory.mktemp("images"))


# info


def test_info_counts_rows_and_bytes_of_a_sealed_cache(whole: Path) -> None:
    info = inspect(store.open(whole))
    flowers = info.datasets[0]
    counts = [(a.name, a.ok, a.failed, a.missing, a.unsealed, a.shards_present) for a in flowers.arrays]
    assert counts == [("pixels", 9, 1, 0, 0, 3), ("dino", 8, 2, 0, 0, 3), ("mast", 9, 1, 0, 0, 3)]
    shards = [path.stat().st_size for path in whole.rglob("c.*.0.0*") if "statistics" not in path.parts]
    assert info.stored_bytes == sum(shards)
    assert [cell.failed for cell in flowers.arrays[0].bar] == [row == 3 for row in range(10)]
    assert [(t.name, t.datasets) for t in info.teachers] == [
        ("dino", ("flowers", "rooms")),
        ("mast", ("flowers", "rooms")),
    ]
    assert json.loads(json.dumps(asdict(info)))["uuid"] == info.uuid


def test_info_knows_an_unsealed_cache_by_its_trailers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = caches.create_datasets(tmp_path / "cache")
    assert inspect(cache).datasets[0].arrays[0].missing == 10
    caches.write_pixels(cache, FLOWERS, 0)
    store.seal(cache)
    caches.write_pixels(cache, FLOWERS, 2)
    (pixels,) = inspect(cache).datasets[0].arrays
    assert (pixels.ok, pixels.failed, pixels.missing, pixels.unsealed, pixels.sealed) == (5, 1, 4, 0, False)
    monkeypatch.setattr("store.inspection.info.TRAILERS_READ", 0)
    (pixels,) = inspect(cache).datasets[0].arrays
    assert (pixels.ok, pixels.failed, pixels.missing, pixels.unsealed) == (3, 1, 4, 2)


def test_info_says_when_shards_have_gone_or_are_damaged(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    caches.make_cache(root)
    damage.delete_tokens(root)
    damage.flip_sealed_status(root)
    array = inspect(store.open(root)).datasets[0].arrays[1]
    assert any("is damaged" in note for note in array.notes)
    damage.shard_path(root, "mast", 0).unlink()
    array = inspect(store.open(root)).datasets[0].arrays[2]
    assert (array.missing, array.shards_present) == (4, 2)
    assert "1 sealed shards have gone" in array.notes[0]


@pytest.mark.parametrize(("encoding", "bar"), [("utf-8", "██████████"), ("ascii", "##########")])
def test_info_table_fits_the_terminal(whole: Path, encoding: str, bar: str) -> None:
    console = Console(width=100, record=True, file=io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    info_table.render(inspect(store.open(whole)), console, identities=True)
    text = console.export_text()
    assert bar in text
    assert all(word in text for word in ("flowers", "generic, train", "5 img x 2 views", '"weights": "w"', "43.8 kB"))
    assert max(map(len, text.splitlines())) <= 100


# show


def test_gather_reads_rows_with_photographs_and_reasons(whole: Path, images: Path) -> None:
    dataset = store.open(whole)["flowers"]
    good, failed, half = gather(dataset, [4, 3, 9], images=images).rows
    assert isinstance(good.photograph, Photograph)
    np.testing.assert_array_equal(good.photograph.pixels, caches.photograph("flowers", 2))
    assert good.photograph.crop == (*caches.crop_of(4), 28, 28)
    top, left = caches.crop_of(4)
    np.testing.assert_array_equal(good.pixels, good.photograph.pixels[top : top + 28, left : left + 28])
    tokens = good.tokens["dino"]
    assert isinstance(tokens, Tokens)
    expected = caches.tokens_of(DINO, caches.pixels_of("flowers", 4, 2))
    np.testing.assert_array_equal(tokens.prefix, expected[:1])
    np.testing.assert_array_equal(tokens.patches.reshape(4, 6), expected[1:])
    assert failed.pixels == "failed: decode: truncated file"
    assert half.tokens["dino"] == "failed: overflow: channel 3 exceeds float16"
    assert isinstance(half.tokens["mast"], Tokens)


def test_photographs_that_cannot_be_shown_say_why(whole: Path, images: Path, tmp_path: Path) -> None:
    dataset = store.open(whole)["flowers"]
    assert gather(dataset, [0]).rows[0].photograph == "source photograph: pass --images FOLDER"
    folder = tmp_path / "flowers"
    folder.mkdir()
    Image.new("RGB", (10, 10)).save(folder / "000.png")
    (folder / "001.png").write_text("no image")
    changed, broken, gone = gather(dataset, [0, 2, 4], images=tmp_path).rows
    assert changed.photograph == "source photograph has changed: 10 x 10 px, was 60 x 40"
    assert "not readable" in str(broken.photograph)
    assert "not readable" in str(gone.photograph)
    block = b"Exif\0\0 no TIFF header"
    Image.new("RGB", (60, 40)).save(folder / "000.png", exif=block)  # extraction takes it, as it is stored
    assert isinstance(gather(dataset, [0], images=tmp_path).rows[0].photograph, Photograph)
    with pytest.raises(errors.MissingFile, match="does not exist"):
        gather(dataset, [0], images=tmp_path / "nowhere")


def test_no_photograph_is_read_outside_the_folder(tmp_path: Path) -> None:
    """The path comes from an image list that another program may have written."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder / "pipe.png")  # opening it would wait for ever
    size = {"rotate_deg": 0, "source_width": 60, "source_height": 40}
    record = size | {f"crop_{name}": 0 for name in ("top", "left", "height", "width")}
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        assert "outside the root" in str(read_photograph(folder, path, record))
    assert "named pipe" in str(read_photograph(folder, "pipe.png", record))


@pytest.mark.parametrize("rows", [[0], [3], [0, 3, 9]])
@pytest.mark.parametrize("with_images", [False, True])
def test_plotting_makes_a_picture(
    whole: Path, images: Path, tmp_path: Path, rows: list[int], with_images: bool
) -> None:
    shown = gather(store.open(whole)["flowers"], rows, images=images if with_images else None)
    figure.plot_rows(shown, tmp_path / "x.png", patch=(0, 1))
    with Image.open(tmp_path / "x.png") as image:
        assert image.width > 500
        assert len(np.unique(np.asarray(image.convert("L")))) > 50 or rows == [3]


def test_maps_of_tokens() -> None:
    tokens = np.array([[[3, 4], [0, 0]], [[-6, -8], [4, -3]]], np.float16)
    np.testing.assert_allclose(norms(tokens), [[5, 0], [10, 5]])
    np.testing.assert_allclose(cosine_map(tokens, (0, 0)), [[1, 0], [-1, 0]], atol=1e-12)
    with pytest.raises(errors.InvalidInput, match="patch 2,0 is not in a grid of 2 x 2"):
        cosine_map(tokens, (2, 0))


def test_plotting_refuses_other_suffixes_folders_and_patches(whole: Path, tmp_path: Path) -> None:
    dataset = store.open(whole)["flowers"]
    with pytest.raises(errors.InvalidInput, match=r"rows \[10\] are not in 'flowers'"):
        gather(dataset, [10])
    with pytest.raises(errors.MissingName, match="available: pixels, dino, mast"):
        gather(dataset, [0], teachers=["dune"])
    with pytest.raises(errors.InvalidInput, match="must end in"):
        figure.plot_rows(gather(dataset, [0]), tmp_path / "x.gif")


# failures


def test_failures_name_image_and_reason_once(whole: Path) -> None:
    table = failures(store.open(whole))
    assert [(row["array"], row["row"], row["path"], row["view"], row["kind"]) for row in table.to_pylist()] == [
        ("pixels", 3, "flowers/001.png", 1, "decode"),
        ("dino", 9, "flowers/004.png", 1, "overflow"),
    ]
    assert counts_by_kind(table) == [("decode", 1), ("overflow", 1)]
    own = failures(store.open(whole), datasets=["flowers"], arrays=["mast"])
    assert own["reason"].to_pylist() == [caches.NO_PIXELS]
    with pytest.raises(errors.MissingName, match="available: dino, mast, pixels"):
        failures(store.open(whole), arrays=["dune"])


def test_failures_need_no_seal(tmp_path: Path, whole: Path) -> None:
    caches.make_cache(tmp_path / "cache", seal=False)
    assert failures(store.open(tmp_path / "cache")).equals(failures(store.open(whole)))


# export


def test_exports_hold_the_rows_asked_for(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.inspection.export.BATCH_BYTES", 5000)  # two rows at a time
    dataset = store.open(whole)["flowers"]
    rows, names = [5, 0, 8, 5, 1], ["pixels", "dino"]
    expected = dataset.read(rows, names)
    for suffix in ("npz", "safetensors", "parquet"):
        assert export(dataset, rows, names, tmp_path / f"x.{suffix}") == 5
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        read = {name: arrays[name] for name in arrays.files}
    assert json.loads(str(read.pop("metadata")))["teachers"]["dino"]["patch_grid"] == [2, 2]
    tensors = load_file(tmp_path / "x.safetensors")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["path"].to_pylist() == [f"flowers/{row // 2:03d}.png" for row in rows]
    for name in names:
        np.testing.assert_array_equal(read[name], expected[name])
        np.testing.assert_array_equal(tensors[name], expected[name])
        flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        shape = json.loads(table.schema.field(name).metadata[b"shape"])
        np.testing.assert_array_equal(flat.reshape(-1, *shape), expected[name])
    assert read["row"].tolist() == tensors["row"].tolist() == table["row"].to_pylist() == rows


def test_exports_refuse_and_leave_nothing_behind(whole: Path, tmp_path: Path) -> None:
    dataset = store.open(whole)["flowers"]
    out = tmp_path / "x.npz"
    with pytest.raises(errors.RowsNotOk, match=r"rows 3, 9 not ok in all of pixels, dino\. Pass --skip"):
        export(dataset, range(10), ["pixels", "dino"], out)
    with pytest.raises(errors.InvalidInput, match=r"must end in \.npz"):
        export(dataset, [0], ["dino"], tmp_path / "x.pkl")
    assert export(dataset, range(10), ["pixels", "dino"], out, skip=True) == 8
    with pytest.raises(errors.OutputExists, match="--overwrite"):
        export(dataset, [0], ["dino"], out)
    assert export(dataset, [0], ["dino"], out, overwrite=True) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_a_damaged_row_is_never_exported(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    caches.make_cache(root)
    damage.flip_token_row(root)
    with pytest.raises(errors.Damaged, match="checksum of row 5 differs"):
        export(store.open(root)["flowers"], [4, 5], ["dino"], tmp_path / "x.npz")
    assert not list(tmp_path.glob("*x.npz*"))


# command line


def test_commands_end_to_end(whole: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache, out = str(whole), str(tmp_path / "x")
    assert main(["info", cache]) == 0
    assert main(["info", cache, "--json"]) == 0
    assert main(["seal", cache]) == 0
    assert main(["verify", cache]) == 0
    arguments = ["--out", f"{out}.png", "--patch", "1,0", "--images", str(images), "--teachers", "mast"]
    assert main(["show", cache, "flowers", "0", "4", *arguments]) == 0
    assert main(["failures", cache]) == 0
    assert main(["failures", cache, "--out", f"{out}.csv"]) == 0
    assert pyarrow.csv.read_csv(f"{out}.csv")["row"].to_pylist() == [3, 9]
    assert main(["export", cache, "flowers", "0:3", "8", "--arrays", "dino", "--out", f"{out}.npz"]) == 0
    printed = capsys.readouterr()
    assert "flowers/pixels: up to date, 3 of 3 shards, rows 9 ok, 1 failed, 0 missing" in printed.out
    assert "ok: all of 15 shards (51 rows, 85.5 kB)" in printed.out
    assert "wrote 4 rows of dino" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "{}/nowhere"], "no cache at"),
        (["show", "{}", "flower", "0", "--out", "x.png"], "no dataset 'flower' in"),
        (["show", "{}", "flowers", "0", "--out", "x.png", "--patch", "1"], "--patch: expected ROW,COL such as 3,5"),
        (["export", "{}", "flowers", "3-5", "--out", "x.npz"], "expected numbers or ranges such as 17 0:256"),
        (["failures", "{}", "--out", "x.xlsx"], "must end in .csv or .parquet"),
    ],
)
def test_bad_input_is_one_clear_line(
    whole: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(whole) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_verify_exits_1_and_asks_before_it_repairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "cache"
    caches.make_cache(root)
    damage.flip_index(root)
    assert main(["verify", str(root)]) == 1
    assert "a repair acts on 1 of these. Run: codistill store verify" in capsys.readouterr().out
    assert main(["verify", str(root), "--repair"]) == 2
    assert "Pass --yes" in capsys.readouterr().err
    assert main(["verify", str(root), "--repair", "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [problem["kind"] for problem in document["found"]["problems"]] == ["index_damaged"]
    assert document["repair"]["repaired"] == [["flowers", "mast", 1]]
    assert document["after"]["ok"] is True


def test_pictures_without_matplotlib_name_the_extra(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(errors.MissingExtra, match=r"codistill\[inspect\]"):
        figure.plot_rows(gather(store.open(whole)["flowers"], [0]), tmp_path / "x.png")
