"""Check of what codes bring along: the arrays of a code, and the distortion that trailers and seals record."""

from collections.abc import Iterator

import numpy as np

from store import errors
from store.cache.dataset import Dataset
from store.format.code import Code
from store.format.code_schema import SmallArray, code_arrays, code_path
from store.format.distortion import KINDS
from store.format.schema import OK, group_document
from store.format.statistics import stacked
from store.format.trailer import Trailer
from store.verify.problems import Kind, Problem

CLOSE = 1e-2  # relative distance of sums of squares, which devices compute in float32


def code_problems(dataset: Dataset, teacher: str) -> list[Problem]:
    """Check the documents and arrays of a teacher's code, and their digest.

    Args:
        dataset: the dataset.
        teacher: name of a teacher with a code, whose own document can be read.
    """
    spec = dataset.teacher(teacher).code
    assert spec is not None
    problems = list(_document_problems(dataset, f"{code_path(dataset.name, teacher)}/zarr.json", group_document()))
    damaged = False
    for array in code_arrays(dataset.name, teacher, spec).values():
        problems += _document_problems(dataset, array.document_key, array.document)
        message = _array_problem(dataset, array)
        if message:
            damaged = True
            problems.append(_problem(dataset, teacher, array.key, message))
    if not damaged:
        try:
            dataset.code(teacher)
        except errors.Damaged as error:
            problems.append(_problem(dataset, teacher, code_path(dataset.name, teacher), str(error)))
    return problems


def distortion_contradictions(dataset: Dataset, array: str, trailer: Trailer) -> Iterator[str]:
    """Yield in what the distortion in a trailer contradicts the rest of it.

    Moments and distortion are those of the true tokens, which are not stored: neither follows from the codes. But the
    sums of squares follow from the moments where all tokens are stored.
    """
    teacher, distortion = dataset.teacher(array), trailer.distortion
    if teacher.code is None:
        return
    if distortion is None:
        yield "codes must carry the distortion of their tokens"
        return
    problem = distortion.contradiction()
    if problem:
        yield f"distortion: {problem}"
        return
    if distortion.sums.shape[-1] != teacher.channels:
        yield f"distortion of {distortion.sums.shape[-1]} channels, expected {teacher.channels}"
        return
    ok = int((trailer.status == OK).sum())
    stored = (teacher.prefix_tokens, teacher.code.stored_patches(teacher.patches))
    for kind, tokens in zip(KINDS, stored, strict=True):
        if distortion.tokens(kind) != ok * tokens:
            yield f"distortion of {distortion.tokens(kind)} {kind} tokens, expected {ok} rows of {tokens}"
            return
    try:
        code = dataset.code(array)
    except errors.Damaged:
        return  # reported with the code
    if teacher.code.subset is None and not _sums_fit(trailer, code):
        yield "distortion is not that of tokens with these moments"


def _sums_fit(trailer: Trailer, code: Code) -> bool:
    """Return whether the sums of squares of standardised tokens are those that follow from the moments."""
    assert trailer.moments is not None
    assert trailer.distortion is not None
    count, mean, m2 = stacked(*trailer.moments)[:, :3].swapaxes(0, 1)
    expected = (m2 + count * np.square(mean - code.mean)) / np.square(code.std, dtype=np.float64)
    floor = CLOSE**2 * count  # of channels that hardly vary
    return bool((np.abs(trailer.distortion.sums[:, 0] - expected) <= CLOSE * expected + floor).all())


def _array_problem(dataset: Dataset, array: SmallArray) -> str:
    try:
        values = array.decode(dataset.storage.read(array.key, limit=array.stored_bytes))
    except FileNotFoundError:
        return "it is absent, and the teacher's tokens are stored in this code"
    except errors.Damaged:
        values = None
    return "size or checksum of an array of the code differs" if values is None else ""


def _document_problems(dataset: Dataset, key: str, expected: bytes) -> Iterator[Problem]:
    try:
        if dataset.storage.read(key) != expected:
            yield Problem(kind=Kind.METADATA_DAMAGED, key=key, message="it is not what codistill writes")
    except FileNotFoundError:
        yield Problem(kind=Kind.METADATA_DAMAGED, key=key, message="it is absent")


def _problem(dataset: Dataset, teacher: str, key: str, message: str) -> Problem:
    return Problem(kind=Kind.CODE_DAMAGED, key=key, message=message, dataset=dataset.name, array=teacher)
