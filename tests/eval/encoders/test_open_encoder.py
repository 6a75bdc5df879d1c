"""Opening of students, projectors, DUNE files and teachers; the commands of the probes on a run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.images import normalise
from backbones.vit import DinoVisionTransformer
from eval.commands import probes
from eval.encoders import load, open_encoder
from eval.encoders.options import EncoderOptions
from eval.probes import probe_results
from eval.probes.settings import CentreSettings, CropSettings, KnnSettings, SegmentationSettings, validate
from store.common.cli import run as run_program
from store.errors import InvalidConfig, InvalidInput
from tests.eval.builders import build_cache, train_run
from tests.eval.probes.probing import camvid_tree, colour_folders
from train.run.load import load as load_run
from train.run.output import CHECKPOINTS

CPU = torch.device("cpu")
PROGRAM = {"knn": probes.knn, "linear": probes.linear, "segmentation": probes.segmentation}
OWN_TEACHER = "tests.extract.own_teachers:spiky"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student after two steps."""
    folder = tmp_path_factory.mktemp("probed")
    torch.set_num_threads(1)
    return train_run(build_cache(folder / "cache"), folder / "run", schedule={"steps": 2})


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), dtype=np.uint8)


def test_a_student_gives_cls_and_patches_with_or_without_its_norm(pixels: np.ndarray) -> None:
    network = DinoVisionTransformer(embed_dim=32, depth=2, num_heads=2, register_tokens=4, pos_grid=(4, 4)).eval()
    with torch.no_grad():
        raw, _ = network.forward_tokens(normalise(torch.from_numpy(pixels)))
        normed = network.norm(raw)
    for final_norm, expected in ((True, normed), (False, raw)):
        encoder = open_encoder.of_student(network, name="s", cell_px=14, device=CPU, final_norm=final_norm)
        tokens = encoder(pixels, batch=2)
        assert tokens.cls is not None
        assert tokens.grid == (4, 4)
        np.testing.assert_allclose(tokens.cls, expected[:, 0], atol=1e-5)
        np.testing.assert_allclose(tokens.patches, expected[:, 5:], atol=1e-5)
        np.testing.assert_allclose(tokens.pooled()["mean"], expected[:, 5:].mean(1), atol=1e-5)
    padded = encoder(pixels[:, :43, :50])
    assert (padded.grid, padded.patches.shape) == ((4, 4), (3, 16, 32))


def test_identity_tells_weights_norm_and_precision_apart() -> None:
    networks = [DinoVisionTransformer(embed_dim=32, depth=1, num_heads=2, pos_grid=(4, 4)) for _ in "ab"]
    variants = [
        open_encoder.of_student(networks[0], name="s", cell_px=14, device=CPU),
        open_encoder.of_student(networks[1], name="s", cell_px=14, device=CPU),
        open_encoder.of_student(networks[0], name="s", cell_px=14, device=CPU, final_norm=False),
        open_encoder.of_student(networks[0], name="s", cell_px=14, device=CPU, dtype="bfloat16"),
    ]
    assert len({str(sorted(entry.identity.items())) for entry in variants}) == 4
    with pytest.raises(InvalidInput, match="dtype 'int8'"):
        open_encoder.of_student(networks[0], name="s", cell_px=14, device=CPU, dtype="int8")


def test_a_run_is_probed_trained_untrained_and_through_a_projector(run: Path, pixels: np.ndarray) -> None:
    read = load_run(run)

    def opened(**options: object) -> open_encoder.OpenEncoder:
        return load.open_encoder(str(run), EncoderOptions(**options), device=CPU, final_norm=True)

    trained, untrained, projected = opened(), opened(untrained=True), opened(projector="alpha")
    images = normalise(torch.from_numpy(pixels))
    with torch.no_grad():
        prefix, patches = read.distiller(images)["alpha"]
        first = read.initial().encoder(images)
    tokens = projected(pixels)
    assert tokens.cls is not None
    np.testing.assert_allclose(tokens.cls, prefix[:, 0], atol=1e-5)
    np.testing.assert_allclose(tokens.patches, patches, atol=1e-5)
    np.testing.assert_allclose(untrained(pixels).patches, first[:, -16:], atol=1e-5)
    assert np.abs(trained(pixels).patches - untrained(pixels).patches).max() > 1e-3
    assert [entry.name for entry in (trained, untrained, projected)] == ["run", "run-untrained", "run-alpha"]
    with pytest.raises(InvalidInput, match=r"projector 'alpa': this student has alpha, beta \(did you mean 'alpha'"):
        opened(projector="alpa")
    with pytest.raises(InvalidInput, match="--weights would have no effect"):
        opened(weights=Path("w.pth"))


def test_a_file_of_dunes_layout_is_an_encoder(tmp_path: Path, pixels: np.ndarray) -> None:
    network = DinoVisionTransformer(
        embed_dim=64, depth=2, num_heads=1, register_tokens=4, pos_grid=(4, 4), layer_scale=1e-4
    ).eval()
    path = tmp_path / "dune.pth"
    torch.save({"model": {f"encoder.{name}": value for name, value in network.state_dict().items()}}, path)
    encoder = load.open_encoder(str(path), EncoderOptions(), device=CPU, final_norm=True)
    with torch.no_grad():
        expected = network(normalise(torch.from_numpy(pixels)))
    np.testing.assert_allclose(encoder(pixels).patches, expected[:, 5:], atol=1e-5)
    with pytest.raises(InvalidInput, match="an encoder without projectors"):
        load.open_encoder(str(path), EncoderOptions(projector="dinov2"), device=CPU, final_norm=True)


def test_a_teacher_is_probed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"")
    encoder = load.open_encoder(
        OWN_TEACHER, EncoderOptions(weights=tmp_path / "weights.pth"), device=CPU, final_norm=True
    )
    grey = np.full((1, 28, 42, 3), 124, dtype=np.uint8)
    tokens = encoder(grey)
    assert (tokens.cls, tokens.grid, tokens.patches.shape) == (None, (2, 3), (1, 6, 3))
    assert "input_px" not in encoder.identity
    with pytest.raises(InvalidInput, match="expected a run directory"):
        load.open_encoder(OWN_TEACHER, EncoderOptions(), device=CPU, final_norm=True)
    with pytest.raises(InvalidInput, match="--untrained, --projector would have no effect"):
        load.open_encoder(OWN_TEACHER, EncoderOptions(untrained=True, projector="a"), device=CPU, final_norm=True)


def test_settings_that_cannot_work_are_refused_together() -> None:
    settings = SegmentationSettings(iterations=0, lr=-1, crops=CropSettings(crop=64, stride=100))
    with pytest.raises(InvalidConfig) as raised:
        validate(settings, subject="segmentation probe")
    assert len(raised.value.problems) == 3
    assert "crops.stride: 100 is more than the crop, 64" in str(raised.value)
    with pytest.raises(InvalidConfig, match="crop: 300 does not fit"):
        validate(KnnSettings(centre=CentreSettings(crop=300)), subject="knn probe")
    validate(SegmentationSettings(seed=0, weight_decay=0), subject="segmentation probe")


def test_commands_keep_results_with_the_run_until_its_weights_change(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probed = tmp_path / "run"
    shutil.copytree(run, probed)
    data, features = colour_folders(tmp_path / "colours"), tmp_path / "features"
    (tmp_path / "weights.pth").write_bytes(b"")

    def knn(*arguments: str) -> str:
        shown = ["--data", str(data), "--features", str(features), "--centre.resize", "28", "--centre.crop", "28"]
        assert run_program("codistill eval", "probe", PROGRAM, argv=["knn", *arguments, *shown]) == 0
        return capsys.readouterr().out

    (data / "train" / "leaf").rename(data / "train" / "Leaf")
    (tmp_path / "no-run").mkdir()
    arguments = ["knn", str(tmp_path / "no-run"), "--data", str(data), "--features", str(features)]
    assert run_program("codistill eval", "probe", PROGRAM, argv=arguments) == 2
    assert "no training image: 'leaf'" in capsys.readouterr().err  # before the encoder is looked for
    (data / "train" / "Leaf").rename(data / "train" / "leaf")
    first = knn(str(probed))
    assert "knn of run on colours" in first
    assert "top1_k20" in first
    knn(str(probed), "--untrained")
    knn(OWN_TEACHER, "--weights", str(tmp_path / "weights.pth"), "--run", str(probed))
    results = probe_results.all_results(probed)
    assert [entry.encoder for entry in results] == ["run", "run-untrained", "spiky"]
    assert {entry.kind for entry in results} == {"knn"}
    assert results[2].figures["top1_k10"] == 100
    shutil.rmtree(features)
    assert knn(str(probed)) == first
    assert not features.exists()  # nothing was extracted again
    checkpoints = probed / CHECKPOINTS
    shutil.copytree(checkpoints / "step-00000002", checkpoints / "step-00000003")
    weights = checkpoints / "step-00000003" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    assert probe_results.all_results(probed) == []


def test_segmentation_and_linear_commands_and_their_errors(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probed = tmp_path / "run"
    shutil.copytree(run, probed)
    features = str(tmp_path / "features")
    arguments = ["segmentation", str(probed), "--layout", "camvid", "--features", features]
    camvid = camvid_tree(tmp_path / "camvid", images=2)
    sizes = ["--crops.short-side", "28", "--crops.crop", "28", "--crops.stride", "14", "--views", "1"]
    call = [*arguments, "--data", str(camvid), *sizes, "--iterations", "2", "--batch", "2"]
    assert run_program("codistill eval", "probe", PROGRAM, argv=call) == 0
    assert "miou" in capsys.readouterr().out
    assert probe_results.all_results(probed)[0].kind == "segmentation"
    assert run_program("codistill eval", "probe", PROGRAM, argv=[*call, "--batch", "0"]) == 2
    assert "batch: expected more than 0, found 0" in capsys.readouterr().err
    colours = colour_folders(tmp_path / "colours", train=3, test=1)
    call = ["linear", str(probed), "--data", str(colours), "--features", features, "--strengths", "1.0"]
    sizes = ["--centre.resize", "28", "--centre.crop", "28", "--held-out", "0.4"]
    assert run_program("codistill eval", "probe", PROGRAM, argv=[*call, *sizes]) == 0
    assert "top1" in capsys.readouterr().out
