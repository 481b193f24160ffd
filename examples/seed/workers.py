"""A worker by itself: it takes tasks of its queue, and runs a handler directly when asked to."""

import asyncio

from headrace import Worker, WorkerConfig

# Create worker with config
worker = Worker(
    id="worker-1",
    config=WorkerConfig(
        max_concurrent_tasks=4,
        heartbeat_interval=5.0,
        task_timeout=300.0,
        tags=["gpu", "fast"],
    ),
)


# Register handlers
@worker.handler("compute")
async def compute(data: dict) -> dict:
    return {"result": data["x"] * 2}


async def main() -> None:
    # Start worker
    await worker.start()

    # Execute task directly
    result = await worker.execute_task(
        task_id="task-123",
        task_type="compute",
        data={"x": 21},
    )
    print(f"Result: {result}")

    # The page's section "Worker Info"
    info = worker.info
    print(f"ID: {info.id}")
    print(f"Status: {info.status}")
    print(f"Current tasks: {info.current_tasks}")
    print(f"Total completed: {info.total_completed}")
    print(f"Total failed: {info.total_failed}")
    print(f"Uptime: {info.uptime_seconds}s")
    print(f"Available: {info.is_available}")

    # Stop worker
    await worker.stop(graceful=True)
    print(f"Stopped: {worker.status.value}")


if __name__ == "__main__":
    asyncio.run(main())
