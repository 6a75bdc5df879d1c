"""The protocols that the paper's tables are made of, for one student and its heads."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.encoders.open_encoder import OpenEncoder
from eval.heads.hph.bedlam import Bedlam
from eval.heads.scoring import human_mesh, mapfree, multiview_depth, multiview_pose
from eval.heads.scoring.human_mesh import PeopleModel
from eval.heads.scoring.paper_tables import DEPTH_SETS, TableNumber
from eval.heads.scoring.predictor import Predictor
from eval.heads.scoring.settings import PoseSettings
from eval.heads.scoring.tables import Part, PartResult
from eval.heads.scoring.units import ResultFolder, Unit, run_units
from eval.probes import datasets, depth, segmentation
from eval.probes.feature_store import FeatureStore
from eval.probes.settings import DepthSettings, SegmentationSettings

PERCENT = 100.0
POSE_FIGURES = (
    *("auc_vcre_45px", "precision_vcre_45px", "auc_vcre_90px", "precision_vcre_90px", "auc_pose", "precision_pose"),
)
MEDIANS = ("median_vcre_px", "median_translation_m", "median_rotation_deg")


@dataclass(frozen=True, kw_only=True)
class Models:
    """What was given, opened when a protocol needs it; None for what was not given.

    Attributes:
        pairs: opens the pair model.
        people: opens head, encoder and body model.
        encoder: opens the student for a probe, given whether its final norm is applied.
        pose: how map-free poses are made.
        segmentation: settings of the probe on ADE20K.
        depth: settings of the probe on NYUd.
        progress: show bars.
    """

    pairs: Callable[[], Predictor] | None = None
    people: Callable[[], PeopleModel] | None = None
    encoder: Callable[[bool], OpenEncoder] | None = None
    pose: PoseSettings = field(default_factory=PoseSettings)
    segmentation: SegmentationSettings = field(default_factory=SegmentationSettings)
    depth: DepthSettings = field(default_factory=DepthSettings)
    progress: bool = False


def parts_of(number: TableNumber, models: Models) -> list[Part]:
    """Return the protocols of a table."""
    heads = [_segmentation(models), _depth(models), _mapfree_auc(models), _people(models)]
    return {1: heads, 3: heads, 4: _table4(models), 7: [_multiview_depth(models)], 8: _table8(models)}[number]


def _mapfree_auc(models: Models) -> Part:
    def run(data: Path, out: Path) -> PartResult:
        found = _mapfree_scores(models, data, out)
        return PartResult(
            figures={"mapfree_auc": PERCENT * found.scores["auc_vcre_90px"]},
            notes=found.notes,
            complete=not found.outcome.failures,
        )

    return Part(name="mapfree-val", data=("mapfree/val",), needs="--mast3r", run=run if models.pairs else None)


def _table4(models: Models) -> list[Part]:
    def val(data: Path, out: Path) -> PartResult:
        found = _mapfree_scores(models, data, out)
        figures = {name: PERCENT * found.scores[name] for name in POSE_FIGURES}
        figures |= {name: found.scores[name] for name in MEDIANS}
        return PartResult(figures=figures, notes=found.notes, complete=not found.outcome.failures)

    def test(data: Path, out: Path) -> PartResult:
        found = mapfree.score(
            _pairs(models), data / "mapfree", out, split="test", settings=models.pose, progress=models.progress
        )
        notes = [f"submission for the leaderboard: {found.submission}", *found.notes]
        return PartResult(figures={}, notes=notes, complete=not found.outcome.failures)

    given = models.pairs is not None
    return [
        Part(name="mapfree-val", data=("mapfree/val",), needs="--mast3r", run=val if given else None),
        Part(name="mapfree-test", data=("mapfree/test",), needs="--mast3r", run=test if given else None, optional=True),
    ]


def _mapfree_scores(models: Models, data: Path, out: Path) -> mapfree.MapFreeScores:
    return mapfree.score(_pairs(models), data / "mapfree", out, settings=models.pose, progress=models.progress)


def _people(models: Models) -> Part:
    def run(data: Path, out: Path) -> PartResult:
        assert models.people is not None
        images = Bedlam(data / "bedlam", "validation", every=human_mesh.EVALUATION_STEP)
        dataset = {"name": "bedlam", "split": "validation", "every": human_mesh.EVALUATION_STEP}
        found = human_mesh.score(models.people(), images, out, dataset=dataset, progress=models.progress)
        return PartResult(
            figures={"bedlam_f1": found.scores["f1"], "bedlam_pa_pve": found.scores["pa_pve_mm"]},
            notes=found.notes,
            complete=not found.outcome.failures,
        )

    return Part(name="bedlam", data=("bedlam",), needs="--hph and --body", run=run if models.people else None)


def _multiview_depth(models: Models) -> Part:
    def run(data: Path, out: Path) -> PartResult:
        found = multiview_depth.score(_pairs(models), data / "robustmvd", out, progress=models.progress)
        sets = [name for name in DEPTH_SETS if name != "average"]
        absent = [name for name in sets if name not in found.table]
        shown = found.table if not absent else {name: row for name, row in found.table.items() if name != "average"}
        notes = [f"no average, as there is nothing of {', '.join(absent)}"] if absent else []
        figures = {
            f"{name}_{figure}": row[figure]
            for name, row in shown.items()
            for figure in ("absrel", "inliers")
            if name in DEPTH_SETS
        }
        return PartResult(
            figures=figures, notes=[*notes, *found.notes], complete=not absent and not found.outcome.failures
        )

    return Part(name="robustmvd", data=("robustmvd",), needs="--mast3r", run=run if models.pairs else None)


def _table8(models: Models) -> list[Part]:
    names: tuple[multiview_pose.Dataset, ...] = ("co3d", "realestate10k")

    def run_on(dataset: multiview_pose.Dataset) -> Callable[[Path, Path], PartResult]:
        def run(data: Path, out: Path) -> PartResult:
            found = multiview_pose.score(_pairs(models), data / dataset, out, dataset=dataset, progress=models.progress)
            figures = {f"{dataset}_{figure}": value for figure, value in found.table["average"].items()}
            return PartResult(figures=figures, notes=found.notes, complete=not found.outcome.failures)

        return run

    return [
        Part(name=name, data=(name,), needs="--mast3r", run=run_on(name) if models.pairs else None) for name in names
    ]


def _segmentation(models: Models) -> Part:
    def run(data: Path, out: Path) -> PartResult:
        root = data / "ade20k"
        parts = datasets.segmentation("ade20k", root, "train"), datasets.segmentation("ade20k", root, "test")
        figures = _probe(models, "segmentation", segmentation.run, parts, models.segmentation, out, final_norm=True)
        return PartResult(figures={} if figures["miou"] is None else {"ade20k_miou": PERCENT * figures["miou"]})

    return Part(name="ade20k", data=("ade20k",), needs="--student", run=run if models.encoder else None)


def _depth(models: Models) -> Part:
    def run(data: Path, out: Path) -> PartResult:
        parts = datasets.depth(data / "nyud", "train"), datasets.depth(data / "nyud", "test")
        figures = _probe(models, "depth", depth.run, parts, models.depth, out, final_norm=False)
        return PartResult(figures={} if figures["rmse"] is None else {"nyud_rmse": figures["rmse"]})

    return Part(name="nyud", data=("nyud",), needs="--student", run=run if models.encoder else None)


def _probe(
    models: Models,
    kind: str,
    run: Callable[..., Mapping[str, Any]],
    parts: "tuple[datasets.Dense, datasets.Dense]",
    settings: SegmentationSettings | DepthSettings,
    out: Path,
    *,
    final_norm: bool,
) -> dict[str, Any]:
    """Return the figures of a probe, which are kept and not computed again."""
    assert models.encoder is not None
    encoder = models.encoder(final_norm)
    described = {"encoder": dict(encoder.identity), "settings": asdict(settings)}
    folder = ResultFolder(out, {"benchmark": f"{kind} probe", **described})
    train, test = parts

    def compute() -> dict[str, Any]:
        store = FeatureStore(root=out / "features", dataset=kind)
        return dict(run(encoder, train=train, test=test, feature_store=store, settings=settings))

    unit = Unit(name=kind, inputs=[datasets.identity(part)["sha256"] for part in parts], compute=compute)
    return run_units([unit], folder, noun="probe").results[kind]


def _pairs(models: Models) -> Predictor:
    assert models.pairs is not None
    return models.pairs()
