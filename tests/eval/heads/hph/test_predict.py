"""People of a picture: pixels back in the picture, its files, and the scoring of meshes."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from eval.encoders.open_encoder import OpenEncoder
from eval.heads import hph
from eval.heads.hph import outputs, overlay
from eval.heads.hph.head import PerceptionHead
from eval.heads.hph.predict import Prediction, predict
from eval.heads.hph.student import FrozenTokens
from eval.tasks.prediction_files import score_human_meshes
from store.common import strict_json
from store.errors import InvalidInput
from tests.eval.heads.hph import golden


class GoldenTokens:
    """An encoder that gives the golden tokens of its first image, whatever it sees, and remembers what that was."""

    channels = 32
    seen: torch.Tensor

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen = pixels
        patches = golden.numbers()["input.tokens"][:1]
        return patches[:, :0], patches


@pytest.fixture(scope="module")
def head() -> PerceptionHead:
    torch.set_num_threads(1)
    return hph.load(golden.WEIGHTS, **golden.SIZES)


def tokens(network: GoldenTokens) -> FrozenTokens:
    return FrozenTokens(
        OpenEncoder(name="golden", identity={}, network=network, cell_px=14, device=torch.device("cpu"))
    )


def predicted(head: PerceptionHead, **options: Any) -> Prediction:
    picture = np.full((112, 224, 3), 90, dtype=np.uint8)  # scaled by a half, with 28 px above and below
    matrix = np.array([[200, 0, 112], [0, 200, 56], [0, 0, 1]])
    camera = {} if "field_of_view_degrees" in options else {"intrinsics": matrix}
    picture = options.pop("picture", picture)
    arguments: dict[str, Any] = {"body": golden.linear_body(), **camera, **options}
    return predict(picture, head=head, tokens=tokens(GoldenTokens()), **arguments)


def test_places_are_those_of_the_picture(head: PerceptionHead) -> None:
    found = predicted(head)
    expected = golden.numbers()["output.loc"][:5].double().numpy()
    np.testing.assert_allclose(found.in_picture(found.people.loc), (expected - [0, 28]) * 2, rtol=1e-6)
    np.testing.assert_allclose(found.intrinsics, [[100, 0, 56], [0, 100, 56], [0, 0, 1]])
    network = GoldenTokens()
    assumed = predict(found.pixels, head=head, tokens=tokens(network), field_of_view_degrees=90)
    assert network.seen.shape == (1, 112, 112, 3)
    np.testing.assert_allclose(assumed.intrinsics, [[56, 0, 56], [0, 56, 56], [0, 0, 1]], rtol=1e-6)
    assert (found.assumed_camera, assumed.assumed_camera) == (False, True)


def test_files_of_a_picture(head: PerceptionHead, tmp_path: Path) -> None:
    found = predicted(head)
    files = outputs.write(found, tmp_path / "new", stem="street")
    assert [file.name for file in files] == ["street.png", "street.json", "street.glb"]
    content = strict_json.parse_object(files[1].read_bytes(), where="street.json")
    assert content["image"] == {"width_px": 224, "height_px": 112}
    people = content["people"]
    np.testing.assert_allclose([person["loc"] for person in people], found.in_picture(found.people.loc))
    np.testing.assert_allclose([person["dist"] for person in people], found.people.dist)
    assert people[0]["cell_row_col"] == [0, 4]
    scene = trimesh.load(io.BytesIO(files[2].read_bytes()), file_type="glb")
    assert sorted(scene.geometry) == [f"person{number}" for number in range(1, 6)]
    mesh = scene.geometry["person2"]
    assert found.people.v3d is not None
    np.testing.assert_allclose(mesh.vertices, found.people.v3d[1] * torch.tensor([1.0, -1, -1]), atol=1e-5)
    assert mesh.faces.tolist() == golden.LinearBody.faces.tolist()
    with Image.open(files[0]) as picture:
        assert picture.size == (224, 112)
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10


def test_meshes_are_painted_in_front_of_farther_ones(head: PerceptionHead) -> None:
    found = predicted(head)
    near = torch.tensor([[-1.0, -1, 2], [1, -1, 2], [0, 1, 2]])
    people = found.people
    names = people.keys()
    two = {name: people[name][:2] for name in names}
    two["dist"] = torch.tensor([[2.0], [4.0]])
    two["v3d"] = torch.stack([near, 2 * near])
    two["v2d"] = torch.tensor([[[20.0, 30], [90, 30], [56, 80]]]).expand(2, 3, 2)
    prediction = replace(found, people=replace(people, **two), faces=np.array([[0, 1, 2]]))
    colour = np.asarray(overlay.draw(prediction))[50, 112]  # (56, 53) in the square
    painted = 0.25 * 90 + 0.75 * np.array(overlay.COLOURS[0]) * (overlay.DARKEST + (1 - overlay.DARKEST) * 0.95)
    np.testing.assert_allclose(colour, painted, atol=8)


def test_a_picture_without_people_has_files_that_say_so(head: PerceptionHead, tmp_path: Path) -> None:
    found = predicted(head, threshold=1.0)
    files = outputs.write(found, tmp_path, stem="empty")
    assert [file.suffix for file in files] == [".png", ".json"]
    assert json.loads(files[1].read_text())["people"] == []
    with pytest.raises(InvalidInput, match="lower the threshold"):
        outputs.glb(found)


def test_predictions_are_scored_as_meshes(head: PerceptionHead, tmp_path: Path) -> None:
    found, nobody = predicted(head).people, predicted(head, threshold=1.0).people
    arrays = outputs.scored_arrays([("a.png", found), ("b.png", nobody)])
    np.savez(tmp_path / "ours.npz", **arrays)
    np.savez(tmp_path / "true.npz", **arrays, images=np.array(["a.png", "b.png"]))
    scores = score_human_meshes(tmp_path / "ours.npz", tmp_path / "true.npz")
    assert (scores["f1"], scores["people"]) == (100.0, 5.0)
    assert scores["pve_mm"] == pytest.approx(0, abs=1e-3)
    empty = outputs.scored_arrays([("b.png", nobody)])
    assert (empty["image"].shape, empty["vertices"].shape, empty["joints2d"].shape) == ((0,), (0, 12, 3), (0, 20, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"picture": np.zeros((4, 4), dtype=np.uint8)}, "expected uint8"),
        ({"intrinsics": None}, "either intrinsics or a field of view"),
        ({"field_of_view_degrees": 180.0}, "less than 180 degrees, found 180"),
    ],
)
def test_other_input_is_refused(head: PerceptionHead, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        predicted(head, **options)


def test_another_body_model_or_a_path_as_name_is_refused(head: PerceptionHead, tmp_path: Path) -> None:
    body = golden.linear_body()
    body.rotations = 104  # type: ignore[misc]
    with pytest.raises(InvalidInput, match="it has 104 rotations and 10 expression numbers, the head predicts 53"):
        predicted(head, body=body)
    with pytest.raises(InvalidInput, match="expected a name without folders"):
        outputs.write(predicted(head), tmp_path, stem="../street")
