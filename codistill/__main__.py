"""Run the `codistill` command: hand over to one of its programs, importing that one alone."""

import importlib
import sys

import codistill
from codistill.shadowing import ShadowedPackage, refuse_shadowed_packages

PROGRAMS = {
    "init": "look at folders of images and write a catalogue of them",
    "extract": "run teachers over datasets, once, into a cache",
    "store": "show, seal, check, repair and export a cache",
    "train": "train students from a cache",
    "eval": "measure students, plot figures, write a report",
    "view": "look around in a cache, in a browser",
}
MODULES = {"init": "extract.init", "view": "eval.view"}  # of programs that are no package of their own
DONE, BAD_INPUT = 0, 2


def main(argv: list[str] | None = None) -> int:
    """Run `codistill PROGRAM ...` and return its exit code (0 done, 1 problems found, 2 bad input, 130 interrupted)."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # while a program is imported; those that run tell of it themselves
        from store.common.interrupts import INTERRUPTED, MESSAGE

        sys.stderr.write(MESSAGE)
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
    if arguments and not asked_for_help and arguments != ["--version"]:
        try:
            refuse_shadowed_packages()
        except ShadowedPackage as error:
            sys.stderr.write(f"error: {error}\n")
            return BAD_INPUT
    if arguments and arguments[0] in PROGRAMS:
        package = MODULES.get(arguments[0], arguments[0])
        return int(importlib.import_module(f"{package}.__main__").main(arguments[1:]))
    if arguments == ["--version"]:
        sys.stdout.write(f"codistill {codistill.__version__}\n")
        return DONE
    stream = sys.stdout if asked_for_help else sys.stderr
    if arguments and not asked_for_help:
        from store.common.config import near_miss

        guess = near_miss(arguments[0], PROGRAMS)
        stream.write(f"error: unknown program '{arguments[0]}'{guess}. Choose one of: {', '.join(PROGRAMS)}\n\n")
    stream.write(_usage())
    return DONE if asked_for_help else BAD_INPUT


def _usage() -> str:
    programs = "\n".join(f"  {name:<8} {purpose}" for name, purpose in PROGRAMS.items())
    return (
        f"usage: codistill {{{','.join(PROGRAMS)}}} ...\n\n{programs}\n\n"
        "example: codistill store info demo/cache\n"
        "help of one program: codistill extract --help\n"
        "version: codistill --version\n"
    )


if __name__ == "__main__":
    sys.exit(main())
