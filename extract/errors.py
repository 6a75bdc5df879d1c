"""What extraction adds to `store.errors`: an image that cannot become pixels."""

from store.errors import CodistillError


class DecodeError(CodistillError, ValueError):
    """An image cannot become pixels. The message, `kind: details`, is kept as the reason of its failed rows."""

    kind = "undecodable_image"

    def __init__(self, reason_kind: str, details: str) -> None:
        super().__init__(f"{reason_kind}: {details}")
