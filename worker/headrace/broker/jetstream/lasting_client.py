"""nats-py's client with three things changed: what ends it, who it is, what a message costs.

A message of the hot subscriptions (deliveries, acknowledgements of publishes) goes straight from
the parser to its callback: by way of nats-py's queue and task per subscription it costs about three
times as much. What a turn of the loop sends goes to the socket as one piece at its end, without
nats-py's task between. Headers of a publish are given as the bytes that they are on the wire, so
that they are checked and put together once and not per message. All measured by
`benchmarks.throughput`.

Credentials and certificates are read from their files at every connection: nats-py keeps the TLS
context and the nkey's public key of the first.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

import nats.errors
from nats.aio.client import Client

from headrace.broker.jetstream.options import ConnectOptions
from headrace.broker.jetstream.parser import DirectCallback, DirectParser

log = logging.getLogger("headrace.broker")

_CONGESTED = 65_536  # bytes that the socket has not taken: from there on nats-py's flusher waits


class LastingClient(Client):
    """A client that a word of the server's does not end.

    nats-py closes for good when the server says why it hangs up (credentials that expired or were
    revoked, too many connections). Here that is a lost connection like any other: credentials are
    read again at the next try.
    """

    def __init__(self, options: ConnectOptions) -> None:
        super().__init__()
        self._connect_options = options
        self._parser = self._ps = DirectParser(self)
        self._turn_ends = False  # `_end_turn` is scheduled

    async def connect_as_told(self, **settings: Any) -> None:
        """Connect to the servers of the options, as whom they say."""
        options = self._connect_options
        settings |= {"servers": list(options.servers), "inbox_prefix": options.inbox}
        await self.connect(**settings)

    # --- who it says to be: called by nats-py at every connection ---

    def _connect_command(self) -> bytes:
        identity = self._connect_options.identity()  # its error is an OSError: tried again
        if identity is not None:
            self._auth_configured = True
            self.options["user"], self.options["password"] = identity.user, identity.password
            self.options["token"] = identity.token
            jwt = identity.jwt
            self._user_jwt_cb = None if jwt is None else lambda: bytearray(jwt.encode())
            self._signature_cb = None if identity.seed is None else identity.sign
            self._public_nkey = None if identity.seed is None else identity.public_key
        command: bytes = super()._connect_command()
        return command

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The context of this connection."""
        return self._connect_options.tls()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._connect_options.wants_tls:
            # Else nats-py goes on in the clear, credentials too.
            if not (info.get("tls_required") or info.get("tls_available")):
                raise nats.errors.SecureConnWantedError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    # --- what ends it ---

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
            if not self.is_connected:  # neither a pong nor an error: the server hung up
                for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                    if task is not None:
                        task.cancel()
                raise nats.errors.UnexpectedEOF
        except BaseException as error:
            # nats-py would leave it open when it tries again; and when it closes, wait for the
            # end of a connection whose handshake has failed, which never comes.
            transport: Any = self._transport
            self._transport = None
            reader = getattr(transport, "_io_reader", None)
            if transport is not None:
                transport.close()
            # A server that refuses our certificate says so behind its own handshake: who writes
            # meanwhile is told of a lost connection, and only the reader of the reason.
            why = None if reader is None else reader.exception()
            if isinstance(why, ssl.SSLError) and not isinstance(error, asyncio.CancelledError):
                raise why from error
            raise

    async def _process_err(self, err_msg: str) -> None:
        if self.is_connected and "permissions violation" not in err_msg.lower():
            error = nats.errors.Error(f"nats: {err_msg}")
            await self._error_cb(error)
            await self._process_op_err(error)
        else:
            await super()._process_err(err_msg)

    def call_directly(self, sid: int, callback: DirectCallback) -> None:
        """Let messages of this subscription go straight to `callback`."""
        self._parser.direct[b"%d" % sid] = callback

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._parser.direct.pop(b"%d" % sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        # Such a message comes this way if it was large.
        direct = self._parser.direct.get(b"%d" % sid)
        if direct is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            self._parser.hand_on(direct, subject, reply.decode(), data, headers or b"")

    def send_now(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        """Publish at the end of this turn of the loop; kept for the reconnect while there is no
        connection. `headers` is a block as `header_block` makes it, or b"".

        Raises nats-py's errors.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        size = len(headers) + len(payload)
        if size > self._max_payload:
            raise nats.errors.MaxPayloadError
        if headers:
            command = b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
                subject.encode(), reply.encode(), len(headers), size, headers, payload,
            )  # fmt: skip
        else:
            command = b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), size, payload)
        if not self.is_connected and (
            len(command) + self._pending_data_size > self._max_pending_size
        ):
            raise nats.errors.OutboundBufferLimitError
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._turn_ends:
            self._turn_ends = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    @property
    def congested(self) -> bool:
        """Whether so much waits to be sent that who sends more should wait for `drained`."""
        return bool(self._pending_data_size > self._max_pending_size)

    async def drained(self) -> None:
        """Wait until what was sent so far has gone to the socket."""
        await self._flush_pending(force_flush=True)

    def _end_turn(self) -> None:
        self._turn_ends = False
        if not self._pending or not self.is_connected or self.is_connecting:
            return  # a reconnect sends it
        writer: Any = getattr(self._transport, "_io_writer", None)  # a websocket has none
        if writer is None or writer.transport.get_write_buffer_size() > _CONGESTED:
            if self._flush_queue is not None and self._flush_queue.empty():
                self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
            return
        commands, self._pending, self._pending_data_size = self._pending, [], 0
        writer.write(b"".join(commands))


def header_block(headers: dict[str, str]) -> bytes:
    """Headers as they are on the wire. Raises ValueError for what would break out of its line."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line break")
    return "\r\n".join(["NATS/1.0", *lines, "", ""]).encode()
