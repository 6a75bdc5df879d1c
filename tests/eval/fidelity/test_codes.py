"""Held-out tokens that are stored in a code: scored apart, up to the ceiling of the code, and said to be decoded."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.__main__ import main
from eval.analyses import correlation
from eval.analyses.pca import TEACHER, held_out_views, images_of, pictures
from eval.analyses.variance import explained_variance
from eval.fidelity import measure
from eval.fidelity.measure import Settings
from eval.fidelity.predictors import CODE, ROUNDING, STUDENT
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, KINDS, PATCH, PREFIX, pick, summarise
from eval.runs.open_run import OpenRun, open_run
from tests.eval.builders import build_cache, code_of, train_run
from tests.eval.fidelity.test_measure import CPU, Oracle
from train.run import log
from train.run.headline import DECODED

CODED = ("people", "scenes", "people-mixed")  # of alpha, in part of its patches; of beta those trained on alone
HELD_OUT = [(group, kind) for group in ("people", "scenes") for kind in ("crops", "mixed")]
EVERYTHING = Settings(rows_per_dataset=1000, fit_rows=60)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("codes")
    alpha, beta = code_of("alpha", ratio=7), code_of("beta", ratio=3)
    assert alpha.spec.subset is not None
    codes = {(name, "alpha"): alpha for name in CODED} | {(name, "beta"): beta for name in CODED[:2]}
    cache = build_cache(folder / "cache", codes)
    return open_run(train_run(cache, folder / "run"), device="cpu")


def test_a_perfect_student_reaches_the_ceiling_of_the_code(opened: OpenRun) -> None:
    """And of float16 tokens a perfect score; no group of rows holds both forms of one teacher's tokens."""
    subject = opened.subject()
    perfect: Any = Oracle(subject.student, subject)
    _, table = measure.measure(replace(subject, student=perfect), EVERYTHING, device=CPU)
    by_kind, by_dataset = summarise(table, replicates=2), summarise(table, by="dataset", replicates=2)
    assert {score.group for score in by_kind} <= set(KINDS)
    for scores, group in ((by_kind, HELD_OUT_PHOTOGRAPHS + DECODED), (by_dataset, "people-mixed" + DECODED)):
        of_group = [score for score in scores if score.group == group]
        assert {score.teacher for score in of_group} == {"alpha"}
        assert ROUNDING not in {score.predictor for score in of_group}
        for kind, tolerance in ((PREFIX, 2e-3), (PATCH, 0.02)):
            student, ceiling = (pick(of_group, predictor=predictor, token_type=kind) for predictor in (STUDENT, CODE))
            assert student is not None
            assert ceiling is not None
            assert student.value == pytest.approx(ceiling.value, abs=tolerance)
            assert student.tokens == ceiling.tokens
    of_true = [score for score in by_dataset if not score.group.endswith(DECODED)]
    assert all(score.value[0] > 0.9999 for score in of_true if score.predictor == STUDENT)
    assert CODE not in {score.predictor for score in of_true}
    alpha = [
        score for score in by_dataset if (score.teacher, score.token_type, score.predictor) == ("alpha", PATCH, STUDENT)
    ]
    tokens = {score.group: score.tokens / score.images for score in alpha}
    assert tokens["people-mixed" + DECODED] == tokens["people-crops"] / 2  # the code holds every second patch


def test_the_report_and_the_terminal_say_what_is_decoded(
    opened: OpenRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset,) = {source.dataset for source in opened.mixture.held_out if source.codes(["alpha"])}
    floor = dataset.distortion("alpha").floors("patch")[0]
    said = f"Targets decoded: alpha on people-mixed, floor {floor:.3f}. "
    assert main(["report", str(opened.directory), "--out", str(tmp_path / "page"), "--pictures", "2"]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert said in page
    assert "Ceiling of the code" in page
    assert said in " ".join(capsys.readouterr().out.split())

    measured = log.read(opened.directory, log.FIDELITY)[-1]["datasets"]
    assert {name: sorted(teachers) for name, teachers in measured.items() if name.startswith("people-mixed")} == {
        "people-mixed": ["beta"],
        "people-mixed" + DECODED: ["alpha"],
    }


def test_tables_hold_one_kind_of_targets(opened: OpenRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fidelity", str(opened.directory), "--by", "dataset", "--fit-rows", "60"]) == 0
    printed = capsys.readouterr().out
    (dataset,) = {source.dataset for source in opened.mixture.held_out if source.codes(["alpha"])}
    title = f"targets decoded, floor {dataset.distortion('alpha').floors('patch')[0]:.3f} (alpha)"
    first, second = (printed.split(f"{score}")[1:] for score in ("Cosine similarity", "Smooth-L1 distance"))
    for tables in (first, second):
        assert len(tables) == 2
        assert title not in tables[0].splitlines()[0]
        assert title in " ".join(tables[1].split())


def test_codes_alone_are_told_to_compare_with_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = {
        (f"{group}-{kind}", name): code_of(name, ratio=3) for name in ("alpha", "beta") for group, kind in HELD_OUT
    }
    run = train_run(build_cache(tmp_path / "cache", codes), tmp_path / "run", schedule={"steps": 1})
    assert main(["fidelity", str(run), "--fit-rows", "60"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("targets decoded, floor") == printed.count("higher is better") + printed.count(
        "lower is better"
    )
    assert "No held-out row has float16 tokens: for scores that compare" in printed


def test_a_run_without_held_out_rows_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run(build_cache(tmp_path / "cache", held_out=False), tmp_path / "run", schedule={"steps": 1})
    assert main(["fidelity", str(run), "--fit-rows", "60"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "run 'run' has no held-out rows to be scored on: expected some with alpha, beta, found no" in line
    assert "--cache" in line
    assert main(["report", str(run), "--out", str(tmp_path / "page"), "--pictures", "0"]) == 0
    assert "has no held-out rows to be scored on" in (tmp_path / "page" / "index.html").read_text()


def test_analyses_read_decoded_tokens(opened: OpenRun) -> None:
    """Pictures leave no hole and say so; variance is apart; replayed losses are those of the training."""
    _, captions = held_out_views(opened.mixture, count=40)
    assert any("; tokens of alpha decoded)" in caption for caption in captions)
    facts, table = pictures(opened.subject(), device=CPU, count=40)
    assert np.isfinite(facts["cosines"]["projection to alpha"]).all()  # type: ignore[index]
    assert len(images_of(table)[TEACHER + "alpha"]) == len(captions)

    curves = explained_variance(opened.run, opened.mixture, datasets=["people-mixed"], shards=0)["people-mixed"]
    assert sorted(curves) == ["alpha" + DECODED, "beta"]
    assert np.isfinite(curves["alpha" + DECODED]["teacher"]["raw"]).all()
    assert curves["alpha" + DECODED]["teacher"]["tokens"] * 2 == curves["beta"]["teacher"]["tokens"]

    probe = correlation.Probe(steps=3, rows=8)
    replay = partial(correlation.on_probe, opened.run, opened.mixture, probe, window=3, device=opened.device)
    assert np.isfinite(replay().pearson).all()
