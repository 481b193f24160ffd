"""One connection to NATS: connecting, core messages, requests to the JetStream API.

Translates nats-py's exceptions into ours. What it adds to nats-py: a first connection that fails
with the true reason instead of trying for ever, reconnecting for ever afterwards, and API requests
that wait out an election (a stream without a leader answers "no responders" at once).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from headrace.broker.jetstream.options import ConnectOptions, redact
from headrace.broker.port import MessageCallback
from headrace.errors import (
    AccessDenied,
    BrokerError,
    BrokerUnavailable,
    BrokerUnsupported,
    ConfigurationError,
    PayloadTooLarge,
)
from headrace.wire import API_LEVEL

log = logging.getLogger("headrace.broker")

REQUEST_TIMEOUT = (
    10.0  # seconds until an operation is given up; documented in docs/reference/errors.md
)
CONNECT_TIMEOUT = 5.0
_LEVEL_HEADER = {"Nats-Required-Api-Level": str(API_LEVEL)}
_ELECTION = (10008, 10009, 10023, 10039)  # no leader yet, or not enough peers: worth another try


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
        self.nc = Client()
        self.on_reconnect: list[Callable[[], None]] = []
        self._last_error: Exception | None = None

    async def connect(self) -> None:
        """Connect, once to each server. Raises `BrokerUnavailable`, `AccessDenied`."""
        shown = ", ".join(self.options.servers)
        try:
            arguments = self.options.for_nats()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"TLS files cannot be read: {error}") from error
        try:
            await asyncio.wait_for(self._connect(arguments), CONNECT_TIMEOUT * 2)
        except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
            await self.nc.close()
            cause = error
            if isinstance(error, nats.errors.NoServersError | TimeoutError) and self._last_error:
                cause = self._last_error
            raise self._connect_error(cause, shown) from error
        self._last_error = None

    async def _connect(self, arguments: dict[str, Any]) -> None:
        await self.nc.connect(
            **arguments,
            name=self.name,
            connect_timeout=CONNECT_TIMEOUT,
            max_reconnect_attempts=1,  # of the first connection; see below
            reconnect_time_wait=0.2,
            ping_interval=5,
            max_outstanding_pings=2,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            closed_cb=self._on_closed,
        )
        self.nc.options["max_reconnect_attempts"] = -1  # from here on for ever

    def _connect_error(self, error: Exception, shown: str) -> BrokerError:
        text = str(error) or type(error).__name__
        lowered = text.lower()
        if isinstance(error, nats.errors.AuthorizationError) or "auth" in lowered:
            return AccessDenied(
                f"the NATS server at {shown} refused the credentials",
                hint="Check the user, token or credentials file",
            )
        if isinstance(error, FileNotFoundError):
            return AccessDenied(f"a credentials file is missing: {error.filename}")
        return BrokerUnavailable(
            f"no NATS server answers at {shown}: {text}",
            hint="Check the url and that the server runs; for a laptop use embedded:///some/folder",
        )

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        level = (
            logging.WARNING if isinstance(error, nats.errors.SlowConsumerError) else logging.DEBUG
        )
        log.log(level, "nats: %s", redact(str(error)) or type(error).__name__)

    async def _on_disconnect(self) -> None:
        if not self.nc.is_closed:
            log.warning("disconnected from NATS, reconnecting")

    async def _on_reconnect(self) -> None:
        log.info("reconnected to NATS")
        for callback in list(self.on_reconnect):
            callback()

    async def _on_closed(self) -> None:
        log.debug("connection to NATS closed")

    async def close(self) -> None:
        """End it, after what was sent has gone out."""
        if self.nc.is_closed:
            return
        if self.nc.is_connected:
            try:
                await self.nc.flush(2)
            except (nats.errors.Error, TimeoutError, OSError):
                pass  # a server that is gone takes nothing more; the close below stands
        await self.nc.close()

    async def publish(
        self, subject: str, body: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send one message; buffered while reconnecting."""
        try:
            await self.nc.publish(subject, body, reply, headers)
        except nats.errors.MaxPayloadError:
            raise PayloadTooLarge("a message", len(body), self.nc.max_payload) from None
        except (nats.errors.Error, OSError) as error:
            raise unavailable("a message was not sent", error) from error

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
        """Wait until the server has taken what was sent."""
        try:
            await self.nc.flush(int(REQUEST_TIMEOUT))
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise unavailable("the server did not answer a ping", error) from error

    async def request(
        self, subject: str, body: bytes, timeout: float, headers: dict[str, str] | None = None
    ) -> Msg | None:
        """One answer, or None if nobody listens or answers in time."""
        try:
            return await self.nc.request(subject, body, timeout, headers=headers)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError, TimeoutError):
            return None
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
            msg = await self.request(f"$JS.API.{call}", payload, min(left, 5.0), headers)
            if msg is not None:
                answer: dict[str, Any] = json.loads(msg.data)
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
            f"JetStream did not answer {call.split('.')[0:2]} within {REQUEST_TIMEOUT:g} s: {problem}"
        )

    async def check_server(self) -> dict[str, Any]:
        """What JetStream says of the account. Raises `BrokerUnsupported`, `AccessDenied`."""
        version = str(self.nc.connected_server_version)
        try:
            msg = await self.nc.request("$JS.API.INFO", b"", CONNECT_TIMEOUT)
        except nats.errors.NoRespondersError:
            raise BrokerUnsupported(
                "JetStream",
                version,
                hint="Start nats-server with -js, or enable it for the account",
            ) from None
        except (nats.errors.TimeoutError, TimeoutError):
            if self._last_error is not None and "permissions" in str(self._last_error).lower():
                raise AccessDenied(f"the credentials lack a right: {self._last_error}") from None
            raise BrokerUnavailable("JetStream did not answer $JS.API.INFO") from None
        except (nats.errors.Error, OSError) as error:
            raise unavailable("JetStream could not be asked", error) from error
        answer: dict[str, Any] = json.loads(msg.data)
        if error := answer.get("error"):
            raise BrokerUnsupported(
                "JetStream for this account",
                version,
                hint=f"The server says: {error.get('description')}",
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
