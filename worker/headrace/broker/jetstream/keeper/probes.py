"""`/livez` and `/readyz`, served by the keeper: a blocked loop does not fail them early.

Neither depends on the broker: an outage of NATS restarts nobody.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

_WITHIN = 5.0  # seconds a probe may take
Look = Callable[[], tuple[str, str]]
"""Why the worker is not alive, and why it is not ready; "" where it is."""


class Probes:
    """A very small HTTP server: two paths, one request a connection."""

    def __init__(self, look: Look) -> None:
        self._look = look

    async def serve(self, host: str, port: int) -> int:
        """Listen; the port, a free one for 0. Raises OSError."""
        server = await asyncio.start_server(self._answer, host, port)
        return int(server.sockets[0].getsockname()[1])

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_WITHIN):
                request = await reader.readuntil(b"\r\n\r\n")
                path = request.split(b" ", 2)[1].partition(b"?")[0].decode()
                code, answer = self._probe(path)
                body = json.dumps(answer).encode() + b"\n"
                writer.write(
                    f"HTTP/1.1 {code}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (OSError, ValueError, IndexError, EOFError, asyncio.LimitOverrunError):
            pass  # not a probe, or one that went away (a timeout is an OSError)
        finally:
            writer.close()

    def _probe(self, path: str) -> tuple[str, dict[str, Any]]:
        if path not in ("/livez", "/readyz"):
            return "404 Not Found", {"ok": False, "reason": "there are /livez and /readyz"}
        not_alive, not_ready = self._look()
        reason = not_alive or (not_ready if path == "/readyz" else "")
        if reason:
            return "503 Service Unavailable", {"ok": False, "reason": reason}
        return "200 OK", {"ok": True}
