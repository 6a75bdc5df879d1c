"""Command lines of all programs: running subcommands with one clear line per error, and parsing of list arguments."""

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from store import errors

BAD_INPUT = 2
INTERRUPTED = 130
MACHINE_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EMFILE, errno.ENFILE),
}


def run(
    prog: str,
    description: str,
    commands: Mapping[str, Callable[..., Any]],
    *,
    argv: list[str] | None = None,
) -> int:
    """Parse `argv` into a call of one of `commands` and return the exit code.

    A command is a function with type hints and a docstring; it returns None or an exit code. Its docstring's first
    line is the help line, and an `example:` line in it is what users copy.

    Args:
        prog: program name shown in usage, for example `codistill store`.
        description: sentence about the program, shown in its help.
        commands: functions by subcommand name.
        argv: arguments without the program name; None reads `sys.argv`.

    Returns:
        Exit code: 0 done, 1 problems found (returned by the command), 2 bad input, 130 interrupted.
    """
    # Waiting threads of torch must sleep: spinning ones, beside another job, make a step take 20 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app = tyro.extras.SubcommandApp()
    for name, function in commands.items():
        app.command(name=name)(function)
    arguments = sys.argv[1:] if argv is None else argv
    try:
        result = app.cli(prog=prog, description=description, args=arguments or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:  # `codistill store info CACHE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except errors.CodistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        print(f"error: {_machine_error_text(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterrupted: nothing stored is lost; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    return int(result) if isinstance(result, int) else 0


def _machine_error_text(error: OSError) -> str:
    where = f"'{error.filename}': " if error.filename else ""
    reason = (error.strerror or str(error)).lower()
    return f"{where}{reason}. What is stored is whole: put that right and run the same command again"


def names_of(text: str) -> list[str] | None:
    """Return the names in `a,b,c`; None, which stands for all, for the empty text."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return names or None


def patch_of(text: str) -> tuple[int, int] | None:
    """Return (row, col) of `ROW,COL`; None for the empty text.

    Raises:
        errors.InvalidInput: not two numbers.
    """
    if not text:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise errors.InvalidInput(f"--patch: expected ROW,COL such as 3,5, found '{text}'")
    return int(parts[0]), int(parts[1])


def rows_of(texts: Sequence[str], *, rows: int) -> list[int]:
    """Return the rows that numbers and ranges name, in the order given.

    Args:
        texts: numbers such as `17` and ranges such as `0:256`, without their end as in Python.
        rows: number of rows that exist; `:` alone names all of them.

    Raises:
        errors.InvalidInput: a text is neither a number nor a range; all such texts are listed.
    """
    chosen: list[int] = []
    wrong = []
    for text in texts:
        start, colon, stop = text.partition(":")
        if not colon and start.isdecimal():
            chosen.append(int(start))
        elif colon and (start or "0").isdecimal() and (stop or "0").isdecimal():
            chosen += range(int(start or 0), int(stop) if stop else rows)
        else:
            wrong.append(text)
    if wrong:
        raise errors.InvalidInput(f"rows: expected numbers or ranges such as 17 0:256, found {', '.join(wrong)}")
    return chosen
