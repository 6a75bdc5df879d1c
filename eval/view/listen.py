"""Listening: a socket on the address asked for, the address for people, and the server until Ctrl-C."""

import errno
import socket
from collections.abc import Callable

from eval.view.opened import Opened
from eval.view.security import Access, access_for, is_loopback
from eval.view.server import application
from eval.view.warm import warm_libraries
from store.errors import InvalidInput

TRIED_PORTS = 20
CLOSING_SECONDS = 2


def serve(opened: Opened, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve a page until it is interrupted.

    Args:
        opened: what is shown.
        host: name or address to listen on.
        port: port to listen on, or the first free one after it; 0 takes any.
        say: told the page's address.

    Raises:
        InvalidInput: the address cannot be listened on.
    """
    import uvicorn

    access = access_for(host)
    listening = bound_socket(host, port)
    say(f"{opened.cache.location}: {address(listening, host, access)}")
    if not is_loopback(host):
        say("Whoever has this address sees the cache; it is not encrypted. Ctrl-C ends it.")
    warm_libraries()
    config = uvicorn.Config(
        application(opened, access),
        log_level="warning",
        access_log=False,  # addresses have the token
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        say("")
    finally:
        opened.jobs.stop()
        listening.close()


def address(listening: socket.socket, host: str, access: Access) -> str:
    """Return the address to open in a browser."""
    wildcard = host in ("0.0.0.0", "::", "")
    name = socket.gethostname() if wildcard else "localhost" if host == "127.0.0.1" else host
    if ":" in name:
        name = f"[{name.strip('[]')}]"
    token = f"?token={access.token}" if access.token else ""
    return f"http://{name}:{listening.getsockname()[1]}/{token}"


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port, or on the first free one after it.

    Raises:
        InvalidInput: no such address, or none of the ports is free.
    """
    last = port if port == 0 else min(65535, port + TRIED_PORTS - 1)
    for candidate in range(port, last + 1):
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                host.strip("[]"), candidate, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            opened = socket.socket(family, kind, protocol)
        except (OSError, OverflowError) as error:
            raise InvalidInput(f"--host '{host}' --port {port}: cannot be listened on: {error}") from error
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(place)
            opened.listen(128)
        except OSError as error:
            opened.close()
            if error.errno == errno.EADDRINUSE and candidate < last:
                continue
            raise InvalidInput(f"--host '{host}' --port {port}: cannot be listened on: {error.strerror}") from error
        return opened
    raise InvalidInput(f"--port {port}: expected a port from 0 to 65535")
