"""What the four command-line programs share: subcommands from functions, one clear line per error, exit codes."""

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from store import errors
from store.errors import CodistillError

BAD_INPUT = 2
INTERRUPTED = 130
OF_THE_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE}


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
        description: one sentence.
        commands: subcommand name -> function.
        argv: arguments without the program name; None reads `sys.argv`.

    Returns:
        0 done, 1 problems found (the command's own), 2 bad input, 130 interrupted.
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
    except CodistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        print(f"error: {_of_the_machine(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterrupted: nothing stored is lost; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    return int(result) if isinstance(result, int) else 0


def _of_the_machine(error: OSError) -> str:
    """Return what the machine refuses: space, permission, open files."""
    where = f"'{error.filename}': " if error.filename else ""
    refused = (error.strerror or str(error)).lower()
    return f"{where}{refused}. What is stored is whole: put that right and run the same command again"


def names_of(text: str) -> list[str] | None:
    """Return the names of `a,b,c`; None for all, which is the empty text."""
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
    """Return the rows that `17` and `0:256` (without its end, as in Python) name, in this order.

    Args:
        texts: numbers and ranges.
        rows: how many there are; `:` alone means all.

    Raises:
        errors.InvalidInput: a text is neither; all such are listed.
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
