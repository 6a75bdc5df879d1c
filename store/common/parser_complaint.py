"""What tyro's box of text says of a command line, as short sentences in the words of all other messages."""

import ast
import re
from collections.abc import Callable, Iterator

EDGES = "│╭╮╰╯─|+ "
RULE = re.compile(r"[│|]?\s*[─-]{3,}")
SHOWN = 60  # characters of a value
PLACEHOLDER = re.compile(r"--[a-z]|[A-Z][A-Z|:.,_\[\]]+$")
CHOICE = re.compile(
    r"invalid choice (?P<found>.*) for argument '(?P<name>[^']*)'\. Expected one of \((?P<choices>.*)\)"
)
NO_VALUE = re.compile(r"Missing value for argument '(?P<name>[^']*)'\. Expected (?P<count>\d+) values?")
FOUND = re.compile(r"(?:from|arguments:?) (\[.*?\])(?:\.$| into |$)|: ((?:'.*'|\".*\"))$")
KINDS: tuple[tuple[str, str, Callable[[str], object]], ...] = (
    (r"\bfloat\b|FLOAT", "number", float),
    (r"\bint\b|INT", "whole number", int),
)


def problems_in(complaint: str) -> list[str]:
    """Return what is wrong by the text that tyro writes for people; all of the text where it is not understood."""
    lines = [line.strip(EDGES) for line in complaint.splitlines()]
    whole = " ".join(line for line in lines if line)
    problems = []
    if "Missing from" in complaint and (missing := [line for line in lines if PLACEHOLDER.match(line)]):
        problems.append(f"missing {', '.join(missing)}")
    problems += [_of_value(name, text, usage) for name, text, usage in _values(complaint)]
    problems += [
        f"{one['name']}: expected one of {', '.join(_choices(one['choices']))}, found {one['found']}"
        for one in CHOICE.finditer(whole)
    ]
    problems += [f"{one['name']}: {_too_few(one['count'])}" for one in NO_VALUE.finditer(whole)]
    problems += [line.lower() for line in lines if re.match(r"Unrecognized options: .", line)]
    return problems or [whole]


def _values(complaint: str) -> Iterator[tuple[str, str, str]]:
    """Yield option, text and usage (`--page {None}|INT`) of each value that could not be parsed."""
    lines = complaint.splitlines()
    for number, line in enumerate(lines):
        begin = re.match(r"Error parsing (\S+): (.*)", line.strip(EDGES))
        if begin is None:
            continue
        rest = lines[number + 1 :]
        end = next((n for n, text in enumerate(rest) if not text.strip(EDGES) or RULE.match(text)), len(rest))
        text = " ".join([begin[2], *(text.strip(EDGES) for text in rest[:end])])
        helped = [n for n, text in enumerate(rest) if "Argument helptext" in text]
        usage = rest[helped[0] + 1].strip(EDGES) if helped and helped[0] + 1 < len(rest) else ""
        yield begin[1], text, usage


def _of_value(name: str, text: str, usage: str) -> str:
    """Return a sentence about a value; the parser's own where it is of a kind that is not known here."""
    found = FOUND.search(text)
    kinds = [(word, parse) for pattern, word, parse in KINDS if re.search(pattern, f"{text} {usage}")]
    if found is None or not kinds:
        return f"{name}: {text}"
    try:
        values = ast.literal_eval(found[1] or f"[{found[2]}]")
    except (ValueError, SyntaxError):  # a line break within it
        return f"{name}: {text}"
    word, parse = kinds[0]
    several = "..." in usage or len(values) > 1
    wrong = next((str(value) for value in values if not _parses(parse, str(value))), " ".join(map(str, values)))
    shown = repr(wrong if len(wrong) <= SHOWN else f"{wrong[:SHOWN]}...")
    return f"{name}: expected {f'{word}s' if several else f'a {word}'}, found {shown}"


def _parses(parse: Callable[[str], object], value: str) -> bool:
    try:
        parse(value)
    except ValueError:
        return False
    return True


def _choices(text: str) -> list[str]:
    return [choice for choice in re.findall(r"'([^']*)'", text) if choice != "None"]


def _too_few(expected: str) -> str:
    return "no value given, expected one" if expected == "1" else f"too few values, expected {expected}"
