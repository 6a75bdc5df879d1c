"""Tables 1, 3, 4, 7 and 8 of the DUNE paper: their columns, and the rows that are printed in it.

Source: Sariyildiz et al., CVPR 2025. Tables 1 and 3 score map-free on its validation set, table 4 on the leaderboard's
test set, whose true poses are not public.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TableNumber = Literal[1, 3, 4, 7, 8]
NUMBERS: tuple[TableNumber, ...] = (1, 3, 4, 7, 8)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of figures.

    Attributes:
        name: name of the figure.
        title: heading; an arrow tells which way is better.
        digits: decimals that the paper prints.
    """

    name: str
    title: str
    digits: int = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the paper.

    Attributes:
        method: who.
        encoder: its encoder, or what else tells rows apart.
        figures: by name of the column; those that the paper leaves out are absent.
    """

    method: str
    encoder: str
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        number: its number.
        title: what it is about.
        columns: its columns of figures.
        rows: rows of the paper.
        notes: what one must know to compare with them.
    """

    number: TableNumber
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
MIOU = Column(name="ade20k_miou", title=f"ADE20K mIoU {UP}")
RMSE = Column(name="nyud_rmse", title=f"NYUd RMSE {DOWN}", digits=3)
AUC = Column(name="mapfree_auc", title=f"MapFree AUC {UP}")
F1 = Column(name="bedlam_f1", title=f"BEDLAM F1 {UP}", digits=0)
PA_PVE = Column(name="bedlam_pa_pve", title=f"BEDLAM PA-PVE {DOWN}")
DEPTH_SETS = {
    "kitti": "KITTI",
    "scannet": "ScanNet",
    "eth3d": "ETH3D",
    "dtu": "DTU",
    "tanks_and_temples": "T&T",
    "average": "Average",
}
PROBE_NOTE = (
    "ADE20K of the paper: a linear layer behind the projector to DINO-v2; give --projector to do the same. Training "
    "recipes of the probes are those of codistill, see docs/evaluation-probes.md."
)
VAL_NOTE = "MapFree: validation set, share of frames with VCRE below 90 px; the pose solver of the paper is not known."


def _figures(columns: tuple[Column, ...], values: tuple[float | None, ...]) -> dict[str, float]:
    pairs = zip(columns, values, strict=True)
    return {column.name: value for column, value in pairs if value is not None}


def _table1() -> PaperTable:
    columns = MIOU, RMSE, AUC, PA_PVE
    printed = (
        ("ImageNet-19K", "ladder of projectors", (42.4, 0.446, 91.4, 83.9)),
        ("ImageNet-19K", "transformer projectors", (44.9, 0.433, 93.6, 73.5)),
        ("all data", "simple projectors", (42.3, 0.413, 92.2, 73.1)),
        ("all data", "ladder of projectors", (44.7, 0.384, 91.5, 78.2)),
        ("all data", "transformer projectors", (44.9, 0.377, 93.7, 68.3)),
    )
    return PaperTable(
        number=1,
        title="Distillation data and projector design",
        columns=columns,
        rows=tuple(
            Row(method=f"DUNE, {data}", encoder=design, figures=_figures(columns, values))
            for data, design, values in printed
        ),
        notes=(PROBE_NOTE, VAL_NOTE),
    )


def _table3() -> PaperTable:
    columns = MIOU, RMSE, F1, PA_PVE, AUC
    printed: tuple[tuple[str, str, tuple[float | None, ...]], ...] = (
        ("DINO-v2", "ViT-Large, 518", (47.7, 0.384, None, None, None)),
        ("Multi-HMR", "ViT-Large, 672", (None, None, 95, 36.9, None)),
        ("MASt3R", "ViT-Large, 512", (None, None, None, None, 91.2)),
        ("DINO-v2", "ViT-Base, 518", (47.3, 0.399, 86, 76.5, 89.6)),
        ("AM-RADIO-v2.5", "ViT-Base, 512", (50.0, 0.718, 89, 83.2, 93.1)),
        ("DUNE", "ViT-Base, 336", (44.9, 0.377, 91, 68.3, 93.7)),
        ("DUNE", "ViT-Base, 448", (45.6, 0.358, 94, 56.0, 94.7)),
    )
    return PaperTable(
        number=3,
        title="2D vision, 3D human understanding and 3D vision",
        columns=columns,
        rows=tuple(Row(method=m, encoder=e, figures=_figures(columns, values)) for m, e, values in printed),
        notes=(PROBE_NOTE, VAL_NOTE),
    )


def _table4() -> PaperTable:
    columns = (
        Column(name="auc_vcre_45px", title=f"VCRE < 45 px AUC {UP}"),
        Column(name="precision_vcre_45px", title=f"VCRE < 45 px Prec. {UP}"),
        Column(name="auc_vcre_90px", title=f"VCRE < 90 px AUC {UP}"),
        Column(name="precision_vcre_90px", title=f"VCRE < 90 px Prec. {UP}"),
        Column(name="median_vcre_px", title=f"Median reproj. error px {DOWN}"),
        Column(name="median_translation_m", title=f"Median error m {DOWN}", digits=2),
        Column(name="median_rotation_deg", title=f"Median error deg {DOWN}"),
        Column(name="auc_pose", title=f"Pose AUC {UP}"),
        Column(name="precision_pose", title=f"Pose Prec. {UP}"),
    )
    printed = (
        ("LoFTR", "CNN", (39.7, 18.2, 61.8, 33.5, 166.8, 2.31, 39.4, 26.9, 9.8)),
        ("DUSt3R", "ViT-Large", (45.9, 28.7, 69.8, 50.4, 115.8, 0.99, 7.1, 39.4, 21.4)),
        ("MicKey", "ViT-Large", (57.2, 31.2, 74.8, 49.3, 129.5, 1.59, 26.0, 28.3, 12.0)),
        ("MASt3R", "ViT-Large", (81.7, 63.0, 93.3, 79.3, 48.8, 0.37, 2.2, 74.0, 54.7)),
        ("DUNE", "ViT-Base", (84.0, 64.4, 94.3, 81.1, 47.4, 0.39, 4.6, 76.8, 55.9)),
    )
    return PaperTable(
        number=4,
        title="Map-free visual relocalisation",
        columns=columns,
        rows=tuple(Row(method=m, encoder=e, figures=_figures(columns, values)) for m, e, values in printed),
        notes=(
            "Rows of the paper: the leaderboard's test set, whose true poses are not public. The row of this run: the "
            "validation set. Hand in mapfree-test/submission.zip for figures of the test set.",
            "MASt3R on the leaderboard is a private version, somewhat better than the released one.",
            "The paper prints the last two columns with their headings exchanged (Prec., AUC): here they stand as in "
            "MASt3R's paper, whose precision of the pose is 54.7 and whose AUC is 74.0.",
        ),
    )


def _table7() -> PaperTable:
    columns = tuple(
        Column(name=f"{name}_{figure}", title=f"{title} {symbol}", digits=2)
        for name, title in DEPTH_SETS.items()
        for figure, symbol in (("absrel", f"rel. {DOWN}"), ("inliers", f"inliers {UP}"))
    )
    printed = (
        ("DeepV2D", "Hourglass", (10.00, 36.20, 4.40, 54.80, 11.80, 29.30, 7.70, 33.00, 8.90, 46.40, 8.60, 39.90)),
        ("DUSt3R", "ViT-Large", (5.88, 47.67, 3.01, 72.54, 3.04, 75.17, 2.92, 73.94, 2.93, 78.51, 3.56, 69.56)),
        ("MASt3R", "ViT-Large", (3.54, 65.68, 4.17, 65.22, 2.44, 82.77, 3.46, 66.89, 2.04, 87.88, 3.13, 73.69)),
        ("DUNE", "ViT-Base", (4.88, 50.76, 4.24, 59.68, 2.48, 77.97, 2.69, 75.63, 2.60, 79.19, 3.38, 68.65)),
    )
    return PaperTable(
        number=7,
        title="Multi-view depth",
        columns=columns,
        rows=tuple(Row(method=m, encoder=e, figures=_figures(columns, values)) for m, e, values in printed),
        notes=("How the depths of several pairs are brought to one scale is not published: ours, by their medians.",),
    )


def _table8() -> PaperTable:
    columns = (
        Column(name="co3d_rra_15", title=f"Co3Dv2 RRA@15 {UP}"),
        Column(name="co3d_rta_15", title=f"Co3Dv2 RTA@15 {UP}"),
        Column(name="co3d_maa_30", title=f"Co3Dv2 mAA(30) {UP}"),
        Column(name="realestate10k_maa_30", title=f"RealEstate10K mAA(30) {UP}"),
    )
    printed = (
        ("DUSt3R", "ViT-Large", (93.3, 88.4, 77.2, 61.2)),
        ("MASt3R", "ViT-Large", (94.6, 91.9, 81.8, 76.4)),
        ("DUNE", "ViT-Base", (92.2, 90.7, 78.8, 79.9)),
    )
    return PaperTable(
        number=8,
        title="Multi-view pose",
        columns=columns,
        rows=tuple(Row(method=m, encoder=e, figures=_figures(columns, values)) for m, e, values in printed),
        notes=("The frames drawn, the intrinsics and the settings of the solver of the paper are not known.",),
    )


TABLES: dict[TableNumber, PaperTable] = {
    1: _table1(),
    3: _table3(),
    4: _table4(),
    7: _table7(),
    8: _table8(),
}
