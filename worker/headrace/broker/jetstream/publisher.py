"""Publishes to streams, many under way at once, each with its acknowledgement.

A publish without an answer is sent again: after a reconnect, and when the stream had no leader.
That is safe because every publish carries a message id or an expected sequence. Deadlines are kept
by one timer for all, so that a publish costs no timer of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pydantic_core import from_json

from headrace.broker.jetstream.connection import ApiError, NatsConnection
from headrace.broker.jetstream.rights import access_denied
from headrace.broker.port import Stored
from headrace.errors import BrokerUnavailable, PayloadTooLarge

PUBLISH_TIMEOUT = 10.0  # seconds until an unanswered publish is given up
_RESEND_AFTER = 3.0  # an answer lost with its leader does not come: ask again
_MAX_UNDER_WAY = 8_192
_TICK = 0.1
_IN_PROCESS = 10158  # what was sent again is being stored: its answer is still to come
_LAST_ANSWERS = 1.0  # seconds that a stop waits for the answers to what was sent

Refusal = Callable[[ApiError], Exception]
"""What a refusal of the server's means to who published."""


class _Entry:
    __slots__ = ("body", "deadline", "future", "headers", "refusal", "resend_at", "subject")

    def __init__(
        self,
        future: asyncio.Future[Stored],
        subject: str,
        body: bytes,
        headers: bytes,
        refusal: Refusal,
        now: float,
    ) -> None:
        self.future, self.subject, self.body, self.headers = future, subject, body, headers
        self.refusal = refusal
        self.deadline = now + PUBLISH_TIMEOUT
        self.resend_at = now + _RESEND_AFTER

    def fail(self, error: Exception) -> None:
        """End it with this error; nobody may be waiting, so it is not one of its own."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()


class Publisher:
    """Sends to streams and matches the acknowledgements."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._entries: dict[str, _Entry] = {}
        self._next = 0
        self._inbox = ""
        self._waiting: deque[asyncio.Future[None]] = deque()  # to send, in the order they came
        self._coming = 0  # of those, who were let in and have not sent yet
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._resending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Subscribe to the acknowledgements."""
        inbox = self._connection.nc.new_inbox()
        await self._connection.subscribe_direct(f"{inbox}.*", self._receive)
        self._inbox = inbox + "."
        self._connection.on_reconnect.append(self._resend_all)
        self._connection.rights.on_denied.append(self._denied)

    async def stop(self) -> None:
        """Let the answers under way come, for a moment, then give them up: who submitted should
        hear that the task is stored, not that it may be."""
        under_way = [entry.future for entry in self._entries.values()]
        if under_way and self._connection.nc.is_connected:
            await asyncio.wait(under_way, timeout=_LAST_ANSWERS)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for entry in self._entries.values():
            entry.fail(BrokerUnavailable("the connection was closed"))
        self._entries.clear()
        self._stopped = True
        self._let_in()
        for task in self._resending:
            task.cancel()

    async def send(
        self, subject: str, body: bytes, headers: bytes, refusal: Refusal
    ) -> asyncio.Future[Stored]:
        """Send, with a block as `header_block` makes it; the future ends when it is stored.

        It raises what `refusal` makes of a refusal, and `BrokerUnavailable` after PUBLISH_TIMEOUT.
        """
        nc = self._connection.nc
        if self._waiting or len(self._entries) + self._coming >= _MAX_UNDER_WAY:
            await self._room()
        if self._stopped or nc.is_closed:
            raise BrokerUnavailable("the connection was closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Stored] = loop.create_future()
        self._next += 1
        token = str(self._next)
        self._entries[token] = _Entry(future, subject, body, headers, refusal, loop.time())
        if self._timer is None:
            self._timer = loop.call_later(_TICK, self._tick)
        if nc.is_connected:
            try:
                self._connection.send_now(subject, self._inbox + token, headers, body)
            except PayloadTooLarge:  # the server's limit fell since it was asked for
                self._entries.pop(token, None)
                self._let_in()
                raise
            if nc.congested:
                await nc.drained()
        # else: sent by the reconnect, rather than from nats-py's bounded buffer
        return future

    async def _room(self) -> None:
        """Wait for a place. Each that becomes free wakes one: woken all at once, many thousands
        would take all of the time to look whether there is one for them."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # cancelled after it was let in: the next one may come
                self._coming -= 1
                self._let_in()
            raise
        self._coming -= 1

    def _let_in(self) -> None:
        """Wake as many as there are places; all, once it is stopped."""
        while self._waiting and (
            self._stopped or len(self._entries) + self._coming < _MAX_UNDER_WAY
        ):
            turn = self._waiting.popleft()
            if not turn.done():
                self._coming += 1
                turn.set_result(None)

    def _receive(self, subject: str, _: str, data: bytes, headers: bytes) -> None:
        token = subject[len(self._inbox) :]
        entry = self._entries.get(token)
        if entry is None:
            return
        if headers:  # 503: no stream listens on the subject, or it has no leader just now
            entry.resend_at = entry.future.get_loop().time() + 0.2
            return
        answer = from_json(data)
        error = answer.get("error")
        if error is not None and error.get("err_code") == _IN_PROCESS:
            entry.resend_at = entry.future.get_loop().time() + 0.2
            return
        del self._entries[token]
        if self._waiting:
            self._let_in()
        if entry.future.done():
            return
        if error is None:
            entry.future.set_result(Stored(answer["seq"], answer.get("duplicate", False)))
        else:
            code = error.get("err_code", error.get("code", 0))
            entry.fail(entry.refusal(ApiError(code, error.get("description", ""))))

    def _denied(self, subject: str) -> None:
        for token, entry in [*self._entries.items()]:
            if entry.subject.lower() == subject:
                del self._entries[token]
                entry.fail(access_denied("publish", entry.subject))
        self._let_in()

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
                entry.fail(self._gave_up())
            else:
                entry.resend_at = now + _RESEND_AFTER
                again.append((token, entry))
        if again and self._connection.nc.is_connected:
            self._resend(again)
        self._let_in()
        if self._entries:
            self._timer = loop.call_later(_TICK, self._tick)

    def _gave_up(self) -> BrokerUnavailable:
        where = self._connection.trouble or "no stream answers"
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
                    self._connection.send_now(
                        entry.subject, self._inbox + token, entry.headers, entry.body
                    )
                    if self._connection.nc.congested:
                        await self._connection.nc.drained()
                except PayloadTooLarge as error:  # the server behind a reconnect takes less
                    self._entries.pop(token, None)
                    self._let_in()
                    entry.fail(error)
                except BrokerUnavailable:
                    return  # the next reconnect or tick tries again
