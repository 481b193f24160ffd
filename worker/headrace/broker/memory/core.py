"""Core messages in one process: publish and subscribe with the wildcards of NATS."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count

from headrace.broker.port import MessageCallback

log = logging.getLogger("headrace.broker")


class CoreSubscription:
    """One callback; it gets its messages one after the other, in order."""

    def __init__(self, core: Core, pattern: str, callback: MessageCallback) -> None:
        self.pattern = pattern
        self.tokens = pattern.split(".")
        self.on_close: Callable[[CoreSubscription], None] | None = None
        self._core, self._callback = core, callback
        self._waiting: deque[tuple[str, bytes, str]] = deque()
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    def take(self, message: tuple[str, bytes, str]) -> None:
        """Queue a message for the callback."""
        self._waiting.append(message)
        if not self._busy:
            self._busy = True
            self._core.loop.call_soon(self._drain)

    def _drain(self) -> None:
        while self._waiting:
            message = self._waiting.popleft()
            try:
                result = self._callback(*message)
            except Exception:
                log.exception("a callback on %s failed", message[0])
                continue
            if result is not None:
                self._task = self._core.loop.create_task(self._finish(result, message[0]))
                return
        self._busy = False

    async def _finish(self, result: Awaitable[None], subject: str) -> None:
        """An async callback: the messages behind it wait for it."""
        try:
            await result
        except Exception:
            log.exception("a callback on %s failed", subject)
        self._task = None
        self._drain()

    async def close(self) -> None:
        """End it; a callback that runs, runs to its end unless it is the one that asks."""
        self._core.remove(self)
        if self.on_close is not None:
            self.on_close(self)
        self._waiting.clear()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Core:
    """The subscriptions of one in-process broker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._exact: dict[str, list[CoreSubscription]] = {}
        self._wild: list[CoreSubscription] = []
        self._inboxes = count(1)

    def subscribe(self, pattern: str, callback: MessageCallback) -> CoreSubscription:
        """Receive what is published from now on."""
        subscription = CoreSubscription(self, pattern, callback)
        if "*" in subscription.tokens or ">" in subscription.tokens:
            self._wild.append(subscription)
        else:
            self._exact.setdefault(pattern, []).append(subscription)
        return subscription

    def remove(self, subscription: CoreSubscription) -> None:
        """Receive no more. Harmless when it was removed."""
        if subscription in self._wild:
            self._wild.remove(subscription)
        exact = self._exact.get(subscription.pattern, [])
        if subscription in exact:
            exact.remove(subscription)
            if not exact:
                del self._exact[subscription.pattern]

    def publish(self, subject: str, body: bytes, reply: str = "") -> bool:
        """Hand a message to who listens; whether anybody does."""
        message = (subject, body, reply)
        heard = False
        for subscription in self._exact.get(subject, ()):
            subscription.take(message)
            heard = True
        if self._wild:
            tokens = subject.split(".")
            for subscription in self._wild:
                if matches(subscription.tokens, tokens):
                    subscription.take(message)
                    heard = True
        return heard

    async def request(self, subject: str, body: bytes, timeout: float) -> bytes | None:
        """The first answer, or None."""
        answer: asyncio.Future[bytes] = self.loop.create_future()

        def receive(_: str, body: bytes, __: str) -> None:
            if not answer.done():
                answer.set_result(body)

        inbox = self.subscribe(f"_INBOX.{next(self._inboxes)}", receive)
        try:
            if not self.publish(subject, body, inbox.pattern):
                return None
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            return None
        finally:
            self.remove(inbox)


def matches(pattern: list[str], tokens: list[str]) -> bool:
    """Whether a subject matches a pattern, both as tokens."""
    for index, wanted in enumerate(pattern):
        if wanted == ">":
            return len(tokens) > index
        if index >= len(tokens) or wanted not in ("*", tokens[index]):
            return False
    return len(pattern) == len(tokens)
