"""The promise on a modelled cluster: whatever lags, dies or restarts, no busy pod is deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.operator_core import model
from tests.unit.operator_core.builders import replica_set
from tests.unit.operator_core.model import Freedom, Operator, World

from headrace.scaling import plan_drain
from headrace_operator.app import act, pool
from headrace_operator.core.shrink import Ground, Steps, steps

Step = tuple[str, int]
# One thing that happens, with a number that says to whom or how much.
_USUAL = ("look", "kubelets", "deployment", "replica-set", "sees-size", "kubelet", "start", "read")
_WORK = ("act", "seconds", "task", "task", "task", "end", "end", "target", "target")
_RARE = ("crash", "restart", "sick", "fail", "die", "silent", "leases-end", "quota", "caught-up")
KINDS = (*_USUAL, *_USUAL, *_WORK, *_WORK, *_RARE)
# What often comes in one go: only so is the end of the protocol reached often.
CHAPTERS: tuple[tuple[Step, ...], ...] = (
    (("look", 0), ("kubelets", 0), ("look", 0)),
    (("look", 0), ("kubelets", 0), ("look", 0), ("replica-set", 9), ("look", 0)),
    (("look", 0), ("kubelet", 0), ("look", 0), ("kubelet", 1), ("replica-set", 9)),
    (("deployment", 0), ("sees-size", 0)),
    (("deployment", 0), ("replica-set", 0)),
    (("task", 0), ("task", 0), ("task", 0), ("task", 0), ("task", 0)),
    (("look", 0), ("deployment", 0), ("replica-set", 9), ("start", 5), ("start", 5)),
)
_one = st.tuples(st.sampled_from(KINDS), st.integers(0, 5)).map(lambda step: (step,))
_story = st.lists(_one | st.sampled_from(CHAPTERS), min_size=6, max_size=40).map(
    lambda parts: [step for part in parts for step in part]
)
_size = st.integers(1, 5)
USUAL = Freedom()


class Simulation:
    """A world, its operator, and a list of things that happen."""

    def __init__(self, size: int, freedom: Freedom) -> None:
        self.world = World(freedom)
        self.operator = Operator(self.world)
        self.operator.target = size
        self._begin(size)

    def _begin(self, size: int) -> None:
        world = self.world
        world.size = size
        for _ in range(3):
            world.catch_up()
            for name in world.active():
                world.schedule(name)
                if name not in world.workers:
                    world.boot(name)
                world.kubelet(name)
        world.pass_seconds(100)
        world.catch_up()

    async def step(self, what: str, n: int) -> None:
        world, operator = self.world, self.operator
        pods = list(world.pods)
        name = pods[n % len(pods)] if pods else None
        running = [each for each in world.workers.values() if each.running]
        match what:
            case "look":
                operator.look()
                await operator.act()
            case "read":
                operator.look()
            case "act":
                await operator.act()
            case "crash":
                operator.look()
                await operator.act(n)
                operator.restart()
            case "replica-set":
                world.replica_set_sync(n)
            case "sees-size":
                world.see_size()
            case "deployment":
                world.deployment_sync()
            case "caught-up":
                world.catch_up()
            case "seconds":
                world.pass_seconds(n)
            case "leases-end":
                world.catch_up()
                operator.taken = None  # a request takes ten seconds at most
                world.pass_seconds(61)
            case "task":
                world.waiting += 1
                world.fetch()
            case "end" if running:
                running[n % len(running)].running -= 1
                world.fetch()
            case "target":
                operator.target = n
            case "quota":
                world.quota = n + 1
            case "kubelet" if name:
                world.kubelet(name)
            case "kubelets":
                self._kubelets()
            case "round":
                operator.look()
                await operator.act()
                self._kubelets()
            case "start" if name and world.pods[name].node is None:
                world.schedule(name)
            case "start" if name and name not in world.workers:
                world.boot(name)
                world.fetch()
            case "restart" if name and name in world.workers:
                world.boot(name)
                world.fetch()
            case "fail" if name:
                world.fail(name)
            case "die" if name:
                world.die(name)
            case "sick" if name:
                world.sick ^= {name}
            case "silent" if name and name in world.workers:
                world.workers[name].silent ^= True

    def _kubelets(self) -> None:
        for name in list(self.world.pods):
            self.world.kubelet(name)

    @property
    def settled(self) -> bool:
        """As wanted, and nobody drains."""
        world = self.world
        return (
            world.caught_up()
            and len(world.pods) == self.operator.target == world.size
            and all(each.ready and each.serving for each in world.pods.values())
            and not any(world.draining(each) for each in world.workers.values())
        )

    async def settle(self, rounds: int = 80) -> None:
        """Everything is quiet and works."""
        world = self.world
        world.quota = 99
        world.waiting = 0
        world.sick.clear()
        for each in world.workers.values():
            each.running, each.silent = 0, False
        for _ in range(rounds):
            if self.settled:
                return
            self.operator.look()
            await self.operator.act()
            world.catch_up()
            for name in list(world.pods):
                world.schedule(name)
                if name not in world.workers:
                    world.boot(name)
                world.kubelet(name)
            world.pass_seconds(1)
            world.catch_up()


def simulate(size: int, happens: list[Step], freedom: Freedom = USUAL) -> Simulation:
    """All steps, then quiet; the promises are checked throughout."""
    simulation = Simulation(size, freedom)

    async def run() -> None:
        await _happen(simulation, happens)
        await simulation.settle()
        assert not simulation.world.cut
        await _happen(simulation, [("round", 0), ("replica-set", 9)] * 3)
        assert simulation.settled

    _run(simulation, run)
    return simulation


async def _happen(simulation: Simulation, happens: list[Step]) -> None:
    world = simulation.world
    for what, n in happens:
        await simulation.step(what, n)
        assert not world.cut, (what, n)
        for each in world.workers.values():
            assert each.until - world.now <= act.DRAIN_LEASE


def _run(simulation: Simulation, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
    clock = SimpleNamespace(monotonic=lambda: simulation.world.now)
    with mock.patch.object(act, "time", clock), mock.patch.object(pool, "time", clock):
        asyncio.run(what())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_size, _story)
def test_no_busy_pod_is_deleted_and_in_the_end_the_target_is_reached(
    size: int, happens: list[Step]
) -> None:
    simulate(size, happens)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_size, _story)
def test_without_an_operator_every_worker_takes_tasks_again_within_a_lease(
    size: int, happens: list[Step]
) -> None:
    simulation = Simulation(size, USUAL)
    world = simulation.world
    _run(simulation, lambda: _happen(simulation, happens))
    world.catch_up()
    world.pass_seconds(act.DRAIN_LEASE)
    assert not any(world.draining(each) for each in world.workers.values())


# --- that the model can fail, and the protocol can go all the way ---

CALM = Freedom(*[False] * 7)
_DRAINED: list[Step] = [("target", 2), ("look", 0), ("kubelets", 0), ("look", 0)]


def test_a_drained_pod_is_the_one_that_goes() -> None:
    story = [("task", 0), *_DRAINED, ("replica-set", 9), ("look", 0), ("deployment", 0)]
    simulation = Simulation(3, replace(CALM, second_mark=True))
    _run(simulation, lambda: _happen(simulation, [*story, ("replica-set", 0)]))
    gone = [each for each in simulation.world.pods.values() if each.terminating]
    assert [each.marked for each in gone] == [True]


def test_an_operator_that_takes_every_mark_for_seen_deletes_a_busy_pod() -> None:
    story = [("task", 0), *_DRAINED, ("look", 0), ("deployment", 0), ("replica-set", 0)]
    freedom = replace(CALM, second_mark=True)
    simulate(3, story, freedom)

    def blind(ground: Ground, target: int) -> Steps:
        size = ground.replica_sets[0].desired
        return steps(
            replace(ground, replica_sets=(replica_set(ground.members, desired=size),)), target
        )

    with mock.patch.object(model, "steps", blind), pytest.raises(AssertionError, match="replica"):
        simulate(3, story, freedom)


def test_an_operator_that_does_not_wait_for_readiness_deletes_a_busy_pod() -> None:
    story: list[Step] = [("sick", 1), ("task", 0), ("task", 0), ("kubelets", 0), ("target", 2)]
    story += [("look", 0), ("look", 0), ("replica-set", 9), ("look", 0), ("deployment", 0)]
    story += [("replica-set", 9)]
    simulate(3, story, CALM)

    def impatient(ground: Ground, target: int) -> Steps:
        members = tuple(
            replace(each, pod=replace(each.pod, ready=each.running != 0)) for each in ground.members
        )
        seen = replica_set(members, desired=ground.replica_sets[0].desired)
        return steps(replace(ground, members=members, replica_sets=(seen,)), target)

    with (
        mock.patch.object(model, "steps", impatient),
        pytest.raises(AssertionError, match="replica"),
    ):
        simulate(3, story, CALM)


def test_an_operator_that_lowers_the_size_at_once_deletes_a_busy_pod() -> None:
    story: list[Step] = [("task", 0)] * 3
    story += [("target", 2), ("look", 0), ("deployment", 0), ("replica-set", 9)]
    simulate(3, story)

    def naive(ground: Ground, target: int) -> Steps:
        return Steps(plan_drain([], target), size=target)

    with mock.patch.object(model, "steps", naive), pytest.raises(AssertionError):
        simulate(3, story)
