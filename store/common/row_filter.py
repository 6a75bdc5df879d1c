"""Row filters: `view < 4 and not grayscale and dataset in ["a"]`, a condition on the manifest's columns."""

import ast
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from store.common.config import near_miss
from store.errors import InvalidConfig

Expression = Any  # pyarrow.compute.Expression, which is untyped

_COMPARISONS: dict[type[ast.cmpop], Callable[[Expression, Any], Expression]] = {
    ast.Lt: lambda left, right: left < right,
    ast.LtE: lambda left, right: left <= right,
    ast.Gt: lambda left, right: left > right,
    ast.GtE: lambda left, right: left >= right,
    ast.Eq: lambda left, right: left == right,
    ast.NotEq: lambda left, right: left != right,
    ast.In: lambda left, right: left.isin(right),
    ast.NotIn: lambda left, right: ~left.isin(right),
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Expression, Any], Expression]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left.cast(pa.float64()) / right,  # divides as Python does: integers give a fraction
}


def parse(text: str, schema: pa.Schema, *, subject: str = "data.subset") -> Expression:
    """Translate `text` into a pyarrow expression that is true or false for a row; no part of it is executed.

    It may use column names, numbers, strings, True, False, lists of these after `in`, the comparisons, `+ - * /`,
    `and`, `or`, `not` and brackets, with Python's precedence. Rows where the result is null (a parameter that was not
    applied to the view) are left out.

    Args:
        text: condition to translate.
        schema: columns of the manifest and their types.
        subject: option that the text was given for, for errors.

    Raises:
        InvalidConfig: naming the part that is not understood, or that cannot be compared.
    """
    subject = f"{subject} {text!r}"
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (MemoryError, RecursionError):
        raise InvalidConfig(subject, ["too many parts in one another"]) from None
    except SyntaxError as error:
        raise InvalidConfig(subject, [f"not an expression: {error.msg} at character {error.offset}"]) from None
    try:
        expression = _Translator(subject, schema).expression(tree.body)
        schema.empty_table().filter(expression)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidConfig(subject, [f"these types do not go together: {error}"]) from None
    except OverflowError:
        raise InvalidConfig(subject, ["a number has more than 64 bits"]) from None
    except RecursionError:
        raise InvalidConfig(subject, ["too many parts in one another"]) from None
    return expression


class _Translator:
    def __init__(self, subject: str, schema: pa.Schema) -> None:
        self._subject = subject
        self._columns = schema.names

    def expression(self, node: ast.expr) -> Expression:
        match node:
            case ast.BoolOp(op=operator, values=values):
                parts = [self.expression(value) for value in values]
                combined = parts[0]
                for part in parts[1:]:
                    combined = combined & part if isinstance(operator, ast.And) else combined | part
                return combined
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.expression(operand)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return pc.scalar(-value)
            case ast.BinOp(left=left, op=arithmetic, right=right) if type(arithmetic) in _ARITHMETIC:
                return _ARITHMETIC[type(arithmetic)](self.expression(left), self.expression(right))
            case ast.Compare(left=left, ops=operators, comparators=others):
                return self._comparison(left, operators, others)
            case ast.Name(id=name):
                return self._column(name)
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return pc.scalar(value)
        raise self._unknown(node)

    def _comparison(self, left: ast.expr, operators: list[ast.cmpop], others: list[ast.expr]) -> Expression:
        combined = None
        for operator, other in zip(operators, others, strict=True):
            if type(operator) not in _COMPARISONS:
                raise self._unknown(other)
            right = self._list(other) if isinstance(operator, ast.In | ast.NotIn) else self.expression(other)
            compared = _COMPARISONS[type(operator)](self.expression(left), right)
            combined = compared if combined is None else combined & compared
            left = other
        return combined

    def _list(self, node: ast.expr) -> list[Any]:
        if not isinstance(node, ast.List | ast.Tuple | ast.Set):
            raise self._unknown(node)
        try:
            return list(ast.literal_eval(node))
        except ValueError:
            raise self._unknown(node) from None

    def _column(self, name: str) -> Expression:
        if name not in self._columns:
            hint = near_miss(name, self._columns)
            raise InvalidConfig(
                self._subject, [f"unknown column '{name}'{hint}; the manifest has {', '.join(self._columns)}"]
            )
        return pc.field(name)

    def _unknown(self, node: ast.expr) -> InvalidConfig:
        text = ast.unparse(node)
        return InvalidConfig(
            self._subject, [f"'{text}' is not understood; use columns, values, comparisons, and, or, not, in [...]"]
        )
