"""Benchmark of damage: every kind of damage to a small cache must be found and repaired, and nothing may be lost.

    python -m benchmarks.store.damage           # 1000 random flips in shards, 1000 in all files, each structural damage
    python -m benchmarks.store.damage --quick   # a few; tests run it

Flips of bytes hit slots, trailers and indexes equally often, one a shard at a time; after each round of `verify` and
`repair` every file must be as before, byte for byte. Flips of bits hit every kind of file of a cache equally often, one
at a time: each must be found, no reader may take it for good, and all but those in image lists must be repaired to the
same bytes. The structural damages are those of the tests (`tests.store.damage`).
"""

import contextlib
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import store
from benchmarks.machine import describe
from store.errors import UnsupportedFormat
from store.format.layout import ShardLayout
from store.format.schema import PIXELS
from store.verify.problems import Kind
from store.verify.repair import repair
from store.verify.verify import verify
from tests.store import bit_flips, caches, damage, fake_recomputer

Damage = Callable[[Path], None]
REGIONS = ("slots", "trailer", "index")


def main(
    flips: int = 1000, seed: int = 0, out: Path = Path("benchmarks/results"), quick: bool = False
) -> dict[str, Any]:
    """Damage, verify, repair, compare, print and save `store_damage.json`.

    Args:
        flips: number of flips of bytes in shards, and of bits in all files.
        seed: seed of the choice.
        out: folder of the results.
        quick: 30 flips and every eighth structural damage.
    """
    flips, step = (30, 8) if quick else (flips, 1)
    work = Path(tempfile.mkdtemp(prefix="codistill-damage-"))
    report: dict[str, Any] = {"benchmark": "store_damage", "quick": quick, "machine": describe(())}
    try:
        with pytest.MonkeyPatch.context() as patch:
            fake_recomputer.install(work / "site", patch)
            whole = work / "whole"
            caches.make_cache(whole)
            report["flips"] = flip_bytes(whole, work / "flipped", flips=flips, generator=random.Random(seed))
            report["bits"] = flip_bits(whole, work / "bits", flips=flips, generator=random.Random(seed))
            expected = {
                "identical": damage.REPAIRED[::step],
                "rows identical": damage.RECOMPUTED[::step],
                "reported, untouched": damage.REPORTED[::step],
            }
            report["structural"] = [
                {"expected": outcome, **break_structure(whole, work / "broken", function, kind)}
                for outcome, cases in expected.items()
                for function, kind in tqdm(cases, desc=outcome, unit="damage")
            ]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "store_damage.json").write_text(json.dumps(report) + "\n")
    print_report(report, Console())
    return report


def flip_bytes(whole: Path, root: Path, *, flips: int, generator: random.Random) -> dict[str, Any]:
    """Flip single bytes, one in each of some shards a round, and repair; count damages found and repaired."""
    shutil.copytree(whole, root)
    before = caches.contents(whole)
    shards = _shards(root)
    counts: Counter[str] = Counter({"found": 0, "repaired": 0})
    kinds: Counter[str] = Counter()
    with tqdm(total=flips, desc="flips", unit="flip") as bar:
        while counts["flips"] < flips:
            hit = generator.sample(sorted(shards), min(len(shards), flips - counts["flips"]))
            for path in hit:
                region = generator.choice(REGIONS)
                counts[region] += 1
                damage.flip(path, generator.choice(shards[path][region]), generator.randrange(1, 256))
            report = verify(root)
            kinds.update(problem.kind.value for problem in report.problems)
            reported = {problem.key for problem in report.problems}
            repair(store.open(root), report)
            after = caches.contents(root)
            for path in hit:
                key = path.relative_to(root).as_posix()
                counts["found"] += key in reported
                counts["repaired"] += after.get(key) == before[key]
            counts["flips"] += len(hit)
            bar.update(len(hit))
            changed = sorted(key for key in before if after.get(key) != before[key])
            if changed or not verify(root).ok:
                raise AssertionError(f"a repair left {changed or 'problems'}")
    return {**counts, "kinds": dict(sorted(kinds.items()))}


def flip_bits(whole: Path, root: Path, *, flips: int, generator: random.Random) -> dict[str, Any]:
    """Flip single bits in all kinds of files, one at a time; count those found, read as good, and repaired."""
    shutil.copytree(whole, root)
    expected, before = bit_flips.contents_for_readers(root), caches.contents(root, seals=True)
    kinds = bit_flips.files_by_kind(root)
    counts: Counter[str] = Counter({"found": 0, "silently accepted": 0, "repaired": 0})
    by_kind: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for _ in tqdm(range(flips), desc="bits", unit="flip"):
        kind = generator.choice(sorted(kinds))
        path = generator.choice(kinds[kind])
        key = path.relative_to(root).as_posix()
        damage.flip(path, generator.randrange(len(before[key])), 1 << generator.randrange(8))
        report = verify(root)
        outcome = Counter(
            {
                "flips": 1,
                "found": int(not report.ok),
                "silently accepted": int(bit_flips.read(root, expected) == "other values"),
            }
        )
        repair(root, report)
        outcome["repaired"] = int(caches.contents(root, seals=True) == before)
        if not outcome["repaired"]:
            path.write_bytes(before[key])
        counts.update(outcome)
        by_kind[kind].update(outcome)
    return {**counts, "kinds": {kind: dict(tally) for kind, tally in by_kind.items()}}


def _shards(root: Path) -> dict[Path, dict[str, range]]:
    """Return the byte ranges of slots, trailer and index, by shard."""
    ranges = {}
    for dataset in store.open(root):
        for array in (PIXELS, *dataset.teachers):
            node = dataset.array(array)
            assert isinstance(node.layout, ShardLayout)
            for shard in dataset.present(array):
                path = root / node.shard_key(shard)
                size, slots = path.stat().st_size, node.layout.slots_bytes(shard)
                index = size - node.layout.index_bytes
                ranges[path] = dict(zip(REGIONS, (range(slots), range(slots, index), range(index, size)), strict=True))
    return ranges


def break_structure(whole: Path, root: Path, function: Damage, kind: Kind) -> dict[str, Any]:
    """Damage a copy of a cache in one way, verify and repair it; return whether its kind was found, and the outcome."""
    shutil.copytree(whole, root)
    try:
        function(root)
        damaged = _tree(root)
        report = verify(root)
        with contextlib.suppress(UnsupportedFormat):  # where not even the root document can be read
            repair(store.open(root), report)
        outcome = "NOT REPAIRED"
        if not verify(root).ok:
            outcome = "reported, untouched" if _tree(root) == damaged else outcome
        elif caches.contents(root) == caches.contents(whole):
            outcome = "identical"
        elif caches.same_rows(root, whole):
            outcome = "rows identical"
    finally:
        for folder in (root, root.parent / "other"):
            shutil.rmtree(folder, ignore_errors=True)
    detected = kind in {problem.kind for problem in report.problems}
    return {"damage": function.__name__, "kind": kind.value, "found": detected, "outcome": outcome}


def _tree(root: Path) -> dict[str, bytes]:
    """Return the bytes of every file, and an empty entry for every folder."""
    return caches.contents(root) | {f"{path.relative_to(root)}/": b"" for path in root.rglob("*") if path.is_dir()}


def as_expected(case: dict[str, Any]) -> bool:
    """Return whether a damage ended as expected, or better."""
    better = {"rows identical": ("identical",)}
    return case["outcome"] in (case["expected"], *better.get(case["expected"], ()))


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    flips = report["flips"]
    regions = ", ".join(f"{flips[region]} in {region}" for region in REGIONS if region in flips)
    console.print(
        f"{flips['flips']} single-byte flips ({regions}): {flips['found']} found, {flips['repaired']} repaired to the "
        "same bytes"
    )
    bits = Table("file", "flips", "found", "silently accepted", "repaired", title="flips of single bits")
    for kind, counts in {**report["bits"]["kinds"], "all": report["bits"]}.items():
        bits.add_row(kind, *(str(counts.get(name, 0)) for name in ("flips", "found", "silently accepted", "repaired")))
    console.print(bits)
    table = Table("expected", "damages", "found", "as expected", title="structural damages")
    for expected in dict.fromkeys(case["expected"] for case in report["structural"]):
        cases = [case for case in report["structural"] if case["expected"] == expected]
        detected = sum(case["found"] for case in cases)
        reached = sum(as_expected(case) for case in cases)
        table.add_row(expected, str(len(cases)), str(detected), str(reached))
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
