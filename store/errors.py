"""All errors that codistill raises on purpose, grouped by what a handler would do about them.

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
    """An argument or input cannot be used."""

    kind = "invalid_input"


class InvalidConfig(InvalidInput):
    """A catalogue, recipe or sweep has problems; all of them are listed."""

    kind = "invalid_config"

    def __init__(self, subject: str, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__(f"{subject}: {count}. " + ". ".join(self.problems))


class Conflict(InvalidInput):
    """Stored data was made with other settings than those asked for."""

    kind = "conflict"


class OutputExists(InvalidInput):
    """The output is not empty, and neither resuming nor overwriting was asked for."""

    kind = "output_exists"


class UnsupportedFormat(InvalidInput):
    """The cache was written by a newer version, or is not a cache."""

    kind = "unsupported_format"


class MissingCache(CodistillError, FileNotFoundError):
    """There is no cache at this location."""

    kind = "missing_cache"


class MissingFile(CodistillError, FileNotFoundError):
    """A file that the user named does not exist or cannot be read."""

    kind = "missing_file"


class MissingName(CodistillError, KeyError):
    """A dataset, array or teacher is not in this cache; the available ones are listed."""

    kind = "missing_name"


class MissingShard(CodistillError, FileNotFoundError):
    """A shard that is needed was not made yet, or was removed."""

    kind = "missing_shard"


class NotSealed(CodistillError, FileNotFoundError):
    """Sealed tables that are needed do not exist."""

    kind = "not_sealed"


class MissingRow(InvalidInput, IndexError):
    """A dataset or a view of its rows has no row at this position."""

    kind = "missing_row"


class RowsNotOk(CodistillError, KeyError):
    """Rows that were asked for are missing or failed; `rows` lists them."""

    kind = "rows_not_ok"

    def __init__(self, message: str, rows: Iterable[int]) -> None:
        self.rows = tuple(rows)
        super().__init__(message)


class Damaged(CodistillError):
    """Stored bytes are not those that were written."""

    kind = "damaged"


class OtherDecoder(CodistillError):
    """This machine decodes stored pixels to others than were written: not the stored bytes but a library differs."""

    kind = "other_decoder"


class DecodeError(CodistillError, ValueError):
    """An image cannot be decoded. The message, `kind: details`, is stored as the reason of its failed rows."""

    kind = "undecodable_image"

    def __init__(self, reason_kind: str, details: str) -> None:
        super().__init__(f"{reason_kind}: {details}")


class RefusedFile(InvalidInput):
    """A file that data names is not opened: it is outside its root, or not a regular file."""

    kind = "refused_file"

    def __init__(self, reason_kind: str, details: str) -> None:
        self.reason_kind, self.details = reason_kind, details
        super().__init__(f"{reason_kind}: {details}")


class UnsafeFile(InvalidInput):
    """A file would have to run code to be read."""

    kind = "unsafe_file"


class StorageFailed(CodistillError):
    """A disk or an object store refused, could not be reached, or kept failing; the message carries no credentials."""

    kind = "storage_failed"


class JobFailed(CodistillError):
    """A job stopped because too many of its rows or shards failed."""

    kind = "job_failed"


class Diverged(CodistillError):
    """A training produced numbers that are not finite; its last checkpoint was written before that."""

    kind = "diverged"


class MissingExtra(CodistillError, ImportError):
    """An optional dependency is not installed; the message names the extra."""

    kind = "missing_extra"
