"""Choice of the storage for a location: a local path or an object-store URL."""

import os
from pathlib import Path

from store import errors
from store.storage.base import Location, Storage
from store.storage.local import LocalStorage
from store.storage.object_client import SCHEMES, Address
from store.storage.object_store import ObjectStorage


def open_storage(location: Location) -> Storage:
    """Return the storage of a location: a path, `file://` or an object-store URL.

    Raises:
        errors.InvalidInput: the scheme is not known, or a URL carries credentials.
        errors.MissingExtra: what object stores need is not installed.
    """
    text = os.fspath(location)
    scheme, separator, rest = text.partition("://")
    if separator and scheme in SCHEMES:
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
