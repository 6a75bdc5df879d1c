"""Conversion of caches that hold one teacher as codes in some datasets and as float16 in others."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import store
from store import errors
from store.compact.compact import compact
from store.format.calibration_sample import CalibrationSample
from store.format.code_fit import fit_code
from store.verify.verify import verify
from tests.store import caches
from tests.store.caches import DatasetSpec
from tests.store.compact.test_compact import DENSE, PEOPLE, SHARD_ROWS, tokens_of


def build_foreign(root: Path, *, split: Literal["train", "val"] = "train") -> Path:
    """A cache of people and rooms with the codes of a teacher in one, and float16 in the other.

    They were calibrated on tokens of other means. Held out are the rooms, and then they have the codes.
    """
    specs = (PEOPLE, DatasetSpec("rooms", "scenes", images=70, split=split))
    shifted = np.stack([tokens_of(DENSE, row) - np.float16(3) for row in range(1000, 1100)])
    code = fit_code(
        CalibrationSample(tokens=shifted, rows=np.arange(1000, 1100), prefix_tokens=0, patch_grid=DENSE.patch_grid),
        ratio=4,
    )
    cache = caches.create_datasets(root, specs, shard_rows=SHARD_ROWS)
    for spec in specs:
        dataset = cache[spec.name]
        described = {name: getattr(DENSE, name) for name in ("identity", "groups", "patch_grid", "prefix_tokens")}
        coded = spec is specs[split == "val"]
        dataset.create_teacher("dense", **described, channels=8, code=code if coded else None)
        for shard in range(dataset.shards):
            caches.write_pixels(cache, spec, shard)
            digest = dataset.read_trailer("pixels", shard).digest
            with dataset.write_shard("dense", shard, provenance={}, pixels_digest=digest) as writer:
                for row in dataset.shard_rows_of(shard):
                    if row in spec.failed:
                        writer.fail("no pixels")
                    else:
                        writer.append(tokens_of(DENSE, row))
                writer.finish()
    store.seal(cache)
    return root


@pytest.fixture(scope="module")
def foreign_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_foreign(tmp_path_factory.mktemp("foreign") / "cache")


def test_noise_is_told_where_codes_were_calibrated_on_other_tokens(foreign_code: Path, tmp_path: Path) -> None:
    report = compact(foreign_code, tmp_path / "new", ratio=8)
    for dataset in report.cache:
        rows = dataset.valid_rows(["dense"])
        true = np.stack([tokens_of(DENSE, row) for row in rows])
        code = dataset.code("dense")
        z, y = (code.standardised(x).astype(np.float64) for x in (true, dataset.read(rows, ["dense"])["dense"]))
        told = dataset.distortion("dense")
        assert told.noise("patch") == pytest.approx(np.square(z - y).sum() / np.square(z).sum(), rel=0.1)
        cosines = (z * y).sum(-1) / np.linalg.norm(z, axis=-1) / np.linalg.norm(y, axis=-1)
        assert told.floors("patch")[0] == pytest.approx(1 - cosines.mean(), rel=0.12)
    assert not verify(report.cache.location).problems


def test_codes_of_the_ratio_are_kept_and_float16_beside_them_takes_the_same_code(
    foreign_code: Path, tmp_path: Path
) -> None:
    """Rooms in float16, people in codes of ratio 4: one code afterwards, which was calibrated once."""
    report = compact(foreign_code, tmp_path / "new", ratio=4)
    assert report.notes == ("'dense': has ratio 4 in people; these codes are kept",)
    before, after = store.open(foreign_code), report.cache
    assert (
        after["rooms"].code("dense").spec == after["people"].code("dense").spec == before["people"].code("dense").spec
    )
    key = "features.zarr/people/dense/codes/c.0.0"
    assert (foreign_code / key).samefile(tmp_path / "new" / key)
    rows = after["rooms"].valid_rows(["dense"])
    assert len(rows) == 70
    true, decoded = (cache["rooms"].read(rows, ["dense"])["dense"] for cache in (before, after))
    code = after["rooms"].code("dense")
    z, y = (code.standardised(tokens).astype(np.float64) for tokens in (true, decoded))
    assert after["rooms"].distortion("dense").noise("patch") == pytest.approx(
        np.square(z - y).sum() / np.square(z).sum(), rel=1e-2
    )
    again = compact(foreign_code, tmp_path / "new", ratio=4)
    assert (again.converted, again.present) == (0, report.converted)
    assert not verify(after.location).problems
    with pytest.raises(errors.InvalidInput, match=r"ratio 4 already: .*Ask for 4, which keeps its co"):
        compact(foreign_code, tmp_path / "lower", ratio=2)
    with pytest.raises(errors.InvalidInput, match=r"tokens of dense in .* ratio 4 already: there is nothing to con"):
        compact(tmp_path / "new", tmp_path / "same", ratio=4)
    with pytest.raises(errors.Conflict, match=r"begun otherwise. ratio: stored 4.0, asked 8.0"):
        compact(foreign_code, tmp_path / "new", ratio=8)


def test_a_held_out_dataset_keeps_its_codes_and_so_decides_the_code_of_all(tmp_path: Path) -> None:
    source = build_foreign(tmp_path / "cache", split="val")
    with pytest.raises(errors.InvalidInput, match=r"'rooms/dense' in .* is held out .* ratio 4: .* Ask for 4"):
        compact(source, tmp_path / "other", ratio=8)
    assert not (tmp_path / "other").exists()
    cache = compact(source, tmp_path / "new", ratio=4).cache
    assert cache["people"].code("dense").spec == store.open(source)["rooms"].code("dense").spec
