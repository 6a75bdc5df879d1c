"""Multi-view pose from images to the table, on miniatures of CO3D and RealEstate10K: exact, spoilt and broken."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.heads.pairs.files import Tree
from eval.heads.scoring import multiview_pose
from eval.heads.scoring.pose_sequences import realestate_sequences
from eval.heads.scoring.settings import ESSENTIAL, PoseSettings
from store.errors import Conflict, InvalidInput, MissingFile
from tests.eval.heads.mast3r.goldens import tiny_pair
from tests.eval.heads.pairs import trees
from tests.eval.heads.scoring import exact

FRAMES = 6  # of which four are drawn
PREDICTED = PoseSettings(method="essential", camera="predicted")


def write_co3d(root: Path, pairs: exact.ExactPairs, *, index: int = 0) -> Path:
    """Write two sequences of a category, of which one is in the test list; returns the annotations' file."""
    entries: list[dict[str, Any]] = []
    width, height = exact.SIZE
    for sequence in ("110_1_1", "110_2_2"):
        for number, view in enumerate(exact.arc(FRAMES, index=index)):
            name = f"apple/{sequence}/images/frame{number + 1:06d}.jpg"
            trees.write_image(root / name, view.image)
            pairs.learn(root / name, view)
            turned = np.diag([-1.0, -1, 1]) @ trees.world_to_camera(view)[:3]
            matrix = view.intrinsics.astype(float)
            entries.append(
                {
                    "sequence_name": sequence,
                    "frame_number": number + 1,
                    "image": {"path": name, "size": [height, width]},
                    "depth": {"path": f"{name}.png", "scale_adjustment": 1.0, "mask_path": None},
                    "viewpoint": {
                        "R": turned[:, :3].T.tolist(),
                        "T": turned[:, 3].tolist(),
                        "focal_length": [2 * matrix[0, 0] / height, 2 * matrix[1, 1] / height],
                        "principal_point": [
                            (width / 2 - matrix[0, 2] - 0.5) * 2 / height,
                            (height / 2 - matrix[1, 2] - 0.5) * 2 / height,
                        ],
                        "intrinsics_format": "ndc_isotropic",
                    },
                }
            )
    listed = {"train": [], "val": [], "test": [["110_2_2", 1, "apple/110_2_2/images/frame000001.jpg"]]}
    trees.write_text(root / "apple/set_lists/set_lists_fewview_dev.json", json.dumps(listed))
    annotations = root / "apple/frame_annotations.jgz"
    annotations.write_bytes(gzip.compress(json.dumps(entries).encode()))
    return annotations


def write_estate(root: Path, pairs: exact.ExactPairs, *, index: int = 1) -> Path:
    """Write a clip, with one frame more than there are images; returns its text file."""
    width, height = exact.SIZE
    lines = ["https://www.youtube.com/watch?v=none"]
    for number, view in enumerate(exact.arc(FRAMES, index=index)):
        time = 1_000_000 + 33_000 * number
        image = root / f"frames/test/0a1b/{time}.png"
        trees.write_image(image, view.image)
        pairs.learn(image, view)
        matrix = view.intrinsics.astype(float)
        camera = (
            *(matrix[0, 0] / width, matrix[1, 1] / height),
            *((matrix[0, 2] + 0.5) / width, (matrix[1, 2] + 0.5) / height),
        )
        lines.append(f"{time} {trees.row(np.array(camera))} 0 0 {trees.row(trees.world_to_camera(view)[:3])}")
    lines.append(lines[-1].replace("1165000", "9999999"))
    trees.write_text(root / "test/0a1b.txt", "\n".join(lines) + "\n")
    return root / "test/0a1b.txt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], exact.ExactPairs]:
    torch.set_num_threads(1)
    root, pairs = tmp_path_factory.mktemp("pose"), exact.ExactPairs()
    write_co3d(root / "co3d", pairs)
    write_estate(root / "estate", pairs)
    return {"co3d": root / "co3d", "realestate10k": root / "estate"}, pairs


@pytest.mark.parametrize("dataset", ["co3d", "realestate10k"])
@pytest.mark.parametrize("settings", [ESSENTIAL, PREDICTED])
def test_exact_predictions_score_nearly_perfectly(
    data: tuple[dict[str, Path], exact.ExactPairs], tmp_path: Path, dataset: Any, settings: PoseSettings
) -> None:
    roots, pairs = data
    found = multiview_pose.score(
        exact.predictor(pairs), roots[dataset], tmp_path, dataset=dataset, frames=4, settings=settings
    )
    category = "apple" if dataset == "co3d" else "realestate10k"
    assert list(found.table) == [category, "average"]
    assert found.table["average"]["rra_15"] == found.table["average"]["rta_15"] == 100
    assert found.table["average"]["maa_30"] > 85  # whole pixels: some degrees of direction for short baselines
    assert found.notes == []
    (result,) = found.outcome.results.values()
    assert len(result["frames"]) == 4
    assert [pair["frames"] for pair in result["pairs"]] == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


def test_random_matches_score_badly_and_pairs_without_estimate_worst(
    data: tuple[dict[str, Path], exact.ExactPairs], tmp_path: Path
) -> None:
    roots, pairs = data
    rng = torch.Generator().manual_seed(0)

    def noise(desc: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(desc.shape, generator=rng), dim=-1)

    root = roots["co3d"]
    spoilt = exact.ExactPairs(known=pairs.known, spoil=lambda out: exact.moved(out, desc=noise))
    found = multiview_pose.score(exact.predictor(spoilt), root, tmp_path / "noise", dataset="co3d", frames=3)
    assert found.table["average"]["maa_30"] < 40
    nothing = PoseSettings(method="essential", least_confidence=3.0)
    found = multiview_pose.score(
        exact.predictor(pairs), root, tmp_path / "none", dataset="co3d", frames=3, settings=nothing
    )
    assert found.table["average"] == {"rra_15": 0, "rta_15": 0, "maa_30": 0}
    assert found.notes[0].startswith("3 pairs without an estimate count with the greatest errors")
    assert "0 matches" in found.notes[0]


def test_frames_are_drawn_by_the_seed_and_recorded(
    data: tuple[dict[str, Path], exact.ExactPairs], tmp_path: Path
) -> None:
    roots, pairs = data
    drawn = []
    for number, seed in enumerate((0, 0, 1, 2)):
        found = multiview_pose.score(
            exact.predictor(pairs), roots["co3d"], tmp_path / str(number), dataset="co3d", frames=2, seed=seed
        )
        drawn.append(found.outcome.results["apple/110_2_2"]["frames"])
    assert drawn[0] == drawn[1]
    assert len({tuple(frames) for frames in drawn}) > 1
    seen = pairs.seen
    again = multiview_pose.score(
        exact.predictor(pairs), roots["co3d"], tmp_path / "0", dataset="co3d", frames=2, seed=0
    )
    assert (pairs.seen, again.outcome.found) == (seen, 1)
    with pytest.raises(Conflict, match="seed: stored 0, asked 3"):
        multiview_pose.score(exact.predictor(pairs), roots["co3d"], tmp_path / "0", dataset="co3d", frames=2, seed=3)


def test_broken_data_is_refused(tmp_path: Path) -> None:
    pairs = exact.ExactPairs()
    with pytest.raises(MissingFile, match="no sequence below"):
        multiview_pose.score(exact.predictor(pairs), tmp_path, tmp_path / "out", dataset="co3d")
    file = write_estate(tmp_path, pairs)
    with pytest.raises(InvalidInput, match="realestate10k/0a1b: 6 frames, 10 are to be drawn"):
        multiview_pose.score(exact.predictor(pairs), tmp_path, tmp_path / "out", dataset="realestate10k")
    whole = file.read_text().splitlines()
    for fields, message in (
        (whole[1].split()[:-1], "expected 18 numbers"),
        (["1000000", *"111100" + "2" * 12], "pose"),
    ):
        file.write_text("\n".join([whole[0], " ".join(fields), *whole[2:]]))
        with pytest.raises(InvalidInput, match=message):
            realestate_sequences(Tree(tmp_path, subject="estate"))
    annotations = write_co3d(tmp_path / "co3d", pairs)
    lists = tmp_path / "co3d/apple/set_lists/set_lists_fewview_dev.json"
    lists.write_text('{"test": 3}')
    with pytest.raises(InvalidInput, match=r"set_lists_fewview_dev\.json': expected"):
        multiview_pose.score(exact.predictor(pairs), annotations.parents[1], tmp_path / "new", dataset="co3d")


def test_a_pair_model_runs_through(data: tuple[dict[str, Path], exact.ExactPairs], tmp_path: Path) -> None:
    found = multiview_pose.score(exact.predictor(tiny_pair()), data[0]["co3d"], tmp_path, dataset="co3d", frames=2)
    assert 0 <= found.table["average"]["maa_30"] <= 100
