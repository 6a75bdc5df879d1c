"""Command line of the probes."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eval.probes.settings import DepthSettings, EncoderOptions, KnnSettings, LinearSettings, SegmentationSettings, check

if TYPE_CHECKING:
    from eval.probes.datasets import Dense, Folders
    from eval.probes.encoders import ProbedEncoder
    from eval.probes.features import Shelf

Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODER")]
Folder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Options = Annotated[EncoderOptions, tyro.conf.arg(name="")]
Compute = Callable[["ProbedEncoder", "Shelf"], Mapping[str, Any]]
Settings = KnnSettings | LinearSettings | SegmentationSettings | DepthSettings
_OPTIONS = EncoderOptions()
_KNN, _LINEAR = KnnSettings(), LinearSettings()
_SEGMENTATION, _DEPTH = SegmentationSettings(), DepthSettings()


def knn(
    encoder: Source,
    *,
    data: Folder,
    features: Folder,
    test_split: str = "test",
    run: Folder | None = None,
    options: Options = _OPTIONS,
    settings: Annotated[KnnSettings, tyro.conf.arg(name="")] = _KNN,
) -> None:
    """Classify images by their nearest neighbours in feature space.

    example: codistill eval knn demo/run --data cifar10 --features features --centre.resize 112 --centre.crop 112

    Args:
        encoder: run directory, .pth file of DUNE's layout, or a teacher's model with --weights.
        data: folder of train/CLASS/* and test/CLASS/*.
        features: folder where features are kept and found again.
        test_split: name of the test folder.
        run: keep the result with this run, for its report; the default is the run that is probed.
        options: how the encoder is taken.
        settings: of the probe.
    """
    from eval.probes import classification_probe as probe
    from eval.probes.datasets import folders

    train, test = folders(data, "train"), folders(data, test_split)
    _probe(
        _Job(kind="knn", source=encoder, data=data, features=features, run=run, options=options),
        lambda chosen, shelf: probe.run_knn(chosen, train=train, test=test, shelf=shelf, settings=settings),
        datasets=(train, test),
        settings=settings,
    )


def linear(
    encoder: Source,
    *,
    data: Folder,
    features: Folder,
    test_split: str = "test",
    run: Folder | None = None,
    options: Options = _OPTIONS,
    settings: Annotated[LinearSettings, tyro.conf.arg(name="")] = _LINEAR,
) -> None:
    """Classify images by logistic regression on their features.

    example: codistill eval linear demo/run --data cifar10 --features features --centre.resize 112 --centre.crop 112

    Args:
        encoder: run directory, .pth file of DUNE's layout, or a teacher's model with --weights.
        data: folder of train/CLASS/* and test/CLASS/*.
        features: folder where features are kept and found again.
        test_split: name of the test folder.
        run: keep the result with this run, for its report; the default is the run that is probed.
        options: how the encoder is taken.
        settings: of the probe.
    """
    from eval.probes import classification_probe as probe
    from eval.probes.datasets import folders

    train, test = folders(data, "train"), folders(data, test_split)
    _probe(
        _Job(kind="linear", source=encoder, data=data, features=features, run=run, options=options),
        lambda chosen, shelf: probe.run_linear(chosen, train=train, test=test, shelf=shelf, settings=settings),
        datasets=(train, test),
        settings=settings,
    )


def segmentation(
    encoder: Source,
    *,
    data: Folder,
    layout: str,
    features: Folder,
    run: Folder | None = None,
    options: Options = _OPTIONS,
    settings: Annotated[SegmentationSettings, tyro.conf.arg(name="")] = _SEGMENTATION,
) -> None:
    """Train a linear segmentation head on frozen features and measure mean IoU.

    example: codistill eval segmentation runs/a --data ADEChallengeData2016 --layout ade20k --features features

    Args:
        encoder: run directory, .pth file of DUNE's layout, or a teacher's model with --weights.
        data: root folder of the dataset.
        layout: ade20k, cityscapes, nyuv2, scannet or camvid.
        features: folder where features are kept and found again.
        run: keep the result with this run, for its report; the default is the run that is probed.
        options: how the encoder is taken.
        settings: of the probe.
    """
    from eval.probes import datasets, segmentation_probe

    train, test = datasets.segmentation(layout, data, "train"), datasets.segmentation(layout, data, "test")
    _probe(
        _Job(kind="segmentation", source=encoder, data=data, features=features, run=run, options=options),
        lambda chosen, shelf: segmentation_probe.run(chosen, train=train, test=test, shelf=shelf, settings=settings),
        datasets=(train, test),
        settings=settings,
    )


def depth(
    encoder: Source,
    *,
    data: Folder,
    features: Folder,
    run: Folder | None = None,
    options: Options = _OPTIONS,
    settings: Annotated[DepthSettings, tyro.conf.arg(name="")] = _DEPTH,
) -> None:
    """Train a linear depth head on frozen features and measure RMSE in metres (NYUd layout).

    example: codistill eval depth runs/a --data nyu --features features

    Args:
        encoder: run directory, .pth file of DUNE's layout, or a teacher's model with --weights.
        data: folder with nyu_train.txt and nyu_test.txt.
        features: folder where features are kept and found again.
        run: keep the result with this run, for its report; the default is the run that is probed.
        options: how the encoder is taken.
        settings: of the probe.
    """
    from eval.probes import datasets, depth_probe

    train, test = datasets.depth(data, "train"), datasets.depth(data, "test")
    _probe(
        _Job(kind="depth", source=encoder, data=data, features=features, run=run, options=options, final_norm=False),
        lambda chosen, shelf: depth_probe.run(chosen, train=train, test=test, shelf=shelf, settings=settings),
        datasets=(train, test),
        settings=settings,
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the four commands have in common."""

    kind: str
    source: str
    data: Path
    features: Path
    run: Path | None
    options: EncoderOptions
    final_norm: bool = True


def _probe(job: _Job, compute: Compute, *, datasets: "tuple[Folders | Dense, ...]", settings: Settings) -> None:
    """Open the encoder, compute or find the figures, keep and print them."""
    import torch

    from eval.probes import kept
    from eval.probes.choice import choose
    from eval.probes.datasets import identity
    from eval.probes.features import Shelf
    from eval.results import digest
    from extract.workshop import resolve_device

    check(settings, subject=f"{job.kind} probe")
    device = torch.device(resolve_device(job.options.device))
    encoder = choose(job.source, job.options, device=device, final_norm=job.final_norm)
    name = job.data.resolve().name
    shelf = Shelf(root=job.features, dataset=name, progress=_bar)
    run = job.run or (Path(job.source) if Path(job.source).is_dir() else None)
    if run is None:
        figures = compute(encoder, shelf)
    else:
        depends_on = {
            "encoder": encoder.name,
            "encoder_sha256": digest(dict(encoder.identity)),
            "dataset": name,
            "dataset_sha256": [identity(dataset)["sha256"] for dataset in datasets],
            "settings": asdict(settings),
        }
        figures, _ = kept.results(run).get_or_compute(job.kind, depends_on, lambda: (compute(encoder, shelf), None))
    sys.stdout.write(f"{job.kind} of {encoder.name} on {name}\n")
    for figure, value in figures.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        if not isinstance(value, list):
            sys.stdout.write(f"  {figure:<18} {shown}\n")


def _bar(steps: Iterable[int]) -> Iterator[int]:
    from tqdm import tqdm

    return iter(tqdm(steps, disable=None))
