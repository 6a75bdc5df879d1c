"""Training images of people: squares, cameras, mirroring, and BEDLAM's layout on a miniature."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval.heads.body.smplx import SmplX
from eval.heads.hph.bedlam import Bedlam
from eval.heads.hph.samples import Sample, flipped, square_image, square_intrinsics, to_batch
from store.errors import InvalidInput, MissingFile, UnsafeFile
from tests.eval.heads.body import tiny_smplx

CAMERA = np.array([[80.0, 0, 30], [0, 82, 22], [0, 0, 1]])


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> SmplX:
    return SmplX(tiny_smplx.write(tmp_path_factory.mktemp("smplx") / "SMPLX_NEUTRAL.npz"))


def sample(people: int, *, img_size: int = 56) -> Sample:
    random = np.random.default_rng(people)
    transl = random.normal(0, 0.3, (people, 3)) + np.array([0, 0, 4])
    return Sample(
        name="one.png",
        pixels=random.integers(0, 255, (img_size, img_size, 3), dtype=np.uint8),
        intrinsics=square_intrinsics(CAMERA, width=64, height=48, img_size=img_size),
        rotvec=random.normal(0, 0.5, (people, 53, 3)).astype(np.float32),
        shape=random.normal(0, 1, (people, 11)).astype(np.float32),
        transl=transl.astype(np.float32),
    )


def test_an_image_is_centred_on_black_and_its_camera_scaled_per_axis() -> None:
    wide = np.full((48, 64, 3), 200, dtype=np.uint8)
    square = square_image(wide, 32)
    assert square.shape == (32, 32, 3)
    assert square[[3, 4, 27, 28], 0, 0].tolist() == [0, 200, 200, 0]
    camera = square_intrinsics(CAMERA, width=64, height=48, img_size=32)
    np.testing.assert_allclose(camera, [[40, 0, 15], [0, 41, 32 * 22 / 48], [0, 0, 1]], rtol=1e-6)


def test_a_mirrored_image_shows_mirrored_people(body: SmplX) -> None:
    original = sample(3)
    mirrored = flipped(original, body.mirrored)
    first, second = (to_batch([one], body, device=torch.device("cpu")).truth for one in (original, mirrored))
    expected = torch.stack([56 - first.v2d[..., 0], first.v2d[..., 1]], dim=-1)
    swapped = torch.arange(tiny_smplx.VERTICES) ^ 1
    torch.testing.assert_close(second.v2d[:, swapped], expected, atol=2e-3, rtol=1e-5)
    torch.testing.assert_close(second.dist, first.dist)
    assert np.array_equal(mirrored.pixels[:, ::-1], original.pixels)
    again = flipped(mirrored, body.mirrored)
    assert all(np.allclose(vars(again)[name], vars(original)[name]) for name in ("intrinsics", "rotvec", "transl"))


def test_images_without_people_stay_in_their_place(body: SmplX) -> None:
    batch = to_batch([sample(0), sample(2), sample(0)], body, device=torch.device("cpu"))
    assert batch.pixels.shape == (3, 56, 56, 3)
    assert batch.truth.idx_image_row_col[:, 0].tolist() == [1, 1]
    assert batch.truth.scores.sum((1, 2)).tolist() == [0, 2, 0]
    nobody = to_batch([sample(0)], body, device=torch.device("cpu"))
    assert nobody.truth.v3d.shape == (0, tiny_smplx.VERTICES, 3)


def test_people_of_another_body_model_are_refused(body: SmplX) -> None:
    other = Sample(**{**vars(sample(1)), "rotvec": np.zeros((1, 104, 3), dtype=np.float32)})
    with pytest.raises(InvalidInput, match=r"'one.png': people of 104 rotations, the body model has 53"):
        to_batch([other], body, device=torch.device("cpu"))


def write_bedlam(root: Path, sequence: str, **changes: Any) -> Path:
    """Write a sequence of two images, 64 x 48 px, lying down for a close-up: three people in the first, one behind."""
    random = np.random.default_rng(5)
    folder = root / "training" / sequence / "png" / "seq_000000"
    folder.mkdir(parents=True)
    for number in range(2):
        picture = np.zeros((48, 64, 3), dtype=np.uint8)
        picture[:24, :, 0], picture[:, :32, 1] = 250, 250  # red above, green on the left
        Image.fromarray(picture).save(folder / f"seq_000000_000{number}.png")
    external = np.tile(np.eye(4), (4, 1, 1))
    external[:, :3, 3] = [0.5, 0, 1]
    content: dict[str, Any] = {
        "imgname": np.array([f"seq_000000/seq_000000_000{number}.png" for number in (1, 0, 0, 0)]),
        "pose_cam": random.normal(size=(4, 165)),
        "shape": random.normal(size=(4, 11)),
        "trans_cam": np.array([[0, 0, 2.0], [0, 0, 5], [0.1, 0, 3], [0, 0, -1.5]]),
        "cam_ext": external,
        "cam_int": np.tile(CAMERA, (4, 1, 1)),
        "vtemplate": np.array([{}], dtype=object),
        **changes,
    }
    annotations = root / "all_npz_12_training"
    annotations.mkdir(exist_ok=True)
    np.savez(annotations / f"{sequence}.npz", **content)
    return root


def test_bedlam_is_read_near_to_far_in_the_heads_order(tmp_path: Path, body: SmplX) -> None:
    data = Bedlam(write_bedlam(tmp_path, "20221010_3_1000"), "training")
    assert len(data) == 2
    first, second = (data.sample(index, img_size=28) for index in range(2))
    assert first.name == "training/20221010_3_1000/png/seq_000000/seq_000000_0000.png"
    np.testing.assert_allclose(first.transl, [[0.6, 0, 4], [0.5, 0, 6]], rtol=1e-6)
    pose = np.random.default_rng(5).normal(size=(4, 165)).astype(np.float32)[2].reshape(55, 3)
    expected = np.concatenate([pose[:22], pose[25:40], pose[40:55], pose[22:23]])
    np.testing.assert_array_equal(first.rotvec[0], expected)
    assert (second.rotvec.shape, second.shape.shape) == ((1, 53, 3), (1, 11))
    assert to_batch([first, second], body, device=torch.device("cpu")).intrinsics.shape == (2, 3, 3)


def test_a_closeup_is_turned_clockwise(tmp_path: Path) -> None:
    first = Bedlam(write_bedlam(tmp_path, "20221019_closeup"), "training").sample(0, img_size=64)
    # Lying down, red is above and green on the left; upright, red is on the right and green above.
    assert first.pixels[16, 50].tolist() == [250, 250, 0]
    assert first.pixels[50, 50].tolist() == [250, 0, 0]
    assert first.pixels[16, 16].tolist() == [0, 250, 0]
    assert first.pixels[32, 2].tolist() == [0, 0, 0]
    np.testing.assert_allclose(first.intrinsics[:2, 2], [64 * 30 / 48, 64 * 22 / 64], rtol=1e-6)


def test_every_so_many_images_are_taken(tmp_path: Path) -> None:
    assert len(Bedlam(write_bedlam(tmp_path, "one"), "training", every=25)) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"trans_cam": np.zeros((3, 3))}, InvalidInput, "imgname has 4 rows; trans_cam has 3 rows"),
        ({"pose_cam": np.zeros((4, 156))}, InvalidInput, r"pose_cam has shape \(4, 156\), expected \('n', 165\)"),
        ({"shape": np.full((4, 11), np.inf)}, InvalidInput, "expected finite numbers in shape"),
        ({"imgname": np.array([Path("a")] * 4, dtype=object)}, UnsafeFile, "nothing is unpickled"),
    ],
)
def test_annotations_of_another_form_are_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Bedlam(write_bedlam(tmp_path, "one", **changes), "training")


@pytest.mark.parametrize(
    ("name", "message"),
    [("../../../../secret.png", "outside the root"), ("seq_000000/none.png", "No such file")],
)
def test_an_image_that_is_missing_or_outside_is_named(tmp_path: Path, name: str, message: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    root = write_bedlam(tmp_path / "BEDLAM", "one", imgname=np.array([name] * 4))
    with pytest.raises(MissingFile, match=message):
        Bedlam(root, "training").sample(0, img_size=28)


def test_a_root_without_annotations_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="Give the folder that holds 'all_npz_12_validation' and 'validation'"):
        Bedlam(tmp_path, "validation")
