"""Multi-view depth from images to the table, on miniatures: exact, spoilt, interrupted and broken."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.heads.pairs.files import Tree
from eval.heads.scoring import multiview_depth
from eval.heads.scoring.depth_samples import list_samples, write_sample
from eval.heads.scoring.predictor import Outputs
from eval.heads.scoring.settings import DepthSettings
from eval.tasks.prediction_files import score_depths
from store.errors import Conflict, InvalidInput, MissingFile
from tests.eval.heads.mast3r.goldens import tiny_pair
from tests.eval.heads.scoring import exact

VIEWS = 4


def write_set(root: Path, pairs: exact.ExactPairs, dataset: str, *, index: int = 0) -> None:
    """Write one sample as robustmvd's loaders give it: four views, the second is the key."""
    views = exact.room(VIEWS, index=index)
    sample = {
        "images": [view.image.astype(np.float32).transpose(2, 0, 1) for view in views],
        "keyview_idx": 1,
        "depth": np.where(np.arange(exact.SIZE[0]) < 90, views[1].depthmap, 0)[None],
    }
    write_sample(root, dataset, "0000", sample)
    for number, view in enumerate(views):
        pairs.learn(root / dataset / "0000" / ("key.png" if number == 1 else f"{number:04d}.png"), view)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, exact.ExactPairs]:
    torch.set_num_threads(1)
    root, pairs = tmp_path_factory.mktemp("depth"), exact.ExactPairs()
    for index, dataset in enumerate(("dtu", "eth3d")):
        write_set(root, pairs, dataset, index=index)
    return root, pairs


class Uneven(exact.ExactPairs):
    """Predicts depth in other units, and well only beside some views."""

    def decode(self, one: Any, two: Any) -> tuple[Outputs, Outputs]:
        first, second = super().decode(one, two)
        number = int(two.instance)
        points = first["pts3d"].clone() * 3
        rows = slice(None, 20 * number) if number < 3 else slice(None)
        points[:, rows, :, 2] *= 1.5 if number < 3 else float("nan")
        return {**first, "pts3d": points}, second


def test_exact_predictions_score_perfectly_in_any_unit(data: tuple[Path, exact.ExactPairs], tmp_path: Path) -> None:
    root, known = data
    pairs = exact.ExactPairs(known=known.known, spoil=lambda out: exact.moved(out, pts3d=lambda points: 3 * points))
    found = multiview_depth.score(exact.predictor(pairs), root, tmp_path / "a", settings=DepthSettings(keep=True))
    for name in ("dtu", "eth3d", "average"):
        assert found.table[name]["absrel"] == pytest.approx(0, abs=1e-3)
        assert found.table[name]["inliers"] == 100
    assert found.notes == []
    assert score_depths(tmp_path / "a" / "predictions", root) == found.table
    metres = multiview_depth.score(exact.predictor(pairs), root, tmp_path / "b", settings=DepthSettings(align="none"))
    assert metres.table["average"]["absrel"] == pytest.approx(200, abs=1)
    assert metres.table["average"]["inliers"] == 0


def test_views_are_added_from_the_best_one_on(data: tuple[Path, exact.ExactPairs], tmp_path: Path) -> None:
    root, known = data
    predictor = exact.predictor(Uneven(known=known.known))
    found = multiview_depth.score(predictor, root, tmp_path / "best")
    result = found.outcome.results["dtu/0000"]
    assert result["views"] == ["dtu/0000/0000.png"]  # exact alone; the second is half wrong, the third not finite
    assert result["absrel"] == pytest.approx(0, abs=1e-3)
    assert result["alone"]["dtu/0000/0002.png"] > 5
    assert "predicted depths are not finite" in result["left_out"]["dtu/0000/0003.png"]
    together = multiview_depth.score(predictor, root, tmp_path / "all", settings=DepthSettings(order="all"))
    assert together.outcome.results["dtu/0000"]["absrel"] > 1
    assert len(together.outcome.results["dtu/0000"]["views"]) == 2


def test_a_finished_sample_is_not_computed_again(data: tuple[Path, exact.ExactPairs], tmp_path: Path) -> None:
    root, pairs = data
    pairs.seen = 0
    first = multiview_depth.score(exact.predictor(pairs), root, tmp_path)
    again = multiview_depth.score(exact.predictor(pairs), root, tmp_path)
    assert (pairs.seen, again.table, again.outcome.found) == (2 * VIEWS, first.table, 2)
    with pytest.raises(Conflict, match="order: stored 'quasi-optimal', asked 'given'"):
        multiview_depth.score(exact.predictor(pairs), root, tmp_path, settings=DepthSettings(order="given"))


def test_a_sample_that_fails_is_told(tmp_path: Path) -> None:
    pairs = exact.ExactPairs()
    for dataset in ("dtu", "eth3d"):
        write_set(tmp_path / "data", pairs, dataset)
    broken = np.full(exact.SIZE[::-1], np.nan)
    np.savez(tmp_path / "data/dtu/0000.npz", depth=broken)
    found = multiview_depth.score(exact.predictor(pairs), tmp_path / "data", tmp_path / "out")
    assert "pixels are NaN or infinite" in found.outcome.failures["dtu/0000"]
    assert list(found.table) == ["eth3d", "average"]
    assert found.notes[0].startswith("1 of 2 samples failed")
    np.savez(tmp_path / "data/dtu/0000.npz", depth=np.ones(exact.SIZE))
    found = multiview_depth.score(exact.predictor(pairs), tmp_path / "data", tmp_path / "turned")
    assert "112x84 px, its depth has 84x112, another aspect" in found.outcome.failures["dtu/0000"]
    spoilt = exact.ExactPairs(known=pairs.known, spoil=lambda out: exact.moved(out, pts3d=lambda p: p * float("nan")))
    with pytest.raises(InvalidInput, match="all 2 samples failed"):
        multiview_depth.score(exact.predictor(spoilt), tmp_path / "data", tmp_path / "none")


class Ramp:
    """Predicts depth that grows from the left border of its image to the right one."""

    patch_size = 14
    shape: tuple[int, ...] = ()

    def encode(self, images: np.ndarray) -> tuple[int, ...]:
        return images.shape

    def decode(self, one: tuple[int, ...], two: tuple[int, ...]) -> tuple[Outputs, Outputs]:
        self.shape = one
        ramp = 1 + (torch.arange(one[2]) + 0.5) / one[2]
        points = ramp[None, None, :, None].expand(1, one[1], one[2], 3)
        return {"pts3d": points, "conf": torch.ones(one[:3])}, {}


def test_images_are_stretched_so_that_nothing_is_cut(tmp_path: Path) -> None:
    wide = np.full((3, 100, 157), 90.0)
    true = np.tile(1 + (np.arange(157) + 0.5) / 157, (1, 100, 1))
    write_sample(tmp_path / "data", "kitti", "0", {"images": [wide, wide], "keyview_idx": 0, "depth": true})
    ramp = Ramp()
    found = multiview_depth.score(exact.predictor(ramp), tmp_path / "data", tmp_path / "out")
    assert ramp.shape == (1, 70, 112, 3)
    assert found.table["average"]["absrel"] < 0.5


def test_a_pair_model_runs_through(data: tuple[Path, exact.ExactPairs], tmp_path: Path) -> None:
    pair = tiny_pair()
    with torch.no_grad():
        pair.mast3r.downstream_head1.dpt.head[4].bias[2] = 2.0  # in front of the camera
    found = multiview_depth.score(exact.predictor(pair), data[0], tmp_path)
    assert 0 < found.table["average"]["absrel"] < 1000


def test_other_folders_and_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="no sample in"):
        list_samples(Tree(tmp_path, subject="depth"))
    write_set(tmp_path, exact.ExactPairs(), "dtu")
    (tmp_path / "dtu" / "0000" / "key.png").unlink()
    with pytest.raises(MissingFile, match="1 samples are not whole, such as dtu/0000: 0 key views, 3 others"):
        list_samples(Tree(tmp_path, subject="depth"))
    sample = {"images": [np.zeros((3, 4, 4))], "keyview_idx": 0, "depth": np.zeros((1, 4, 4))}
    for name, changes, message in (
        ("../x", {}, "without folders"),
        ("x", {"depth": np.zeros((4, 4))}, "expected images"),
        ("x", {"keyview_idx": 1}, "keyview_idx 1 of 1"),
    ):
        with pytest.raises(InvalidInput, match=message):
            write_sample(tmp_path, "dtu", name, {**sample, **changes})
