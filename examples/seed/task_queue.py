"""The queue alone, for those who write their own loop around it."""

import asyncio

from headrace import TaskPriority, TaskQueue

queue = TaskQueue(max_queue_size=10000)


async def main() -> None:
    # Enqueue tasks with priority
    task = await queue.enqueue(
        task_type="analyze",
        data={"document": "..."},
        priority=TaskPriority.HIGH,
        timeout=60.0,
        retries=3,
        metadata={"user_id": "user-123"},
    )

    # Dequeue for processing
    task = await queue.dequeue(worker_id="worker-1", timeout=5.0)
    print(f"Dequeued: {task.type} by {task.worker_id}, {task.metadata}")

    # Complete task
    result = await queue.complete(task.id, result={"analysis": "..."})
    print(f"Complete: {result.status.value} {result.result}")

    # Or fail task (will retry if retries remaining)
    # What has completed stays so; the original queued it once more.
    result = await queue.fail(task.id, error="Processing failed")
    print(f"Fail: {result.status.value} {result.error}")

    # Cancel task
    result = await queue.cancel(task.id)
    print(f"Cancel: {result.status.value} {result.error}")

    # Wait for task completion
    result = await queue.wait_for_task(task.id, timeout=30.0)
    print(f"Wait: {result.status.value} {result.result}")

    # Not on the page, which had nothing to disconnect
    await queue.stop()


if __name__ == "__main__":
    asyncio.run(main())
