"""What can be known is refused before the first view is made, all problems at once."""

import shutil
from pathlib import Path

import pytest

import store
from extract.job import job
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue, tree_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    builders.image_folder(tmp_path / "images", 3)
    return tmp_path


def refused(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_extract(*arguments) == 2
    return capsys.readouterr().err


def test_all_teachers_are_checked_before_the_first_view(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = {
        "misspelt": 'model = "timm:test_vitt"',
        "unfit": 'model = "timm:test_vit2"',
        "junk": 'model = "dinov2"',
        "absent": 'model = "timm:test_vit"',
        "fixed": 'model = "timm:swin_s3_tiny_224"',
        "good": 'model = "timm:test_vit"',
    }
    for number, name in enumerate(entries):
        builders.teacher_weights(folder / f"{name}.safetensors", seed=number)
    (folder / "junk.safetensors").write_bytes(b"<html>not found</html>")
    (folder / "absent.safetensors").unlink()
    teachers = "".join(builders.teacher_entry(name, options) for name, options in entries.items())
    catalogue = small_catalogue(folder, teachers=teachers.replace('["generic"]', "[]"))
    told = refused(catalogue, "--cache", folder / "cache", capsys=capsys)
    assert "this job cannot start: 5 problems" in told
    assert "teacher 'misspelt': teacher 'timm:test_vitt': timm" in told
    assert "did you mean 'test_vit'?" in told
    assert "as timm:test_vit2: of " in told
    assert "an HTML page, not weights" in told
    assert f"teacher 'absent': weights '{folder / 'absent.safetensors'}': no such file" in told
    assert "teacher 'fixed': " in told
    assert "teacher 'good'" not in told
    assert not (folder / "cache").exists()
    assert run_extract(catalogue, "--cache", folder / "cache", "--stages", "index,views") == 0


def test_changed_teachers_are_told_together_before_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("first", "second")):
        builders.teacher_weights(folder / f"{name}.safetensors", seed=number)
    teachers = builders.teacher_entry("first") + builders.teacher_entry("second").replace('["generic"]', "[]")
    datasets = builders.dataset_entry("a") + builders.dataset_entry("b")
    catalogue = small_catalogue(folder, datasets=datasets, teachers=teachers)
    assert run_extract(catalogue, "--cache", folder / "cache", "--datasets", "a") == 0
    before = tree_of(folder / "cache")
    catalogue.write_text(catalogue.read_text().replace('groups = ["generic"]', "groups = []"))
    builders.teacher_weights(folder / "second.safetensors", seed=5)
    monkeypatch.setattr(job, "index", None)  # is not reached
    told = refused(catalogue, "--cache", folder / "cache", capsys=capsys)
    assert "2 problems. 'a/first' exists and differs. groups: stored ['generic'], asked []" in told
    assert "'a/second' exists and differs. identity.weights_sha256: stored" in told
    assert tree_of(folder / "cache") == before


def test_nothing_is_deleted_for_a_job_that_cannot_start(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = small_catalogue(folder)
    overwrite = ("--cache", folder / "cache", "--overwrite", "--datasets", "pictures")
    assert run_extract(catalogue, "--cache", folder / "cache") == 0
    before = tree_of(folder / "cache")
    (folder / "first.safetensors").write_bytes(b"junk")
    assert "expected safetensors" in refused(catalogue, *overwrite, capsys=capsys)
    builders.teacher_weights(folder / "first.safetensors", seed=7)
    assert "torch finds" in refused(catalogue, *overwrite, "--device", "cuda:97", capsys=capsys)
    assert tree_of(folder / "cache") == before
    assert run_extract(catalogue, *overwrite) == 0


def test_a_folder_of_something_else_is_no_place_for_a_cache(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = small_catalogue(folder)
    shutil.copytree(folder / "images" / "part0", folder / "photographs")
    before = tree_of(folder)
    told = refused(catalogue, "--cache", folder / "photographs", capsys=capsys)
    assert f"'{folder / 'photographs'}' is not empty and holds no cache: 000.png. Choose an empty or new folder" in told
    assert "images, part0" not in refused(catalogue, "--cache", folder / "images", capsys=capsys)
    told = refused(catalogue, "--cache", folder / "photographs" / "000.png", capsys=capsys)
    assert "is a file. Choose an empty or new folder" in told
    assert tree_of(folder) == before
    with pytest.raises(store.errors.OutputExists):
        store.create(folder / "photographs", {"image_size": 28, "shard_rows": 8})
    assert tree_of(folder) == before


def test_a_cache_whose_creation_was_killed_is_created(folder: Path) -> None:
    catalogue = small_catalogue(folder)
    (folder / "cache" / "features.zarr").mkdir(parents=True)
    (folder / "cache" / "features.zarr" / "zarr.json.tmp").write_bytes(b"{")
    (folder / "cache" / ".nfs0001").write_bytes(b"")
    (folder / "cache" / "lost+found").mkdir()
    assert run_extract(catalogue, "--cache", folder / "cache") == 0
