"""One connection to NATS: connecting, core messages, requests to the JetStream API.

Translates nats-py's exceptions into ours. What it adds to nats-py: a first connection that fails
with the true reason instead of trying for ever, reconnecting for ever afterwards, and API requests
that wait out an election (a stream without a leader answers "no responders" at once).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from headrace.broker.jetstream.clock import ServerClock
from headrace.broker.jetstream.lasting_client import LastingClient, header_block
from headrace.broker.jetstream.options import ConnectOptions, redact
from headrace.broker.jetstream.parser import DirectCallback
from headrace.broker.jetstream.refusals import connect_error, says_why, words
from headrace.broker.jetstream.rights import Rights
from headrace.broker.port import MessageCallback
from headrace.errors import BrokerError, BrokerUnavailable, BrokerUnsupported, PayloadTooLarge
from headrace.wire import API_LEVEL

log = logging.getLogger("headrace.broker")

REQUEST_TIMEOUT = 10.0  # seconds until an operation is given up
CONNECT_TIMEOUT = 5.0
_CUT_OFF_TRIES = 4
_AGAIN = 0.2  # seconds between two tries to connect
MOST_AGAIN = 2.0
"""The same, once the server has refused us a few times: a fleet whose user was revoked should not
keep it busy."""
_ROUNDING = 4  # bytes of lengths
_LEVEL_HEADER = {"Nats-Required-Api-Level": str(API_LEVEL)}
MIN_PAYLOAD = 16_384
"""Bytes that the server's limit must be at least: a record of how a task ended always fits."""

# No leader yet, or not enough peers: worth another try.
_ELECTION = (10005, 10008, 10009, 10023, 10039)


class ApiError(Exception):
    """An error answer of the JetStream API."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code, self.text = code, text


class NatsConnection:
    """A connection that outlives its servers."""

    def __init__(self, options: ConnectOptions, name: str) -> None:
        self.options = options
        self.name = name
        self.nc = LastingClient(options)
        self.clock = ServerClock()
        self.on_reconnect: list[Callable[[], None]] = []
        self.rights = Rights(options.inbox)
        self._last_error: Exception | None = None
        self._lost = False  # it was connected, and is to be again
        self._told = ""

    async def connect(self) -> None:
        """Connect, once to each server.

        Raises `BrokerUnavailable`, `AccessDenied`, `BrokerUntrusted`, and `ConfigurationError` for
        files that cannot be read.
        """
        shown = ", ".join(self.options.servers)
        self._last_error = None
        try:
            self.options.identity()  # also where no server asks who we are
            if self.options.wants_tls:
                self.options.tls()
        except OSError as error:
            raise connect_error(error, shown) from None
        for tries in range(_CUT_OFF_TRIES, 0, -1):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT * 2):
                    await self._connect()
                break
            except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
                await self.nc.close()
                self.nc = LastingClient(self.options)  # one that was closed connects no more
                cause: Exception = error
                lasting = isinstance(error, nats.errors.NoServersError | TimeoutError)
                if lasting and self._last_error:
                    cause = self._last_error
                # A server that refuses a certificate says so and hangs up: who was writing just
                # then hears only of the second.
                cut_off = isinstance(cause, BrokenPipeError | ConnectionResetError)
                if not (cut_off and self.options.wants_tls and tries > 1):
                    raise connect_error(cause, shown) from None
                self._last_error = None
        self._last_error = None

    async def _connect(self) -> None:
        settings: dict[str, Any] = {
            "name": self.name,
            "connect_timeout": CONNECT_TIMEOUT,
            "max_reconnect_attempts": 1,  # of the first connection; see below
            "reconnect_time_wait": _AGAIN,
            "skip_subject_validation": True,  # ours are made of checked names
            "ping_interval": 5,
            "max_outstanding_pings": 2,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnect,
            "reconnected_cb": self._on_reconnect,
            "closed_cb": self._on_closed,
        }
        await self.nc.connect_as_told(**settings)
        self.nc.options["max_reconnect_attempts"] = -1  # from here on for ever

    async def _on_error(self, error: Exception) -> None:
        if self.rights.take(str(error)):
            return
        if says_why(error) and self._lost:
            self._refused_again(error)
        elif not says_why(self._last_error) or isinstance(error, ConnectionRefusedError):
            self._last_error = error  # not the reset behind a reason: that says less
        level = (
            logging.WARNING if isinstance(error, nats.errors.SlowConsumerError) else logging.DEBUG
        )
        log.log(level, "nats: %s", redact(str(error)) or type(error).__name__)

    def _refused_again(self, error: Exception) -> None:
        """A try to reconnect has failed for a reason that does not pass by itself."""
        self._last_error = error
        if words(error) != self._told:
            self._told = words(error)
            log.warning("not connected, and trying on with the files as they are: %s", self._told)
        pause = self.nc.options["reconnect_time_wait"] * random.uniform(1.1, 1.5)
        self.nc.options["reconnect_time_wait"] = min(MOST_AGAIN, pause)

    @property
    def trouble(self) -> str:
        """Why it is not connected, in words; "" while it is."""
        return "" if self.nc.is_connected else words(self._last_error)

    async def _on_disconnect(self) -> None:
        if not self.nc.is_closed:
            self._lost = True
            self.rights.forget()
            log.warning("disconnected from NATS, reconnecting")

    async def _on_reconnect(self) -> None:
        log.info("reconnected to NATS")
        self._last_error, self._lost, self._told = None, False, ""
        self.nc.options["reconnect_time_wait"] = _AGAIN
        for callback in list(self.on_reconnect):
            callback()

    async def _on_closed(self) -> None:
        log.debug("connection to NATS closed")

    async def close(self) -> None:
        """End it, after what was sent has gone out. Harmless when it has not been connected."""
        if self.nc.is_closed or self.nc._current_server is None:
            return
        if self.nc.is_connected:
            try:
                await self.nc.flush(2)
            except (nats.errors.Error, TimeoutError, OSError):
                pass  # a server that is gone takes nothing more; the close below stands
        try:
            await self.nc.close()
        except OSError:
            # While reconnecting, with something still to send, nats-py gives up halfway and
            # leaves its tasks behind. What it had to send is dropped by now: once more.
            self.nc._status = Client.DISCONNECTED
            await self.nc.close()

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send one message; buffered while reconnecting."""
        self.send_now(subject, reply, b"", body)
        if self.nc.congested:
            await self.nc.drained()

    def check_size(self, what: str, body: bytes, headers: bytes) -> None:
        """Raise `PayloadTooLarge` for a message that is over the server's limit. `headers` is a
        block."""
        size = len(body) + len(headers) + _ROUNDING
        if size > self.nc.max_payload:
            raise PayloadTooLarge(what, size, self.nc.max_payload)

    def send_now(self, subject: str, reply: str, headers: bytes, body: bytes) -> None:
        """Send one message, with a prepared header block or b"", at the end of this turn of the
        loop; buffered while reconnecting. Who sends much waits where `nc.congested`."""
        try:
            self.nc.send_now(subject, reply, headers, body)
        except nats.errors.MaxPayloadError:
            raise PayloadTooLarge("a message", len(body), self.nc.max_payload) from None
        except (nats.errors.Error, OSError) as error:
            raise unavailable("a message was not sent", error) from error

    async def subscribe_direct(self, subject: str, callback: DirectCallback) -> NatsSubscription:
        """Receive messages in the parser's own turn."""

        async def through_the_queue(msg: Msg) -> None:  # only what comes before the next line
            callback(msg.subject, msg.reply, msg.data, header_block(msg.headers or {}))

        subscription = await self.subscribe(subject, through_the_queue)
        self.nc.call_directly(subscription._id, callback)
        return subscription

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]], queue: str = ""
    ) -> NatsSubscription:
        """Receive messages; never dropped for being slow to take them."""
        try:
            return await self.nc.subscribe(
                subject, queue, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except (nats.errors.Error, OSError) as error:
            raise unavailable("a subscription was not made", error) from error

    async def flush(self) -> None:
        """Wait until the server has taken what was sent, subscriptions included.

        Raises `AccessDenied` if it refused one of those.
        """
        # nats-py writes the ping ahead of what it has buffered, so its pong proves nothing for
        # that: let its flusher write first (more than one turn only if the socket is congested).
        for turn in range(60):
            if not self.nc.pending_data_size or not self.nc.is_connected:
                break
            await asyncio.sleep(0 if turn < 10 else 0.001)
        try:
            await self.nc.flush(int(REQUEST_TIMEOUT))
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise unavailable("the server did not answer a ping", error) from error
        self.rights.check()  # a refusal comes before the pong

    async def _ask(
        self, subject: str, body: bytes, timeout: float, headers: dict[str, str] | None = None
    ) -> Msg:
        """nats-py's request, which ends at once where the server refuses it."""
        return await self.rights.ask(
            subject, self.nc.request(subject, body, timeout, headers=headers)
        )

    async def request(
        self, subject: str, body: bytes, timeout: float, headers: dict[str, str] | None = None
    ) -> Msg | None:
        """One answer, or None if nobody listens or answers in time."""
        try:
            return await self._ask(subject, body, timeout, headers)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError, TimeoutError):
            return None
        except BrokerError:
            raise
        except (nats.errors.Error, OSError) as error:
            raise unavailable("a request was not sent", error) from error

    async def api(
        self, call: str, body: dict[str, Any] | None = None, *, needs_level: bool = False
    ) -> dict[str, Any]:
        """A request to `$JS.API.<call>`; waits out elections up to REQUEST_TIMEOUT.

        Raises `ApiError` for an error answer, `BrokerUnavailable` for none.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REQUEST_TIMEOUT
        payload = json.dumps(body).encode() if body else b""
        headers = dict(_LEVEL_HEADER) if needs_level else None
        pause, problem = 0.05, "no answer"
        while (left := deadline - loop.time()) > 0:
            asked_at = time.monotonic()
            msg = await self.request(f"$JS.API.{call}", payload, min(left, 5.0), headers)
            if msg is not None:
                answer: dict[str, Any] = json.loads(msg.data)
                if "ts" in answer:
                    self.clock.learn(answer["ts"], asked_at)
                error = answer.get("error")
                if error is None:
                    return answer
                code = error.get("err_code", error.get("code", 0))
                if code not in _ELECTION:
                    raise ApiError(code, error.get("description", ""))
                problem = error.get("description", "")
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)
        raise BrokerUnavailable(
            f"JetStream did not answer {call} within {REQUEST_TIMEOUT:g} s: {problem}"
        )

    @property
    def server_version(self) -> str:
        """Of the server that it is connected to, such as `2.15.1`; "" while it is not."""
        if not self.nc.is_connected:
            return ""
        version = self.nc.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    async def check_server(self) -> dict[str, Any]:
        """What JetStream says of the account. Raises `BrokerUnsupported`, `AccessDenied`."""
        version = self.server_version
        try:
            msg = await self._ask("$JS.API.INFO", b"", CONNECT_TIMEOUT)
        except nats.errors.NoRespondersError:
            raise BrokerUnsupported(
                "JetStream",
                version,
                hint="Start nats-server with -js, or enable it for the account",
            ) from None
        except (nats.errors.TimeoutError, TimeoutError):
            raise BrokerUnavailable("JetStream did not answer $JS.API.INFO") from None
        except BrokerError:
            raise
        except (nats.errors.Error, OSError) as error:
            raise unavailable("JetStream could not be asked", error) from error
        answer: dict[str, Any] = json.loads(msg.data)
        if problem := answer.get("error"):
            raise BrokerUnsupported(
                "JetStream for this account",
                version,
                hint=f"The server says: {problem.get('description')}",
            )
        if self.nc.max_payload < MIN_PAYLOAD:
            raise BrokerUnsupported(
                f"messages of {MIN_PAYLOAD:,} bytes (its limit is {self.nc.max_payload:,})",
                version,
                hint="Raise the server's max_payload; its default is 1MB",
            )
        level = answer.get("api", {}).get("level", 0)
        if level < API_LEVEL:
            raise BrokerUnsupported(
                f"JetStream API level {API_LEVEL} (it has {level})",
                version,
                hint="Headrace needs NATS 2.14 or newer",
            )
        return answer


class CoreSubscription:
    """The port's subscription on a core subject."""

    def __init__(self, subscription: NatsSubscription) -> None:
        self._subscription = subscription

    async def close(self) -> None:
        """End it."""
        try:
            await self._subscription.unsubscribe()
        except (nats.errors.Error, OSError):
            pass  # it has ended already, or the connection has


def adapt_direct(callback: MessageCallback) -> DirectCallback:
    """A direct callback for a plain one of the port's, which must not block or return a value."""

    def receive(subject: str, reply: str, body: bytes, _: bytes) -> None:
        callback(subject, body, reply)

    return receive


def adapt(callback: MessageCallback) -> Callable[[Msg], Awaitable[None]]:
    """A nats-py callback for one of the port's; an exception is logged and stops nothing."""

    async def receive(msg: Msg) -> None:
        try:
            result = callback(msg.subject, msg.data, msg.reply)
            if result is not None:
                await result
        except Exception:
            log.exception("a callback on %s failed", msg.subject)

    return receive


def unavailable(what: str, error: BaseException) -> BrokerUnavailable:
    """`BrokerUnavailable` for an exception of nats-py or of the socket."""
    return BrokerUnavailable(f"{what}: {redact(str(error)) or type(error).__name__}")
