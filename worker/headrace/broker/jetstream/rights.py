"""Rights that the credentials lack: the server says so beside the answers, and goes on.

It names the subject and not the message, so what was sent to that subject is taken for refused.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from nats.aio.msg import Msg

from headrace.errors import AccessDenied

log = logging.getLogger("headrace.broker")

_VIOLATION = re.compile(
    r'permissions violation for (?P<kind>publish|subscription) to "(?P<subject>[^"]*)"',
    re.IGNORECASE,
)


class Rights:
    """Turns refusals into errors of the calls that they belong to. Subjects are in lower case here:
    nats-py tells them so."""

    def __init__(self, inbox: str) -> None:
        """`inbox` is the prefix of the subjects on which answers are received."""
        self._inbox = inbox.lower() + "."
        self._needed: set[str] = set()
        self._missing: list[str] = []
        self._no_answers = ""
        self.on_denied: list[Callable[[str], None]] = []
        """Called with the subject of a publish that was refused."""
        self._asked: dict[str, set[asyncio.Task[Msg]]] = {}
        self._refused: set[asyncio.Task[Msg]] = set()
        self._subscriptions: list[str] = []
        self._warned: set[str] = set()

    def take(self, error: str) -> bool:
        """Note what the server said; whether it was about a right."""
        found = _VIOLATION.search(error)
        if found is None:
            return False
        kind, subject = found["kind"].lower(), found["subject"].lower()
        stem = subject.rpartition(".")[0] or subject
        if stem not in self._warned:
            self._warned.add(stem)
            log.warning("the credentials lack the right of %s to %s", kind, subject)
        if kind == "subscription":
            self._subscriptions.append(subject)
            if subject.startswith(self._inbox):  # no question will ever be answered
                self._no_answers = subject
                for asked in self._asked.values():
                    self._refuse(asked)
        else:
            self._refuse(self._asked.get(subject, ()))
            if subject in self._needed:
                self._missing.append(subject)
            for callback in self.on_denied:
                callback(subject)
        return True

    def forget(self) -> None:
        """The connection has ended: the next one asks anew for what this one was refused."""
        self._subscriptions, self._no_answers = [], ""

    def may_lack(self, subject: str) -> None:
        """Log no warning for this right: who lacks it goes on without."""
        self._warned.add(subject.lower().rpartition(".")[0])

    def _refuse(self, asked: Iterable[asyncio.Task[Msg]]) -> None:
        for task in asked:
            if not task.done():
                self._refused.add(task)
                task.cancel()

    async def ask(self, subject: str, request: Coroutine[Any, Any, Msg]) -> Msg:
        """The answer to a request on this subject; raises `AccessDenied` once it is refused."""
        key = subject.lower()
        task = asyncio.ensure_future(request)
        asked = self._asked.setdefault(key, set())
        asked.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if task not in self._refused:
                raise
            if self._no_answers:
                raise access_denied("subscription", self._no_answers) from None
            raise access_denied("publish", subject) from None
        finally:
            self._refused.discard(task)
            asked.discard(task)
            if not asked and self._asked.get(key) is asked:
                del self._asked[key]

    @contextmanager
    def needed(self, subjects: Iterable[str]) -> Iterator[None]:
        """Within, `check` also raises for refused publishes to these: no answer tells of them."""
        self._needed = {subject.lower() for subject in subjects}
        try:
            yield
        finally:
            self._needed, self._missing = set(), []

    def check(self) -> None:
        """Raise `AccessDenied` if a subscription or a needed publish was refused since the last
        time."""
        if self._subscriptions:
            subject, self._subscriptions = self._subscriptions[0], []
            raise access_denied("subscription", subject)
        if self._missing:
            subject, self._missing = self._missing[0], []
            raise access_denied("publish", subject)


def access_denied(kind: str, subject: str) -> AccessDenied:
    """`AccessDenied` for a publish or a subscription that the server refused."""
    return AccessDenied(
        f"the credentials lack the right of {kind} to {subject}",
        hint="Grant it to this user: `headrace rights` prints what each role needs",
        right="publish" if kind == "publish" else "subscribe",
        subject=subject,
    )
