"""Command lines of all programs: run one subcommand, with one clear line for each error."""

import errno
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import tyro

from store import errors
from store.common.arguments import with_lists_joined
from store.common.config import near_miss
from store.common.constraints import check_arguments
from store.common.extras import missing_extra
from store.common.interrupts import INTERRUPTED, MESSAGE
from store.common.parser_complaint import problems_in

BAD_INPUT = 2
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
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        result = _parsed(prog, description, commands, arguments)()
        sys.stdout.flush()
    except BrokenPipeError:  # `codistill store info CACHE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except errors.CodistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except ModuleNotFoundError as error:
        message = missing_extra(error.name or "", program=f"{prog} {arguments[0]}".split()[1])
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        print(f"error: {_machine_error_text(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write(MESSAGE)
        return INTERRUPTED
    return int(result) if isinstance(result, int) else 0


def _parsed(
    prog: str, description: str, commands: Mapping[str, Callable[..., Any]], arguments: list[str]
) -> Callable[[], Any]:
    """Return the call of a command that `arguments` ask for.

    Raises:
        errors.InvalidInput: the arguments fit no command; the message says which do.
        SystemExit: `--help` was asked for and shown.
    """
    first = arguments[0]
    if first not in commands and not first.startswith("-"):
        choices = ", ".join(commands)
        raise errors.InvalidInput(
            f"{prog}: unknown command '{first}'{near_miss(first, commands)}. Expected one of {choices}"
        )
    app = tyro.extras.SubcommandApp()
    for name, function in commands.items():
        app.command(name=name)(_postponed(function))
    if first in commands:
        arguments = [first, *with_lists_joined(arguments[1:], commands[first])]
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            call: Callable[[], Any] = app.cli(prog=prog, description=description, args=arguments)
    except SystemExit as stopped:
        if stopped.code in (0, None):
            raise
        command = f"{prog} {first}" if first in commands else prog
        known = _options_in_help(app, prog, arguments[:1] if first in commands else [])
        raise errors.InvalidInput(_refusal(command, arguments, known=known, complaint=complaint.getvalue())) from None
    return call


def _postponed(function: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """Return a function with the same signature and help that returns its call, so that parsing runs nothing."""

    @functools.wraps(function)
    def call_later(*values: Any, **named: Any) -> Callable[[], Any]:
        return functools.partial(_checked_call, function, *values, **named)

    return call_later


def _checked_call(function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    check_arguments(function, values, named)
    return function(*values, **named)


def _options_in_help(app: "tyro.extras.SubcommandApp", prog: str, arguments: Sequence[str]) -> set[str]:
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            app.cli(prog=prog, args=[*arguments, "--help"])
    except SystemExit:
        pass
    return set(re.findall(r"--[a-zA-Z][\w.-]*", shown.getvalue()))


def _refusal(command: str, arguments: Sequence[str], *, known: set[str], complaint: str) -> str:
    """Return what is wrong with a command line: its unknown options, or else what the parser's box of text says."""
    named = [token.partition("=")[0] for token in arguments if token.startswith("--")]
    problems = [
        f"unknown option '{name}'{near_miss(name, known)}" for name in named if name.replace("_", "-") not in known
    ]
    shown = problems or problems_in(complaint)
    return f"{command}: {'; '.join(shown)}. Run: {command} --help"


def _machine_error_text(error: OSError) -> str:
    where = f"'{error.filename}': " if error.filename else ""
    reason = (error.strerror or str(error)).lower()
    return f"{where}{reason}. What is stored is whole: put that right and run the same command again"
