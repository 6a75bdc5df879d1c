"""The `codistill` command: hands over to one of the four programs, importing only that one."""

import importlib
import sys

PROGRAMS = {
    "extract": "run teachers over datasets, once, into a cache",
    "store": "look at, seal and check a cache",
    "train": "train students from a cache",
    "eval": "measure and picture what students learnt",
}


def main(argv: list[str] | None = None) -> int:
    """Run `codistill PROGRAM ...` and return its exit code (0 done, 1 problems found, 2 bad input, 130 interrupted)."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in PROGRAMS:
        program = importlib.import_module(f"{arguments[0]}.__main__")
        return int(program.main(arguments[1:]))
    asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
    stream = sys.stdout if asked_for_help else sys.stderr
    if arguments and not asked_for_help:
        stream.write(f"error: unknown program '{arguments[0]}'. Choose one of: {', '.join(PROGRAMS)}\n\n")
    stream.write("usage: codistill {" + ",".join(PROGRAMS) + "} ...\n\n")
    for name, purpose in PROGRAMS.items():
        stream.write(f"  {name:<8} {purpose}\n")
    stream.write("\nexample: codistill store info demo/cache\nhelp of one program: codistill extract --help\n")
    return 0 if asked_for_help else 2


if __name__ == "__main__":
    sys.exit(main())
