"""Human meshes from images to scores: exact, spoilt, interrupted, broken; a head on a miniature of BEDLAM."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eval.heads import hph
from eval.heads.body.smplx import SmplX
from eval.heads.hph.bedlam import Bedlam
from eval.heads.scoring import human_mesh
from eval.heads.scoring.human_mesh import PeopleModel
from eval.heads.scoring.settings import DetectionSettings
from store.errors import Conflict, InvalidInput
from tests.eval.heads.body import tiny_smplx
from tests.eval.heads.hph import golden
from tests.eval.heads.hph.test_samples import write_bedlam
from tests.eval.heads.scoring.people import ExactHead, Pictures, first_pixel

DATA = {"name": "pictures"}


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> SmplX:
    torch.set_num_threads(1)
    return SmplX(tiny_smplx.write(tmp_path_factory.mktemp("smplx") / "SMPLX_NEUTRAL.npz"))


def model(head: Any, body: SmplX, **identity: Any) -> PeopleModel:
    return PeopleModel(head=head, tokens=first_pixel, body=body, identity={"name": "exact", **identity})


def test_exact_people_score_perfectly(body: SmplX, tmp_path: Path) -> None:
    pictures = Pictures()
    found = human_mesh.score(model(ExactHead(pictures), body), pictures, tmp_path, dataset=DATA)
    assert (found.scores["f1"], found.scores["people"], found.scores["matched"]) == (100, 3, 3)
    assert found.scores["pve_mm"] == pytest.approx(0, abs=1e-3)
    assert found.scores["pa_pve_mm"] == pytest.approx(0, abs=1e-3)
    assert found.notes == []


def test_spoilt_people_score_badly(body: SmplX, tmp_path: Path) -> None:
    pictures = Pictures()

    def moved_away(posed: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**posed, "j2d": posed["j2d"] + torch.tensor([1000.0, 0])}

    found = human_mesh.score(model(ExactHead(pictures, moved_away), body), pictures, tmp_path / "away", dataset=DATA)
    assert (found.scores["f1"], found.scores["matched"], found.scores["people"]) == (0, 0, 3)

    def wider(posed: dict[str, Tensor]) -> dict[str, Tensor]:
        centre = posed["j3d"][:, :1]
        return {**posed, "v3d": centre + 1.1 * (posed["v3d"] - centre)}

    found = human_mesh.score(model(ExactHead(pictures, wider), body), pictures, tmp_path / "wide", dataset=DATA)
    assert found.scores["pve_mm"] > 10
    assert found.scores["pa_pve_mm"] == pytest.approx(0, abs=1e-2)  # a similarity


def test_a_finished_image_is_not_computed_again(body: SmplX, tmp_path: Path) -> None:
    pictures, head = Pictures(broken={2}), ExactHead(Pictures())
    first = human_mesh.score(model(head, body), pictures, tmp_path, dataset=DATA)
    assert "picture2.png': people of 7 rotations" in first.outcome.failures["000002"]
    assert (first.scores["people"], head.calls) == (2, 3)
    again = human_mesh.score(model(head, body), Pictures(), tmp_path, dataset=DATA)
    assert (again.scores["people"], head.calls, again.notes) == (3, 4, [])
    for other, settings in ((model(head, body, step=2), None), (model(head, body), DetectionSettings(threshold=0.5))):
        with pytest.raises(Conflict, match=r"model\.step: stored|threshold: stored 0\.3, asked 0\.5"):
            human_mesh.score(other, Pictures(), tmp_path, dataset=DATA, settings=settings)


def test_meshes_that_are_not_finite_and_other_body_models_are_refused(body: SmplX, tmp_path: Path) -> None:
    pictures = Pictures(people=(1,))
    broken = ExactHead(pictures, lambda posed: {**posed, "v3d": posed["v3d"] * float("nan")})
    with pytest.raises(InvalidInput, match=r"'picture0\.png': predicted vertices are not finite"):
        human_mesh.score(model(broken, body), pictures, tmp_path / "a", dataset=DATA)
    linear = golden.linear_body()
    linear.rotations = 104  # type: ignore[misc]
    with pytest.raises(InvalidInput, match="it has 104 rotations and 10 expression numbers, the head predicts 53"):
        human_mesh.score(model(ExactHead(pictures), linear), pictures, tmp_path / "b", dataset=DATA)  # type: ignore[arg-type]


def test_a_head_runs_through_on_bedlams_layout(body: SmplX, tmp_path: Path) -> None:
    data = Bedlam(write_bedlam(tmp_path, "20221010_3_1000"), "training")
    head = hph.load(golden.WEIGHTS, **golden.SIZES)
    tokens = golden.numbers()["input.tokens"][:1]
    people = PeopleModel(head=head, tokens=lambda pixels: tokens, body=body, identity={})
    found = human_mesh.score(people, data, tmp_path / "out", dataset={"name": "bedlam"})
    assert found.scores["people"] == 3
    assert found.outcome.results["000000"]["predicted"] == 5
