"""Fidelity end to end on a small cache: held-out rows, scores of a perfect student and of the baselines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eval.fidelity import measure
from eval.fidelity.held_out import image_keys, seen_in_training
from eval.fidelity.measure import Settings, Subject
from eval.fidelity.predictors import (
    LINEAR,
    LINEAR_UNTRAINED,
    MEAN,
    ROUNDING,
    STUDENT,
    UNTRAINED,
    undo_rounding,
)
from eval.fidelity.scores import HELD_OUT_PHOTOGRAPHS, HELD_OUT_VIEWS, pick, summarise
from eval.runs.open_run import OpenRun, open_run
from store import errors
from store.cache.cache import Cache
from tests.eval.builders import TEACHERS, teacher_tokens, train_run
from train.distributed import join_ranks
from train.model.distiller import Distiller
from train.validate import measure as measured_in_training

CPU = torch.device("cpu")


class Oracle(nn.Module):
    """A student that computes the teachers themselves; everything else is borrowed from a real one."""

    def __init__(self, student: Distiller, subject: Subject) -> None:
        super().__init__()
        self.encoder, self.teachers, self.cell_px = student.encoder, student.teachers, student.cell_px
        self.norms, self.student = subject.norms, student
        self.images = torch.empty(0)

    def features(self, images: Tensor) -> dict[int, Tensor]:
        self.images = images
        return self.student.features(images)

    def project(self, features: dict[int, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        images = self.images
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = ((images.permute(0, 2, 3, 1) * std + mean) * 255).round().to(torch.uint8).numpy()
        projected = {}
        for name, (prefix_tokens, _, _) in TEACHERS.items():
            tokens = torch.from_numpy(np.stack([teacher_tokens(name, image) for image in pixels]))
            norm = self.norms.stored(name)
            prefix, patches = tokens[:, :prefix_tokens], tokens[:, prefix_tokens:]
            projected[name] = (norm.prefix.apply(prefix) if norm.prefix else prefix, norm.patch.apply(patches))
        return projected


class LinearPeer:
    """An encoder whose tokens are an invertible linear map of teacher beta's."""

    channels = 10

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        patches = torch.from_numpy(np.stack([teacher_tokens("beta", image) for image in pixels.numpy()]))
        weight = torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
        return patches[:, :0], patches @ weight + 3.0


def test_seen_photographs_are_told_by_path_and_size(cache: Cache) -> None:
    training = [cache["people"], cache["scenes"]]
    crops, mixed = seen_in_training([cache["people-crops"], cache["people-mixed"]], training)
    assert crops.all()
    paths = cache["people-mixed"].image_list()["path"].to_pylist()
    assert [path for path, seen in zip(paths, mixed, strict=True) if seen] == ["people-0.jpg"]
    assert image_keys(cache["people-mixed"])[3].as_py() == image_keys(cache["people"])[0].as_py()


def test_a_perfect_student_scores_as_the_float16_ceiling_and_baselines_below(opened: OpenRun) -> None:
    subject = opened.subject({"beta again": LinearPeer()})
    subject = replace(subject, student=Oracle(subject.student, subject))  # type: ignore[arg-type]
    facts, table = measure.measure(subject, Settings(), device=CPU)
    scores = summarise(table)
    groups = {(s.group, s.teacher, s.token_type) for s in scores}
    kinds = (HELD_OUT_VIEWS, HELD_OUT_PHOTOGRAPHS)
    assert groups == {(k, t, y) for k in kinds for t, y in (("alpha", "prefix"), ("alpha", "patch"), ("beta", "patch"))}
    for group, teacher, token_type in groups:
        where = {"group": group, "teacher": teacher, "token_type": token_type}
        by = {s.predictor: s for s in scores if all(getattr(s, k) == v for k, v in where.items())}
        # The student computes the teacher in float32, the cache holds it in float16: that is all they differ by.
        assert by[STUDENT].of("cosine")[0] == pytest.approx(1.0, abs=1e-5)
        ceiling, student = (1 - by[name].of("explained_variance")[0] for name in (ROUNDING, STUDENT))
        assert ceiling == pytest.approx(student, rel=0.3)
        assert by[MEAN].of("explained_variance") == (0.0, 0.0, 0.0)
        assert by[UNTRAINED].of("cosine")[0] < by[LINEAR_UNTRAINED].of("cosine")[0] < 0.99
        assert by[MEAN].images == (10 if group == HELD_OUT_VIEWS else 8)
    peer = pick(scores, predictor=LINEAR + "beta again", teacher="beta", group=HELD_OUT_PHOTOGRAPHS)
    assert peer is not None
    assert peer.of("cosine")[0] == pytest.approx(1.0, abs=1e-4)
    assert facts["fit_tokens"] == {"alpha prefix": 80, "alpha patch": 1280, "beta patch": 1280}


def test_training_beats_the_start_and_agrees_with_what_training_measured(opened: OpenRun) -> None:
    _, table = measure.measure(opened.subject(), Settings(), device=CPU)
    scores = summarise(table, by="dataset")
    with join_ranks("cpu") as ranks:
        logged = measured_in_training(
            recipe=opened.run.recipe.model_copy(
                update={"data": opened.run.recipe.data.model_copy(update={"val_rows": 99})}
            ),
            mixture=opened.mixture,
            distiller=opened.run.distiller,
            norms=opened.run.target_norms,
            ranks=ranks,
        )
    for dataset, teachers in logged.items():
        for teacher, values in teachers.items():
            mine = pick(scores, predictor=STUDENT, group=dataset, teacher=teacher, token_type="patch")
            before = pick(scores, predictor=UNTRAINED, group=dataset, teacher=teacher, token_type="patch")
            assert mine is not None
            assert before is not None
            assert mine.of("cosine")[0] == pytest.approx(values["cosine"], abs=1e-5)
            assert mine.of("smooth_l1")[0] == pytest.approx(values["smooth_l1"], abs=1e-5)
            assert mine.of("cosine")[0] > before.of("cosine")[0] + 0.2
            assert mine.low[0] < mine.value[0] < mine.high[0]


def test_fewer_rows_are_a_part_of_all_and_the_same_every_time(opened: OpenRun) -> None:
    settings = Settings(rows_per_dataset=7, fit_rows=20)
    facts, table = measure.measure(opened.subject(), settings, device=CPU)
    again = measure.measure(opened.subject(), settings, device=CPU)
    assert (facts, table) == again
    assert facts["fit_tokens"]["beta patch"] == 20 * 16  # type: ignore[index]
    tokens = {
        s.group: s.tokens for s in summarise(table, by="dataset") if s.predictor == STUDENT and s.teacher == "beta"
    }
    assert tokens == dict.fromkeys(("people-crops", "people-mixed", "scenes-crops", "scenes-mixed"), 7 * 16)


def test_undone_rounding_rounds_back_to_what_is_stored() -> None:
    stored = torch.randn(4000).half() * torch.logspace(-7, 3, 4000).half()
    stored = torch.cat([stored, torch.tensor([0.0, 1.0, -1.0, 6e-8, 65504.0]).half()])
    moved = undo_rounding(stored, generator=torch.Generator().manual_seed(0))
    back = moved.half()
    power_of_two = torch.frexp(stored.float()).mantissa.abs() == 0.5  # the steps below it are half as wide
    assert torch.equal(back[~power_of_two], stored[~power_of_two])
    assert (moved != stored.float()).float().mean() > 0.99
    assert (moved - stored.float()).abs().max() <= 16.0


def test_another_teacher_or_place_of_the_cache_is_said(run_directory: Path, cache: Cache, tmp_path: Path) -> None:
    run = train_run(cache, tmp_path / "run", schedule={"steps": 1})
    text = (run / "cache.json").read_text()
    (run / "cache.json").write_text(text.replace(cache.location, str(tmp_path / "elsewhere")))
    with pytest.raises(errors.MissingCache, match="elsewhere"):
        _ = open_run(run).mixture
    assert open_run(run, caches=[cache.location]).mixture.caches[0].uuid == cache.uuid
    digest = cache["people"].teacher("beta").identity_digest
    (run / "cache.json").write_text(text.replace(digest, "f" * 64))
    with pytest.raises(errors.Conflict, match=rf"teacher 'beta'.identity_digest: stored 'f{{64}}', asked '{digest}'"):
        _ = open_run(run).mixture
