"""Rows that fail, and the batch size."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from extract.teachers import runner
from extract.teachers.base import Teacher, tf32
from extract.teachers.options import Request
from extract.teachers.runner import check_tokens, find_batch_size
from store.errors import InvalidInput, JobFailed


class Patchwise(Teacher):
    """One linear map per patch."""

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.network(images).flatten(2).transpose(1, 2)
        return patches[:, :0], patches


def patchwise(*, prefix_tokens: int = 0) -> Patchwise:
    request = Request(model="own", weights=Path("none"))
    network = nn.Conv2d(3, 5, 14, 14)
    return Patchwise(network, request=request, architecture={}, patch_size=14, channels=5, prefix_tokens=prefix_tokens)


def test_only_bad_rows_fail() -> None:
    tokens = torch.randn(6, 4, 8)
    tokens[1, 2, 3] = float("nan")
    tokens[2, 0, :2] = torch.tensor([float("inf"), float("-inf")])
    tokens[3, 1, 1] = -70_000.0
    tokens[4, 1, 1] = 65_519.0  # rounds to 65504
    tokens[5, 1, 1] = 65_520.0
    rounded, reasons = check_tokens(tokens)
    assert rounded.dtype == torch.float16
    assert [reason is None for reason in reasons] == [True, False, False, False, True, False]
    assert reasons[1] == "teacher output is not finite in 1 of 32 values"
    assert reasons[2] == "teacher output is not finite in 2 of 32 values"
    assert reasons[3] == "teacher output of 70000 does not fit float16 (at most 65504)"
    good = [0, 4]
    assert torch.equal(rounded[good], tokens[good].to(torch.float16))
    assert bool(rounded[good].isfinite().all())


@pytest.mark.parametrize("value", [65_503.9, 65_519.99, 65_520.0, 1e30])
def test_reasons_agree_with_the_rounding(value: float) -> None:
    rounded, reasons = check_tokens(torch.full((1, 1, 1), value))
    assert bool(rounded.isfinite().all()) == (reasons[0] is None)


def test_batch_size_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def runs(_: Teacher, batch: int, image_size: int) -> bool:
        tried.append(batch)
        return batch <= 20

    monkeypatch.setattr(runner, "_fits", runs)
    monkeypatch.setattr(Patchwise, "device", torch.device("cuda"))
    assert find_batch_size(patchwise(), 28, limit=100) == 12
    assert tried == [100, 50, 25, 12]
    monkeypatch.setattr(runner, "_fits", lambda *_: False)
    with pytest.raises(JobFailed, match="one image of 28 px does not fit"):
        find_batch_size(patchwise(), 28)


def test_batch_size_on_a_cpu_is_a_constant() -> None:
    assert find_batch_size(patchwise(), 28) == runner.CPU_BATCH
    assert find_batch_size(patchwise(), 28, limit=3) == 3


def test_out_of_memory_is_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = patchwise()
    assert runner._fits(teacher, 2, 28)

    def exhausted(images: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    teacher._run = exhausted
    assert not runner._fits(teacher, 2, 28)


def test_outputs_must_be_what_the_teacher_promises() -> None:
    with pytest.raises(InvalidInput, match=r"shapes \(2, 1, 5\) and \(2, 6, 5\), found \(2, 0, 5\) and \(2, 6, 5\)"):
        patchwise(prefix_tokens=1)(torch.zeros(2, 28, 42, 3, dtype=torch.uint8))


def test_tf32_is_put_back() -> None:
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    with tf32(True):
        assert backend.fp32_precision == "tf32"
        with tf32(False):
            assert backend.fp32_precision == "ieee"
        assert backend.fp32_precision == "tf32"
    assert backend.fp32_precision == before
