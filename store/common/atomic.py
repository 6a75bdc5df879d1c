"""Files of a directory that appear whole or not at all: reports, logs, results. Shards have `store.storage.publish`."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # in messages of safetensors


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on success it takes the place of `path`, durably.

    On an error, Ctrl-C included, the temporary is removed and an older `path` stays as it was.

    Args:
        path: path of the file; its directory is created.

    Yields:
        Temporary path to write to, with the suffix of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in place of any older file."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def system_reason(error: BaseException) -> str | None:
    """Return why the system refused to write, for example "no space left on device"; None for errors of another kind.

    safetensors says it in the text of its error, `torch.save` in the error before its own.
    """
    seen: BaseException | None = error
    while seen is not None:
        match = _OS_ERROR.search(str(seen))
        number = seen.errno if isinstance(seen, OSError) else int(match[1]) if match else None
        if number is not None:
            return os.strerror(number).lower()
        seen = seen.__cause__ or seen.__context__
    return None
