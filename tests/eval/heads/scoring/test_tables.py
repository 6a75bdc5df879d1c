"""Tables of the paper for one model, on a folder of miniatures: figures, files, what is left out, what fails."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.encoders.open_encoder import OpenEncoder, of_student
from eval.heads.body.smplx import SmplX
from eval.heads.hph.bedlam import Bedlam
from eval.heads.scoring.human_mesh import PeopleModel
from eval.heads.scoring.paper_tables import NUMBERS, TABLES
from eval.heads.scoring.table_parts import Models, parts_of
from eval.heads.scoring.tables import NOT_RUN, write_table
from eval.probes.settings import CropSettings, SegmentationSettings
from store.errors import InvalidInput, MissingFile
from tests.eval.heads.body import tiny_smplx
from tests.eval.heads.hph.test_samples import write_bedlam
from tests.eval.heads.mast3r.goldens import tiny_student
from tests.eval.heads.pairs import trees
from tests.eval.heads.scoring import exact
from tests.eval.heads.scoring.people import ExactHead, first_pixel
from tests.eval.heads.scoring.test_mapfree import write_scene
from tests.eval.heads.scoring.test_multiview_depth import write_set
from tests.eval.heads.scoring.test_multiview_pose import write_co3d

TINY_PROBE = SegmentationSettings(
    crops=CropSettings(short_side=28, crop=28, stride=28, long_cap=56), views=1, iterations=2, batch=2
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Models]:
    torch.set_num_threads(1)
    root, pairs = tmp_path_factory.mktemp("data"), exact.ExactPairs()
    write_scene(root / "mapfree", pairs, "s00460")
    write_scene(root / "mapfree", pairs, "s00525", index=2, split="test", zeros=True)
    for dataset in ("kitti", "dtu"):
        write_set(root / "robustmvd", pairs, dataset)
    write_bedlam(root / "bedlam", "20221010_3_1000")
    (root / "bedlam/training").rename(root / "bedlam/validation")
    (root / "bedlam/all_npz_12_training").rename(root / "bedlam/all_npz_12_validation")
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for number in range(2):
            trees.write_image(root / f"ade20k/images/{split}/{number}.jpg", rng.integers(0, 255, (28, 28, 3), np.uint8))
            trees.write_image(root / f"ade20k/annotations/{split}/{number}.png", np.full((28, 28), 3, np.uint8))
    body = SmplX(tiny_smplx.write(root / "SMPLX_NEUTRAL.npz"))

    def people() -> PeopleModel:
        head: Any = ExactHead(Bedlam(root / "bedlam", "validation", every=25))
        return PeopleModel(head=head, tokens=first_pixel, body=body, identity={})

    student: Any = tiny_student()

    def encoder(final_norm: bool) -> OpenEncoder:
        return of_student(student, name="s", cell_px=14, device=torch.device("cpu"), final_norm=final_norm)

    models = Models(pairs=lambda: exact.predictor(pairs), people=people, encoder=encoder, segmentation=TINY_PROBE)
    return root, models


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_4_has_all_figures_and_the_submission_of_the_test_set(data: tuple[Path, Models], tmp_path: Path) -> None:
    root, models = data
    result = write_table(4, parts_of(4, models), root, tmp_path, method="mine")
    assert result.complete
    table = rows(tmp_path / "table-4.csv")
    assert [row["source"] for row in table] == ["paper"] * 5 + ["this run"]
    assert table[-1]["method"] == "mine"
    assert table[-1]["auc_vcre_90px"] == table[-1]["precision_pose"] == "100.0"
    assert float(table[-1]["median_translation_m"]) < 0.1
    assert table[-2]["auc_vcre_90px"] == "94.3"
    assert (tmp_path / "mapfree-test/submission.zip").is_file()
    markdown = (tmp_path / "table-4.md").read_text()
    assert "| DUNE | ViT-Base | 84.0 | 64.4 | 94.3 | 81.1 | 47.4 | 0.39 | 4.6 | 76.8 | 55.9 |" in markdown
    assert "| **mine** | this run | 100.0 |" in markdown
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1


@pytest.mark.parametrize("number", [1, 3])
def test_tables_1_and_3_are_made_of_four_protocols(data: tuple[Path, Models], tmp_path: Path, number: Any) -> None:
    root, models = data
    result = write_table(number, parts_of(number, models), root, tmp_path, method="mine")
    assert result.figures["mapfree_auc"] == 100
    assert result.figures["bedlam_f1"] == 100
    assert result.figures["bedlam_pa_pve"] == pytest.approx(0, abs=1e-3)
    assert 0 <= result.figures["ade20k_miou"] <= 100
    assert not result.complete
    assert [note for note in result.notes if note.startswith("nyud: not run; no folder")]
    row = rows(tmp_path / f"table-{number}.csv")[-1]
    assert row["nyud_rmse"] == NOT_RUN
    assert row["mapfree_auc"] == "100.0"
    stored = json.loads((tmp_path / f"table-{number}.json").read_text())
    assert stored["figures"] == result.figures
    again = write_table(number, parts_of(number, models), root, tmp_path, method="mine")
    assert again.figures == result.figures


def test_table_7_has_no_average_of_some_sets(data: tuple[Path, Models], tmp_path: Path) -> None:
    root, models = data
    result = write_table(7, parts_of(7, models), root, tmp_path, method="mine")
    row = rows(tmp_path / "table-7.csv")[-1]
    assert row["kitti_inliers"] == row["dtu_inliers"] == "100.00"
    assert row["average_absrel"] == row["scannet_absrel"] == NOT_RUN
    assert "no average, as there is nothing of scannet, eth3d, tanks_and_temples" in result.notes[0]
    assert not result.complete


def test_table_8_leaves_out_what_is_not_there_and_tells_what_fails(data: tuple[Path, Models], tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"table 8: nothing to show\. co3d: not run; no folder"):
        write_table(8, parts_of(8, data[1]), tmp_path, tmp_path / "out", method="mine")
    pairs = exact.ExactPairs()
    write_co3d(tmp_path / "co3d", pairs)
    with pytest.raises(InvalidInput, match=r"co3d: failed; .*6 frames, 10 are to be drawn"):
        write_table(
            8, parts_of(8, Models(pairs=lambda: exact.predictor(pairs))), tmp_path, tmp_path / "out", method="mine"
        )
    with pytest.raises(MissingFile, match="co3d: not run; it needs --mast3r"):
        write_table(8, parts_of(8, Models()), tmp_path, tmp_path / "out", method="mine")


def test_rows_of_the_paper() -> None:
    assert set(TABLES) == set(NUMBERS) == {1, 3, 4, 7, 8}
    seven = TABLES[7]
    for row in seven.rows:  # the averages are those of the five sets
        for figure in ("absrel", "inliers"):
            sets = [row.figures[column.name] for column in seven.columns if column.name.endswith(figure)]
            assert np.mean(sets[:-1]) == pytest.approx(sets[-1], abs=0.06)
    for row in TABLES[4].rows:  # an AUC is not below the precision at the same threshold
        for name in ("vcre_45px", "vcre_90px", "pose"):
            assert row.figures[f"auc_{name}"] > row.figures[f"precision_{name}"]
