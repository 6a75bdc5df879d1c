"""The store of probe features: resumed after a stop, keyed by all that they depend on, refused with a wrong key."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.probes.feature_store import Features
from store.errors import Conflict, Damaged, InvalidInput, MissingShard

KEY = {"encoder": {"weights": "abc"}, "views": 2}


def make(root: Path, *, key: dict[str, object] = KEY, items: int = 10) -> Features:
    return Features(root, name="e-d-train", key=key, items=items, shard_items=4)


def compute(items: range) -> dict[str, np.ndarray]:
    tokens = np.array([[item, item + 0.5] for item in items], dtype=np.float32)
    return {"tokens": tokens, "labels": np.array(items, dtype=np.int64)}


def test_a_stopped_extraction_goes_on_where_it_was(tmp_path: Path) -> None:
    asked: list[range] = []

    def failing(items: range) -> dict[str, np.ndarray]:
        asked.append(items)
        if items.start == 4:
            raise KeyboardInterrupt
        return compute(items)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).fill(failing)
    features = make(tmp_path)
    assert features.missing() == [1, 2]
    assert features.fill(compute) == 2
    assert make(tmp_path).fill(compute) == 0
    assert asked == [range(4), range(4, 8)]
    np.testing.assert_array_equal(features.read(2)["labels"], [8, 9])
    assert not list(features.folder.glob("partial-*"))


def test_any_items_are_gathered_in_the_order_asked_for(tmp_path: Path) -> None:
    features = make(tmp_path)
    features.fill(compute)
    items = np.array([9, 0, 5, 5])
    np.testing.assert_array_equal(features.gather("labels", items), items)
    tokens = features.gather("tokens", items)
    assert tokens.dtype == np.float16
    np.testing.assert_array_equal(tokens, np.stack([items, items + 0.5], axis=1))


def test_another_key_is_another_folder(tmp_path: Path) -> None:
    make(tmp_path).fill(compute)
    assert make(tmp_path, key={**KEY, "views": 3}).missing() == [0, 1, 2]
    assert make(tmp_path, items=9).missing() == [0, 1, 2]
    assert make(tmp_path).missing() == []


def test_a_folder_that_says_something_else_is_refused(tmp_path: Path) -> None:
    features = make(tmp_path)
    path = features.folder / "key.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "views": 7}))
    with pytest.raises(Conflict, match=r"key\.json does not fit the folder's name"):
        make(tmp_path)


def test_values_that_do_not_fit_float16_are_refused(tmp_path: Path) -> None:
    for value, message in ((1e5, "largest 100000"), (np.nan, "1 values of tokens not finite")):
        with pytest.raises(InvalidInput, match=message):
            make(tmp_path).fill(lambda items, value=value: {"tokens": np.array([value, 1], dtype=np.float32)})
    assert make(tmp_path).missing() == [0, 1, 2]


def test_missing_and_damaged_shards_are_named(tmp_path: Path) -> None:
    features = make(tmp_path)
    with pytest.raises(MissingShard, match="no shard 0"):
        features.read(0)
    features.fill(compute)
    path = features.folder / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(Damaged, match="shard-00001"):
        make(tmp_path).gather("tokens", np.array([5]))


def test_an_extraction_that_cannot_fit_is_refused_before_its_second_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(InvalidInput, match="Pass fewer --views"):
        make(tmp_path).fill(compute)
    assert make(tmp_path).missing() == [0, 1, 2]
