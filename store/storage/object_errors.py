"""Errors of object stores, in words that cannot carry a secret.

Servers quote requests in their answers (access keys, signatures), and clients quote URLs (shared access signatures), so
nothing of a message is passed on except the phrases listed here.
"""

import re
from dataclasses import dataclass

STATUS = re.compile(r"status code: (\d{3})\b")
CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
PASSING_STATUS = (408, 409, 425, 429)
DENIED_STATUS = (401, 403)
NOT_A_RANGE = 416
OUTSIDE = ("invalid range", "non-partial response")
NO_CREDENTIALS = "no credentials in the environment, and no instance role answers"
# Phrases of clients -> phrases in our errors.
PHRASES = {
    "non-partial response": "the server ignores ranges",
    "169.254.169.254": NO_CREDENTIALS,
    "metadata.google.internal": NO_CREDENTIALS,
    "account must be specified": "no account in the environment",
    "kind: timeout": "timed out",
    "timed out": "timed out",
    "dns error": "the host name of the endpoint is not known",
    "connection refused": "connection refused",
    "connection reset": "connection reset",
    "badscheme": "the endpoint is not https",
    "kind: interrupted": "the connection broke",
    "kind: connect": "cannot connect",
    "kind: body": "the answer broke off",
    "list response": "the listing broke off",
}
KINDS = {
    "PermissionDeniedError": "access denied",
    "UnauthenticatedError": "not authenticated",
    "NotSupportedError": "not supported by this object store",
    "InvalidPathError": "not a valid path",
    "FileNotFoundError": "no such bucket",
    "UnknownConfigurationKeyError": "a setting is not known",
}
PASSING_KINDS = ("GenericError", "AlreadyExistsError")  # the latter is what the client makes of status 409


class Passing(Exception):
    """An attempt failed and another may succeed; the message is ours, safe to show."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed request.

    Attributes:
        text: description of the failure, safe to show.
        passing: whether another attempt may succeed.
        denied: whether the credentials were refused.
        outside: whether the range asked for may lie outside of the object.
    """

    text: str
    passing: bool
    denied: bool
    outside: bool


def failure_of(error: Exception) -> Failure:
    """Describe an error of obstore, or `Passing`, without secrets."""
    if isinstance(error, Passing):
        return Failure(text=str(error), passing=True, denied=False, outside=False)
    message, kind = str(error), type(error).__name__
    status_match = STATUS.search(message)
    status = int(status_match[1]) if status_match else 0
    lowered = message.lower()
    parts = [KINDS[kind]] if kind in KINDS else []
    parts += [phrase for sign, phrase in PHRASES.items() if sign in lowered][:1]
    if status_match:
        code = CODE.search(message)
        parts.append(f"HTTP {status} {code[1]}" if code else f"HTTP {status}")
    refused = 400 <= status < 500 and status not in PASSING_STATUS
    denied = status in DENIED_STATUS or kind == "UnauthenticatedError" or NO_CREDENTIALS in parts
    return Failure(
        text=", ".join(parts) or kind,
        passing=kind in PASSING_KINDS and not refused and not denied,
        denied=denied,
        outside=status == NOT_A_RANGE or any(sign in lowered for sign in OUTSIDE),
    )
