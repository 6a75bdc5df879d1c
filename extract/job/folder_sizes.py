"""Number of shards in one folder: file systems, copies and hubs suffer where there are very many."""

from collections.abc import Mapping

from store.common.text import human_bytes

MOST_SHARDS = 10_000
ROUND_ROWS = 128


def shard_rows_for(rows: int) -> int:
    """Return the least rows of a shard, a multiple of ROUND_ROWS, that keep an array of `rows` within MOST_SHARDS."""
    return -(-rows // (MOST_SHARDS * ROUND_ROWS)) * ROUND_ROWS


def many_shards_note(rows_of: Mapping[str, int], *, shard_rows: int, image_size: int) -> str | None:
    """Return a sentence about datasets whose arrays have more shards than MOST_SHARDS; None if there are none.

    Args:
        rows_of: number of rows by dataset, where known.
        shard_rows: rows of a shard.
        image_size: side of the pixels, px.
    """
    shards = {name: -(-rows // shard_rows) for name, rows in rows_of.items()}
    many = {name: count for name, count in shards.items() if count > MOST_SHARDS}
    if not many:
        return None
    largest = max(many, key=lambda name: many[name])
    advised = shard_rows_for(rows_of[largest])
    now, then = (human_bytes(rows * image_size**2 * 3) for rows in (shard_rows, advised))
    others = f" ({len(many) - 1} more datasets have over {MOST_SHARDS:,})" if len(many) > 1 else ""
    return (
        f"each array of '{largest}' is {many[largest]:,} files in one folder{others}; copies, listings and hubs suffer "
        f"above {MOST_SHARDS:,}. shard_rows = {advised} in a new cache makes {-(-rows_of[largest] // advised):,}; each "
        f"shard in the making then holds {then} of decoded pixels in memory, {now} with {shard_rows}"
    )
