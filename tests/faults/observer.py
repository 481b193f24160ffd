"""Looks at the queue from outside: how deep it is, how often it delivered, what was ever stored."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import defaultdict
from typing import Any

from tests.faults.check import Record
from tests.faults.servers import Servers, until

from headrace.wire import QueueNames

_EVERY = 0.25
_NO_STREAM, _NO_MESSAGE = 10059, 10037


class Observer:
    """Samples while the run goes on, reads everything at its end."""

    def __init__(self, servers: Servers, names: QueueNames) -> None:
        self._servers, self._names = servers, names
        self.deepest = 0
        self._before = 0
        self._delivered = 0
        self._newest = 0

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(_EVERY)

    async def sample(self) -> None:
        """Look once; a server that does not answer is left out."""
        info = await self._servers.ask(f"STREAM.INFO.{self._names.work_stream}")
        state = (info or {}).get("state")
        if state is None:
            return
        self.deepest = max(self.deepest, state["messages"])
        self._newest = max(self._newest, state["last_seq"])
        rows = await self._servers.ask(f"CONSUMER.LIST.{self._names.work_stream}")
        if rows and "error" not in rows and not rows.get("missing"):
            delivered = sum(row["delivered"]["consumer_seq"] for row in rows["consumers"] or [])
            if delivered < self._delivered:  # a consumer was deleted and made again
                self._before += self._delivered - delivered
            self._delivered = delivered

    @property
    def redeliveries(self) -> int:
        """Deliveries beyond the first of each message, hand-backs included."""
        return max(0, self._before + self._delivered - self._newest)

    async def empty(self, within: float) -> list[str]:
        """Wait until nothing is left, delayed tasks included; the subjects of what is left."""

        async def look() -> bool | None:
            return True if await self._subjects() == [] else None

        try:
            await until(look, "an empty queue", within)
        except RuntimeError:
            return await self._subjects() or ["a stream that does not answer"]
        return []

    async def _subjects(self) -> list[str] | None:
        await self.sample()
        found: list[str] = []
        for stream in (self._names.work_stream, self._names.later_stream):
            info = await self._servers.ask(f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
            if info is None:
                return None
            if "error" in info:
                if info["error"]["err_code"] == _NO_STREAM:
                    continue
                return None
            found += (info["state"].get("subjects") or {}).keys()
        return found

    async def history(self) -> tuple[dict[str, list[Record]], frozenset[str]]:
        """Every version of every record, in order; and the ids that have a dead letter."""
        records: dict[str, list[Record]] = defaultdict(list)
        dead: set[str] = set()
        seq, stream = 1, self._names.state_stream
        while True:
            message = await self._next(stream, seq)
            if message is None:
                return records, frozenset(dead)
            seq = message["seq"] + 1
            subject: str = message["subject"]
            if subject.startswith(self._names.dead):
                dead.add(subject.removeprefix(self._names.dead))
            elif subject.startswith(self._names.state):
                body = json.loads(base64.b64decode(message["data"]))
                records[body["id"]].append(
                    Record(body["status"], body.get("reason") or "", body.get("attempt", 1))
                )

    async def _next(self, stream: str, seq: int) -> dict[str, Any] | None:
        async def look() -> dict[str, Any] | None:
            return await self._servers.ask(
                f"STREAM.MSG.GET.{stream}", {"seq": seq, "next_by_subj": "headrace.>"}
            )

        answer = await until(look, f"message {seq} of {stream}")
        if "error" in answer:
            if answer["error"]["err_code"] == _NO_MESSAGE:  # no message from there on
                return None
            await asyncio.sleep(0.2)
            return await self._next(stream, seq)
        found: dict[str, Any] = answer["message"]
        return found
