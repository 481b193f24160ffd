"""nats-py's parser with a short way for the hot subscriptions.

Whole messages of a direct subscription (deliveries, acknowledgements of publishes) are cut out of
what was read and handed on at once; everything else goes to nats-py's own parser, which tries a
list of patterns on every line and copies every message twice. Measured by `benchmarks.throughput`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from nats.errors import ProtocolError
from nats.protocol.parser import (
    AWAITING_CONTROL_LINE,
    AWAITING_MSG_PAYLOAD,
    CRLF_SIZE,
    MAX_CONTROL_LINE_SIZE,
    Parser,
)

log = logging.getLogger("headrace.broker")

DirectCallback = Callable[[str, str, bytes, bytes], None]
"""Called with subject, reply ("" if none), body and the header block (b"" if none), from the
parser: must not block."""

_LARGE = 65_536  # bytes of a message from which on nats-py's growing buffer is the better place
_CRLF = b"\r\n"


class DirectParser(Parser):
    """Hands messages of the subscriptions in `direct` (by id, in bytes) to their callbacks."""

    def __init__(self, nc: Any) -> None:
        super().__init__(nc)
        self.direct: dict[bytes, DirectCallback] = {}

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read from the socket."""
        if self.state == AWAITING_MSG_PAYLOAD:  # the rest of a message that nats-py has begun
            missing = self.needed + CRLF_SIZE - len(self.buf)
            await super().parse(data[:missing])
            data = data[missing:]
        if self.buf and self.state == AWAITING_CONTROL_LINE and data:
            data = bytes(self.buf) + data
            del self.buf[:]
        position, buffer = 0, self.buf
        while position < len(data) and self.buf is buffer:  # another one: the connection is new
            position, end = self._take(data, position)
            if end < 0:  # incomplete: the next read goes on with it
                self.buf.extend(data[position:])
                return
            if position < end:
                await super().parse(data[position:end])
                position = end

    def _take(self, data: bytes, position: int) -> tuple[int, int]:
        """Hand on direct messages from `position`; where they end, and up to where what follows
        there is nats-py's business: -1 if it is an incomplete message of ours or line."""
        size, direct, find = len(data), self.direct, data.find
        while position < size:
            eol = find(_CRLF, position, position + MAX_CONTROL_LINE_SIZE)
            if eol < 0:
                # Longer than any line: nats-py says that the protocol is broken.
                return position, -1 if size - position < MAX_CONTROL_LINE_SIZE else size
            words = data[position:eol].split()
            kind = words[0] if words else b""
            if kind not in (b"MSG", b"HMSG"):
                return position, eol + CRLF_SIZE
            try:
                callback, fourth = direct.get(words[2]), words[3]
                end = eol + CRLF_SIZE + int(words[-1])
                headers = eol + CRLF_SIZE + (int(words[-2]) if kind == b"HMSG" else 0)
            except (IndexError, ValueError):
                raise ProtocolError("nats: malformed MSG") from None
            if end + CRLF_SIZE > size:
                large = end - position > _LARGE
                return position, size if callback is None or large else -1
            if callback is None:
                return position, end + CRLF_SIZE
            # Without a reply the line is one word shorter.
            reply = fourth.decode() if len(words) == (5 if kind == b"MSG" else 6) else ""
            self.hand_on(
                callback, words[1], reply, data[headers:end], data[eol + CRLF_SIZE : headers]
            )
            position = end + CRLF_SIZE
        return position, size

    def hand_on(
        self, callback: DirectCallback, subject: bytes, reply: str, body: bytes, headers: bytes
    ) -> None:
        """Call back; the connection must not end for a fault of ours."""
        try:
            callback(subject.decode(), reply, body, headers)
        except Exception:
            log.exception("a callback on %s failed", subject)
