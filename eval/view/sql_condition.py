"""What a SQL condition may consist of: decided on its syntax tree, before any of it runs.

A limit on DuckDB's memory does not count texts and lists that functions make, and a single call of a function cannot be
ended. So a condition takes columns, constants, and functions whose results are no larger than what they are given;
subqueries may read the manifest alone.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from store.errors import InvalidInput

if TYPE_CHECKING:
    import duckdb

TABLE = "manifest"
CLASSES = frozenset(
    {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION"}
    | {"OPERATOR", "STAR", "SUBQUERY", "TYPE"}
)
NODES = frozenset({"SELECT_NODE", "BASE_TABLE", "EMPTY", "ORDER_MODIFIER", "LIMIT_MODIFIER", "DISTINCT_MODIFIER"})
DIRECTIONS = frozenset({"ORDER_DEFAULT", "ASCENDING", "DESCENDING"})
OPERATORS = "+ - * / // % ^ ** & | << >> ~ || @ ^@ ~~ !~~ ~~* !~~* ~~~"
OF_TEXTS = (
    "concat contains ends_with ilike_escape instr lcase left length like_escape lower ltrim not_ilike_escape "
    "not_like_escape parse_dirname parse_filename position prefix regexp_extract regexp_full_match regexp_matches "
    "right rtrim split_part starts_with strlen strpos substr substring suffix trim ucase upper"
)
OF_NUMBERS = (
    "abs ceil ceiling cos exp floor greatest hash if ifnull isfinite isinf isnan least ln log log10 log2 mod nullif "
    "pow power round sign sin sqrt trunc"
)
OF_MANY = (
    "any_value avg count count_star max mean median min mode quantile_cont quantile_disc stddev stddev_pop stddev_samp "
    "sum var_pop var_samp variance"
)
FUNCTIONS = frozenset(f"{OPERATORS} {OF_TEXTS} {OF_NUMBERS} {OF_MANY} list_value row".split())
SCALARS = (
    "BIGINT BOOLEAN DATE DECIMAL DOUBLE FLOAT HUGEINT INTEGER SMALLINT TIMESTAMP TINYINT UBIGINT UINTEGER USMALLINT "
    "UTINYINT VARCHAR"
)
TYPES = frozenset(SCALARS.split())


def check_condition(connection: "duckdb.DuckDBPyConnection", condition: str) -> None:
    """Refuse what is not one condition on the columns of the manifest; nothing of it is executed.

    Raises:
        InvalidInput: naming the part that is refused, or what the parser says.
    """
    (text,) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{condition}\n)"]).fetchone() or (
        "",
    )
    tree = json.loads(text)
    if tree["error"]:
        raise InvalidInput(f"sql: {' '.join(str(tree.get('error_message', 'not understood')).split())[:300]}")
    statements = [statement["node"] for statement in tree["statements"]]
    if len(statements) != 1:
        raise InvalidInput("sql: expected one condition, found other statements")
    top = statements[0]
    if top.get("type") != "SELECT_NODE" or len(top["select_list"]) != 1 or top["from_table"].get("type") != "EMPTY":
        raise InvalidInput("sql: expected a condition such as view = 0 and path like '%dog%'")
    for part in _parts(top):
        refused = _refused(part)
        if refused:
            raise InvalidInput(
                f"sql: {refused} may not be used; a condition takes columns, comparisons, common functions of texts "
                f"and numbers, and subqueries on {TABLE}"
            )


def _refused(part: dict[str, Any]) -> str:
    """Return what a part of the tree is called, if it is refused; else an empty text."""
    kind, name = part.get("class"), ""
    if kind == "FUNCTION":
        name = str(part["function_name"])
        return "" if name in FUNCTIONS and not (part.get("schema") or part.get("catalog")) else f"'{name[:40]}'"
    if kind == "TYPE":
        name = str(part.get("type_name", ""))
        return "" if name.upper() in TYPES else f"type '{name[:40]}'"
    if kind == "CAST":
        named = part.get("cast_type", {}).get("id")  # as DuckDB before 2.0 writes it
        return "" if named is None or named in TYPES else f"type '{str(named)[:40]}'"
    if kind is not None:
        return "" if kind in CLASSES else f"'{str(kind)[:40].lower()}'"
    node = part.get("type")
    if node == "BASE_TABLE":
        name = str(part["table_name"])
        return "" if name.lower() == TABLE and not part.get("schema_name") else f"table '{name[:40]}'"
    if node == "SELECT_NODE" and part.get("cte_map", {}).get("map"):
        return "'with'"
    known = node is None or str(node) in NODES | DIRECTIONS or str(node).endswith("_TYPE_INFO")
    return "" if known else f"'{str(node)[:40].lower().replace('_', ' ')}'"


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a tree; the trees that DuckDB parses are at most as deep as it allows."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
