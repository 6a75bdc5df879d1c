"""Tables of probes: units, chance levels, settings; what is no better than chance is not drawn like a result."""

from typing import Any

from eval.probes.probe_results import ProbeResult
from eval.report.page import TableBlock
from eval.report.sections.probes import section

KNN = {"centre": {"resize": 112, "crop": 112}, "pooling": None, "neighbours": [10, 200], "temperature": 0.07}


def result(kind: str, settings: dict[str, Any], encoder: str = "student", **figures: Any) -> ProbeResult:
    return ProbeResult(
        kind=kind, encoder=encoder, dataset="d", settings={"settings": settings}, figures={"iou": [0.5], **figures}
    )


def tables(*results: ProbeResult) -> list[TableBlock]:
    return [block for block in section({"run": results}).blocks if isinstance(block, TableBlock)]


def test_figures_have_units_and_stand_beside_their_chance_level() -> None:
    (block,) = tables(
        result("knn", KNN, top1_k200=9.0, top1_k10=33.54, test_images=1000, chance_top1=10.0, classes=10),
        result("knn", {**KNN, "pooling": "mean"}, "other", top1_k10=10.0, top1_k200=25.0, chance_top1=10.0),
        result("knn", KNN, "older", top1_k10=5.0, top1_k200=5.0),
    )
    table = block.table
    assert [column.title for column in table.columns] == [
        "Encoder",
        "Data",
        "Top-1, k = 10 (%)",
        "Top-1, k = 200 (%)",
        "Chance (%)",
        "Classes",
        "Test images",
    ]
    assert [[(cell.text, cell.css) for cell in row[2:5]] for row in table.rows] == [
        [("33.5", ""), ("9.0", "loses"), ("10.0", "")],
        [("10.0", "loses"), ("25.0", ""), ("10.0", "")],
        [("5.0", ""), ("5.0", ""), ("\N{EM DASH}", "")],
    ]
    assert table.rows[0][6].text == "1,000"


def test_settings_that_differ_stand_beside_the_encoder_and_others_in_the_caption() -> None:
    (block,) = tables(result("knn", KNN), result("knn", {**KNN, "pooling": "mean"}, "other"))
    assert block.table.caption == ("Settings: centre.resize 112, centre.crop 112, neighbours 10/200, temperature 0.07.")
    assert [row[0].beside for row in block.table.rows] == ["pooling automatic", "pooling mean"]
    (bare,) = tables(ProbeResult(kind="linear", encoder="e", dataset="d", settings={}, figures={"top1": 50.0}))
    assert bare.table.caption == ""


def test_errors_are_better_below_chance() -> None:
    settings = {"mirror": True, "lr": 1e-4}
    (block,) = tables(
        result("depth", settings, rmse=0.5, chance_rmse=0.9),
        result("depth", settings, "worse", rmse=1.0, chance_rmse=0.9),
        result("depth", settings, "nothing", rmse=None, chance_rmse=float("nan")),
    )
    assert [column.title for column in block.table.columns[2:]] == ["RMSE (m)", "Chance, RMSE (m)"]
    assert [row[2].css for row in block.table.rows] == ["", "loses", ""]
    assert block.table.caption == "Settings: mirror yes, lr 0.0001."
