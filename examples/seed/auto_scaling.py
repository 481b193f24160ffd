"""The coordinator follows its queue: 60 tasks at once, and what the pool made of them."""

import asyncio

from headrace import Coordinator, CoordinatorConfig

config = CoordinatorConfig(
    min_workers=2,  # Always keep at least 2 workers
    max_workers=20,  # Never exceed 20 workers
    scale_up_threshold=10,  # Grow while there are more than 10 tasks per worker
    scale_down_threshold=2,  # Shrink while there are fewer than 2 tasks per worker
    auto_scale=True,
)

# The page shows the config only, with thresholds that are sizes of the whole queue and one worker
# more or less at every check: that is `law="absolute"`.
coordinator = Coordinator(config)
running = 0
grown = asyncio.Event()


@coordinator.handler("work")
async def work(data: dict) -> int:
    global running
    running += 1
    if running == 6:  # 60 tasks, 10 per worker: one each for six workers
        grown.set()
    await grown.wait()
    return data["n"]


async def main() -> None:
    await coordinator.start()
    print(f"Before: {coordinator.pool.worker_count}")
    tasks = await coordinator.submit_many([("work", {"n": n}) for n in range(60)])
    await grown.wait()
    print(f"Decision: {coordinator.decisions[-1].message}")
    print(f"After: {coordinator.pool.worker_count}")
    results = [await coordinator.wait_for(task.id) for task in tasks]
    print(f"Done: {sum(result.status.value == 'completed' for result in results)}")
    await coordinator.stop()


if __name__ == "__main__":
    asyncio.run(main())
