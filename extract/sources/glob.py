"""Translate globs over relative POSIX paths to one regular expression."""

import re
from collections.abc import Iterable

from store import errors


def compile_globs(patterns: Iterable[str]) -> re.Pattern[str]:
    """Return a regular expression to `fullmatch` relative paths with; without patterns it matches nothing.

    `**/` stands for any number of folders, `*` and `?` for characters other than `/`, `[ab]` and `[!ab]` for sets,
    `{a,b}` for alternatives. Case matters.

    Raises:
        errors.InvalidInput: an unclosed bracket or brace.
    """
    sources = [_translate(pattern) for pattern in patterns]
    return re.compile("|".join(f"(?:{source})" for source in sources) or r"(?!)", re.DOTALL)


def _translate(pattern: str) -> str:
    translated, depth, at = "", 0, 0
    while at < len(pattern):
        token, step = _token(pattern, at, in_braces=depth > 0)
        depth += {"(?:": 1, ")": -1}.get(token, 0)
        translated += token
        at += step
    if depth:
        raise errors.InvalidInput(f"glob '{pattern}': a '{{' is not closed. Write alternatives as {{a,b}}")
    return translated


def _token(pattern: str, at: int, *, in_braces: bool) -> tuple[str, int]:
    """Return the regular expression of the glob's next token, and the token's length."""
    if pattern.startswith("**/", at):
        return "(?:[^/]+/)*", 3
    if pattern.startswith("**", at):
        return ".*", 2
    character = pattern[at]
    if character == "[":
        end = pattern.find("]", at + 2)
        if end < 0:
            raise errors.InvalidInput(f"glob '{pattern}': a '[' is not closed. Write a set as [ab]")
        inside = pattern[at + 1 : end].replace("\\", r"\\")
        return f"[{'^' + inside[1:] if inside.startswith('!') else inside}]", end + 1 - at
    simple = {"*": "[^/]*", "?": "[^/]", "{": "(?:"}
    if in_braces:
        simple |= {"}": ")", ",": "|"}
    return simple.get(character) or re.escape(character), 1
