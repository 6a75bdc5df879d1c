"""Who may ask, and what a browser may do with the answers.

The page listens on this machine alone unless told otherwise, and then asks for a token. A web site that a browser has
open beside the page must not reach it: the Host header must name this machine (against DNS that is rebound to it),
Origin and Sec-Fetch-Site must be of the page itself. Only GET and HEAD are answered.
"""

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOKEN_HEADER = "x-codistill-token"
TOKEN_BYTES = 24
WITHOUT_TOKEN = "/static/"  # the page's own files hold no data, and modules that load each other cannot send it
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a request must bring.

    Attributes:
        hosts: names that the Host header may have, without port; addresses are allowed beside them if there is a token.
        token: secret that every request for data must carry; empty on a loopback server.
    """

    hosts: frozenset[str]
    token: str = ""


def access_for(host: str) -> Access:
    """Return what requests to a server on this address must bring: a token unless it is the loopback.

    Args:
        host: name or address to listen on.
    """
    if is_loopback(host):
        return Access(hosts=frozenset({*LOOPBACK, host.lower().strip("[]")}))
    names = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower(), *LOOPBACK}
    return Access(hosts=frozenset(names), token=secrets.token_urlsafe(TOKEN_BYTES))


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses what `Access` does not allow, and adds headers to every answer; wraps an ASGI application."""

    def __init__(self, app: App, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        status, reason = self._refusal(scope)
        if reason:
            response = JSONResponse({"error": reason}, status_code=status)
            await response(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        """Return status and reason; an empty reason lets the request through."""
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "this page is read-only: only GET is answered"
        if not self._host_allowed(headers.getlist("host")):
            return 403, "the Host header does not name this machine; open the address that codistill view printed"
        path = scope["path"]
        origin = headers.get("origin")
        if origin is not None and _place_of(origin) != headers.get("host", "").lower():
            return 403, "requests from other web sites are refused"
        site = headers.get("sec-fetch-site", "none")
        opened_by_link = path == "/" and headers.get("sec-fetch-mode", "navigate") == "navigate"
        if site not in ("none", "same-origin") and not opened_by_link:
            return 403, "requests from other web sites are refused"
        if self._access.token and not path.startswith(WITHOUT_TOKEN) and not self._has_token(scope, headers):
            return 401, "token missing or wrong; open the address that codistill view printed"
        return 200, ""

    def _host_allowed(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        name = _without_port(hosts[0].lower())
        if name in self._access.hosts:
            return True
        return bool(self._access.token) and _is_address(name)  # no name, so no DNS that could be rebound

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        given = headers.get(TOKEN_HEADER)
        if given is None:
            query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
            given = query.get("token", [""])[0]
        return hmac.compare_digest(given.encode(), self._access.token.encode())


def _place_of(origin: str) -> str | None:
    """Return host and port of an Origin header; None if it is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
