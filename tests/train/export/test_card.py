"""Cards of students: the licence that follows, what the hub reads, and warnings that nobody overlooks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from extract.teachers.registry import known_teachers
from store import TeacherInfo
from store.errors import InvalidInput
from tests.train.builders import build_cache, teacher_info, tiny
from train.export import licences
from train.export.card import CardFacts, DatasetFacts, TeacherFacts, front_matter, licence_file
from train.export.given import parse_hub_datasets, parse_licences
from train.export.licences import Licence, for_student
from train.export.run import card_facts, export_run
from train.export.timm_folder import export_encoder
from train.loop import train
from train.model.encoder import build_encoder
from train.recipe.config import Student
from train.run.load import load

DINOV2 = {"name": "dinov2", "register_tokens": 4}


def teacher(name: str, architecture: dict[str, Any], *, prefix: int = 0, **identity: Any) -> TeacherInfo:
    info = teacher_info(name, channels=1024, prefix_tokens=prefix)
    return replace(info, identity={"architecture": architecture, **identity})


MAST3R = teacher("mast3r", {"name": "croco_encoder"})
MULTIHMR = teacher("multihmr", {"name": "dinov2"})
DINO = teacher("dinov2", DINOV2, prefix=1)


def facts(*teachers: TeacherInfo, data: str = "CC0-1.0", **values: Any) -> CardFacts:
    return CardFacts(
        name="a student",
        recipe="tiny",
        steps=3,
        teachers=[
            TeacherFacts(
                name=info.name,
                text="x",
                licence=licences.of_teacher(info),
                hub_models=licences.hub_models(info),
                random=info.random_note,
            )
            for info in teachers
        ],
        datasets=[DatasetFacts(name="faces", group="people", rows=5, licence=Licence(title=data))],
        **values,
    )


def test_licences_of_known_teachers_are_those_that_extract_lists() -> None:
    """Two tables, in two packages that may not import each other."""
    for known in known_teachers():
        architecture = {"dinov2": DINOV2, "multihmr": DINOV2}.get(known.model, {"name": "croco_encoder"})
        if known.model.startswith("timm:"):
            architecture = {"name": known.model.removeprefix("timm:").partition(".")[0]}
        found = licences.of_teacher(teacher("t", architecture, prefix=known.prefix_tokens))
        if known.name == "dinov3-convnext-l":  # an architecture with weights of several licences, told in full
            assert not found.known
            assert "dinov3-license" in found.of
        elif "DINOv3" in known.licence:
            assert found.title == "dinov3-license"
        elif known.name != "clip-l":  # timm's conversion of OpenAI's MIT weights is listed as Apache-2.0
            assert found.title == known.licence


@pytest.mark.parametrize(
    ("titles", "expected"),
    [
        (["Apache-2.0", "CC0-1.0"], ("apache-2.0", "")),
        (["MIT", "MIT"], ("mit", "")),
        (["Apache-2.0", "CC BY 4.0"], ("cc-by-4.0", "")),
        (["Apache-2.0", "CC BY-NC-SA 4.0, non-commercial"], ("cc-by-nc-sa-4.0", "")),
        (["CC BY-NC 4.0", "CC BY-NC-SA 4.0"], ("other", "non-commercial")),
        (["NAVER Multi-HMR licence, non-commercial", "Apache-2.0"], ("other", "non-commercial")),
        (["Apache-2.0", ""], ("other", "not-determined")),
        (["CC BY-NC-SA 4.0", ""], ("other", "non-commercial")),
        (["Apache-2.0", "dinov3-license"], ("other", "not-determined")),
    ],
)
def test_the_strictest_licence_is_the_students(titles: list[str], expected: tuple[str, str]) -> None:
    for order in (titles, titles[::-1]):
        found = for_student([Licence(title=title) for title in order])
        assert (found.license, found.license_name) == expected


def test_the_hub_reads_the_front_matter(tmp_path: Path) -> None:
    encoder = build_encoder(Student(architecture="tiny", depth=1), pos_grid=(4, 4)).eval()
    described = replace(
        facts(DINO, MAST3R, MULTIHMR), name='"quoted": <b>|`x`', datasets=[DatasetFacts(name="1e5", group="no", rows=1)]
    )
    export_encoder(encoder, tmp_path / "model", image_size=56, card=described)
    card = ModelCard((tmp_path / "model" / "README.md").read_text())
    data = card.data.to_dict()
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "non-commercial", "LICENSE.md")
    assert (data["library_name"], data["pipeline_tag"]) == ("timm", "image-feature-extraction")
    assert {"timm", "codistill"} <= set(data["tags"])
    assert "datasets" not in data  # the hub refuses, or links to somebody else's, what is the name of a local one
    assert "| 1e5 | no | 1 |" in card.text
    assert data["base_model"] == ["facebook/dinov2-with-registers-large"]
    licence = (tmp_path / "model" / "LICENSE.md").read_text()
    for text in (card.text, licence):
        assert "CC BY-NC-SA 4.0, non-commercial](https://creativecommons.org/licenses/by-nc-sa/4.0/)" in text
        assert "NAVER Multi-HMR licence, non-commercial" in text
    assert "**Not for commercial use**: teacher mast3r, teacher multihmr" in card.text
    compile((tmp_path / "model" / "hubconf.py").read_text(), "hubconf.py", "exec")


def test_random_weights_are_said_loudly(tmp_path: Path) -> None:
    shown = facts(teacher("dinov2", DINOV2, prefix=1, random_weights_seed=7))
    encoder = build_encoder(Student(architecture="tiny", depth=1), pos_grid=(4, 4)).eval()
    export_encoder(encoder, tmp_path, image_size=56, card=shown)
    card = (tmp_path / "README.md").read_text()
    assert "**WARNING: RANDOM WEIGHTS.**" in card[: card.index("## Use")]
    assert "dinov2 (random weights, seed 7)" in card
    assert "- random-weights" in front_matter(shown)
    assert "base_model" not in front_matter(shown)


def test_a_run_tells_its_scores_its_recipe_and_the_licences_of_all_that_it_began_with(tmp_path: Path) -> None:
    build_cache(tmp_path / "cache")
    first = tiny(schedule__steps=2, machine__threads=1, data__teachers=["alpha"], data__datasets=["faces"])
    second = tiny(
        schedule__steps=2,
        machine__threads=1,
        data__teachers=["beta"],
        data__datasets=["rooms"],
        start__checkpoint=str(tmp_path / "first"),
    )
    for recipe, name in ((first, "first"), (second, "second")):
        train(recipe, caches=[str(tmp_path / "cache")], out=tmp_path / name, quiet=True)
    run = load(tmp_path / "second")
    found = card_facts(run, parse_licences(["faces=CC-BY-NC-4.0", "alpha=MIT"]))
    assert dict(found.licences) == {
        "teacher alpha": Licence(title="MIT"),
        "teacher beta": Licence(),
        "data faces": Licence(title="CC-BY-NC-4.0"),
        "data rooms": Licence(),
    }
    assert found.hub_licence.license_name == "non-commercial"
    assert "**unknown**" in licence_file(found)
    assert set(found.fidelity["held"]) == {"beta"}
    export_run(run, tmp_path / "student", hub_datasets=parse_hub_datasets(["rooms=owner/Rooms-1.0"]))
    card = (tmp_path / "student" / "README.md").read_text()
    assert ModelCard(card).data.to_dict()["datasets"] == ["owner/Rooms-1.0"]
    assert "| rooms ([owner/Rooms-1.0](https://huggingface.co/datasets/owner/Rooms-1.0)) | scenes |" in card
    assert f"| held | {found.fidelity['held']['beta']:.4f} |" in card
    assert json.loads(card[card.index("```json") + 7 : card.rindex("```")])["data"]["datasets"] == ["rooms"]
    with pytest.raises(InvalidInput, match=r"'face' is no teacher or dataset .*did you mean 'faces'"):
        card_facts(run, parse_licences(["face=MIT"]))
    with pytest.raises(InvalidInput, match="expected NAME=LICENCE"):
        parse_licences(["faces"])
    with pytest.raises(InvalidInput, match=r"--hub-datasets: 'room' is no training dataset .*did you mean 'rooms'"):
        card_facts(run, {}, hub_datasets={"room": "owner/rooms"})
    with pytest.raises(InvalidInput, match=r"expected NAME=OWNER/DATASET .*, found rooms=\.\./x"):
        parse_hub_datasets(["rooms=../x"])
