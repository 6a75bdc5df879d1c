"""The README's commands on real photographs and a real pretrained teacher, and what others can read of the result."""

import hashlib
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from codistill import __main__ as codistill
from demo.collect import PHOTOGRAPHS, WEIGHTS, collect, package_file

CATALOGUE = """
note = "The teachers are stand-ins."

[recipe]
image_size = 56
shard_rows = 4

[[dataset]]
name = "people"
group = "people"
root = "images/people"
split = "train"
views = 3

[[dataset]]
name = "generic"
group = "generic"
root = "images/generic"
split = "train"

[[dataset]]
name = "people-views"
group = "people"
root = "images/people"
split = "val"
first_view = 3

[[dataset]]
name = "scenes-photographs"
group = "generic"
root = "images/held_out/scenes"
split = "val"

[[teacher]]
name = "lite0"
model = "timm:tf_efficientnet_lite0"
weights = "weights/efficientnet-lite0.pth"
stride = 16
groups = ["people", "generic"]
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, weights, a catalogue, and everything that the commands made of them."""
    folder = tmp_path_factory.mktemp("workspace")
    assert collect(folder) == sum(map(len, PHOTOGRAPHS.values())) + len(WEIGHTS)
    assert collect(folder) == 0
    (folder / "catalogue.toml").write_text(CATALOGUE)
    assert codistill.main(extraction(folder)) == 0
    assert codistill.main(training(folder)) == 0
    assert codistill.main(["eval", "report", f"{folder}/run", "--out", f"{folder}/report"]) == 0
    return folder


def extraction(folder: Path) -> list[str]:
    return ["extract", "run", f"{folder}/catalogue.toml", "--cache", f"{folder}/cache"]


def training(folder: Path) -> list[str]:
    options = ["--schedule.steps", "4", "--student.image-size", "56", "--student.depth", "2", "--data.batch", "4"]
    return ["train", "run", "demo", "--cache", f"{folder}/cache", "--out", f"{folder}/run", "--resume", *options]


def files_of(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_zarr_and_pyarrow_alone_find_everything(workspace: Path) -> None:
    features = zarr.open_group(f"{workspace}/cache/features.zarr", mode="r")
    assert features.attrs["codistill"]["format"] == 1
    rows = {"people": 6, "generic": 8, "people-views": 2, "scenes-photographs": 1}
    assert set(features.group_keys()) == set(rows)
    for dataset, count in rows.items():
        manifest = pq.read_table(f"{workspace}/cache/manifest/{dataset}.parquet", page_checksum_verification=True)
        assert manifest["row"].to_pylist() == list(range(count))
        assert manifest["status"].to_pylist() == [1] * count
        pixels = features[f"{dataset}/pixels"][:]
        assert pixels.shape == (count, 56, 56, 3)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 10
        tokens = features[f"{dataset}/lite0/tokens"][:]
        assert tokens.shape == (count, 16, 112)
        assert np.isfinite(tokens).all()
        assert features[f"{dataset}/lite0/status"][:].tolist() == [1] * count
        count_stored, mean = features[f"{dataset}/lite0/statistics"][1, :2]
        assert (count_stored == count * 16).all()
        np.testing.assert_allclose(mean, tokens.astype(np.float64).mean(axis=(0, 1)), rtol=1e-9)
    query = f"SELECT dataset, count(*) FROM '{workspace}/cache/manifest/*.parquet' WHERE status = 1 GROUP BY dataset"
    assert dict(duckdb.sql(query).fetchall()) == rows


def test_running_again_changes_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(workspace / "cache") | files_of(workspace / "run")
    assert codistill.main(extraction(workspace)) == 0
    assert codistill.main(training(workspace)) == 0
    assert files_of(workspace / "cache") | files_of(workspace / "run") == before
    assert "nothing is missing" in capsys.readouterr().out


def test_store_commands_describe_the_cache(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert codistill.main(["store", "info", f"{workspace}/cache"]) == 0
    assert "people-views" in capsys.readouterr().out
    assert codistill.main(["store", "verify", f"{workspace}/cache"]) == 0
    picture = workspace / "row.png"
    assert codistill.main(["store", "show", f"{workspace}/cache", "people", "2", "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_report_is_one_page_with_pictures(workspace: Path) -> None:
    page = (workspace / "report" / "index.html").read_text()
    assert "The teachers are stand-ins." in page  # the catalogue's note
    assert page.count("data:image/png;base64,") >= 4
    assert 'src="http' not in page


def test_another_teacher_is_one_entry_and_one_command(workspace: Path) -> None:
    entry = CATALOGUE[CATALOGUE.index("[[teacher]]") : CATALOGUE.rindex("groups")]
    longer = CATALOGUE + entry.replace("lite0", "lite1")
    (workspace / "longer.toml").write_text(longer)
    before = files_of(workspace / "cache" / "features.zarr" / "people" / "pixels")
    assert codistill.main(["extract", "run", f"{workspace}/longer.toml", "--cache", f"{workspace}/cache"]) == 0
    features = zarr.open_group(f"{workspace}/cache/features.zarr", mode="r")
    assert features["people/lite1/tokens"].shape == (6, 16, 112)
    assert files_of(workspace / "cache" / "features.zarr" / "people" / "pixels") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "run", "absent.toml", "--cache", "c"], "absent.toml"),
        (["extract", "run", "{w}/catalogue.toml", "--cache", "c", "--datasets", "peple"], "did you mean 'people'"),
        (["train", "run", "dmeo", "--cache", "{w}/cache", "--out", "r"], "did you mean 'demo'"),
        (["train", "run", "demo", "--cache", "{w}/absent", "--out", "r"], "absent"),
        (["train", "run", "tiny", "--cache", "{w}/cache", "--out", "{w}/run"], "--resume"),
        (["eval", "report", "{w}/absent", "--out", "r"], "absent"),
        (["store", "info", "{w}/images"], "images"),
        (["store", "show", "{w}/cache", "people", "99", "--out", "x.png"], "99"),
    ],
)
def test_bad_input_is_one_clear_message(
    arguments: list[str], message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert codistill.main([argument.format(w=workspace) for argument in arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert "Traceback" not in errors


def test_photographs_come_from_installed_packages_only() -> None:
    with pytest.raises(ImportError, match=r"codistill\[demo\]"):
        package_file("skimage", "data/absent.png")
