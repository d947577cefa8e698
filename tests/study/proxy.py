"""Between a worker and its database: a network that can be cut and mended, and Optuna's gRPC proxy."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

SERVER = """
import sys
import optuna
storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(sys.argv[1]))
optuna.storages.run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))
"""


class Network:
    """Forwards connections from a port of its own to `target` while it is not cut.

    Args:
        target: a port of this host.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = True
        self._frozen = False
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self._whole = False
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def freeze(self) -> None:
        """Swallow what is sent: connections stay and nobody answers."""
        self._frozen = True

    def mend(self) -> None:
        """As if nothing had been; what was swallowed by a frozen network comes late."""
        self._whole, self._frozen = True, False

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            if not self._whole:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the database itself is down
                client.close()
                continue
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self._frozen:
                    time.sleep(0.05)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # `close` alone leaves it open while the other thread receives
                one.close()


class Proxy:
    """Optuna's own proxy over a journal, in a process of its own."""

    def __init__(self, journal: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._command = [sys.executable, "-c", SERVER, str(journal), str(self.port)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
