"""Files of a run that say anything: each reader gives a good answer or one error of ours that names the file."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store.errors import CodistillError, Damaged
from tests.store.cache.test_hostile_metadata import VALUES, paths_in, text_of, with_value
from train.data.open_caches import described_teachers
from train.recipe.config import Recipe
from train.run import checkpoints, directory, log
from train.run.output import CACHE, CHECKPOINTS, RECIPE

DESCRIPTION = {
    "image_size": 28,
    "teachers": {
        "dino": {
            "identity_digest": "0" * 64,
            "identity": {"architecture": "x"},
            "groups": ["a"],
            "patch_grid": [2, 2],
            "prefix_tokens": 1,
            "channels": 6,
        }
    },
    "caches": [
        {
            "location": "/somewhere",
            "uuid": "u",
            "datasets": {"d": {"group": "a", "split": "train", "rows": 5, "used_rows": 5, "status": {"pixels": "0"}}},
        }
    ],
}
LOG = {"kind": "step", "step": 3, "loss": 0.5, "terms": {"dino": {"patch_cosine": 0.1}}}


def read_cache(run: Path) -> None:
    described_teachers(directory.read_description(run))


def read_state(run: Path) -> None:
    checkpoints.check(run / CHECKPOINTS, 3)


FILES: dict[str, tuple[dict[str, Any], Callable[[Path], object]]] = {
    CACHE: (DESCRIPTION, read_cache),
    RECIPE: (json.loads(Recipe(name="x").to_json()), directory.read_recipe),
    log.LOG: (LOG, log.read),
    "checkpoints/step-00000003/state.json": ({"step": 3, "world": {"size": 1}}, read_state),
}


@pytest.mark.parametrize("name", FILES)
def test_every_value_of_every_file(tmp_path: Path, name: str) -> None:
    document, read = FILES[name]
    chance, path = random.Random(0), tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text_of(document))
    read(tmp_path)
    whole = path.read_bytes()
    junk = [b"", b"\xff\xfe", whole[:-7], chance.randbytes(50)]
    changed = [
        text_of(with_value(document, place, value))
        for place in paths_in(document)
        for value in chance.sample(VALUES, 6)
    ]
    failures = []
    for data in junk + changed:
        path.write_bytes(data)
        try:
            read(tmp_path)
        except CodistillError as error:
            if not str(error):
                failures.append(f"{data[:200]!r}: an error without a message")
        except Exception as error:
            failures.append(f"{data[:200]!r}: {type(error).__name__}: {error}")
    assert failures == []


def test_a_description_is_refused_by_the_value_that_is_wrong(tmp_path: Path) -> None:
    wrong = with_value(DESCRIPTION, ("teachers", "dino", "channels"), 10**12)
    (tmp_path / CACHE).write_text(json.dumps(wrong))
    with pytest.raises(
        Damaged, match=r"cache.json'.dino.channels: expected an integer from 1 to .*, found 1000000000000"
    ):
        directory.read_description(tmp_path)
