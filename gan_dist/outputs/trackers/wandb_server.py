"""Asks W&B's server whether it answers. W&B's client would wait for it until its own timeouts."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException

_PAUSE = 0.5  # between two requests, seconds
_QUERY = b'{"query": "query Viewer { viewer { id } }"}'  # the client's first one
_UNAVAILABLE = (502, 503, 504)
_SILENT = "does not answer"


class Server:
    """The server that wandb is set up for."""

    def __init__(self) -> None:
        self._problem: str | None = None

    def require(self, seconds: float) -> None:
        """Return if it answers. After a failure it is not asked again.

        Args:
            seconds: as in `find_problem`.

        Raises:
            ConnectionError: it does not.
        """
        import wandb

        settings = wandb.setup().settings
        if self._problem is None:
            proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
            own = {scheme: url for scheme, url in proxies.items() if url}
            self._problem = find_problem(settings.base_url, own, seconds)
        if self._problem is not None:
            raise ConnectionError(f"{settings.base_url} {self._problem}")


def find_problem(base_url: str, proxies: Mapping[str, str], seconds: float) -> str | None:
    """Send requests to the server until it answers one, whatever the answer is.

    Args:
        base_url: of the server.
        proxies: scheme -> URL, beside those in the environment.
        seconds: how long this may take.

    Returns:
        Why the server is of no use now: it is not reached, does not answer, or says that it is unavailable. None if it
        answers otherwise, if only to ask for a key. A certificate or a proxy that Python does not accept counts as an
        answer: W&B's client has its own rules for them.
    """
    problem: str | None = _SILENT
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(urllib.request.getproxies() | dict(proxies)))

    def ask() -> None:
        nonlocal problem
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            problem = _problem(opener, f"{base_url}/graphql", left)
            if problem is None:
                return
            time.sleep(_PAUSE)

    thread = threading.Thread(target=ask, name="wandb-server", daemon=True)  # a name may take longer to resolve
    thread.start()
    thread.join(seconds)
    return problem


def _problem(opener: urllib.request.OpenerDirector, url: str, seconds: float) -> str | None:
    """The result of one request, as that of `find_problem`."""
    request = urllib.request.Request(url, _QUERY, {"Content-Type": "application/json"})
    try:
        opener.open(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        return f"answers with status {error.code}" if error.code in _UNAVAILABLE else None
    except (OSError, ValueError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return _SILENT
        return "is not reached" if isinstance(reason, ConnectionError | socket.gaierror) else None
    return None
