"""`codistill eval knn`, `linear`, `segmentation` and `depth`: small heads trained on a frozen encoder."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eval.commands.options import ONE_RUN, DataFolder, Folder
from eval.encoders.options import EncoderOptions, check_source
from eval.probes.settings import DepthSettings, KnnSettings, LinearSettings, SegmentationSettings, validate

if TYPE_CHECKING:
    from eval.probes.datasets import Dense, Folders

Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODER")]
ResultRun = Annotated[
    Path | None,
    ONE_RUN,
    tyro.conf.arg(metavar="RUN", help_behavior_hint="(default: the run that is probed, if it is a run)"),
]
RunProbe = Callable[..., Mapping[str, Any]]
Settings = KnnSettings | LinearSettings | SegmentationSettings | DepthSettings
_KNN, _LINEAR = KnnSettings(), LinearSettings()
_SEGMENTATION, _DEPTH = SegmentationSettings(), DepthSettings()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Arguments that the four probes share.

    Args:
        encoder: encoder to probe: a run directory, a .pth file in DUNE's layout, or the model of a teacher together
            with --weights.
        data: root folder of the dataset; docs/evaluation-probes.md has the layouts.
        features: folder in which extracted features are stored and found again.
        run: run directory in which the result is stored, so that its report shows it.
        options: options of the encoder.
    """

    encoder: Source
    data: DataFolder
    features: Folder
    run: ResultRun = None
    options: Annotated[EncoderOptions, tyro.conf.arg(name="")] = field(default_factory=EncoderOptions)


class KnownEncoder:
    """Constraint of `Inputs`: what is named as the encoder can be one."""

    def check(self, subject: str, value: Inputs) -> None:
        """See `Constraint.check`."""
        check_source(value.encoder, value.options)


@dataclass(frozen=True)
class ValidSettings:
    """Constraint of a probe's settings: numbers that can work.

    Attributes:
        kind: name of the probe.
    """

    kind: str

    def check(self, subject: str, value: Settings) -> None:
        """See `Constraint.check`."""
        validate(value, subject=f"{self.kind} probe")


SharedInputs = Annotated[Inputs, KnownEncoder(), tyro.conf.arg(name="")]


def knn(
    inputs: SharedInputs,
    *,
    test_split: str = "test",
    settings: Annotated[KnnSettings, ValidSettings("knn"), tyro.conf.arg(name="")] = _KNN,
) -> None:
    """Classify images by their nearest neighbours in feature space.

    example: codistill eval knn demo/run --data cifar10 --features features --centre.resize 112 --centre.crop 112

    Args:
        inputs: encoder, and data in folders train/CLASS and test/CLASS.
        test_split: name of the folder with the test images.
        settings: settings of the probe.
    """
    from eval.probes.classification import run_knn

    _probe("knn", inputs, run_knn, _class_folders(inputs, test_split), settings)


def linear(
    inputs: SharedInputs,
    *,
    test_split: str = "test",
    settings: Annotated[LinearSettings, ValidSettings("linear"), tyro.conf.arg(name="")] = _LINEAR,
) -> None:
    """Classify images by logistic regression on their features.

    example: codistill eval linear demo/run --data cifar10 --features features --centre.resize 112 --centre.crop 112

    Args:
        inputs: encoder, and data in folders train/CLASS and test/CLASS.
        test_split: name of the folder with the test images.
        settings: settings of the probe.
    """
    from eval.probes.classification import run_linear

    _probe("linear", inputs, run_linear, _class_folders(inputs, test_split), settings)


def segmentation(
    inputs: SharedInputs,
    *,
    layout: str,
    settings: Annotated[SegmentationSettings, ValidSettings("segmentation"), tyro.conf.arg(name="")] = _SEGMENTATION,
) -> None:
    """Train a linear segmentation head on frozen features and measure mean IoU.

    example: codistill eval segmentation runs/a --data ADEChallengeData2016 --layout ade20k --features features

    Args:
        inputs: encoder and data.
        layout: layout of the dataset: ade20k, cityscapes, nyuv2, scannet or camvid.
        settings: settings of the probe.
    """
    from eval.probes import datasets, segmentation

    parts = datasets.segmentation(layout, inputs.data, "train"), datasets.segmentation(layout, inputs.data, "test")
    _probe("segmentation", inputs, segmentation.run, parts, settings)


def depth(
    inputs: SharedInputs,
    *,
    settings: Annotated[DepthSettings, ValidSettings("depth"), tyro.conf.arg(name="")] = _DEPTH,
) -> None:
    """Train a linear depth head on frozen features and measure RMSE in metres (NYUd layout).

    example: codistill eval depth runs/a --data nyu --features features

    Args:
        inputs: encoder, and data with nyu_train.txt and nyu_test.txt.
        settings: settings of the probe.
    """
    from eval.probes import datasets, depth

    parts = datasets.depth(inputs.data, "train"), datasets.depth(inputs.data, "test")
    _probe("depth", inputs, depth.run, parts, settings, final_norm=False)


def _class_folders(inputs: Inputs, test_split: str) -> "tuple[Folders, Folders]":
    from eval.probes.datasets import folders, with_classes_of

    train = folders(inputs.data, "train")
    return train, with_classes_of(train, folders(inputs.data, test_split))


def _probe(
    kind: str,
    inputs: Inputs,
    run_probe: RunProbe,
    parts: "tuple[Folders | Dense, Folders | Dense]",
    settings: Settings,
    *,
    final_norm: bool = True,
) -> None:
    """Open the encoder, compute the figures or take them from the run, and print them.

    Args:
        kind: `knn`, `linear`, `segmentation` or `depth`.
        inputs: encoder and data.
        run_probe: function of the encoder, train=, test=, feature_store= and settings= that returns the figures.
        parts: training and test part of the dataset.
        settings: settings of the probe.
        final_norm: apply the student's final norm unless --final-norm says otherwise.
    """
    import torch

    from backbones.device import resolve_device
    from eval.encoders.load import open_encoder
    from eval.probes import chance, probe_results
    from eval.probes.datasets import identity
    from eval.probes.feature_store import FeatureStore
    from eval.runs.results import digest

    device = torch.device(resolve_device(inputs.options.device))
    encoder = open_encoder(inputs.encoder, inputs.options, device=device, final_norm=final_norm)
    dataset_name = inputs.data.resolve().name
    feature_store = FeatureStore(root=inputs.features, dataset=dataset_name, progress=_progress_bar)
    train, test = parts

    def compute() -> Mapping[str, Any]:
        figures = run_probe(encoder, train=train, test=test, feature_store=feature_store, settings=settings)
        return {**figures, **chance.of(kind, train, test, settings)}

    run = inputs.run or (Path(inputs.encoder) if Path(inputs.encoder).is_dir() else None)
    if run is None:
        figures = compute()
    else:
        depends_on = {
            "encoder": encoder.name,
            "encoder_sha256": digest(dict(encoder.identity)),
            "dataset": dataset_name,
            "dataset_sha256": [identity(part)["sha256"] for part in parts],
            "settings": asdict(settings),
        }
        results = probe_results.results_of(run)
        figures, _ = results.get_or_compute(kind, depends_on, lambda: (compute(), None))
        if not any(name.startswith(chance.PREFIX) for name in figures):  # stored before there were chance levels
            figures = {**figures, **chance.of(kind, train, test, settings)}
            results.put(kind, depends_on, figures)
    sys.stdout.write(f"{kind} of {encoder.name} on {dataset_name}\n")
    _print_figures(figures)


def _print_figures(figures: Mapping[str, Any]) -> None:
    from eval.report.sections.probes import figure_of

    for figure, value in figures.items():
        shown = f"{value:.4g} {figure_of(figure).unit}" if isinstance(value, float) else str(value)
        if not isinstance(value, list):
            sys.stdout.write(f"  {figure:<22} {shown.rstrip()}\n")


def _progress_bar(steps: Iterable[int]) -> Iterator[int]:
    from tqdm import tqdm

    return iter(tqdm(steps, disable=None))
