"""What the four command-line programs share: subcommands from functions, one clear line per error, exit codes."""

import errno
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import tyro

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
