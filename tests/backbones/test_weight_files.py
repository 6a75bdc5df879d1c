"""Weight files: what is read, what is refused without being run, and what damage is called."""

import contextlib
import io
import os
import pickle
import random
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backbones import state_dicts, weight_files
from store.errors import CodistillError, Damaged, InvalidInput, MissingFile, UnsafeFile


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def state() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.randn(3, 4), "a.bias": torch.arange(3)}


def args() -> Namespace:
    schedule = np.linspace(0, 1, 5)
    return Namespace(schedule=schedule, best=np.float64(0.25), step=np.int64(3), half=schedule.astype(np.float16))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("numpy_1", [True, False])
def test_namespaces_and_numpy_are_read(tmp_path: Path, zipped: bool, numpy_1: bool) -> None:
    content = {"model": state(), "args": args()}
    raw = saved(content, _use_new_zipfile_serialization=zipped)
    if numpy_1 and not zipped:
        assert b"numpy._core" in raw
        raw = raw.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    read = weight_files.load(written(tmp_path / "a.pth", raw))
    assert torch.equal(read["model"]["a.weight"], content["model"]["a.weight"])
    assert np.array_equal(read["args"].schedule, content["args"].schedule)
    assert read["args"].half.dtype == np.float16
    assert (read["args"].best, read["args"].step) == (0.25, 3)


@pytest.mark.parametrize("kind", ["zip", "legacy", "protocol 4", "plain pickle", "inside a Namespace", "object array"])
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "was-run"
    bomb = Malicious(marker)
    content: Any = {"model": state(), "args": bomb}
    if kind == "inside a Namespace":
        content["args"] = Namespace(deep=[{"er": bomb}])
    if kind == "object array":
        content["args"] = np.array([bomb], dtype=object)
    if kind == "plain pickle":
        raw = pickle.dumps(content["args"], protocol=2)
    else:
        protocol = 4 if kind == "protocol 4" else 2
        raw = saved(content, _use_new_zipfile_serialization=kind != "legacy", pickle_protocol=protocol)
    path = written(tmp_path / "a.pth", raw)
    with pytest.raises(UnsafeFile, match="nothing was run") as error:
        weight_files.load(path)
    assert not marker.exists()
    if kind != "protocol 4":
        assert "'posix.system'" in str(error.value)


def test_every_name_that_is_asked_for_is_told(tmp_path: Path) -> None:
    content = {"a": Path("x"), "b": Malicious(tmp_path / "m"), "c": args()}
    with pytest.raises(UnsafeFile, match=r"'pathlib.*Path', 'posix.system'"):
        weight_files.load(written(tmp_path / "a.pth", saved(content)))


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="found nothing"):
        weight_files.load(tmp_path / "none.pth")
    with pytest.raises(MissingFile, match="a directory"):
        weight_files.load(tmp_path)
    for content, message in (
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!doctype html><title>404</title>", "an HTML page"),
        (b"GIF89a and so on", r"16 bytes beginning with b'GIF89a a'"),
    ):
        with pytest.raises(InvalidInput, match=message):
            weight_files.load(written(tmp_path / "x.pth", content))


def test_truncated_safetensors_says_how_much_is_missing(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes()[0] == 0x80  # a header length that begins like a pickle
    raw = (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(Damaged, match=f"expected {len(raw)} bytes.*found {len(raw) - 5}"):
        weight_files.load(written(tmp_path / "b.safetensors", raw[:-5]))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_is_always_one_of_our_errors(tmp_path: Path, kind: str) -> None:
    if kind == "safetensors":
        save_file(state(), tmp_path / "whole")
        raw = (tmp_path / "whole").read_bytes()
    else:
        raw = saved({"model": state(), "args": args()}, _use_new_zipfile_serialization=kind == "zip")
    chance = random.Random(0)
    for _ in range(60):
        cut = raw[: chance.randrange(len(raw))]
        with pytest.raises((Damaged, InvalidInput)):
            weight_files.load(written(tmp_path / "cut", cut))
    for _ in range(120):
        flipped = bytearray(raw)
        flipped[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        with contextlib.suppress(CodistillError):  # a flip in a value goes unseen here; the fingerprint sees it
            weight_files.load(written(tmp_path / "flipped", bytes(flipped)))


def test_wrappers_are_stripped_safely() -> None:
    tensor = torch.zeros(1)
    names = ["module._orig_mod.encoder.a", "_orig_mod.module.b", "encoder._orig_mod.c", "submodule.d", "x.module.e"]
    stripped = state_dicts.strip_wrappers(dict.fromkeys(names, tensor))
    assert list(stripped) == ["encoder.a", "b", "encoder.c", "submodule.d", "x.module.e"]
    with pytest.raises(InvalidInput, match="both 'a'"):
        state_dicts.strip_wrappers({"a": tensor, "module.a": tensor})


def test_check_lists_every_problem() -> None:
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(1)}
    state = {"a": torch.zeros(3, 2), "c": torch.zeros(1), "d": torch.zeros(1)}
    with pytest.raises(InvalidInput) as problem:
        state_dicts.check(expected, state, source="weights 'w.pth' as x")
    text = str(problem.value)
    for part in ("weights 'w.pth' as x", "1 missing (b)", "1 unexpected (d)", "a expected 2x3, found 3x2"):
        assert part in text


def test_state_is_found_where_authors_put_it() -> None:
    flat = state()
    for content in (flat, {"model": flat, "epoch": 3}, {"state_dict": flat, "args": args()}):
        assert state_dicts.find(content, ("model", "state_dict"), source="s").keys() == flat.keys()
    with pytest.raises(InvalidInput, match="found keys optimizer, epoch"):
        state_dicts.find({"optimizer": {}, "epoch": 1}, ("model",), source="s")
    with pytest.raises(InvalidInput, match="found list"):
        state_dicts.find([1], ("model",), source="s")


def test_fingerprint_sees_names_dtypes_shapes_and_bytes() -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}
    reordered = dict(reversed(base.items()))
    strided = base | {"a": torch.arange(12.0)[::2] / 2}
    assert state_dicts.fingerprint(base) == state_dicts.fingerprint(reordered) == state_dicts.fingerprint(strided)
    changes = (
        {"a": torch.arange(6.0).view(2, 3)},
        {"a": torch.arange(6.0).double()},
        {"a": torch.arange(6.0) + 1e-7},
        {"c": torch.zeros(1)},
    )
    assert len({state_dicts.fingerprint(base | change) for change in changes} | {state_dicts.fingerprint(base)}) == 5


def test_a_header_that_claims_more_than_the_file_has(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "whole")
    raw = (tmp_path / "whole").read_bytes()
    with pytest.raises(Damaged, match=r"a header of 100000000 bytes in a file of"):
        weight_files.load(written(tmp_path / "a", (100_000_000).to_bytes(8, "little") + raw[8:]))
    with pytest.raises(CodistillError):
        weight_files.load(written(tmp_path / "a", (2**60).to_bytes(8, "little") + raw[8:]))
    length = int.from_bytes(raw[:8], "little")
    for header in (
        b"[" * 20_000,
        b'{"a": null}',
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": "x"}}',
        b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}',
    ):
        padded = header + b" " * max(0, 9 - len(header))
        content = len(padded).to_bytes(8, "little") + padded + raw[8 + length :]
        with pytest.raises((Damaged, InvalidInput)):
            weight_files.load(written(tmp_path / "b", content))


def hollow(kind: str) -> torch.Tensor:
    if kind == "repeated":
        return torch.zeros(1).expand(10**6, 10**6)
    return torch.zeros(4, device="meta") if kind == "empty" else torch.zeros(4).to_sparse()


@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*invariants")
@pytest.mark.parametrize("kind", ["repeated", "empty", "sparse"])
def test_tensors_whose_values_are_not_in_the_file_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": hollow(kind), "b": torch.zeros(2)}, path)
    with pytest.raises(InvalidInput, match=r"expected plain tensors.*\(a\)"):
        state_dicts.find(weight_files.load(path), ("model",), source="s")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.complex64])
def test_numbers_that_are_no_weights_are_refused(dtype: torch.dtype) -> None:
    expected = {"a": torch.zeros(2), "n": torch.tensor(1)}
    with pytest.raises(InvalidInput, match=r"of another type.*a expected float32"):
        state_dicts.check(expected, {"a": torch.zeros(2, dtype=dtype), "n": torch.tensor(1)}, source="s")
    state_dicts.check(expected, {"a": torch.zeros(2, dtype=torch.float16), "n": torch.tensor(1)}, source="s")
