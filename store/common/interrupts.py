"""Ctrl-C while a program is still importing: one line and exit code 130, as later, instead of a traceback."""

import os
import sys
from types import TracebackType

INTERRUPTED = 130
MESSAGE = "\ninterrupted: nothing stored is lost; run the same command again to go on\n"


def end_in_one_line() -> None:
    """Let a KeyboardInterrupt that nothing handles end this process in one line; for the first line of a program."""
    sys.excepthook = _end


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    sys.stderr.write(MESSAGE)
    sys.stderr.flush()
    os._exit(INTERRUPTED)  # returning would let Python kill the process by the signal: another exit code
