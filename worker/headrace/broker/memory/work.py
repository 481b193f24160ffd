"""The work stream of one queue in memory."""

from __future__ import annotations

import asyncio

from headrace.broker.memory.lane import MemoryLane, Message, Puller
from headrace.broker.memory.later import Later, Scheduled, Window
from headrace.broker.port import MAX_COPIES, QueueSettings
from headrace.wire import Lane, QueueNames


class WorkStream:
    """The tasks of one queue, and the way there of those that are delayed."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, names: QueueNames, settings: QueueSettings
    ) -> None:
        self.lanes: dict[Lane, MemoryLane] = {}
        self.max_size = settings.max_size
        self.bytes = 0
        self._loop, self._names, self._settings = loop, names, settings
        self._seq = 0
        self._messages: dict[int, Message] = {}
        self._by_task: dict[str, list[Message]] = {}
        self._seen = Window(loop, settings.dedupe_window)
        self.later = Later(loop, names, settings.dedupe_window, self._enter)

    def stop(self) -> None:
        """No timers any more."""
        self.later.stop()
        for lane in self.lanes.values():
            lane.stop()

    @property
    def count(self) -> int:
        """Tasks that wait or run."""
        return len(self._messages)

    def lane(self, lane: Lane, settings: QueueSettings) -> MemoryLane:
        """The lane, made when first asked for; its `max_ack_pending` is raised, never lowered."""
        found = self.lanes.get(lane)
        if found is None:
            prefix = f"{self._names.work}{lane.tokens}."
            found = self.lanes[lane] = MemoryLane(
                self._loop, lane, prefix, settings.ack_wait, settings.max_ack_pending
            )
        elif found.max_ack_pending < settings.max_ack_pending:
            found.max_ack_pending = settings.max_ack_pending
            found.serve()
        return found

    # --- tasks in ---

    def put(self, lane: MemoryLane, task_id: str, body: bytes, msg_id: str) -> tuple[int, bool]:
        """Store a task: its sequence, and whether it was there. (0, False): the queue is full."""
        if known := self._seen.get(msg_id):
            return known, True
        if not self._make_room(lane, task_id):
            return 0, False
        seq = self._store(lane, task_id, body)
        self._seen.add(msg_id, seq)
        return seq, False

    def _make_room(self, lane: MemoryLane, task_id: str) -> bool:
        """False if the queue is full; but a copy that is one too many takes the oldest's place."""
        copies = [old for old in self._by_task.get(task_id, ()) if old.lane is lane]
        if len(copies) >= MAX_COPIES:
            self._remove(copies[0])
            return True
        return len(self._messages) < self.max_size

    def _store(
        self,
        lane: MemoryLane,
        task_id: str,
        body: bytes,
        sourced: bool = False,
        next_at: float | None = None,
    ) -> int:
        self._seq += 1
        message = Message(lane, task_id, body, lane.prefix + task_id, self._seq, sourced)
        message.next_at = next_at
        self._messages[self._seq] = message
        same = self._by_task.get(task_id)
        if same is None:
            self._by_task[task_id] = [message]
        else:
            same.append(message)
        self.bytes += len(body) + len(message.subject)
        lane.add(message)
        return self._seq

    def _enter(self, due: Scheduled) -> bool:
        """A delayed task or a tick is due: False while the queue is full."""
        lane = self.lane(due.lane, self._settings)
        if not self._make_room(lane, due.task_id):
            return False
        self._store(lane, due.task_id, due.body, True, due.next_at)
        return True

    # --- tasks out ---

    def get(self, seq: int) -> Message | None:
        """The message with this sequence, waiting or running."""
        return self._messages.get(seq)

    def find(self, task_id: str, lane: Lane | None) -> Message | None:
        """The newest message of a task."""
        for message in reversed(self._by_task.get(task_id, ())):
            if lane is None or message.lane.lane == lane:
                return message
        return None

    def drop(self, message: Message) -> None:
        """It is settled or removed; what is due may take its place."""
        self._remove(message)
        if self.later.overdue:
            self.later.enter()

    def _remove(self, message: Message) -> None:
        del self._messages[message.seq]
        same = self._by_task[message.task_id]
        if len(same) == 1:
            del self._by_task[message.task_id]
        else:
            same.remove(message)
        self.bytes -= len(message.body) + len(message.subject)
        message.lane.drop(message)

    def remove(self, task_id: str) -> None:
        """Remove every message of a task."""
        for message in list(self._by_task.get(task_id, ())):
            self.drop(message)

    def leave(self, puller: Puller) -> None:
        """Forget the parked pulls of a consumer."""
        for lane in self.lanes.values():
            lane.leave(puller)
