"""Codes in a job: fitted once for a cache, of training datasets only, refused before work where they cannot be."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import store
from extract.__main__ import main
from extract.job import job, stages
from extract.teachers.loading import load
from store.verify.report import check_and_repair
from tests.extract import builders
from tests.extract.builders import dataset_entry, run_extract, small_catalogue, teacher_entry, tree_of
from tests.extract.children import finish
from tests.points import Kill, Point, Record

MODEL = "tests.extract.own_teachers:projected"
IMAGES = 40


def catalogue_of(
    folder: Path, *, options: str = "ratio = 4", datasets: str | None = None, name: str = "catalogue.toml"
) -> Path:
    """Two training datasets and one for validation over the same pictures, and the teacher `quick`."""
    (folder / "quick.safetensors").write_bytes(b"any")
    entries = dataset_entry("a", "views = 4") + dataset_entry("b", "views = 2") + dataset_entry("c", 'split = "val"')
    teacher = teacher_entry("quick", f'model = "{MODEL}"\n{options}')
    path = small_catalogue(folder, datasets=datasets or entries, teachers=teacher)
    return path.rename(folder / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and a whole cache; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("made")
    builders.image_folder(folder / "images", IMAGES)
    assert run_extract(catalogue_of(folder), "--cache", folder / "cache", "--summary", folder / "summary.json") == 0
    return folder


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    """A folder with the same pictures and no cache."""
    (tmp_path / "images").symlink_to(made / "images")
    return tmp_path


def test_training_datasets_get_one_code_and_validation_float16(made: Path) -> None:
    cache = store.open(made / "cache")
    codes = {name: cache[name].teacher("quick").code for name in cache.datasets}
    assert codes["c"] is None
    assert codes["a"] is not None
    assert codes["b"] is not None
    assert codes["a"].digest == codes["b"].digest
    assert codes["a"].ratio == 4
    rows_in_all, row_bytes = cache["a"].array("quick").shape
    assert (rows_in_all, row_bytes <= 5 * 16 * 2 / 4) == (4 * IMAGES, True)
    assert codes["a"].calibration["datasets"] == ["a", "b"]
    rows = np.arange(cache["a"].rows)
    teacher = load(MODEL, weights=made / "quick.safetensors")
    pixels = cache["a"].read(rows, ["pixels"])["pixels"]
    true = np.concatenate([part.numpy() for part in teacher(torch.from_numpy(pixels))], axis=1)
    true = true.astype(np.float16).astype(np.float64)
    decoded = cache["a"].read(rows, ["quick"])["quick"].astype(np.float64)
    patches, mean = true[:, 1:].reshape(-1, 16), true[:, 1:].reshape(-1, 16).mean(axis=0)
    z, found = patches - mean, decoded[:, 1:].reshape(-1, 16) - mean
    assert (z * found).sum() / (z * z).sum() == pytest.approx(1, abs=0.02)
    assert 0.01 < ((z - found) ** 2).sum() / (z * z).sum() < 0.2
    statistics = cache["a"].statistics("quick").patch
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(
        statistics.std, patches.std(axis=0), rtol=1e-9
    )  # of the true tokens, not of decoded ones
    summary = json.loads((made / "summary.json").read_text())
    (code,) = summary["codes"]
    assert (code["digest"], code["fitted"], code["bytes_per_row"]) == (codes["a"].digest, True, row_bytes)
    assert summary["bytes_per_row"]["quick"] == row_bytes + 4


def test_a_dataset_that_comes_later_gets_the_same_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue, cache = catalogue_of(folder), folder / "cache"
    assert run_extract(catalogue, "--cache", cache, "--datasets", "a") == 0
    before = tree_of(cache / "features.zarr" / "a" / "quick")
    assert "40 images, 1,600 would be better; in 160 views" in capsys.readouterr().err
    assert run_extract(catalogue, "--cache", cache) == 0
    assert "4x, is kept as it was calibrated" in capsys.readouterr().err
    assert tree_of(cache / "features.zarr" / "a" / "quick") == before
    opened = store.open(cache)
    (digest,) = {opened[name].teacher("quick").code.digest for name in "ab"}  # type: ignore[union-attr]
    assert digest in before["codes/zarr.json"].decode()


def test_processes_of_a_cluster_calibrate_once(made: Path, folder: Path) -> None:
    catalogue, cache = catalogue_of(folder), folder / "cache"
    store.create(cache, store.open(made / "cache").recipe)
    assert finish(folder, "cache", "--workers", "2", "--device", "cpu") == 0
    code = "features.zarr/b/quick/code"
    assert tree_of(cache / code) == tree_of(made / "cache" / code)
    rows = range(80)
    here, there = (store.open(place)["b"].read(rows, ["quick"], raw=True)["quick"] for place in (cache, made / "cache"))
    assert np.array_equal(here, there)
    assert catalogue.exists()


def test_killed_while_a_code_is_recorded(folder: Path) -> None:
    """Whatever was written of it, the next job completes it to the same code."""
    catalogue_of(folder)
    assert finish(folder, "begun", "--stages", "index,views") == 0
    undisturbed = copied(folder / "begun", folder / "undisturbed")
    record = Record(folder=undisturbed, file=folder / "calls.txt")
    assert finish(folder, "undisturbed", "--stages", "calibrate", prepare=record) == 0
    numbers = list(record.numbers())
    for number in numbers[:: max(1, len(numbers) // 5)]:
        killed = copied(folder / "begun", folder / f"killed{number}")
        kill = Kill(point=Point(folder=killed, number=number))
        assert finish(folder, killed.name, "--stages", "calibrate", prepare=kill) == -signal.SIGKILL
        assert run_extract(folder / "catalogue.toml", "--cache", killed, "--stages", "calibrate") == 0
        assert without_leftovers(killed) == without_leftovers(undisturbed)


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def without_leftovers(cache: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree_of(cache).items() if ".tmp" not in name}


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run_extract(*arguments) == 2
    return capsys.readouterr().err


def test_ratios_are_refused_before_the_first_view(
    made: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "index", None)  # is not reached
    monkeypatch.setattr(stages, "views_shard", None)
    new, whole = ("--cache", folder / "new"), ("--cache", made / "cache")
    catalogue = catalogue_of(folder, options="ratio = 40")
    assert "teacher 'quick': ratio 40 cannot be met by 2 x 2 patches, 1 prefix tokens and 16 channels" in refused(
        capsys, catalogue, *new
    )
    odd = catalogue.with_name("odd.toml")
    odd.write_text(
        catalogue.read_text().replace("image_size = 28", "image_size = 42").replace("ratio = 40", "ratio = 20")
    )
    assert "A grid of even sides allows more" in refused(capsys, odd, *new)
    assert not (folder / "new").exists()
    (folder / "again").mkdir()
    changed = catalogue_of(folder, options="ratio = 5", name="changed.toml")
    assert "ratio 5, but a, b holds codes of ratio 4" in refused(capsys, changed, *whole)
    plain = catalogue_of(folder, options="", name="plain.toml")
    assert "float16, but a, b holds codes of ratio 4" in refused(capsys, plain, *whole)


def test_float16_tokens_do_not_become_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = catalogue_of(folder, options="", name="plain.toml")
    assert run_extract(plain, "--cache", folder / "cache", "--datasets", "a") == 0
    catalogue = catalogue_of(folder)
    told = refused(capsys, catalogue, "--cache", folder / "cache", "--datasets", "a")
    assert "ratio 4, but a holds its tokens in float16" in told
    told = refused(capsys, catalogue, "--cache", folder / "cache", "--datasets", "a", "--stages", "features")
    assert "ratio 4, and no code yet. Run stage calibrate first" in told
    assert (
        run_extract(
            catalogue, "--cache", folder / "cache", "--datasets", "a", "--overwrite", "--stages", "calibrate,features"
        )
        == 0
    )


def test_too_few_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builders.image_folder(tmp_path / "images", 6)
    catalogue = catalogue_of(tmp_path, datasets=dataset_entry("few", "views = 1"))
    told = refused(capsys, catalogue, "--cache", tmp_path / "cache")
    assert "teacher 'quick': " in told
    assert "images are too few or too alike" in told
    assert not store.open(tmp_path / "cache")["few"].teachers


def test_parts_leave_calibration_to_the_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue, cache = catalogue_of(folder), folder / "cache"
    assert run_extract(catalogue, "--cache", cache, "--stages", "index,views") == 0
    told = refused(capsys, catalogue, "--cache", cache, "--shards", "1/2")
    assert "calibrate: left to part 0" in told
    assert "has ratio 4 and no code in" in told
    for part in range(2):
        assert run_extract(catalogue, "--cache", cache, "--shards", f"{part}/2") == 0
    assert store.seal(cache).complete


def test_repair_gives_the_same_codes(made: Path, folder: Path) -> None:
    cache = copied(made / "cache", folder / "cache")
    shard = cache / "features.zarr" / "a" / "quick" / "codes" / "c.1.0"
    content = shard.read_bytes()
    shard.write_bytes(content[:50] + bytes(9) + content[59:])
    outcome = check_and_repair(
        cache,
        quick=False,
        confirm=lambda report: True,
        catalogue=catalogue_of(folder),
        device="cpu",
        progress=False,
        say=lambda line: None,
    )
    assert not outcome.wrong
    assert shard.read_bytes() == content


def test_codes_are_tried_before_anything_is_extracted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = catalogue_of(folder)
    before = tree_of(folder)
    command = ["calibrate", str(catalogue), "--dry-run", "--rows", "64", "--threads", "1", "--device", "cpu"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "codes of 'quick', on images they were not fitted to" in printed.out
    assert "64 rows of 64 images" in printed.out
    assert "32x would be refused: ratio 32 cannot be met" in printed.out
    assert main([*command, "--json"]) == 0
    (trial,) = json.loads(capsys.readouterr().out)
    assert trial["spectrum"] == sorted(trial["spectrum"], reverse=True)
    assert np.mean(trial["spectrum"]) == pytest.approx(1, abs=1e-3)
    assert [each["ratio"] for each in trial["ratios"]] == [4, 8, 16, 32]
    assert trial["ratios"][0]["patch"]["slope"] == pytest.approx(1, abs=0.1)
    assert tree_of(folder) == before
    assert main(["calibrate", str(catalogue)]) == 2
    assert "pass --dry-run" in capsys.readouterr().err
