"""Read weight files without running any code in them, and write such files whole or not at all.

safetensors, or `torch.load(weights_only=True)` within an allow-list that covers what the authors of the teachers store
beside their weights: `argparse.Namespace` and numeric numpy arrays, under the names of numpy 1 and 2.
"""

import argparse
import contextlib
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from store.common import atomic, checksums, strict_json
from store.errors import Damaged, InvalidInput, MissingFile, OutputExists, StorageFailed, UnsafeFile

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
SAFETENSORS_MAX_HEADER = 100_000_000
NUMERIC_DTYPES = (
    "Bool",
    *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    *(f"Float{bits}" for bits in (16, 32, 64)),
)
NOT_WEIGHTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself. Fetch it with: git lfs pull"),
    (b"<!DOCTYPE", "an HTML page, not weights. Download the file again"),
    (b"<html", "an HTML page, not weights. Download the file again"),
)


def load(path: str | Path) -> Any:
    """Read a weight file on the CPU; a file that would have to execute code is refused.

    Sums beside the file, `NAME.sha256` or `SHA256SUMS`, are checked first.

    Args:
        path: a `.safetensors` file or a file written by `torch.save`; told apart by content, not by name.

    Returns:
        The checkpoint as stored: a flat dict of tensors, or nested dicts with `argparse.Namespace` beside them.
        Tensors of zip-format files are memory-mapped, so unused parts of a large checkpoint cost nothing.

    Raises:
        MissingFile: no such file.
        UnsafeFile: the file names code that is not on the allow-list; nothing of it was run.
        Damaged: truncated, corrupt, or not what the sums beside it say.
        InvalidInput: not a weight file.
    """
    path = Path(path)
    if not path.is_file():
        instead = "a directory" if path.is_dir() else "nothing"
        raise MissingFile(f"weights '{path}': expected a file, found {instead}. Check the path")
    checksums.check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
    header_bytes = int.from_bytes(head[:8], "little")
    # Checked before PyTorch files: the header length may look like the first byte of a pickle.
    if head[8:9] == b"{" and header_bytes <= SAFETENSORS_MAX_HEADER:
        return _load_safetensors(path, size=size, header_bytes=header_bytes)
    if head.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        return _load_torch(path, size=size, mapped=head.startswith(ZIP_MAGIC))
    raise InvalidInput(f"weights '{path}': expected safetensors or a PyTorch file, found {_describe(head, size)}")


def save(path: str | Path, content: Any) -> None:
    """Write a checkpoint by `torch.save`, whole or not at all, and its sha256 beside it, which `load` checks.

    Args:
        path: file to write; must not exist.
        content: tensors in nested dicts, with what `load` allows beside them.

    Raises:
        OutputExists: the file exists.
        StorageFailed: it cannot be written, for example onto a full disk; nothing of it stays.
    """
    path = Path(path)
    if path.exists():
        raise OutputExists(f"output '{path}' exists. Choose another name or delete it")
    try:
        with atomic.replacing(path) as partial, partial.open("wb") as file:
            torch.save(content, file)
        checksums.write_file_sum(path)
    except (OSError, RuntimeError) as error:
        path.unlink(missing_ok=True)
        reason = atomic.system_reason(error)
        if reason is None:
            raise
        raise StorageFailed(f"output '{path}' cannot be written: {reason}. Put that right and try again") from error


def _describe(head: bytes, size: int) -> str:
    if not size:
        return "an empty file. Download it again"
    for magic, description in NOT_WEIGHTS:
        if head.lower().startswith(magic.lower()):
            return description
    return f"{size} bytes beginning with {head[:8]!r}. Give a .safetensors file or one written by torch.save"


def _load_safetensors(path: Path, *, size: int, header_bytes: int) -> dict[str, torch.Tensor]:
    if 8 + header_bytes > size:
        raise Damaged(f"weights '{path}': a header of {header_bytes} bytes in a file of {size}. Download it again")
    try:
        return load_file(path)
    except MemoryError as error:
        raise _too_large(path, size) from error
    except OSError:
        raise
    except Exception as error:  # also KeyError for types of numbers that torch does not have
        expected = _safetensors_size(path, header_bytes)
        if expected is not None and expected != size:
            raise Damaged(
                f"weights '{path}': expected {expected} bytes, as its header says, found {size}. Download it again"
            ) from error
        raise Damaged(f"weights '{path}': not readable as safetensors ({error}). Download it again") from error


def _safetensors_size(path: Path, header_bytes: int) -> int | None:
    with path.open("rb") as file:
        file.seek(8)
        try:
            header = strict_json.parse_object(file.read(header_bytes), where="header")
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            ends = [
                strict_json.Fields(entry if isinstance(entry, dict) else {}, where="header").integers(
                    "data_offsets", low=0, high=strict_json.MAX_NUMBER, lengths=range(2, 3)
                )[1]
                for entry in entries
            ]
        except Damaged:
            return None
    return 8 + header_bytes + max(ends, default=0)


def _too_large(path: Path, size: int) -> InvalidInput:
    return InvalidInput(
        f"weights '{path}': reading its {size} bytes needs more memory than there is. Use a machine with more, or "
        "download the file again if it claims more than it can hold"
    )


def _allow_list() -> list[Any]:
    """Return what a pickle may name beside torch's own: data holders only, nothing that opens, imports or calls."""
    reconstruct = np.empty(0).__reduce__()[0]  # numpy's function, under its name in this version
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [argparse.Namespace, np.ndarray, np.dtype]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(reconstruct, f"{module}._reconstruct"), (scalar, f"{module}.scalar")]
    return allowed + [getattr(np.dtypes, f"{name}DType") for name in NUMERIC_DTYPES]


def _load_torch(path: Path, *, size: int, mapped: bool) -> Any:
    with torch.serialization.safe_globals(_allow_list()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # refused below, with a reason
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            refused_names = _refused_names(path, str(error), mapped=mapped)
            if not refused_names:
                raise _damaged(path, size, error) from error
            raise UnsafeFile(
                f"weights '{path}': reading it needs {refused_names}. Expected tensors, argparse.Namespace and numeric "
                "numpy arrays only; nothing was run. If you trust the file, load it yourself once and save its "
                "tensors as .safetensors"
            ) from error
        except MemoryError as error:
            raise _too_large(path, size) from error
        except Exception as error:  # torch has no closed set of errors for damaged bytes
            raise _damaged(path, size, error) from error


def _damaged(path: Path, size: int, error: Exception) -> Damaged:
    reason = re.split(r"[.\n]", str(error))[0] or type(error).__name__
    return Damaged(
        f"weights '{path}': expected a whole PyTorch file, found {size} bytes, cut short or damaged ({reason}). "
        "Download it again"
    )


def _refused_names(path: Path, message: str, *, mapped: bool) -> str:
    """Return the names that a refused pickle asks for: all of them where torch can list them, else the first."""
    names: list[str] = []
    if mapped:
        with contextlib.suppress(Exception):  # what torch finds wrong with damaged bytes, as above
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    if not names:
        names = re.findall(r"GLOBAL ([\w.]+\.[\w.]+\w)", message)[:1]
    operand = re.search(r"Unsupported operand \d+", message)
    return ", ".join(f"'{name}'" for name in names) or (f"a pickle instruction ({operand.group()})" if operand else "")
