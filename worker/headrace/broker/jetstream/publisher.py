"""Publishes to streams, many under way at once, each with its acknowledgement.

A publish without an answer is sent again: after a reconnect, and when the stream had no leader.
That is safe because every publish carries a message id or an expected sequence. Deadlines are kept
by one timer for all, so that a publish costs no timer of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable

from nats.aio.msg import Msg

from headrace.broker.jetstream.connection import ApiError, NatsConnection
from headrace.errors import BrokerUnavailable

PUBLISH_TIMEOUT = 10.0  # seconds until an unanswered publish is given up
_RESEND_AFTER = 3.0  # an answer lost with its leader does not come: ask again
_MAX_UNDER_WAY = 8_192
_TICK = 0.1

Headers = dict[str, str]


class _Entry:
    __slots__ = ("body", "deadline", "future", "headers", "resend_at", "subject")

    def __init__(
        self, future: asyncio.Future[tuple[int, bool]], subject: str, body: bytes, headers: Headers
    ) -> None:
        self.future, self.subject, self.body, self.headers = future, subject, body, headers
        now = future.get_loop().time()
        self.deadline = now + PUBLISH_TIMEOUT
        self.resend_at = now + _RESEND_AFTER


class Publisher:
    """Sends to streams and matches the acknowledgements."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._nc = connection.nc
        self._entries: dict[str, _Entry] = {}
        self._next = 0
        self._inbox = ""
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None
        self._resending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Subscribe to the acknowledgements."""
        inbox = self._nc.new_inbox()
        await self._connection.subscribe(f"{inbox}.*", self._receive)
        self._inbox = inbox + "."
        self._connection.on_reconnect.append(self._resend_all)

    def stop(self) -> None:
        """Give up what is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for entry in self._entries.values():
            if not entry.future.done():
                entry.future.set_exception(BrokerUnavailable("the connection was closed"))
                entry.future.exception()  # nobody may be waiting: not an error of its own
        self._entries.clear()
        for task in self._resending:
            task.cancel()

    async def send(
        self, subject: str, body: bytes, headers: Headers
    ) -> Awaitable[tuple[int, bool]]:
        """Send; the awaitable gives the stream sequence and whether it was a duplicate.

        It raises `ApiError` for a refusal and `BrokerUnavailable` after PUBLISH_TIMEOUT.
        """
        while len(self._entries) >= _MAX_UNDER_WAY:
            self._room.clear()
            await self._room.wait()
        future: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
        self._next += 1
        token = str(self._next)
        self._entries[token] = _Entry(future, subject, body, headers)
        if self._timer is None:
            self._timer = future.get_loop().call_later(_TICK, self._tick)
        if self._nc.is_connected:
            await self._connection.publish(subject, body, self._inbox + token, headers)
        # else: sent by the reconnect, rather than from nats-py's bounded buffer
        return future

    async def _receive(self, msg: Msg) -> None:
        token = msg.subject[len(self._inbox) :]
        entry = self._entries.get(token)
        if entry is None:
            return
        if msg.headers:  # 503: no stream listens on the subject, or it has no leader just now
            entry.resend_at = entry.future.get_loop().time() + 0.2
            return
        del self._entries[token]
        if not self._room.is_set():
            self._room.set()
        if entry.future.done():
            return
        answer = json.loads(msg.data)
        error = answer.get("error")
        if error is None:
            entry.future.set_result((answer["seq"], answer.get("duplicate", False)))
        else:
            code = error.get("err_code", error.get("code", 0))
            entry.future.set_exception(ApiError(code, error.get("description", "")))

    def _tick(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        overdue = []
        for token, entry in self._entries.items():
            if entry.resend_at > now and entry.deadline > now:
                continue
            overdue.append((token, entry))
        again: list[tuple[str, _Entry]] = []
        for token, entry in overdue:
            if entry.future.done():
                del self._entries[token]
            elif entry.deadline <= now:
                del self._entries[token]
                entry.future.set_exception(self._gave_up())
            else:
                entry.resend_at = now + _RESEND_AFTER
                again.append((token, entry))
        if again and self._nc.is_connected:
            self._resend(again)
        if not self._room.is_set() and len(self._entries) < _MAX_UNDER_WAY:
            self._room.set()
        if self._entries:
            self._timer = loop.call_later(_TICK, self._tick)

    def _gave_up(self) -> BrokerUnavailable:
        where = "the server is not reachable" if not self._nc.is_connected else "no stream answers"
        return BrokerUnavailable(
            f"not stored within {PUBLISH_TIMEOUT:g} s: {where}",
            hint="It may have been stored: repeat it with the same id",
        )

    def _resend_all(self) -> None:
        self._resend(list(self._entries.items()))

    def _resend(self, entries: list[tuple[str, _Entry]]) -> None:
        task = asyncio.get_running_loop().create_task(self._send_again(entries))
        self._resending.add(task)
        task.add_done_callback(self._resending.discard)

    async def _send_again(self, entries: list[tuple[str, _Entry]]) -> None:
        for token, entry in entries:
            if token in self._entries and not entry.future.done():
                try:
                    await self._connection.publish(
                        entry.subject, entry.body, self._inbox + token, entry.headers
                    )
                except BrokerUnavailable:
                    return  # the next reconnect or tick tries again
