"""`codistill eval heads`: train and predict from files, on miniatures; what is refused, before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backbones import weight_files
from backbones.vit import DinoVisionTransformer
from codistill.__main__ import main
from eval.heads.pairs.resize import resize_image
from tests.eval.heads.body import tiny_smplx
from tests.eval.heads.hph.test_samples import write_bedlam

MAST3R = (
    "--recipe laptop --steps 2 --resolutions 70 56 --part 1 --loss.matches 64 --decoder.dim 16 --decoder.depth 2 "
    "--decoder.heads 2 --decoder.dpt-dims 4 4 4 4 --decoder.dpt-features 4 --decoder.dpt-last 4 --device cpu"
)
HPH = (
    "--recipe laptop --img-size 56 --steps 2 --batch 1 --head.dim 16 --head.heads 1 --head.dim-head 8 "
    "--head.mlp-dim 16 --head.block-heads 1 --readers 1 --device cpu"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, pairs of rooms with one texture, two pictures, BEDLAM's layout and a body model."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("heads")
    torch.manual_seed(0)
    network = DinoVisionTransformer(embed_dim=64, depth=1, num_heads=1, register_tokens=4, pos_grid=(4, 4))
    weight_files.save(folder / "student.pth", {"model": network.state_dict()})
    soft = resize_image(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8), (160, 120))
    (folder / "textures").mkdir()
    Image.fromarray(soft).save(folder / "textures" / "a.png")
    Image.fromarray(soft).save(folder / "a.png")
    Image.fromarray(soft[:, 30:110]).save(folder / "b.png")
    (folder / "PAIRS.toml").write_text(
        '[[dataset]]\nname = "rooms"\nkind = "raycast"\nroot = "textures"\npairs = 2\n'
        "options = { size = [70, 56], count = 2, samples = 1 }\n"
    )
    write_bedlam(folder, "street")
    tiny_smplx.write(folder / "SMPLX_NEUTRAL.npz")
    return folder


def heads(folder: Path, typed: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(folder)
    return main(["eval", "heads", *typed.split()])


def test_a_decoder_is_trained_and_shows_what_it_predicts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"train mast3r --student student.pth --pairs PAIRS.toml --out run {MAST3R}"
    assert heads(folder, command, monkeypatch) == 0
    assert "trained 2 steps into 'run'" in capsys.readouterr().out
    assert heads(folder, f"{command} --resume", monkeypatch) == 0
    look = "predict mast3r a.png b.png --weights run/mast3r.pth --student student.pth --device cpu --out look"
    assert heads(folder, f"{look} --intrinsics2 60 60 20 30 --least-confidence 0", monkeypatch) == 0
    assert "matches" in capsys.readouterr().out
    names = {path.name for path in (folder / "look").iterdir()}
    pictures = {"depth.png", "confidence.png", "matches.png"}
    assert names == {"points.ply", "points.glb", "maps.npz", "pose.json", *pictures}
    said = json.loads((folder / "look" / "pose.json").read_text())
    sizes = [(view["width_px"], view["height_px"]) for view in said["views"]]
    assert sizes == [(70, 42), (42, 70)]  # at the long side of the training
    assert (said["pose"] is None) == bool(said["failure"])
    assert [view["intrinsics_estimated"] for view in said["views"]] == [True, False]
    maps = np.load(folder / "look" / "maps.npz")
    cloud = trimesh.load(folder / "look" / "points.ply")
    expected = np.concatenate([maps["points1"].reshape(-1, 3), maps["points2"].reshape(-1, 3)])
    np.testing.assert_allclose(cloud.vertices, expected, rtol=1e-6)
    (points,) = trimesh.load(folder / "look" / "points.glb").geometry.values()
    np.testing.assert_allclose(points.vertices, expected * [1, -1, -1], rtol=1e-5)
    for name in pictures:
        with Image.open(folder / "look" / name) as picture:
            assert picture.size == (112, 70)


def test_a_perception_head_is_trained_and_shows_people(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "--student student.pth --body SMPLX_NEUTRAL.npz"
    assert heads(folder, f"train hph {body} --data . --out people {HPH}", monkeypatch) == 0
    look = f"predict hph a.png b.png {body} --weights people/head.pt --device cpu --out seen"
    assert heads(folder, f"{look} --threshold 0", monkeypatch) == 0
    assert "a.png: " in capsys.readouterr().out
    assert {path.name for path in (folder / "seen").iterdir()} == {
        f"{name}.{suffix}" for name in "ab" for suffix in ("png", "json", "glb")
    }


REFUSED = {
    "tran": "unknown command 'tran' (did you mean 'train'?)",
    "train mast3": "unknown command 'mast3' (did you mean 'mast3r'?)",
    "train mast3r --student student.pth --pairs PAIRS.tml --out r": "--pairs 'PAIRS.tml': no such file",
    "train mast3r --student textures --pairs PAIRS.toml --out r": "no recipe.json in it",
    "train mast3r --student s --pairs p --out r --device gpu": "3 problems",
    "train mast3r --student student.pth --pairs PAIRS.toml --out r --recipe labtop": "did you mean 'laptop'",
    "train mast3r --student student.pth --pairs PAIRS.toml --out r --part 3": "part: expected a divisor of batch 64",
    "train mast3r --student student.pth --pairs PAIRS.toml --out r --optim.lrr 3": "did you mean '--optim.lr'?",
    "train mast3r --student student.pth --pairs PAIRS.toml --out textures": "'textures' is not empty and not a run",
    "train hph --student student.pth --data . --body any --out r": "did you mean 'anny'?",
    "train hph --student student.pth --data . --body anny --out r --img-size 7": "expected a multiple of 14 px",
    "train hph --student student.pth --data . --body anny --out r --means a.png": "--means are of SMPL's joints",
    "predict mast3r a.png --weights student.pth --out o": "missing SECOND",
    "predict mast3r a.png b.png --weights student.pth --out o --subsample 0": "--subsample: expected a number",
    "predict mast3r a.png b.png --weights student.pth --out o --intrinsics1 1 2 3 -4": "--intrinsics1: expected",
    "predict hph a.png a.png --weights student.pth --student student.pth --out o": "two pictures are named 'a'",
}
RUN_ALL = """
import contextlib, io, json, sys
from codistill.__main__ import main
said = {}
for typed in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        code = main(["eval", "heads", *typed.split()])
    said[typed] = [code, stream.getvalue(), "torch" in sys.modules]
print(json.dumps(said))
"""


def test_arguments_are_checked_before_torch_is_imported(folder: Path) -> None:
    command = [sys.executable, "-c", RUN_ALL, json.dumps(list(REFUSED))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    for typed, (code, shown, torch_imported) in json.loads(done.stdout).items():
        assert REFUSED[typed] in shown
        assert (code, shown.count("\n"), torch_imported) == (2, 1, False), typed


def test_wrong_files_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed, message in (
        ("predict mast3r a.png b.png --weights student.pth --out o", "expected a MASt3R decoder with heads"),
        ("predict mast3r a.png PAIRS.toml --weights student.pth --out o", "picture 'PAIRS.toml': "),
        (f"train mast3r --student student.pth --pairs SMPLX_NEUTRAL.npz --out o {MAST3R}", "not valid TOML"),
        (f"train mast3r --student a.png --pairs PAIRS.toml --out o {MAST3R}", "expected safetensors or a PyTorch file"),
        (f"train hph --student student.pth --data textures --body SMPLX_NEUTRAL.npz --out o {HPH}", "no annotations"),
    ):
        assert heads(folder, typed, monkeypatch) == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert shown.startswith("error: ")
        assert shown.count("\n") == 1
    assert not (folder / "o").exists()
