"""A small Kubernetes for the scale-in protocol: what is true, and what each part has seen of it.

The ReplicaSet's controller has two caches, of its own object and of the pods, that lag behind
independently, but each in order; it deletes by the real order (ActivePodsWithRanks of 1.34) and
waits for its own writes to come back, as the real one does. The Deployment's controller copies the
size with a lag. The kubelet shows readiness late. Workers hold leased drains. The operator is the
real `steps` and the real `Actor` over fakes of their ports; it can stop between any two calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headrace_operator.api.v1alpha1 import PoolStatus
from headrace_operator.app.act import DRAIN_LEASE, Actor
from headrace_operator.app.pool import Pool as Memory
from headrace_operator.app.ports import QueueAddress
from headrace_operator.core.fleet import join, never_started
from headrace_operator.core.shrink import Ground, Steps, steps
from headrace_operator.core.values import MARK_COST, Answer, Deployment, Pod, ReplicaSet
from headrace_operator.errors import Conflict, NotFound

SLOTS = 2
NODES = 2
KEY = ("default", "pool")
ADDRESS = QueueAddress("nats://model", "queue")
RS = "rs-1"
ASKS_ONLY_STARTED = False
"""Nobody is asked where no pod is shown as started; `Reconciler._gather` asks wherever a pod has a
node."""


class Crash(Exception):
    """The operator's process ends here."""


@dataclass(frozen=True)
class Freedom:
    """How far apart the parts of the model may be. All of it true is what Kubernetes may do."""

    second_mark: bool = True
    """It has not seen a mark yet while further pods wait for theirs."""
    early_unmark: bool = True
    """A mark is taken back while a smaller size has not been carried out."""
    spec_lag: bool = True
    """The ReplicaSet's controller sees the new size of its own object late."""
    death_lag: bool = True
    """It sees late that a pod has begun to terminate by itself."""
    mark_lag_after_unmark: bool = True
    """It sees late that a mark was taken back."""
    status_lag: bool = True
    """A container runs and takes tasks while its pod is still shown as Pending."""
    late_ready: bool = True
    """It sees late that a marked pod is ready again, or not ready again."""


@dataclass
class Worker:
    """The process in a pod."""

    id: str
    since: float
    born: int = 0
    """Place among all events."""
    running: int = 0
    until: float = 0.0
    """Drains until then."""
    epoch: int = 0
    silent: bool = False


@dataclass
class Lowering:
    """One write of a smaller size, until the ReplicaSet has carried it out."""

    looked: int
    """Place of its look among all events."""
    chosen: frozenset[str]


@dataclass
class World:
    """All that is true."""

    freedom: Freedom = field(default_factory=Freedom)
    now: float = 1000.0
    size: int = 0
    generation: int = 1
    waiting: int = 0
    quota: int = 99
    pods: dict[str, Pod] = field(default_factory=dict)
    ready_at: dict[str, float] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    sick: set[str] = field(default_factory=set)
    """Pods that are not ready for a reason of their own."""
    counter: int = 0
    # the Deployment's controller
    version: int = 1
    observed: int = 0
    # the ReplicaSet and its controller
    specs: list[int] = field(default_factory=lambda: [0])
    spec_seen: int = 0
    history: list[dict[str, Pod]] = field(default_factory=lambda: [{}])
    pods_seen: int = 0
    status: ReplicaSet = field(default_factory=lambda: ReplicaSet("pool-1", RS, 0, 0, 0, 0, True))
    status_spec: int = 0
    created: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    lag: int = 0
    lowerings: list[Lowering] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    residual: int = 0
    """Deletions of busy pods that only the grace period covers, as the design says."""

    # --- pods and workers ---

    def put(self, pod: Pod) -> None:
        """A pod as the API server has it from now on."""
        self.counter += 1
        self.pods[pod.name] = replace(pod, version=str(self.counter))
        self.history.append(dict(self.pods))

    def drop(self, name: str) -> None:
        """It has ended and is no more."""
        del self.pods[name]
        self.workers.pop(name, None)
        self.sick.discard(name)
        self.history.append(dict(self.pods))

    def active(self) -> list[str]:
        """Names of the pods that count, in order of their making."""
        return [name for name, each in self.pods.items() if each.active]

    def draining(self, worker: Worker) -> bool:
        """Whether it takes no task."""
        return worker.until > self.now

    def schedule(self, name: str) -> None:
        """It gets a node."""
        pod = self.pods[name]
        if pod.active and pod.node is None:
            self.put(replace(pod, node=f"node-{len(self.history) % NODES}"))

    def boot(self, name: str) -> None:
        """Its container starts, anew or for the first time."""
        pod = self.pods[name]
        if not pod.active or pod.node is None:
            return
        again = name in self.workers
        if again:
            self.waiting += self.workers[name].running
        self.counter += 1
        self.workers[name] = Worker(f"w-{self.counter}", self.now, self.counter)
        if again or pod.failing or not self.freedom.status_lag:
            self._report(name, restarts=pod.restarts + again)

    def fail(self, name: str) -> None:
        """Its container ends, and will not start by itself for a while."""
        worker = self.workers.pop(name, None)
        pod = self.pods[name]
        if not pod.active or pod.node is None:
            return
        if worker is not None:
            self.waiting += worker.running
        self.put(replace(pod, failing="CrashLoopBackOff", started=False, ready=False))

    def die(self, name: str) -> None:
        """Its node ends it."""
        if not self.pods[name].active:
            return
        self.put(replace(self.pods[name], terminating=True, ready=False))
        if not self.freedom.death_lag:
            self.pods_seen = len(self.history) - 1

    def _report(self, name: str, restarts: int) -> None:
        self.put(
            replace(
                self.pods[name],
                phase="Running",
                started=True,
                ready=False,
                failing="",
                restarts=restarts,
            )
        )

    def kubelet(self, name: str) -> None:
        """What is true of this pod is shown."""
        pod, worker = self.pods[name], self.workers.get(name)
        if pod.terminating:
            if worker is None or not worker.running:
                self.drop(name)
            return
        if worker is None:
            return
        if not pod.started:
            self._report(name, pod.restarts)
            return
        ready = name not in self.sick and not (self.draining(worker) and worker.running == 0)
        if pod.ready != ready:
            if ready:
                self.ready_at[name] = self.now
            self.put(replace(pod, ready=ready))
            if not pod.serving and not self.freedom.late_ready:
                self.pods_seen = len(self.history) - 1

    def fetch(self) -> None:
        """Whoever serves takes what waits, the emptiest first."""
        while self.waiting:
            free = [
                each
                for name, each in self.workers.items()
                if each.running < SLOTS
                and not self.draining(each)
                and not self.pods[name].terminating
            ]
            if not free:
                return
            min(free, key=lambda each: each.running).running += 1
            self.waiting -= 1

    # --- controllers ---

    def deployment_sync(self) -> None:
        """The Deployment's controller: the size goes to the ReplicaSet, and what that counts comes
        back."""
        before = (self.specs[-1], self.observed)
        if self.specs[-1] != self.size:
            self.specs.append(self.size)
        self.observed = self.generation
        if before != (self.specs[-1], self.observed):
            self.version += 1
        if not self.freedom.spec_lag:
            self.spec_seen = len(self.specs) - 1

    def see_size(self) -> None:
        """The ReplicaSet's controller sees the next size of its own object."""
        self.spec_seen = min(len(self.specs) - 1, self.spec_seen + 1)

    def replica_set_sync(self, events: int) -> None:
        """The ReplicaSet's controller sees so many more changes of pods, and acts."""
        self.pods_seen = min(len(self.history) - 1, self.pods_seen + events)
        cache = self.history[self.pods_seen]
        past = self.history[: self.pods_seen + 1]
        active = [each for each in cache.values() if each.active]
        self.created = {name for name in self.created if not any(name in each for each in past)}
        self.deleted = {name for name in self.deleted if name in cache and cache[name].active}
        failure = ""
        if not self.created and not self.deleted:
            failure = self._manage(active)
        wanted = self.specs[self.spec_seen]
        self.status = ReplicaSet(
            "pool-1",
            RS,
            desired=0,
            replicas=len(active),
            fully_labelled=sum(each.serving for each in active),
            ready=sum(each.ready for each in active),
            observed=True,
            failure=failure,
        )
        self.status_spec = self.spec_seen
        if self.caught_up() and len(active) <= wanted:
            self.lowerings.clear()

    def caught_up(self) -> bool:
        """Whether the ReplicaSet's controller has seen everything."""
        return (
            self.pods_seen == len(self.history) - 1
            and self.specs[-1] == self.size
            and self.spec_seen == len(self.specs) - 1
            and not self.created
            and not self.deleted
        )

    def _manage(self, active: Sequence[Pod]) -> str:
        surplus = len(active) - self.specs[self.spec_seen]
        for _ in range(-surplus):
            if len(self.active()) >= self.quota:
                return "exceeded quota"
            self.counter += 1
            name = f"p{self.counter}"
            self.created.add(name)
            self.put(Pod(name, f"uid-{name}", "", RS, self.now))
        if surplus > 0:
            for pod in sorted(active, key=victim_order(active, self.ready_at, self.now))[:surplus]:
                self._delete(pod)
        return ""

    def _delete(self, cached: Pod) -> None:
        name = cached.name
        self.deleted.add(name)
        if name not in self.pods or self.pods[name].terminating:
            return
        worker = self.workers.get(name)
        if worker is not None and worker.running:
            if self._is_residual(cached):
                self.residual += 1
            else:
                self.cut.append(name)
        self.put(replace(self.pods[name], terminating=True, ready=False))

    def _is_residual(self, cached: Pod) -> bool:
        """A pod that turned from Pending to busy within the controller's lag; or a container that
        began after the look that lowered, in any of the pods that were to go."""
        if never_started(cached) and not never_started(self.pods[cached.name]):
            return True
        for lowering in self.lowerings:
            for name in (*lowering.chosen, cached.name):
                worker = self.workers.get(name)
                if worker is not None and worker.born > lowering.looked:
                    return True
        return False

    # --- time ---

    def pass_seconds(self, seconds: float) -> None:
        """Nobody lags behind for more than three seconds."""
        for _ in range(math.ceil(seconds)):
            self.now += 1
            self.lag = self.lag + 1 if not self.caught_up() else 0
            if self.lag > 3:
                self.catch_up()
            self.fetch()

    def catch_up(self) -> None:
        """Both controllers see everything and act."""
        for _ in range(3):
            self.deployment_sync()
            self.spec_seen = len(self.specs) - 1
            self.replica_set_sync(len(self.history))
        self.lag = 0


def victim_order(active: Sequence[Pod], ready_at: Mapping[str, float], now: float) -> Any:
    """A ReplicaSet's own, ActivePodsWithRanks: the first is deleted first."""
    on_node: dict[str | None, int] = {}
    for each in active:
        on_node[each.node] = on_node.get(each.node, 0) + 1

    def key(pod: Pod) -> tuple[Any, ...]:
        age = max(1.0, now - pod.created)
        ready = max(1.0, now - ready_at.get(pod.name, now)) if pod.ready else 0.0
        return (
            pod.node is not None,
            {"Pending": 0, "Unknown": 1, "Running": 2}[pod.phase],
            pod.ready,
            pod.cost,
            -on_node[pod.node],
            int(math.log2(ready)) if ready else -1,
            -pod.restarts,
            int(math.log2(age)),
            pod.uid,
        )

    return key


class Operator:
    """The real protocol on fakes of its ports; `restart` forgets all that was in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.epoch = 0
        self.calls_left = 10**9
        self.target = 0
        self.taken: tuple[Ground, int, int] | None = None
        self.last: Steps | None = None
        self.wanted: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """Another process."""
        self.epoch += 1
        self.memory = Memory(KEY, "uid", 1, None, "", PoolStatus())
        self.memory.unmarked_at = -1e9  # time does not pass here
        self.actor = Actor(self, self, self)  # type: ignore[arg-type]
        self.taken = None

    def look(self) -> None:
        """Gather."""
        world = self.world
        pods = tuple(world.pods.values())
        if not world.freedom.second_mark and any(each.active and each.marked for each in pods):
            world.pods_seen = len(world.history) - 1
        asked = any(pod.started for pod in pods)
        answers = [
            self._says(name)
            for name, each in world.workers.items()
            if not each.silent and (asked or not ASKS_ONLY_STARTED)
        ]
        there = Deployment(
            uid="d",
            version=str(world.version),
            replicas=world.size,
            ours=True,
            observed=world.observed == world.generation,
            total=world.status.replicas,
            updated=world.status.replicas,
        )
        replica_set = replace(
            world.status,
            desired=world.specs[-1],
            observed=world.status_spec == len(world.specs) - 1,
        )
        ground = Ground(there, (replica_set,), join(pods, answers), SLOTS, quiet=self.memory.quiet)
        world.counter += 1
        self.taken = ground, self.target, world.counter

    async def act(self, calls: int | None = None) -> None:
        """Plan and carry out, up to so many calls of a port."""
        if self.taken is None:
            return
        ground, target, _ = self.taken
        self.calls_left = 10**9 if calls is None else calls
        self.last = plan = steps(ground, target)
        self.wanted = {
            each.answer.worker_id for each in (*plan.drain, *plan.confirm) if each.answer
        }
        try:
            await self.actor.carry_out(self.memory, ground, plan, ADDRESS)
        except Conflict:
            pass
        except Crash:
            self.restart()
        self.taken = None

    def _call(self) -> None:
        if self.calls_left <= 0:
            raise Crash
        self.calls_left -= 1

    def _says(self, name: str) -> Answer:
        worker = self.world.workers[name]
        busy = "busy" if worker.running else "idle"
        status = "draining" if self.world.draining(worker) else busy
        return Answer(worker.id, f"uid-{name}", status, worker.running, SLOTS, worker.since)

    # --- the ports ---

    def leading(self) -> bool:
        """It always leads."""
        return True

    def _find(self, worker_id: str) -> str | None:
        found = [name for name, each in self.world.workers.items() if each.id == worker_id]
        return found[0] if found and not self.world.workers[found[0]].silent else None

    async def drain(
        self, address: object, worker_id: str, epoch: int, seconds: float
    ) -> Answer | None:
        self._call()
        assert worker_id in self.wanted
        assert seconds <= DRAIN_LEASE
        name = self._find(worker_id)
        if name is None or epoch < self.world.workers[name].epoch:
            return None
        self.world.workers[name].epoch = epoch
        self.world.workers[name].until = self.world.now + seconds
        return self._says(name)

    async def resume(self, address: object, worker_id: str, epoch: int) -> Answer | None:
        self._call()
        name = self._find(worker_id)
        if name is None or epoch < self.world.workers[name].epoch:
            return None
        self.world.workers[name].epoch = epoch
        self.world.workers[name].until = 0.0
        self.world.fetch()
        return self._says(name)

    async def mark(self, key: object, pod: Pod, serving: bool) -> None:
        self._call()
        if serving and self.world.lowerings and not self.world.freedom.early_unmark:
            self.world.catch_up()
        there = self.world.pods.get(pod.name)
        if there is None:
            raise NotFound(pod.name)
        if there.version != pod.version:
            raise Conflict(pod.name)
        self.world.put(replace(there, serving=serving, cost=0 if serving else MARK_COST))
        if serving and not self.world.freedom.mark_lag_after_unmark:
            self.world.pods_seen = len(self.world.history) - 1

    async def scale(self, key: object, replicas: int, version: str) -> None:
        self._call()
        world = self.world
        assert self.taken is not None
        if version != str(world.version):
            raise Conflict("the Deployment has changed")
        ground, _, looked = self.taken
        if replicas < world.size:
            may_go = [
                each.pod.name
                for each in ground.active
                if each.pod.marked or never_started(each.pod)
            ]
            assert replicas >= min(world.size, len(ground.active) - len(may_go))
            world.lowerings.append(Lowering(looked, frozenset(may_go)))
        if replicas != world.size:
            world.size, world.generation, world.version = (
                replicas,
                world.generation + 1,
                world.version + 1,
            )
