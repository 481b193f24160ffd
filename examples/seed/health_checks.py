"""Workers that are not heard of go from the registry, those that have failed are replaced."""

import asyncio

from headrace import Coordinator, CoordinatorConfig, InMemoryWorkerRegistry, WorkerInfo

config = CoordinatorConfig(
    health_check_interval=10.0,  # Check every 10 seconds
    worker_timeout=30.0,  # Consider dead after 30s no heartbeat
)


async def main() -> None:
    # The page shows the config only. Here a check comes 100 times sooner, and somebody who has
    # died long ago is in the registry.
    config.health_check_interval = 0.1
    registry = InMemoryWorkerRegistry()
    await registry.register(WorkerInfo("worker-gone", last_heartbeat=0.0))
    coordinator = Coordinator(config, registry=registry)
    await coordinator.start()
    while len(workers := await coordinator.get_workers()) > 1:  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0.02)
    print(f"Alive: {[worker.status.value for worker in workers]}")
    await coordinator.stop()


if __name__ == "__main__":
    asyncio.run(main())
