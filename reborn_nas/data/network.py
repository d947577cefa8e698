"""Is there a network? Asked before a download, so that its absence is told within seconds."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.parse
import urllib.request

PROBE_SECONDS = 2.5
"""How long the host of a download may take to answer before we say that there is no network."""


def reachable(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether the host of `url`, or the proxy on the way to it, accepts a connection within `seconds`.

    In a thread, because looking a name up knows no timeout.
    """
    address = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or (443 if address.scheme == "https" else 80)
    answered = threading.Event()

    def knock() -> None:
        with contextlib.suppress(OSError), socket.create_connection((address.hostname or "", port), seconds):
            answered.set()

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
