"""A row's tokens depend on its window alone: not on what failed beside it, how many threads there are, or a repair."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import store
from backbones.timm_library import timm
from extract import teachers
from extract.teachers.batching import Batching, recompute
from extract.teachers.runner import TeacherRunner
from store.verify.report import check_and_repair
from tests.extract import builders
from tests.extract.builders import run_extract, small_catalogue, tree_of
from tests.extract.children import finish

SHARD_ROWS = 11
BATCH_SIZE = 5  # so that a shard ends with a window of one row
SIZE_PX = 28
# Other bits with another batch size or number of threads, on one machine or another.
MODELS = (
    *("vit_tiny_patch16_224", "vit_small_patch32_224", "xcit_nano_12_p16_224", "test_vit"),
    *("test_convnext2", "test_efficientnet"),
)


def save_weights(path: Path, name: str) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        network = timm.create_model(name, pretrained=False)
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, path)
    return path


class Noted:
    """Stands in for a runner: notes the batches and positions, and returns each row's first pixel."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def run(self, pixels: np.ndarray, positions: Sequence[int]) -> list[np.ndarray]:
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        assert [position + 1 for position in positions] == self.batches[-1]
        return list(pixels[:, 0, 0, :1])


def pixels_of(status: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels whose values are their position and 1, with zeros where the status is 0."""
    pixels = np.zeros((len(status), 1, 1, 3), np.uint8)
    pixels[:] = (np.arange(1, len(status) + 1) * status)[:, None, None, None]
    return pixels, np.array(status, np.bool_)


def test_windows_are_filled() -> None:
    pixels, usable = pixels_of([1, 0, 1, 1, 0, 0, 1, 1])
    batching, noted = Batching(size=3), Noted()
    windows = batching.windows(len(usable))
    results = [batching.compute(noted.run, pixels, usable, window) for window in windows]
    assert noted.batches == [[1, 1, 3], [4, 4, 4], [7, 8, 7]]
    values = [None if result is None else int(result[0]) for window in results for result in window]
    assert values == [1, None, 3, 4, None, None, 7, 8]


def test_windows_without_pixels_are_not_computed() -> None:
    pixels, usable = pixels_of([0, 0, 0, 1])
    noted = Noted()
    assert Batching(size=3).compute(noted.run, pixels, usable, range(3)) == [None, None, None]
    assert noted.batches == []


def test_windows_of_earlier_versions_are_not_filled() -> None:
    pixels, usable = pixels_of([1, 0, 1, 1, 0, 0, 1, 1])
    batching = Batching.recorded({"batch_size": 3})
    assert batching == Batching(size=3, filled=False, threads=None)
    noted = Noted()
    made = list(recompute(noted.run, batching, pixels, usable, [2, 6]))
    assert noted.batches == [[1, 3], [7, 8]]
    assert [int(row[0]) for row in made] == [3, 7]


def test_batching_is_recorded() -> None:
    batching = Batching.for_job(64, shard_rows=13, cpu=True)
    assert batching == Batching(size=13, threads=1)
    for each in (batching, Batching(size=4), Batching(size=5, filled=False)):
        assert Batching.recorded(each.as_provenance()) == each
    for wrong in ({}, {"batch_size": 0}, {"batch_size": "8"}, {"batch_size": True}, {"batch_size": 10**12}):
        assert Batching.recorded(wrong) is None


@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_whatever_is_beside_a_row_and_however_many_threads(name: str, tmp_path: Path) -> None:
    teacher = teachers.load(f"timm:{name}", weights=save_weights(tmp_path / "w.safetensors", name))
    run = TeacherRunner("t", teacher, provenance={}).for_shard(None, 0)
    pixels = np.random.default_rng(0).integers(0, 256, (SHARD_ROWS, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    batching = Batching.for_job(BATCH_SIZE, shard_rows=SHARD_ROWS, cpu=True)
    everything = np.ones(SHARD_ROWS, np.bool_)
    whole = list(recompute(run, batching, pixels, everything, range(SHARD_ROWS)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        again = list(recompute(run, batching, pixels, everything, range(SHARD_ROWS)))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(np.stack(whole), np.stack(again))
    for position in range(SHARD_ROWS):
        (alone,) = recompute(run, batching, pixels, everything, [position])
        np.testing.assert_array_equal(alone, whole[position])
    others_fail = everything.copy()
    others_fail[[0, 1, 3, 4, 6]] = False  # one row of a window is left
    left = np.flatnonzero(others_fail).tolist()
    for position, tokens in zip(left, recompute(run, batching, pixels, others_fail, left), strict=True):
        np.testing.assert_array_equal(tokens, whole[position])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with teachers of all shapes, images of which one is broken, and the cache that one process made."""
    folder = tmp_path_factory.mktemp("identity")
    builders.image_folder(folder / "images", 16)
    (folder / "images" / "part0" / "broken.png").write_bytes(b"broken")
    entries = ""
    for number, name in enumerate(MODELS):
        save_weights(folder / f"t{number}.safetensors", name)
        entries += builders.teacher_entry(f"t{number}", f'model = "timm:{name}"').replace('["generic"]', "[]")
    catalogue = small_catalogue(folder, teachers=entries)
    sizes = f"image_size = {SIZE_PX}\nshard_rows = {SHARD_ROWS}"
    catalogue.write_text(catalogue.read_text().replace("image_size = 28\nshard_rows = 8", sizes))
    assert run_extract(catalogue, "--cache", folder / "cache", "--batch-size", BATCH_SIZE, "--threads", 3) == 0
    return folder


def tokens_in(cache: Path) -> dict[str, bytes]:
    return {key: content for key, content in tree_of(cache).items() if "/tokens/c." in key}


def test_one_process_and_several_make_the_same_tokens(folder: Path) -> None:
    ended = finish(folder, "together", "--batch-size", str(BATCH_SIZE), "--workers", "2")
    assert ended == 0, (folder / "together.txt").read_text()
    made, expected = store.open(folder / "together"), store.open(folder / "cache")
    for name in expected["pictures"].teachers:
        for shard in range(expected["pictures"].shards):
            np.testing.assert_array_equal(
                made["pictures"].read_shard(name, shard).data, expected["pictures"].read_shard(name, shard).data
            )
            trailers = [cache["pictures"].read_trailer(name, shard) for cache in (made, expected)]
            assert trailers[0].provenance == trailers[1].provenance
            assert trailers[0].provenance["torch_threads"] == 1
            assert trailers[0].provenance["batch_size"] == BATCH_SIZE


def test_a_repair_gives_the_bytes_back(folder: Path) -> None:
    """Of a row in the middle, in the last short window, beside the row that failed, and of a whole shard."""
    dataset = store.open(folder / "cache")["pictures"]
    expected = {name: [dataset.read_shard(name, k).data for k in range(dataset.shards)] for name in dataset.teachers}
    status = dataset.status("pixels")
    damaged = [row for row in (1, SHARD_ROWS - 1, len(status) - 1, int(np.argmin(status)) + 2) if status[row] == 1]
    assert len(damaged) == 4
    for name in dataset.teachers:
        for row in damaged:
            node, shard = dataset.array(name), row // SHARD_ROWS
            path = folder / "cache" / node.shard_key(shard)
            content = bytearray(path.read_bytes())
            content[(row % SHARD_ROWS) * node.layout.stride + 7] ^= 1
            path.write_bytes(content)
    (folder / "cache" / dataset.array("t0").shard_key(0)).unlink()
    outcome = check_and_repair(
        str(folder / "cache"),
        quick=False,
        confirm=lambda problems: True,
        catalogue=folder / "catalogue.toml",
        device="cpu",
        progress=False,
        say=lambda line: None,
    )
    assert not outcome.wrong
    repaired = store.open(folder / "cache")["pictures"]
    for name, shards in expected.items():
        for shard, data in enumerate(shards):
            np.testing.assert_array_equal(repaired.read_shard(name, shard).data, data)
