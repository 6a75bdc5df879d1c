"""The examples of others' trainers: each is short, runs on a tiny cache of codes, and its loss falls."""

import re
import runpy
from pathlib import Path

import pytest

from tests.train.codes import build_coded

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
STEPS = 24


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    datasets = {"faces": ("people", "train", 12), "rooms": ("scenes", "train", 10)}
    return build_coded(tmp_path_factory.mktemp("examples") / "cache", {"alpha": 16.0}, datasets=datasets).location


# pytorch-lightning 2.6 asks for torch's LeafSpec in the way that torch 2.9 and later call deprecated.
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")
# It tells of idle processors where a loader has no worker, as here.
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_its_loss_falls(
    example: Path, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(example.read_text().splitlines()) < 40
    monkeypatch.chdir(tmp_path)  # Lightning writes a checkpoint
    arguments = [cache, "--steps", str(STEPS), "--batch-size", "6", "--workers", "0"]
    monkeypatch.setattr("sys.argv", [example.name, *arguments])
    runpy.run_path(str(example), run_name="__main__")
    losses = [float(loss) for loss in re.findall(r"^step \d+ loss (\S+)$", capsys.readouterr().out, re.MULTILINE)]
    assert len(losses) == STEPS
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_there_is_one_for_each_trainer() -> None:
    assert [path.stem for path in EXAMPLES] == ["convnext", "plain_pytorch", "with_accelerate", "with_lightning"]
