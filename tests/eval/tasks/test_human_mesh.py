"""Matching of people, F1, PVE and PA-PVE, on people whose errors are known."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from eval.tasks import human_mesh, prediction_files
from store.errors import InvalidInput, MissingFile, UnsafeFile

JOINTS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 20.0], [10.0, 20.0]])


class Body:
    """A fake body model: a template and two blend shapes, posed by a rigid motion."""

    def __init__(self, vertices: int = 200) -> None:
        random = np.random.default_rng(7)
        self.template = random.normal(size=(vertices, 3))
        self.blend = random.normal(size=(2, vertices, 3)) * 0.1

    def mesh(self, betas: tuple[float, float], turn: Rotation, shift: tuple[float, float, float]) -> np.ndarray:
        return np.asarray(turn.apply(self.template + np.tensordot(betas, self.blend, axes=1)) + shift)


def people(*corners: tuple[float, float]) -> np.ndarray:
    return np.stack([JOINTS + corner for corner in corners]) if corners else np.empty((0, 4, 2))


def test_four_people_one_missed_one_invented_score_75() -> None:
    true = people((0, 0), (100, 0), (200, 0), (300, 0))
    predicted = people((1, 0), (101, 0), (201, 0), (900, 900))
    pairs = human_mesh.match(predicted, true)
    assert sorted(pairs) == [(0, 0), (1, 1), (2, 2)]
    scores = human_mesh.detection_scores(human_mesh.Detections(true_positives=len(pairs), false_positives=1, misses=1))
    assert scores == {"precision": 75, "recall": 75, "f1": 75, "f1_unrounded": 75}


def test_scores_round_the_share_as_the_original_does() -> None:
    counts = [
        human_mesh.Detections(true_positives=tp, false_positives=fp, misses=misses)
        for tp, fp, misses in itertools.product(range(60), repeat=3)
    ]
    scores = np.array([list(human_mesh.detection_scores(entry).values()) for entry in counts])
    tp, fp, misses = np.array(list(itertools.product(range(60), repeat=3)), dtype=float).T
    matched = np.maximum(tp, 1)  # without a match all shares are 0
    shares = np.where(tp > 0, [tp / (matched + fp), tp / (matched + misses), tp / (matched + (fp + misses) / 2)], 0)
    expected = [[100 * float(f"{share:.2f}") for share in row] for row in shares.T]
    np.testing.assert_allclose(scores[:, :3], expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(scores[:, 3], 100 * shares[2])
    assert (scores[:, :3] % 1 == 0).all()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # (true positives, false positives, misses) -> precision, recall, F1, of the original's own function.
        ((2, 1, 1), (67, 67, 67)),
        ((1, 39, 0), (3, 100, 5)),  # 2.5 %: rounded percents would be 2
        ((3, 37, 0), (7, 100, 14)),  # 7.5 %: rounded percents would be 8
        ((0, 0, 5), (0, 0, 0)),  # no prediction at all
        ((0, 5, 0), (0, 0, 0)),  # nobody there
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_detection_scores_of_the_original(counts: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    tp, fp, misses = counts
    scores = human_mesh.detection_scores(human_mesh.Detections(true_positives=tp, false_positives=fp, misses=misses))
    assert (scores["precision"], scores["recall"], scores["f1"]) == expected


def test_the_nearest_pair_is_taken_first_and_nobody_twice() -> None:
    true = people((0, 0), (6, 0))
    predicted = people((4, 0), (5, 0))
    # Greedy: (1, 1) is nearest; then (0, 1) is taken already, so 0 gets 0 although 1 is nearer to it.
    assert human_mesh.match(predicted, true) == [(1, 1), (0, 0)]
    assert human_mesh.match(predicted[:1], true) == [(0, 1)]
    assert human_mesh.match(people(), true) == human_mesh.match(predicted, people()) == []


def test_distance_is_the_spectral_norm() -> None:
    # Frobenius norms 5.66 and 6; spectral norms 5.66 (all joints move alike) and 4.24 (they move apart).
    alike = JOINTS + np.array([2.0, 2.0])
    apart = JOINTS + np.array([[3.0, 0.0], [0.0, 3.0], [-3.0, 0.0], [0.0, -3.0]])
    assert human_mesh.match(np.stack([alike, apart]), people((0, 0)))[0] == (1, 0)


def test_pairs_without_overlap_use_up_the_budget_of_predictions() -> None:
    # Thin sticks side by side: nearest to each other, but their boxes do not overlap.
    stick = np.array([[0.0, 0.0], [0.0, 40.0]])
    true = np.stack([stick, np.add(stick, (300, 0))])
    predicted = np.stack([np.add(stick, (5, 0)), np.add(stick, (300, 30))])
    assert human_mesh.box_overlap(predicted[0], true[0]) == 0
    assert human_mesh.box_overlap(predicted[1], true[1]) == pytest.approx(11 / (41 + 41 - 11))
    assert human_mesh.match(predicted, true) == [(1, 1)]
    # With two such sticks both predictions are used up before the far pair's turn.
    crowd = np.stack([stick, np.add(stick, (1, 0)), np.add(stick, (300, 0))])
    assert human_mesh.match(predicted, crowd) == []


def test_box_overlap_counts_end_pixels() -> None:
    assert human_mesh.box_overlap(JOINTS, JOINTS) == 1
    assert human_mesh.box_overlap(JOINTS, np.add(JOINTS, (10, 0))) == pytest.approx(21 / (2 * 11 * 21 - 21))


@settings(max_examples=25, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    scale=st.floats(0.1, 10),
    shift=st.tuples(*[st.floats(-5, 5)] * 3),
)
def test_a_similarity_transform_has_no_procrustes_error(
    angles: tuple[float, float, float], scale: float, shift: tuple[float, float, float]
) -> None:
    mesh = Body().mesh((0.5, -1.0), Rotation.identity(), (0.0, 0.0, 3.0))
    moved = scale * Rotation.from_euler("xyz", angles, degrees=True).apply(mesh) + shift
    assert human_mesh.pa_pve_mm(moved, mesh) == pytest.approx(0, abs=1e-6)


def test_procrustes_never_mirrors_and_is_a_least_squares_fit() -> None:
    mesh = Body().template
    assert human_mesh.pa_pve_mm(mesh * (-1, 1, 1), mesh) > 100
    noisy = mesh + np.random.default_rng(0).normal(size=mesh.shape) * 0.1
    best = np.sum((human_mesh.align(noisy, mesh) - mesh) ** 2)
    for change in (0.99, 1.01):
        assert np.sum((human_mesh.align(noisy, mesh) * change - mesh) ** 2) > best


def test_pve_is_relative_to_the_root_and_in_millimetres() -> None:
    mesh = Body().template
    roots = (np.array([0.0, 0.0, 5.0]), np.zeros(3))
    assert human_mesh.pve_mm(mesh + roots[0], mesh, roots=roots) == pytest.approx(0, abs=1e-9)
    assert human_mesh.pve_mm(np.add(mesh, (0.003, 0.004, 5.0)), mesh, roots=roots) == pytest.approx(5)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Four people in two of three images; predictions miss one, invent one, and are 5 mm off."""
    body = Body()
    meshes = np.stack([body.mesh((k, -k), Rotation.from_euler("y", 30 * k), (k, 0, 4)) for k in range(4)])
    joints = people((0, 0), (100, 0), (0, 0), (300, 0))
    images = np.array(["a", "a", "b", "b"])
    true, predicted = tmp_path / "true.npz", tmp_path / "predicted.npz"
    np.savez(true, image=images, images=["a", "b", "c"], joints2d=joints, vertices=meshes, root=meshes[:, 0])
    keep = np.array([3, 1, 0, 0])
    shifted = joints[keep].copy()
    shifted[3] += 500
    off = np.array([0.003, 0, 0.004])
    names = np.array(["b", "a", "a", "c"])
    np.savez(predicted, image=names, joints2d=shifted, vertices=meshes[keep] + off, root=meshes[keep, 0])
    return predicted, true


def test_files_are_scored_image_by_image(files: tuple[Path, Path]) -> None:
    scores = prediction_files.score_human_meshes(*files)
    assert (scores["precision"], scores["recall"], scores["f1"]) == (75, 75, 75)
    assert (scores["people"], scores["matched"]) == (4, 3)
    assert scores["pve_mm"] == pytest.approx(5)
    assert scores["pa_pve_mm"] == pytest.approx(0, abs=1e-6)


def test_no_prediction_at_all_scores_0_and_has_no_mesh_errors(files: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "nobody.npz"
    content = {name: array[:0] for name, array in np.load(files[0]).items()}
    np.savez(empty, **content)
    scores = prediction_files.score_human_meshes(empty, files[1])
    assert (scores["precision"], scores["recall"], scores["f1"], scores["matched"]) == (0, 0, 0, 0)
    assert np.isnan([scores["pve_mm"], scores["pa_pve_mm"]]).all()


def test_folders_add_up_to_the_same(files: tuple[Path, Path], tmp_path: Path) -> None:
    for path in files:
        (tmp_path / path.stem).mkdir()
        content = np.load(path)
        for image in "abc":
            rows = content["image"] == image
            np.savez(
                tmp_path / path.stem / f"{image}.npz",
                images=[image],
                **{name: content[name][rows] for name in ("image", "joints2d", "vertices", "root")},
            )
    whole = prediction_files.score_human_meshes(*files)
    split = prediction_files.score_human_meshes(tmp_path / "predicted", tmp_path / "true")
    assert split == pytest.approx(whole)


def test_files_that_cannot_be_scored_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    predicted, true = files
    content = dict(np.load(predicted))
    np.savez(tmp_path / "foreign.npz", **{**content, "image": np.array(["a", "a", "b", "z"])})
    with pytest.raises(InvalidInput, match="image 'z' is not among those"):
        prediction_files.score_human_meshes(tmp_path / "foreign.npz", true)
    np.savez(tmp_path / "short.npz", **{**content, "root": content["root"][:2]})
    with pytest.raises(InvalidInput, match="different lengths"):
        prediction_files.score_human_meshes(tmp_path / "short.npz", true)
    np.savez(tmp_path / "objects.npz", **{**content, "image": np.array(["a", "a", "b", None], dtype=object)})
    with pytest.raises(UnsafeFile, match="no objects"):
        prediction_files.score_human_meshes(tmp_path / "objects.npz", true)
    with pytest.raises(MissingFile, match=r"none\.npz"):
        prediction_files.score_human_meshes(tmp_path / "none.npz", true)
