"""`codistill eval heads score` and `table` from files, on miniatures; what is refused."""

import json
from pathlib import Path

import pytest
import torch

from backbones import weight_files
from backbones.vit import DinoVisionTransformer
from codistill.__main__ import main
from eval.heads import mast3r
from eval.heads.hph import files
from eval.heads.hph.sizes import HeadSizes
from eval.heads.mast3r.initialise import from_scratch
from eval.heads.mast3r.sizes import PairSizes
from eval.heads.scoring.predictor import tensors_digest
from tests.eval.heads.body import tiny_smplx
from tests.eval.heads.hph.test_samples import write_bedlam
from tests.eval.heads.mast3r.goldens import TINY
from tests.eval.heads.scoring import exact
from tests.eval.heads.scoring.test_mapfree import write_scene
from tests.eval.heads.scoring.test_multiview_depth import write_set
from tests.eval.heads.scoring.test_multiview_pose import write_co3d

PAIR = "--student student.pth --device cpu"
SCORES = "--weights pair.pth --long-side 112"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with both heads, and a miniature of each dataset."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder, pairs = tmp_path_factory.mktemp("scoring"), exact.ExactPairs()
    network = DinoVisionTransformer(embed_dim=64, depth=1, num_heads=1, register_tokens=4, pos_grid=(4, 4))
    weight_files.save(folder / "student.pth", {"model": network.state_dict()})
    sizes = PairSizes(**{**vars(TINY), "enc_embed_dim": 64})
    pair = from_scratch(network, sizes)
    with torch.no_grad():
        pair.mast3r.downstream_head1.dpt.head[4].bias[2] = 2.0  # points in front of the camera
    mast3r.save(folder / "pair.pth", pair)
    head = files.build(HeadSizes(embed_dim=64, img_size=56, dim=16, depth=1, heads=1, dim_head=8, mlp_dim=16))
    files.save(folder / "head.pt", head)
    tiny_smplx.write(folder / "SMPLX_NEUTRAL.npz")
    write_scene(folder / "mapfree", pairs, "s00460")
    write_set(folder / "robustmvd", pairs, "kitti")
    write_co3d(folder / "co3d", pairs)
    write_bedlam(folder / "bedlam", "street")
    return folder


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (f"score map-free --data mapfree {SCORES} {PAIR} --method essential", "precision_vcre_90px"),
        (f"score multiview-depth --data robustmvd {SCORES} {PAIR} --order given", "absrel"),
        (f"score multiview-pose --data co3d --dataset co3d --frames 2 {SCORES} {PAIR}", "maa_30"),
        (
            "score human-mesh --data bedlam --split training --weights head.pt --body SMPLX_NEUTRAL.npz --every 1 "
            f"--threshold 0.9 {PAIR}",
            "f1",
        ),
    ],
)
def test_a_benchmark_runs_from_files_and_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, shown: str
) -> None:
    monkeypatch.chdir(folder)
    out = typed.split()[1]
    command = ["eval", "heads", *typed.split(), "--out", out]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert shown in said
    results = sorted((folder / out / "results").iterdir())
    times = [path.stat().st_mtime_ns for path in results]
    assert main(command) == 0
    assert capsys.readouterr().out == said
    assert [path.stat().st_mtime_ns for path in results] == times
    assert shown in (folder / out / "scores.json").read_text()


def test_table_4_from_files_tells_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    command = f"eval heads table 4 --data . --mast3r pair.pth --long-side 112 {PAIR} --name tiny --out t4"
    assert main(command.split()) == 0  # the test set is only for the leaderboard
    said = capsys.readouterr().out
    assert "| **tiny** | this run |" in said
    assert "mapfree-test: not run; no folder mapfree/test" in said
    assert json.loads((folder / "t4" / "table-4.json").read_text())["method"] == "tiny"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (f"score map-free --data nothing {SCORES} {PAIR} --out o", "--data 'nothing'"),
        (f"score map-free --data mapfree {SCORES} --device cpu --out o", "Pass encoder=FILE_OR_RUN"),
        (f"score multiview-depth --data co3d {SCORES} {PAIR} --out o", "no sample in 'co3d'"),
        (f"score multiview-depth --data robustmvd {SCORES} {PAIR} --out mapfree", "'mapfree' is not empty"),
        (f"score multiview-pose --data co3d --dataset co3d --frames 1 {SCORES} {PAIR} --out o", "--frames"),
        (f"score map-free --data mapfree --weights head.pt {PAIR} --out o", "weights 'head.pt' as MASt3R"),
        (f"table 8 --data mapfree --mast3r pair.pth {PAIR} --out o", "table 8: nothing to show"),
        ("table 2 --data . --out o", "2"),
    ],
)
def test_bad_input_is_refused_in_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    assert main(["eval", "heads", *typed.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (folder / "o" / "results").exists()


def test_equal_weights_have_one_digest_and_others_another() -> None:
    torch.manual_seed(0)
    first = torch.nn.Linear(3, 2)
    second = torch.nn.Linear(3, 2)
    before = tensors_digest(first)
    assert tensors_digest(second) != before
    second.load_state_dict(first.state_dict())
    assert tensors_digest(second) == before
    with torch.no_grad():
        second.weight[1, 2] += 1e-6
    assert tensors_digest(second) != before
