"""All that the page asks of a coordinator."""

import asyncio

from headrace import Coordinator, CoordinatorConfig, TaskPriority


# The page leaves this handler open.
async def handler_function(data: dict) -> dict:
    return {"handled": data}


coordinator = Coordinator(
    config=CoordinatorConfig(
        min_workers=2,
        max_workers=20,
        scale_up_threshold=10,  # Queue size to trigger scale up
        scale_down_threshold=2,  # Queue size to trigger scale down
        health_check_interval=10.0,
        worker_timeout=30.0,
        auto_scale=True,
    ),
)

# Register handlers
coordinator.register_handler("task_type", handler_function)


# Or use decorator
@coordinator.handler("process")
async def process(data: dict) -> dict:
    return {"result": "..."}


async def main() -> None:
    # Start coordinator
    await coordinator.start()

    # Submit and wait
    result = await coordinator.submit("process", {"input": "..."})
    print(f"Result: {result}")

    # Submit async
    task = await coordinator.submit_async(
        "process",
        {"input": "..."},
        priority=TaskPriority.HIGH,
        timeout=60.0,
        retries=2,
    )

    # Wait for result
    result = await coordinator.wait_for(task.id)

    # Get task status
    task = await coordinator.get_task(task.id)
    print(f"Status: {task.status}")

    # Cancel task
    result = await coordinator.cancel_task(task.id)
    print(f"Cancel: {result.status} {result.error}")

    # Manual scaling
    await coordinator.scale(5)

    # Get workers
    workers = await coordinator.get_workers()
    print(f"Workers: {len(workers)}")

    # Get stats
    stats = coordinator.get_stats()
    print(f"Running: {stats['running']}")
    print(f"Queue size: {stats['queue']['queue_size']}")
    print(f"Worker count: {stats['workers']['worker_count']}")

    # Stop coordinator
    await coordinator.stop(graceful=True)


if __name__ == "__main__":
    asyncio.run(main())
