"""The table of known teachers, its listing for people, and docs/teachers.md, whose example is run."""

import re
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from extract.teachers.listing import list_teachers, teachers_command
from extract.teachers.loading import load
from extract.teachers.registry import BUILDERS, known_teachers
from store.errors import MissingFile
from tests.extract.teachers.builders import write

DOCS = Path(__file__).parents[3] / "docs" / "teachers.md"
FILES = {"dinov2": "dinov2_vitl14_reg4_pretrain.pth", "multihmr": "sub/multiHMR_672_L.pt"}


def test_sizes_of_rows() -> None:
    table = {teacher.name: teacher for teacher in known_teachers()}
    assert list(table)[:3] == ["dinov2-l-reg", "mast3r", "multihmr-672-l"]
    dinov2, mast3r = table["dinov2-l-reg"], table["mast3r"]
    assert (dinov2.tokens(336), dinov2.tokens(448)) == (577, 1025)
    assert dinov2.row_bytes(336) == 577 * 1024 * 2
    assert (mast3r.tokens(336), mast3r.row_bytes(448)) == (576, 1024 * 1024 * 2)
    assert {teacher.model.partition(":")[0] for teacher in table.values()} == set(BUILDERS)


def test_weights_are_found_by_their_published_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for model, file in FILES.items():
        write(tmp_path / file, model)
    weight_files = {teacher.name: path for teacher, path in list_teachers([tmp_path])}
    assert weight_files["dinov2-l-reg"] == tmp_path / FILES["dinov2"]
    assert weight_files["multihmr-672-l"] == tmp_path / FILES["multihmr"]
    assert weight_files["mast3r"] is None
    assert weight_files["efficientnet-lite0"] is not None  # from its wheel
    with pytest.raises(MissingFile, match="does not exist"):
        list_teachers([tmp_path / "none"])


def test_listing_says_what_a_reader_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / FILES["dinov2"], "dinov2")
    monkeypatch.setenv("CODISTILL_WEIGHTS", str(tmp_path))
    teachers_command()
    printed = capsys.readouterr().out
    for teacher in known_teachers():
        assert all(part in printed for part in (teacher.name, teacher.model, teacher.licence, teacher.where))
    assert f"here     {path}" in printed
    assert "336 px: 577 tokens, 1.18 MB a row; 448 px: 1025 tokens, 2.10 MB a row" in printed


def test_docs_name_every_teacher() -> None:
    text = DOCS.read_text()
    for teacher in known_teachers():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| `{teacher.name}` |"))
        for part in (teacher.licence, Path(teacher.file).name, f"{teacher.tokens(336)}", f"{teacher.tokens(448)}"):
            assert part in line


def test_example_of_ones_own_teacher_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n# my_teachers\.py\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert code is not None
    assert len(code.group(1).strip().splitlines()) <= 22
    (tmp_path / "my_teachers.py").write_text(code.group(1))
    monkeypatch.syspath_prepend(str(tmp_path))
    network = resnet18().eval()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")

    teacher = load("my_teachers:build", weights=tmp_path / "resnet18.pth")
    prefix, patches = teacher(torch.randint(0, 256, (2, 56, 84, 3), dtype=torch.uint8))
    assert prefix.shape == (2, 0, 256)
    assert patches.shape == (2, 24, 256)
    identity = teacher.identity(336)
    assert (identity["input_px"], identity["patch_grid"]) == ([384, 384], [24, 24])
