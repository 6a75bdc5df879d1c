"""Every error that codistill raises on purpose, grouped by what a handler would do about it.

All derive from `CodistillError`; `kind` is a stable machine-readable name. Invalid input is also a `ValueError`,
missing things are also `KeyError` or `FileNotFoundError`, so plain Python handlers work too.
"""

from collections.abc import Iterable


class CodistillError(Exception):
    """Root of all errors raised on purpose. The message says what is wrong, what was expected, and what to do."""

    kind = "error"

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.kind  # KeyError would print the repr


class InvalidInput(CodistillError, ValueError):
    """What the user gave cannot be used."""

    kind = "invalid_input"


class InvalidConfig(InvalidInput):
    """A catalogue, recipe or sweep has problems; all of them are listed."""

    kind = "invalid_config"

    def __init__(self, subject: str, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__(f"{subject}: {count}. " + ". ".join(self.problems))


class Conflict(InvalidInput):
    """What is stored was made from something else."""

    kind = "conflict"


class OutputExists(InvalidInput):
    """The output is not empty and no way to go on was chosen."""

    kind = "output_exists"


class UnsupportedFormat(InvalidInput):
    """The cache was written by a newer version, or is not a cache."""

    kind = "unsupported_format"


class MissingCache(CodistillError, FileNotFoundError):
    """No cache at this place."""

    kind = "missing_cache"


class MissingFile(CodistillError, FileNotFoundError):
    """A file that the user named does not exist or cannot be read."""

    kind = "missing_file"


class MissingName(CodistillError, KeyError):
    """A dataset, array or teacher is not in this cache; the available ones are listed."""

    kind = "missing_name"


class MissingShard(CodistillError, FileNotFoundError):
    """A shard that is needed was not made yet, or has gone."""

    kind = "missing_shard"


class NotSealed(CodistillError, FileNotFoundError):
    """The sealed tables that this needs do not exist."""

    kind = "not_sealed"


class RowsNotOk(CodistillError, KeyError):
    """Rows were asked for that are missing or failed; `rows` lists them."""

    kind = "rows_not_ok"

    def __init__(self, message: str, rows: Iterable[int]) -> None:
        self.rows = tuple(rows)
        super().__init__(message)


class Damaged(CodistillError):
    """Stored bytes are not what was written."""

    kind = "damaged"


class UnsafeFile(InvalidInput):
    """A file would have to run code to be read."""

    kind = "unsafe_file"


class StorageFailed(CodistillError):
    """An object store refused, could not be reached, or kept failing; the message carries no credentials."""

    kind = "storage_failed"


class JobFailed(CodistillError):
    """A job stopped because too much of it failed."""

    kind = "job_failed"


class Diverged(CodistillError):
    """A training produced numbers that are not finite; the weights of its last checkpoint are from before."""

    kind = "diverged"


class MissingExtra(CodistillError, ImportError):
    """An optional dependency is not installed; the message names the extra."""

    kind = "missing_extra"


class DecodeError(CodistillError, ValueError):
    """An image cannot become pixels. The message, `kind: details`, is kept as the reason of its failed rows."""

    kind = "undecodable_image"

    def __init__(self, reason_kind: str, details: str) -> None:
        super().__init__(f"{reason_kind}: {details}")
