"""A TCP proxy that can stop passing bytes without closing anything, as a cut network does."""

from __future__ import annotations

import socket
import threading


class TcpGate:
    """Listens on 127.0.0.1:`port` and passes on to `host:port`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._open = threading.Event()
        self._open.set()
        self._closed = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Pass nothing on, and close nothing."""
        self._open.clear()

    def resume(self) -> None:
        """Pass on again."""
        self._open.set()

    def close(self) -> None:
        """Take no more connections."""
        self._closed = True
        self._server.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                inner, _ = self._server.accept()
                outer = socket.create_connection(self._target)
            except OSError:
                return
            for pair in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
        except OSError:
            pass
        finally:
            source.close()
            target.close()
