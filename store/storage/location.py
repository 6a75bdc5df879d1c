"""DOC store.storage.location."""

import os
from pathlib import Path

from store import errors
from store.storage.base import Location, Storage


def open_storage(location: Location) -> Storage:
    """Return the storage of a location: a path, `file://` or an object-store URL.

    Raises:
        errors.InvalidInput: the scheme is not known, or a URL carries credentials.
        errors.MissingExtra: what object stores need is not installed.
    """
    from store.storage.local import LocalStorage
    from store.storage.object_client import SCHEMES, Address

    text = os.fspath(location)
    scheme, separator, rest = text.partition("://")
    if separator and scheme in SCHEMES:
        from store.storage.object_store import ObjectStorage

        return ObjectStorage(Address.parse(text))
    if scheme == "file" and separator:
        return LocalStorage(Path(rest))
    if separator:
        known = ", ".join(f"{name}://" for name in ("file", *sorted(SCHEMES)))
        raise errors.InvalidInput(f"scheme '{scheme}://' is not supported. Give a path or a URL with one of {known}")
    if text.partition(":/")[0] in SCHEMES:
        scheme = text.partition(":/")[0]
        message = f"a {scheme}: location lost a slash, as in a pathlib.Path. Give a string: {scheme}://BUCKET/PREFIX"
        raise errors.InvalidInput(message)
    return LocalStorage(Path(text).expanduser())
