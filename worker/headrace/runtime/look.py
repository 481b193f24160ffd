"""Look before the start: what is already known of a task that may have been started before.

A task that came a first time straight from its submitter starts at once, and so does one that was
only handed back. One that may have lost its worker, or that came by way of *later*, starts only
after its record was read: somebody may have finished it, or may have died running it. After an
outage that concerns all that was there before it (`history`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from enum import Enum

from headrace.broker.port import Broker, BrokerQueue, Delivery
from headrace.errors import BrokerError
from headrace.runtime.history import History
from headrace.task import TaskStatus
from headrace.wire import Envelope, Record, Undecodable, decode_record

log = logging.getLogger("headrace.worker")

_HOLDER_ANSWERS_WITHIN = 0.5  # seconds
_ASKED_AFTER_OUTAGE = 3  # times, a quarter of a second each: workers come back one by one
MAX_LOST_WORKERS = 3
"""A task whose workers died this often, one after the other, becomes a dead letter."""
ALONE_FROM = 2
"""A task that lost this many workers runs alone in its worker, so that a neighbour which was only
there when they died is not blamed again."""


class Verdict(Enum):
    """What to do with a delivered task."""

    START = "start"
    DROP = "drop"  # it has ended, or a later attempt has taken its place: acknowledge
    GIVE_UP = "give up"  # its workers die: a dead letter
    HELD = "held"  # the worker that lost its lease lives and runs it: hand it back


@dataclass(frozen=True, slots=True)
class Seen:
    """A verdict, and what the next record replaces."""

    verdict: Verdict
    expected: int
    lost: int = 0
    record: Record | None = None
    """What was written, where it matters to the verdict."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a task may have been started before; what came by way of *later* may always."""

    lapsed: bool
    """It was delivered before, was not just handed back, and is old enough for a lease to have
    ended since."""
    outage: bool
    """It was there before an outage, which the broker may have forgotten its delivery in."""


def doubt_of(delivery: Delivery, ack_wait: float, history: History) -> Doubt | None:
    """Whether the task may have been started before. None: it has not been.

    A delivery count above 1 is a hand-back as long as the task is younger than any lease.
    """
    age = time.time() - delivery.stored_at
    lapsed = delivery.may_have_been_started and age >= 0.9 * ack_wait
    outage = history.doubts(age)
    return Doubt(lapsed, outage) if lapsed or outage or delivery.sourced else None


def judge(task: Envelope, record: Record | None, seq: int, doubt: Doubt) -> Seen:
    """The verdict on a task, given its record, with sequence `seq`."""
    attempt = task.retry_count + 1
    if record is None:
        # Delivered before and never recorded: presumed started and lost, once.
        return Seen(Verdict.START, task.after, 1 if doubt.lapsed else 0)
    if record.is_final:
        if task.after and task.after == seq:
            return Seen(Verdict.START, seq)  # a replay: this is the failure that it supersedes
        return Seen(Verdict.DROP, seq, record=record)
    if record.attempt > attempt:
        # The next attempt has its place, unless the worker died between its record and its
        # schedule: `look` asks which.
        verdict = Verdict.START if doubt.lapsed or doubt.outage else Verdict.DROP
        return Seen(verdict, seq, record.lost, record)
    if record.attempt < attempt:
        return Seen(Verdict.START, seq)
    if record.status is not TaskStatus.RUNNING:
        return Seen(Verdict.START, seq, record.lost)  # handed back, or between two attempts
    lost = record.lost + 1
    verdict = Verdict.GIVE_UP if lost >= MAX_LOST_WORKERS else Verdict.START
    return Seen(verdict, seq, lost, record)


async def look(
    broker: Broker,
    queue: BrokerQueue,
    delivery: Delivery,
    task: Envelope,
    doubt: Doubt,
    history: History,
) -> Seen:
    """Read the record and judge. Raises `BrokerError`.

    A worker writes *running* before its lease can end. So where that is not there, nobody who
    lives and is connected has the task, and nobody is asked: it was handed back, or its worker died
    early. Only an outage may have kept that record from being written.
    """
    seen = await _judged(queue, task, doubt)
    doubtful = doubt.lapsed or doubt.outage or seen.record is not None
    if seen.verdict is Verdict.DROP or not doubtful:
        return seen
    if seen.record is not None or (doubt.outage and history.may_ask()):
        if await _held(broker, queue, task.id, doubt):
            return Seen(Verdict.HELD, seen.expected)
        seen = await _judged(queue, task, doubt)  # who had it may have ended it meanwhile
        if seen.verdict is Verdict.DROP:
            return seen
    replaced = doubt.lapsed or seen.record is not None
    if replaced and await _replaced(queue, delivery, task):
        return Seen(Verdict.DROP, seen.expected)
    return seen


async def _judged(queue: BrokerQueue, task: Envelope, doubt: Doubt) -> Seen:
    """The verdict by the record alone."""
    stored = await queue.read_record(task.id)
    record, seq = None, 0
    if stored is not None:
        seq = stored.seq
        try:
            record = decode_record(stored.body)
        except Undecodable:
            record = None  # written by nobody of ours: replaced by the next one
    seen = judge(task, record, seq, doubt)
    if record is None and stored is not None:
        return Seen(seen.verdict, seq, seen.lost)
    return seen


async def _held(broker: Broker, queue: BrokerQueue, task_id: str, doubt: Doubt) -> bool:
    """Whether a worker says that it runs this task: an outage ends leases and not workers, and
    what it left alive is neither lost nor to be run a second time beside itself."""
    times, within = 1, _HOLDER_ANSWERS_WITHIN
    if doubt.outage:
        times, within = _ASKED_AFTER_OUTAGE, within / 2
    try:
        for _ in range(times):
            if await broker.request(queue.names.holds(task_id), b"", within):
                return True
    except BrokerError as error:  # also a missing right: then the lease alone decides
        log.debug("nobody could be asked who runs %s: %s", task_id, error)
    return False


async def _replaced(queue: BrokerQueue, delivery: Delivery, task: Envelope) -> bool:
    """Whether a later message of this task is on its way: its worker died between scheduling the
    next attempt and acknowledging this one."""
    later = await queue.find_scheduled(task.id)
    # The due copy that this message was made of stays for a moment: it is no other attempt, and
    # who took it for one dropped both.
    if later is not None and later.body != delivery.body:
        return True
    newest = await queue.find(task.id, delivery.lane)  # attempts stay in their lane
    return newest is not None and newest.seq > delivery.seq
