"""Constructor strings in MASt3R's files, such as `AsymmetricMASt3R(enc_embed_dim=1024, conf_mode=('exp', 1, inf))`.

They are Python source. Here they are parsed and their literals read; nothing is evaluated.
"""

import ast
import math
from collections.abc import Mapping
from typing import Any

from store.errors import InvalidInput

LONGEST = 10_000  # characters; the released strings have some 400
CLASS_PREFIX = "AsymmetricMASt3R"
DEFAULT_CLASS = "AsymmetricMASt3R"
EXPECTED = {"pos_embed": "RoPE100", "head_type": "catmlp+dpt", "desc_mode": "norm"}


def parse(text: str, *, source: str) -> dict[str, Any]:
    """Return the keyword arguments of a constructor string.

    Args:
        text: the call, of a class whose name begins with `AsymmetricMASt3R`.
        source: name of the file in error messages.

    Raises:
        InvalidInput: something else than one call with literals, or a model of another kind.
    """
    shown = text if len(text) < 80 else f"{text[:77]}..."
    try:
        if len(text) > LONGEST:
            raise ValueError("too long")
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("no call with named arguments")
        arguments = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords if keyword.arg}
        if len(arguments) != len(call.keywords):
            raise ValueError("arguments without a name")
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(
            f"{source}: expected the constructor of a MASt3R model with literal arguments, found {shown!r} ({reason})"
        ) from None
    if not call.func.id.startswith(CLASS_PREFIX):
        raise InvalidInput(f"{source}: expected a model of class {DEFAULT_CLASS}, found {call.func.id}")
    for name, expected in EXPECTED.items():
        if arguments.get(name, expected) != expected:
            raise InvalidInput(f"{source}: {name} {arguments[name]!r}: expected {expected!r}")
    return arguments


def _value(node: ast.expr) -> Any:
    """Return a literal, in which `inf` and `float('inf')` may stand too.

    Raises:
        ValueError: anything else.
    """
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return math.inf if node.id == "inf" else math.nan
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float" and not node.keywords:
        (argument,) = [_value(item) for item in node.args]
        return float(argument)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        number = _value(node.operand)
        if not isinstance(number, int | float):
            raise ValueError("a sign before something that is no number")
        return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.Tuple | ast.List):
        items = [_value(item) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    return ast.literal_eval(node)


def write(arguments: Mapping[str, Any], *, name: str = DEFAULT_CLASS) -> str:
    """Return the constructor string of keyword arguments; infinities are written as `inf`."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
