"""A group of workers in this process."""

import asyncio

from headrace import WorkerConfig, WorkerPool


# The page leaves the two handlers open.
async def process_handler(data: dict) -> dict:
    return {"processed": data["data"]}


async def analyze_handler(data: dict) -> dict:
    return {"analyzed": data["data"]}


pool = WorkerPool(
    min_workers=2,
    max_workers=10,
    config=WorkerConfig(max_concurrent_tasks=4),
)

# Register handlers for all workers
pool.register_handler("process", process_handler)
pool.register_handler("analyze", analyze_handler)


async def main() -> None:
    # Start pool (creates min_workers)
    await pool.start()

    # Submit task to pool
    result = await pool.submit("process", {"data": "..."})
    print(f"Result: {result}")

    # Scale pool
    await pool.scale(5)  # Scale to 5 workers

    # Get stats
    stats = pool.get_stats()
    print(f"Workers: {stats['worker_count']}")
    print(f"Current tasks: {stats['current_tasks']}")
    print(f"Completed: {stats['total_completed']}")

    # Stop pool
    await pool.stop(graceful=True)


if __name__ == "__main__":
    asyncio.run(main())
