"""Who is there, by status and tags."""

import asyncio

from headrace import InMemoryWorkerRegistry, Worker, WorkerConfig, WorkerStatus

registry = InMemoryWorkerRegistry()

# The page's worker is that of an earlier snippet.
worker = Worker(id="worker-1", config=WorkerConfig(tags=["gpu", "fast"]))


async def main() -> None:
    await worker.start()

    # Register worker
    await registry.register(worker.info)

    # Heartbeat
    await registry.heartbeat(worker.id)

    # Get workers
    workers = await registry.get_workers(
        status=WorkerStatus.IDLE,
        tags=["gpu"],
    )
    print(f"Found: {[found.id for found in workers]}")

    # Unregister
    await registry.unregister(worker.id)
    print(f"Left: {await registry.get_workers()}")

    await worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
