"""Command line of the probes."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eval.encoders.options import EncoderOptions
from eval.probes.settings import DepthSettings, KnnSettings, LinearSettings, SegmentationSettings, check

if TYPE_CHECKING:
    from eval.probes.datasets import Dense, Folders

Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODER")]
Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Compute = Callable[..., Mapping[str, Any]]
Settings = KnnSettings | LinearSettings | SegmentationSettings | DepthSettings
_KNN, _LINEAR = KnnSettings(), LinearSettings()
_SEGMENTATION, _DEPTH = SegmentationSettings(), DepthSettings()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the four commands have in common.

    Args:
        encoder: run directory, .pth file of DUNE's layout, or a teacher's model with --weights.
        data: root folder of the dataset; docs/evaluation-probes.md has the layouts.
        features: folder where features are kept and found again.
        run: keep the result with this run, for its report; the default is the run that is probed.
        options: how the encoder is taken.
    """

    encoder: Source
    data: Folder
    features: Folder
    run: Folder | None = None
    options: Annotated[EncoderOptions, tyro.conf.arg(name="")] = field(default_factory=EncoderOptions)


Shared = Annotated[Inputs, tyro.conf.arg(name="")]


def knn(
    inputs: Shared,
    *,
    test_split: str = "test",
    settings: Annotated[KnnSettings, tyro.conf.arg(name="")] = _KNN,
) -> None:
    """Classify images by their nearest neighbours in feature space.

    example: codistill eval knn demo/run --data cifar10 --features features --centre.resize 112 --centre.crop 112

    Args:
        inputs: encoder and data, which is train/CLASS/* and test/CLASS/*.
        test_split: name of the test folder.
        settings: of the probe.
    """
    from eval.probes.classification import run_knn

    _probe("knn", inputs, run_knn, _folders(inputs, test_split), settings)


def linear(
    inputs: Shared,
    *,
    test_split: str = "test",
    settings: Annotated[LinearSettings, tyro.conf.arg(name="")] = _LINEAR,
) -> None:
    """Classify images by logistic regression on their features.

    example: codistill eval linear demo/run --data cifar10 --features features --centre.resize 112 --centre.crop 112

    Args:
        inputs: encoder and data, which is train/CLASS/* and test/CLASS/*.
        test_split: name of the test folder.
        settings: of the probe.
    """
    from eval.probes.classification import run_linear

    _probe("linear", inputs, run_linear, _folders(inputs, test_split), settings)


def segmentation(
    inputs: Shared,
    *,
    layout: str,
    settings: Annotated[SegmentationSettings, tyro.conf.arg(name="")] = _SEGMENTATION,
) -> None:
    """Train a linear segmentation head on frozen features and measure mean IoU.

    example: codistill eval segmentation runs/a --data ADEChallengeData2016 --layout ade20k --features features

    Args:
        inputs: encoder and data.
        layout: ade20k, cityscapes, nyuv2, scannet or camvid.
        settings: of the probe.
    """
    from eval.probes import datasets
    from eval.probes import segmentation as probe

    parts = datasets.segmentation(layout, inputs.data, "train"), datasets.segmentation(layout, inputs.data, "test")
    _probe("segmentation", inputs, probe.run, parts, settings)


def depth(
    inputs: Shared,
    *,
    settings: Annotated[DepthSettings, tyro.conf.arg(name="")] = _DEPTH,
) -> None:
    """Train a linear depth head on frozen features and measure RMSE in metres (NYUd layout).

    example: codistill eval depth runs/a --data nyu --features features

    Args:
        inputs: encoder and data, with nyu_train.txt and nyu_test.txt.
        settings: of the probe.
    """
    from eval.probes import datasets
    from eval.probes import depth as probe

    parts = (datasets.depth(inputs.data, "train"), datasets.depth(inputs.data, "test"))
    _probe("depth", inputs, probe.run, parts, settings, final_norm=False)


def _folders(inputs: Inputs, test_split: str) -> "tuple[Folders, Folders]":
    from eval.probes.datasets import folders

    return folders(inputs.data, "train"), folders(inputs.data, test_split)


def _probe(
    kind: str,
    inputs: Inputs,
    compute: Compute,
    parts: "tuple[Folders | Dense, Folders | Dense]",
    settings: Settings,
    *,
    final_norm: bool = True,
) -> None:
    """Open the encoder, compute or find the figures, keep and print them.

    Args:
        kind: of probe.
        inputs: encoder and data.
        compute: from the encoder, train=, test=, shelf= and settings= to figures.
        parts: train and test.
        settings: of the probe.
        final_norm: the probe's default.
    """
    import torch

    from backbones.device import resolve_device
    from eval.encoders.load import choose
    from eval.probes import probe_results
    from eval.probes.datasets import identity
    from eval.probes.feature_store import FeatureStore
    from eval.runs.results import digest

    check(settings, subject=f"{kind} probe")
    device = torch.device(resolve_device(inputs.options.device))
    encoder = choose(inputs.encoder, inputs.options, device=device, final_norm=final_norm)
    name = inputs.data.resolve().name
    shelf = FeatureStore(root=inputs.features, dataset=name, progress=_bar)
    train, test = parts

    def figures_of() -> Mapping[str, Any]:
        return compute(encoder, train=train, test=test, shelf=shelf, settings=settings)

    run = inputs.run or (Path(inputs.encoder) if Path(inputs.encoder).is_dir() else None)
    if run is None:
        figures = figures_of()
    else:
        depends_on = {
            "encoder": encoder.name,
            "encoder_sha256": digest(dict(encoder.identity)),
            "dataset": name,
            "dataset_sha256": [identity(dataset)["sha256"] for dataset in parts],
            "settings": asdict(settings),
        }
        figures, _ = probe_results.results(run).get_or_compute(kind, depends_on, lambda: (figures_of(), None))
    sys.stdout.write(f"{kind} of {encoder.name} on {name}\n")
    for figure, value in figures.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        if not isinstance(value, list):
            sys.stdout.write(f"  {figure:<18} {shown}\n")


def _bar(steps: Iterable[int]) -> Iterator[int]:
    from tqdm import tqdm

    return iter(tqdm(steps, disable=None))
