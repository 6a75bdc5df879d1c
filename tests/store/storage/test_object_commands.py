"""The commands with a URL for a cache: extract, look, train."""

from pathlib import Path

import numpy as np
import pytest

import store
from store.__main__ import main as run_store
from tests.extract.builders import dataset_entry, image_folder, run_extract, small_catalogue
from tests.store.s3_server import S3
from train.__main__ import main as run_train


def test_extract_look_and_train(s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_folder(tmp_path / "images", 9)
    catalogue = small_catalogue(tmp_path, datasets=dataset_entry("pictures") + dataset_entry("held", 'split = "val"'))
    assert run_extract(catalogue, "--cache", s3.location, "--device", "cpu", "--threads", "1") == 0
    before = len(s3.server.requests)
    assert run_extract(catalogue, "--cache", s3.location, "--device", "cpu", "--threads", "1") == 0
    assert [request.path for request in s3.server.requests[before:] if request.method == "PUT"] == []

    assert run_store(["seal", s3.location]) == 0
    assert run_store(["info", s3.location]) == 0
    assert run_store(["show", s3.location, "pictures", "0", "--out", str(tmp_path / "rows.png")]) == 0
    assert (tmp_path / "rows.png").stat().st_size
    assert s3.location in capsys.readouterr().out

    storage, key = store.open(s3.location).storage, "features.zarr/pictures/first/tokens/c.1.0.0"
    whole = storage.read(key)
    storage.replace(key, whole[:-8] + bytes(8))  # of the sharding index
    assert run_store(["verify", s3.location]) == 1
    assert run_store(["verify", s3.location, "--repair", "--yes"]) == 0
    assert storage.read(key) == whole

    run = ["run", "tiny", "--cache", s3.location, "--out", str(tmp_path / "run")]
    assert run_train([*run, "--schedule.steps", "2"]) == 0
    assert (tmp_path / "run/log.jsonl").stat().st_size
    dataset = store.open(s3.location)["pictures"]
    assert np.isfinite(dataset.read([17], ["first"])["first"]).all()
