"""A schedule's tick becomes a task: one run, however often the tick comes.

The task has an id made of the schedule's name and the run's time, so that whoever takes the same
tick again makes the same task, which the broker stores once. What the last run was stands in a
record of its own: it tells the ticks that stand for no run, and what was missed. Run, record,
acknowledge, in this order.
"""

from __future__ import annotations

import logging
import time

from headrace.broker.port import BrokerQueue, Delivery, StoredMessage, WrongSequence
from headrace.errors import QueueFull
from headrace.schedule import Plan, decode_last_run, decode_plan, encode_last_run
from headrace.wire import Undecodable, encode_task

log = logging.getLogger("headrace.worker")

_KEPT = 10 * 366 * 86_400.0  # seconds; longer than from one run of any schedule to the next


async def take_tick(queue: BrokerQueue, delivery: Delivery, next_at: float) -> None:
    """Make the task that this tick stands for, if it stands for one, and acknowledge the tick."""
    stored = await queue.read_schedule(delivery.task_id.partition(":")[2])
    if stored is not None:
        try:
            plan, ticked = decode_plan(stored.body), decode_plan(delivery.body)
        except Undecodable as error:
            log.error("the tick %s is dropped: %s", delivery.task_id, error)
        else:
            # else one of the rhythm that it had before, or of which a later one takes the place
            if plan.rhythm == ticked.rhythm and await _is_newest(queue, delivery):
                await _run(queue, plan, stored, delivery.task_id, next_at)
    await queue.ack(delivery)


async def _is_newest(queue: BrokerQueue, delivery: Delivery) -> bool:
    if not delivery.pending:
        return True  # nothing waits behind it
    newest = await queue.find(delivery.task_id, delivery.lane)
    return newest is None or newest.seq <= delivery.seq


async def _run(
    queue: BrokerQueue, plan: Plan, stored: StoredMessage, mark_id: str, next_at: float
) -> None:
    at = plan.rhythm.run_before(next_at)
    while at is not None and at > (plan.since or stored.stored_at):
        mark = await queue.read_record(mark_id)
        if mark is not None and at <= decode_last_run(mark.body):
            return
        await _put(queue, plan, at)
        body = encode_last_run(plan.name, at)
        try:
            await queue.write_record(mark_id, body, 0 if mark is None else mark.seq, _KEPT)
        except WrongSequence:
            continue  # another tick was quicker: look whether it stood for this run too
        return


async def _put(queue: BrokerQueue, plan: Plan, at: float) -> None:
    task = plan.run(at, time.time())
    body = encode_task(task)
    try:
        await (await queue.put_soon(task.lane, task.id, body, task.id))
    except QueueFull:  # by way of *later*, where it waits for room
        await queue.schedule(task.lane, task.id, body, at, task.id)
