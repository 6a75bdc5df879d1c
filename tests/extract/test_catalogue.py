"""Catalogues: what is accepted, where files are looked for, and that every problem is reported at once."""

from pathlib import Path

import pytest

from extract.catalogue import Catalogue, load_catalogue, unset_variable
from store import errors

GOOD = """
[recipe]
image_size = 56
[[dataset]]
name = "cats"
group = "generic"
root = "images/cats"
rotate = [{ contains = "closeup", degrees = -90 }]
[[teacher]]
name = "t"
model = "timm:vit_tiny_patch16_224"
weights = "weights/t.safetensors"
groups = ["generic"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "catalogue.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> str:
    with pytest.raises(errors.InvalidConfig) as caught:
        load_catalogue(written(folder, text))
    return str(caught.value)


def test_paths_start_at_the_catalogue_and_variables_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODISTILL_TEST_DATA", "/data")
    text = GOOD.replace("weights/t", "${CODISTILL_TEST_DATA}/t")
    catalogue = load_catalogue(written(tmp_path, text))
    assert catalogue.dataset[0].root == tmp_path / "images/cats"
    assert catalogue.teacher[0].weights == Path("/data/t.safetensors")
    assert catalogue.dataset[0].rotation_of("a/closeup/1.png") == 270
    assert catalogue.dataset[0].rotation_of("a/1.png") == 0
    assert unset_variable(Path("/${CODISTILL_NOT_SET}/x")) == "CODISTILL_NOT_SET"


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("image_size = 56", "image_size = 100\ncrop_scal = [0.4, 1.0]").replace(
        'group = "generic"', 'group = "generic"\nviews = 0\nfirst_vew = 2'
    )
    message = problems(
        tmp_path, text.replace("degrees = -90", "degrees = -45").replace('name = "t"', 'name = "pixels"')
    )
    assert message.startswith(f"catalogue '{tmp_path / 'catalogue.toml'}': 6 problems.")
    for expected in (
        "recipe.image_size: 100 px is not a multiple of the student's patch of 14 px; use 98 or 112",
        "recipe.crop_scal: unknown key (did you mean 'crop_scale'?)",
        "dataset[0].views: input should be greater than or equal to 1, found 0",
        "dataset[0].first_vew: unknown key (did you mean 'first_view'?)",
        "dataset[0].rotate[0].degrees: ",
        "teacher[0].name: teacher name 'pixels' is reserved",
    ):
        assert expected in message


def test_problems_between_entries(tmp_path: Path) -> None:
    again = GOOD[GOOD.index("[[dataset]]") :].replace('groups = ["generic"]', 'groups = ["generc"]')
    message = problems(tmp_path, GOOD + again)
    assert "dataset: the name 'cats' is used 2 times" in message
    assert "teacher: the name 't' is used 2 times" in message
    assert "teacher[1].groups: 'generc' is no dataset's group (did you mean 'generic'?)" in message


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ('pattern = "*.png"\nlist = "a.txt"', "list, pattern are given; keep one"),
        ('mode = "center"\nviews = 2', "mode 'center' has one view"),
    ],
)
def test_choices_that_contradict(tmp_path: Path, added: str, expected: str) -> None:
    assert expected in problems(tmp_path, GOOD.replace('group = "generic"', f'group = "generic"\n{added}'))


@pytest.mark.parametrize("ratio", ["'8'", "true", "1", "0", "-4", "nan", "inf"])
def test_a_ratio_is_a_number_from_2_on(tmp_path: Path, ratio: str) -> None:
    def with_ratio(value: str) -> str:
        return GOOD.replace("[[teacher]]", f"[[teacher]]\nratio = {value}")

    assert "teacher[0].ratio" in problems(tmp_path, with_ratio(ratio))
    assert load_catalogue(written(tmp_path, with_ratio("16"))).teacher[0].ratio == 16


def test_not_a_catalogue(tmp_path: Path) -> None:
    assert "not valid TOML" in problems(tmp_path, "dataset = [")
    assert "dataset: missing" in problems(tmp_path, "")
    assert "dataset: expected at least one" in problems(tmp_path, "dataset = []")
    with pytest.raises(errors.MissingFile, match=r"none\.toml"):
        load_catalogue(tmp_path / "none.toml")


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    catalogue: Catalogue = load_catalogue(written(tmp_path, GOOD))
    with pytest.raises(errors.MissingName, match=r"dataset 'cat' .* \(did you mean 'cats'\?\); available: cats"):
        catalogue.dataset_named("cat")
    with pytest.raises(errors.MissingName, match="teacher 'zzz' is not in this catalogue; available: t"):
        catalogue.teacher_named("zzz")
