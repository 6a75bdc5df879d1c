"""Constraint of command-line arguments that name caches."""

from typing import Any

from store import errors
from store.cache.cache import open as open_cache
from store.common.arguments import names_of


class ExistingCaches:
    """Locations of caches, separated by commas; each is opened, which reads one small document.

    A `store.common.constraints.Constraint`.
    """

    def check(self, subject: str, value: Any) -> None:
        """See `Constraint.check`."""
        problems = []
        for location in names_of(value) or ():
            try:
                open_cache(location)
            except errors.CodistillError as error:
                problems.append(str(error))
        if problems:
            raise errors.InvalidInput(". ".join(problems))
