"""Strings of a TOML file."""

import json


def string(text: str) -> str:
    """Return a basic string of TOML; JSON's escapes are valid in it, all but DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def strings(texts: tuple[str, ...]) -> str:
    """Return one string, or an array of several."""
    return string(texts[0]) if len(texts) == 1 else f"[{', '.join(map(string, texts))}]"


def comment(text: str) -> str:
    """Return a text from data as it may stand in a comment: without line breaks and control characters."""
    return string(text)[1:-1]
