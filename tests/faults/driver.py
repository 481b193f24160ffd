"""Carries out a plan on real servers and workers, and gives what was seen."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.check import Seen
from tests.faults.crew import Crew, lives_of, runs_of
from tests.faults.faults import INJECTORS
from tests.faults.ground import Ground
from tests.faults.load import Load
from tests.faults.observer import Observer
from tests.faults.plan import Plan
from tests.faults.servers import Servers
from tests.faults.world import World

from headrace import Client, QueueSettings
from headrace.broker.jetstream.streams import state_config
from headrace.wire import QueueNames

QUEUE = "faults"
_CLOSED_WITHIN = 15.0
GRACE = 2.0
"""Seconds after which a handler that does not end is abandoned, in the workers of a run."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run has."""

    servers: int = 3
    workers: int = 6
    slots: int = 4
    ack_wait: float = 5.0
    max_size: int = 400
    starvation_limit: float = 10.0
    patience: float = 90.0
    """Seconds after the last submit and fault in which the queue must be empty."""


async def carry_out(
    plan: Plan,
    setting: Setting,
    folder: Path,
    ground: Ground | None,
    say: Callable[[str], None],
) -> tuple[Seen, dict[str, object]]:
    """Do it all; what was seen, and what was counted beside it."""
    servers = Servers(folder, setting.servers, ground)
    os.environ["HEADRACE_NATS_NKEY"] = str(servers.seed_file)
    names = QueueNames(QUEUE)
    replicas = 3 if servers.clustered else 1
    settings = QueueSettings(
        ack_wait=setting.ack_wait, replicas=replicas, max_size=setting.max_size
    )
    config = {
        "url": servers.url,
        "queue": QUEUE,
        "slots": setting.slots,
        "ack_wait": setting.ack_wait,
        "replicas": replicas,
        "max_size": setting.max_size,
        "starvation_limit": setting.starvation_limit,
        "grace": GRACE,
        "drain": 10.0,
    }
    crew = Crew(folder, setting.workers, config, {})
    first, second = (Client(servers.url, QUEUE, settings=settings) for _ in range(2))
    try:
        await servers.start()
        await servers.make_state_stream(QUEUE, state_config(names, settings))
        await first.start()
        await second.start()
        crew.start()
        await crew.up(setting.workers)
        load = Load(first, second)
        world = World(servers, crew, load, ground, names, {}, setting.max_size, setting.ack_wait)
        return await _play(plan, setting, world, say)
    finally:
        await crew.stop()
        for close in (first.stop, second.stop, servers.stop):
            try:
                await asyncio.wait_for(close(), _CLOSED_WITHIN)
            except TimeoutError:
                say(f"{close.__qualname__} did not end within {_CLOSED_WITHIN:g} s")


async def _play(
    plan: Plan, setting: Setting, world: World, say: Callable[[str], None]
) -> tuple[Seen, dict[str, object]]:
    observer = Observer(world.servers, world.names)
    watching = asyncio.create_task(observer.watch())
    world.began = time.monotonic()
    submitting = asyncio.create_task(_submit(plan, world))
    try:
        await _do_faults(plan, world, say)
        await submitting
    finally:
        submitting.cancel()
    await world.load.over(setting.patience)
    left = await observer.empty(setting.patience)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    records, dead = await observer.history()
    lines = world.crew.lines()
    deaths = {pid: at for member in world.crew.members for pid, at in member.deaths.items()}
    seen = Seen(
        jobs=world.jobs,
        asked=world.load.asked,
        stored=world.load.stored,
        runs=runs_of(lines),
        lives=lives_of(lines, deaths),
        windows=world.windows,
        records=records,
        dead=dead,
        answers=world.load.answers,
        left=left,
        deepest=observer.deepest,
        max_size=setting.max_size,
        ack_wait=setting.ack_wait,
        starvation_limit=setting.starvation_limit,
        broken=tuple(world.load.broken),
    )
    told = {
        "redeliveries": observer.redeliveries,
        "deepest queue": observer.deepest,
        "slowest submit, s": round(world.load.slowest, 2),
        **{
            f"submits answered {name}": f"{count}, such as: {world.load.texts[name]}"
            for name, count in world.load.errors.items()
        },
    }
    return seen, told


async def _submit(plan: Plan, world: World) -> None:
    for job in plan.jobs:
        await asyncio.sleep(max(0.0, world.began + job.at - time.monotonic()))
        world.submit(job)


async def _do_faults(plan: Plan, world: World, say: Callable[[str], None]) -> None:
    for fault in plan.faults:
        await asyncio.sleep(max(0.0, world.began + fault.at - time.monotonic()))
        injector = INJECTORS[fault.kind](world, fault)
        began = time.monotonic() - world.began
        window = await injector.run()
        world.windows.append(window)
        say(
            f"{began:7.1f} s  {fault.kind:16} {injector.said:36} "
            f"undone after {window.ended - window.began:.1f} s"
        )
