"""A cache is converted: what is kept, what is lost, what a kill leaves, and that the source stays as it was."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

import store
from store import errors
from store.__main__ import main
from store.compact import encode_shards
from store.compact.compact import CompactReport, compact
from store.inspection.info import inspect
from store.storage import publish
from store.verify.verify import verify
from tests.store import caches
from tests.store.caches import DatasetSpec, TeacherSpec, contents

ROOT_DOCUMENT = "features.zarr/zarr.json"  # holds the identifier of a cache, which is random
PEOPLE = DatasetSpec("people", "generic", images=60, views=2, failed={7}, failed_tokens={"vit": {21, 22}})
ROOMS = DatasetSpec("rooms", "scenes", images=5, split="val")
VIT = TeacherSpec("vit", 1, 16, ("generic",), patch_grid=(4, 4))
DENSE = TeacherSpec("dense", 0, 8, ("scenes",), patch_grid=(4, 4))
SHARD_ROWS = 16


class KilledError(BaseException):
    """Stands for the end of a process."""


def tokens_of(teacher: TeacherSpec, seed: int) -> np.ndarray:
    """Tokens with channels of other sizes and means, of an image that its number makes."""
    shape = (teacher.prefix_tokens + 16, teacher.channels)
    values = np.random.default_rng([seed, *teacher.name.encode()]).standard_normal(shape)
    return (values * np.linspace(0.5, 4, teacher.channels) + np.arange(teacher.channels)).astype(np.float16)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compact") / "source"
    cache = caches.create_datasets(root, (PEOPLE, ROOMS), shard_rows=SHARD_ROWS)
    for spec in (PEOPLE, ROOMS):
        dataset = cache[spec.name]
        for shard in range(dataset.shards):
            caches.write_pixels(cache, spec, shard)
            pixels = dataset.read_trailer("pixels", shard)
            for teacher in (VIT, DENSE):
                caches.create_teacher(dataset, teacher)
                with dataset.write_shard(
                    teacher.name, shard, provenance={"device": "tests"}, pixels_digest=pixels.digest
                ) as writer:
                    for row in dataset.shard_rows_of(shard):
                        if row in spec.failed or row in spec.failed_tokens.get(teacher.name, ()):
                            writer.fail("overflow: too large")
                        else:
                            writer.append(tokens_of(teacher, row))
                    writer.finish()
    store.seal(cache)
    return root


@pytest.fixture(scope="module")
def eight(source: Path, tmp_path_factory: pytest.TempPathFactory) -> CompactReport:
    return compact(source, tmp_path_factory.mktemp("compact") / "eight", ratio=6)


def without_identifier(root: Path) -> dict[str, bytes]:
    """Every file but those that a writer of this process left when it was "killed": the process lives."""
    return {key: data for key, data in contents(root).items() if key != ROOT_DOCUMENT and ".tmp~" not in key}


def test_rows_are_decoded_close_to_the_true_ones_in_a_fraction_of_the_bytes(source: Path, eight: CompactReport) -> None:
    before, after = store.open(source)["people"], eight.cache["people"]
    for teacher in (VIT, DENSE):
        name = teacher.name
        rows = before.valid_rows([name])
        np.testing.assert_array_equal(after.valid_rows([name]), rows)
        assert after.array(name).row_shape[0] * 6 <= before.array(name).row_shape[0] * teacher.channels * 2
        true, decoded = (dataset.read(rows, [name])[name].astype(np.float64) for dataset in (before, after))
        code = after.code(name)
        error = code.standardised(decoded) - code.standardised(true)
        assert np.square(error[:, teacher.prefix_tokens :]).mean() < 0.6
        assert after.distortion(name).slope("patch") == pytest.approx(1, abs=0.01)
        assert after.statistics(name).patch.agrees(before.statistics(name).patch)
        assert after.teacher(name).identity_digest == before.teacher(name).identity_digest
    trailer = after.read_trailer("vit", 1)
    assert trailer.errors == {21: "overflow: too large", 22: "overflow: too large"}
    assert trailer.provenance == {"device": "tests", "compacted_from": store.open(source).uuid}
    assert not verify(eight.cache.location).problems


def test_pixels_and_held_out_tokens_are_the_same_files_and_the_source_is_untouched(
    source: Path, tmp_path: Path
) -> None:
    before = contents(source, seals=True)
    compact(source, tmp_path / "new", ratio=8)
    assert contents(source, seals=True) == before
    for key in ("people/pixels/c.0.0.0.0", "rooms/vit/tokens/c.0.0.0"):
        assert (source / "features.zarr" / key).samefile(tmp_path / "new/features.zarr" / key)
    assert store.open(tmp_path / "new")["rooms"].teacher("vit").code is None
    store.open(tmp_path / "new").delete_dataset("rooms")
    assert contents(source, seals=True) == before


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EPERM])
def test_files_are_copied_where_they_cannot_be_linked(
    source: Path, eight: CompactReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    link = os.link

    def refuse(existing: str | Path, new: str | Path) -> None:
        if str(existing).startswith(str(source)):
            raise OSError(reason, "cannot link")
        link(existing, new)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("store.compact.transfer.PIECE_BYTES", 1000)
    compact(source, tmp_path / "new", ratio=6)
    assert not (source / "features.zarr/people/pixels/c.0.0.0.0").samefile(
        tmp_path / "new/features.zarr/people/pixels/c.0.0.0.0"
    )
    assert without_identifier(tmp_path / "new") == without_identifier(Path(eight.cache.location))


def test_a_conversion_killed_anywhere_and_run_again_gives_the_same_bytes(
    source: Path, eight: CompactReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = without_identifier(Path(eight.cache.location))
    publishing, replacing = publish.publish, publish.replace
    left = [0]

    def count() -> None:
        if left[0] == 0:
            raise KilledError
        left[0] -= 1

    def publish_or_die(temporary: Path, final: Path) -> bool:
        count()
        return publishing(temporary, final)

    def replace_or_die(temporary: Path, final: Path) -> None:
        count()
        replacing(temporary, final)

    monkeypatch.setattr(publish, "publish", publish_or_die)
    monkeypatch.setattr(publish, "replace", replace_or_die)
    interrupted, kills = tmp_path / "killed", 0
    while True:
        left[0] = 3 + kills // 3  # sealing an array takes several writes in one go
        try:
            report = compact(source, interrupted, ratio=6)
        except KilledError:
            kills += 1
            continue
        break
    assert kills > 10
    assert without_identifier(interrupted) == expected
    left[0] = 1000
    again = compact(source, interrupted, ratio=6)
    assert (again.converted, again.present) == (0, report.converted + report.present)


def test_fewer_tokens_of_codes_are_the_same_records(source: Path, tmp_path: Path) -> None:
    compact(source, tmp_path / "first", ratio=8, teachers=["dense"])
    report = compact(tmp_path / "first", tmp_path / "half", ratio=17, teachers=["dense"])
    before, after = store.open(tmp_path / "first")["people"], report.cache["people"]
    assert "records are copied, 4 patches a row" in report.notes[0]
    rows = before.valid_rows(["dense"])
    stored = after.stored_tokens("dense", rows)
    assert stored is not None
    fewer, whole = (dataset.read(rows, ["dense"], raw=True)["dense"] for dataset in (after, before))
    records = whole.reshape(len(rows), 16, -1)
    np.testing.assert_array_equal(fewer, np.take_along_axis(records, stored[..., None], 1).reshape(len(rows), -1))
    decoded, expected = (dataset.read(rows, ["dense"])["dense"] for dataset in (after, before))
    kept = np.isfinite(decoded)
    np.testing.assert_allclose(decoded[kept], expected[kept], rtol=2e-3, atol=2e-3)
    assert after.distortion("dense").tokens("patch") == len(rows) * 4
    assert after.distortion("dense").noise("patch") == pytest.approx(before.distortion("dense").noise("patch"))
    assert not verify(report.cache.location).problems


def test_codes_at_a_lower_rate_are_a_second_generation_whose_noise_is_told(source: Path, tmp_path: Path) -> None:
    compact(source, tmp_path / "first", ratio=4, teachers=["dense"])
    report = compact(tmp_path / "first", tmp_path / "second", ratio=8, teachers=["dense"])
    true, first, second = (store.open(root)["people"] for root in (source, tmp_path / "first", tmp_path / "second"))
    assert second.code("dense").spec.calibration["generation"] == 2
    assert "generation 2" in report.notes[0]
    rows = true.valid_rows(["dense"])
    code = second.code("dense")
    z, y = (code.standardised(dataset.read(rows, ["dense"])["dense"]).astype(np.float64) for dataset in (true, second))
    told = second.distortion("dense")
    assert told.noise("patch") == pytest.approx(np.square(z - y).sum() / np.square(z).sum(), rel=0.1)
    assert told.noise("patch") > first.distortion("dense").noise("patch")
    assert told.slope("patch") == pytest.approx((z * y).sum() / np.square(z).sum(), abs=0.02)
    cosines = (z * y).sum(-1) / np.linalg.norm(z, axis=-1) / np.linalg.norm(y, axis=-1)
    error = np.abs(z - y)
    smooth_l1 = np.where(error < 1, error**2 / 2, error - 0.5).mean()
    assert told.floors("patch") == pytest.approx((1 - cosines.mean(), smooth_l1), rel=0.12)
    assert told.cosine_mean("patch") == pytest.approx(cosines.mean(), abs=0.03)
    assert second.statistics("dense").patch.agrees(true.statistics("dense").patch)
    assert not verify(report.cache.location).problems


def test_noise_of_a_second_generation_on_fewer_patches_is_told(source: Path, tmp_path: Path) -> None:
    compact(source, tmp_path / "first", ratio=4, teachers=["dense"])
    report = compact(tmp_path / "first", tmp_path / "second", ratio=9, teachers=["dense"])
    true, second = store.open(source)["people"], report.cache["people"]
    rows = true.valid_rows(["dense"])
    code = second.code("dense")
    assert code.spec.subset is not None
    assert code.spec.calibration["generation"] == 2
    stored = code.stored_tokens(rows)
    assert stored is not None
    z, y = (
        np.take_along_axis(code.standardised(dataset.read(rows, ["dense"])["dense"]), stored[..., None], 1)
        for dataset in (true, second)
    )
    told = second.distortion("dense")
    assert told.tokens("patch") == stored.size
    assert told.noise("patch") == pytest.approx(np.square(z - y).sum() / np.square(z).sum(), rel=0.1)
    cosines = (z * y).sum(-1) / np.linalg.norm(z, axis=-1) / np.linalg.norm(y, axis=-1)
    assert told.floors("patch")[0] == pytest.approx(1 - cosines.mean(), rel=0.12)
    assert not verify(report.cache.location).problems


def test_an_archive_keeps_every_bit_and_others_read_it(source: Path, eight: CompactReport, tmp_path: Path) -> None:
    report = compact(source, tmp_path / "archive", lossless=True)
    before = store.open(source)
    for name in ("people", "rooms"):
        for teacher in ("vit", "dense"):
            rows = before[name].valid_rows([teacher])
            np.testing.assert_array_equal(report.cache[name].valid_rows([teacher]), rows)
            expected = before[name].read(rows, [teacher])[teacher]
            np.testing.assert_array_equal(report.cache[name].read(rows, [teacher])[teacher], expected)
            opened = zarr.open_array(tmp_path / f"archive/features.zarr/{name}/{teacher}/tokens", mode="r")
            np.testing.assert_array_equal(np.asarray(opened[:])[rows], expected)
            assert report.cache[name].statistics(teacher) is not None
    checked = verify(report.cache.location)
    assert not checked.problems
    assert "'people/vit' is compressed: its rows are checked whenever they are read" in checked.notes
    (told,) = [each for each in inspect(report.cache).datasets[0].arrays if each.name == "vit"]
    assert told.notes == ("compressed without loss: read through zarr, its rows are checked whenever they are read",)
    shard = tmp_path / "archive/features.zarr/rooms/vit/tokens/c.0.0.0"
    whole = bytearray(shard.read_bytes())
    shard.write_bytes(bytes([*whole[:40], whole[40] ^ 1, *whole[41:]]))
    with pytest.raises(errors.Damaged, match="row 0 cannot be read by zarr"):
        store.open(tmp_path / "archive")["rooms"].read([0], ["vit"])
    shard.write_bytes(whole)
    again = compact(source, tmp_path / "archive", lossless=True)
    assert (again.converted, again.present) == (0, report.converted)
    codes = compact(tmp_path / "archive", tmp_path / "codes", ratio=6).cache["people"]
    rows = codes.valid_rows(["vit"])
    expected_codes = eight.cache["people"].read(rows, ["vit"], raw=True)["vit"]
    np.testing.assert_array_equal(codes.read(rows, ["vit"], raw=True)["vit"], expected_codes)


def test_only_teachers_that_are_named_change_their_form(source: Path, tmp_path: Path) -> None:
    new = compact(source, tmp_path / "new", ratio=8, teachers=["dense"]).cache["people"]
    assert new.teacher("dense").code is not None
    assert new.teacher("vit").code is None
    shutil.rmtree(tmp_path / "new/features.zarr/people/vit")
    assert (source / "features.zarr/people/vit/tokens/c.0.0.0").exists()


def test_what_cannot_be_is_refused_in_one_line(source: Path, eight: CompactReport, tmp_path: Path) -> None:
    unsealed = Path(shutil.copytree(source, tmp_path / "unsealed"))
    shutil.rmtree(unsealed / "features.zarr/people/vit/status")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    compact(source, tmp_path / "half", ratio=17, teachers=["dense"])
    for kind, message, arguments in (
        (errors.InvalidInput, "either a ratio", {"ratio": None}),
        (errors.InvalidInput, "either a ratio", {"ratio": 8, "lossless": True}),
        (errors.InvalidInput, "--out is the cache itself", {"ratio": 8, "out": f"{source}/../source"}),
        (errors.InvalidInput, "--out lies inside the cache", {"ratio": 8, "out": source / "smaller"}),
        (errors.MissingName, r"no teacher \['vti'\]; available: dense, vit", {"ratio": 8, "teachers": ["vti"]}),
        (errors.InvalidInput, "teacher 'dense': ratio 900 cannot be met", {"ratio": 900}),
        (errors.OutputExists, "is not empty and holds no cache: notes.txt", {"ratio": 8, "out": tmp_path / "other"}),
        (errors.Conflict, r"begun otherwise. ratio: stored 6.0, asked 8.0", {"ratio": 8, "out": eight.cache.location}),
        (errors.InvalidInput, "ratio 6 already: bits that are gone", {"ratio": 5, "source": eight.cache.location}),
        (errors.InvalidInput, "stores only 4 of the 16", {"ratio": 30, "source": tmp_path / "half"}),
        (errors.NotSealed, "vit/status' is not sealed", {"lossless": True, "source": unsealed}),
    ):
        given = {"source": source, "out": tmp_path / "out", **arguments}
        with pytest.raises(kind, match=message):
            compact(given.pop("source"), given.pop("out"), **given)  # type: ignore[arg-type]
        if kind is not errors.InvalidInput:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert not (tmp_path / "out").exists()


def test_teachers_are_converted_in_one_command(source: Path, tmp_path: Path) -> None:
    """A teacher that an earlier command shared as it was, or has converted, is told of before anything is written."""
    compact(source, tmp_path / "new", ratio=8, teachers=["dense"])
    compact(source, tmp_path / "archive", lossless=True)
    before = contents(tmp_path / "new", seals=True)
    for out, teacher, found, asked in (
        ("new", "vit", "plain float16 tokens", "codes"),
        ("archive", "dense", "an archive", "codes"),
    ):
        with pytest.raises(errors.Conflict, match=f"holds {found}, this command would make it {asked}. Teachers that"):
            compact(source, tmp_path / out, ratio=8, teachers=[teacher, "dense"])
    with pytest.raises(errors.Conflict, match=r"'people/dense' in .* holds codes, .* plain float16 tokens"):
        compact(source, tmp_path / "new", ratio=8, teachers=["vit"])
    assert contents(tmp_path / "new", seals=True) == before


def test_an_archive_is_not_put_beside_codes_or_over_tokens(source: Path, tmp_path: Path) -> None:
    compact(source, tmp_path / "codes", ratio=8, teachers=["dense"])
    compact(source, tmp_path / "archive", lossless=True)
    before = contents(tmp_path / "codes", seals=True)
    with pytest.raises(errors.Conflict, match=r"'people/dense' in .* holds codes, this command would make it an arch"):
        compact(source, tmp_path / "codes", lossless=True)
    with pytest.raises(errors.Conflict, match="holds plain float16 tokens, this command would make it an archive"):
        compact(tmp_path / "archive", tmp_path / "codes", ratio=8, teachers=["dense"])
    assert contents(tmp_path / "codes", seals=True) == before


def test_an_interruption_leaves_whole_shards_only(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = encode_shards.write_codes, [0]

    def interrupted(*values: object, **named: object) -> bool:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return write(*values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("store.compact.compact.write_codes", interrupted)
    assert main(["compact", str(source), "--out", str(tmp_path / "new"), "--ratio", "8"]) == 130
    present = store.open(tmp_path / "new")["people"].present("dense")
    assert 0 < len(present) < 8
    assert not [path for path in (tmp_path / "new").rglob("*.tmp~*")]


def test_the_command_prints_what_was_made(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", str(source), "--out", str(tmp_path / "new"), "--ratio", "8", "--teachers", "dense"]) == 0
    printed = capsys.readouterr().out
    assert f"wrote 8 shards to {tmp_path / 'new'}" in printed
    assert "dense" in printed
    assert main(["compact", str(source), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith("error: give either a ratio")
