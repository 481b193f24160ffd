"""The `Queues` port: accounts by address, and the questions to workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from typing import Any

from headrace.scaling import RunCount
from headrace.wire import QueueNames
from headrace_operator.adapters.jetstream.account import Account
from headrace_operator.app.ports import Key, QueueAddress, QueueLook
from headrace_operator.core.values import Answer
from headrace_operator.errors import QueueUnreadable

_CONTROL = 1.0  # seconds a worker's answer may take
_FIRST, _QUIET = 0.5, 0.15


_Place = tuple[str, str, str, str, str]


def _place(address: QueueAddress) -> _Place:
    """What one connection can serve: a server, with one set of rights."""
    return address.url, address.credentials, address.ca, address.certificate, address.key


class JetStreamQueues:
    """Queues of any number of servers."""

    def __init__(self, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._accounts: dict[_Place, Account] = {}
        self._of: dict[Key, QueueAddress] = {}
        self._leaving: set[asyncio.Future[None]] = set()

    async def close(self) -> None:
        """End all connections."""
        for account in self._accounts.values():
            await account.stop()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def watch(self, key: Key, address: QueueAddress) -> None:
        """Read this pool's queue from now on."""
        if self._of.get(key) == address:
            return
        self.forget(key)
        self._of[key] = address
        place = _place(address)
        account = self._accounts.get(place)
        if account is None:
            account = self._accounts[place] = Account(address, self._wake)
            account.start()
        account.watch(key, address.queue)

    def forget(self, key: Key) -> None:
        """The pool has gone, or its queue is elsewhere. A server that no pool names is left."""
        address = self._of.pop(key, None)
        if address is None:
            return
        account = self._account(address)
        account.forget(key)
        if account.idle:
            del self._accounts[_place(address)]
            leaving = asyncio.ensure_future(account.stop())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    def pools(self, address: QueueAddress) -> Collection[Key]:
        """The pools for which this queue is watched."""
        return self._account(address).pools(address.queue)

    def look(self, address: QueueAddress) -> QueueLook:
        """The newest figures."""
        return self._account(address).look(address.queue)

    async def workers(self, address: QueueAddress, pods: Collection[str]) -> list[Answer]:
        """The workers of the queue that answer `$SRV.STATS`; other pools' may be among them."""
        names = QueueNames(address.queue)
        found: list[Answer] = []
        missing = set(pods)

        def enough(data: bytes) -> bool:
            for endpoint in json.loads(data).get("endpoints") or []:
                if endpoint.get("name") == "facts" and endpoint.get("data"):
                    found.append(_answer(endpoint["data"]))
                    missing.discard(found[-1].pod_uid)
            return not missing

        subject = f"$SRV.STATS.{names.service}"
        await self._account(address).gather(subject, enough, _FIRST, _QUIET)
        return found

    async def drain(
        self, address: QueueAddress, worker_id: str, epoch: int, seconds: float
    ) -> Answer | None:
        """A leased drain."""
        return await self._control(
            address, worker_id, "drain", {"epoch": epoch, "seconds": seconds}
        )

    async def resume(self, address: QueueAddress, worker_id: str, epoch: int) -> Answer | None:
        """The end of a drain."""
        return await self._control(address, worker_id, "resume", {"epoch": epoch})

    async def _control(
        self, address: QueueAddress, worker_id: str, verb: str, body: dict[str, Any]
    ) -> Answer | None:
        subject = QueueNames(address.queue).worker(worker_id, verb)
        data = await self._account(address).request(subject, json.dumps(body).encode(), _CONTROL)
        if not data:
            return None
        facts = json.loads(data)
        return None if facts.get("refused") else _answer(facts)

    def _account(self, address: QueueAddress) -> Account:
        account = self._accounts.get(_place(address))
        if account is None:
            raise QueueUnreadable("NotRead", f"queue {address.queue} has not been read yet")
        return account


def _answer(facts: dict[str, Any]) -> Answer:
    metadata = facts.get("metadata") or {}
    config = facts.get("config") or {}
    return Answer(
        worker_id=facts["id"],
        pod_uid=str(metadata.get("pod_uid", "")),
        status=str(facts.get("status", "")),
        running=int(facts.get("current_tasks", 0)),
        slots=int(config.get("max_concurrent_tasks", 1)),
        started=float(facts.get("started_at", 0.0)),
        runs=RunCount.of(facts["id"], facts.get("runs") or {}),
    )
