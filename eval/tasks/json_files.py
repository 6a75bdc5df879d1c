"""JSON files that methods write, read with errors that name them."""

import json
from pathlib import Path
from typing import Any

from store.errors import InvalidInput, MissingFile


def read_json(path: Path, *, subject: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: of the file.
        subject: what errors call it.

    Raises:
        MissingFile: it cannot be read.
        InvalidInput: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFile(f"{subject}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InvalidInput(f"{subject}: not JSON ({error})") from None
