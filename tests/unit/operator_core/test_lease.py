"""The Lease: at no time two leaders, whatever their clocks and connections do."""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from headrace_operator.adapters.cluster import lease as lease_module
from headrace_operator.adapters.cluster.lease import Lease
from headrace_operator.errors import Conflict, NotFound, Unreachable

pytestmark = pytest.mark.looptime

DURATION = 15.0
_offset: contextvars.ContextVar[list[float]] = contextvars.ContextVar("_offset")
_wall = [0.0]


@pytest.fixture(autouse=True)
def _own_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each candidate has a clock of its own, which goes as fast as the loop's."""

    def monotonic() -> float:
        return 5000.0 + asyncio.get_running_loop().time() + _offset.get()[0]

    _wall[0] = 0.0

    def wall() -> float:
        return _wall[0]

    monkeypatch.setattr(lease_module, "time", SimpleNamespace(monotonic=monotonic, time=wall))


class Server:
    """One Lease, with a version that counts its writes."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] | None = None
        self.version = 0
        self.candidates: list[Candidate] = []
        self.overlaps: list[list[str]] = []
        self.writes: list[str] = []

    def put(self, body: dict[str, Any], who: str) -> None:
        self.version += 1
        self.stored = copy.deepcopy(body)
        self.stored.setdefault("metadata", {})["resourceVersion"] = str(self.version)
        self.writes.append(who)

    @property
    def spec(self) -> dict[str, Any]:
        assert self.stored is not None
        found: dict[str, Any] = self.stored["spec"]
        return found


class Connection:
    """What a candidate has for a `KubeApi`."""

    def __init__(self, server: Server, who: str) -> None:
        self.server = server
        self.who = who
        self.cut = False
        self.delay = 0.01
        self.loses_answers = 0
        """So many writes are carried out, and their answers do not come back."""

    async def request(
        self, method: str, path: str, body: Any = None, *, timeout: float
    ) -> dict[str, Any]:
        assert path.startswith("/apis/coordination.k8s.io/v1/namespaces/ns/leases")
        if self.cut or self.delay > timeout:
            await asyncio.sleep(timeout)
            raise Unreachable("no answer")
        await asyncio.sleep(self.delay)
        server = self.server
        if method == "POST":
            if server.stored is not None:
                raise Conflict("it exists")
            server.put(body, self.who)
        elif server.stored is None:
            raise NotFound("no Lease")
        elif method == "PUT":
            if body["metadata"]["resourceVersion"] != str(server.version):
                raise Conflict("it has changed")
            server.put(body, self.who)
        if method != "GET" and self.loses_answers:
            self.loses_answers -= 1
            raise Unreachable("the answer was lost")
        assert server.stored is not None
        return copy.deepcopy(server.stored)


class Candidate:
    """A replica: its clock, its connection, its process."""

    def __init__(
        self, server: Server, name: str, duration: float = DURATION, offset: float = 0.0
    ) -> None:
        self.api = Connection(server, name)
        self.offset = [offset]
        self.told: list[bool] = []
        self.context = contextvars.copy_context()
        self.context.run(_offset.set, self.offset)
        self.lease = Lease(
            self.api,  # type: ignore[arg-type]
            "ns",
            "operator",
            name,
            duration,
            self.hear,
        )
        server.candidates.append(self)
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def hear(self, leading: bool) -> None:
        """Told right after a Lease was taken: the moment at which two could lead."""
        self.told.append(leading)
        self.changed.set()
        leaders = [each.api.who for each in self.api.server.candidates if each.leads]
        if len(leaders) > 1:
            self.api.server.overlaps.append(leaders)

    def start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.lease.run(), context=self.context)

    async def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None

    async def release(self) -> None:
        await self.kill()
        await asyncio.get_running_loop().create_task(self.lease.release(), context=self.context)

    @property
    def leads(self) -> bool:
        return self.context.copy().run(self.lease.leading)


@asynccontextmanager
async def running(*candidates: Candidate) -> AsyncIterator[None]:
    for each in candidates:
        each.start()
    try:
        yield
    finally:
        for each in candidates:
            await each.kill()


async def passes(seconds: float, candidates: Sequence[Candidate]) -> None:
    """Time passes, and never do two lead."""
    await asyncio.sleep(seconds)
    assert not any(each.api.server.overlaps for each in candidates)


async def until_leads(who: Candidate, within: float = 100.0) -> float:
    """How long it took."""
    begin = asyncio.get_running_loop().time()
    async with asyncio.timeout(within):
        while not who.leads:
            who.changed.clear()
            await who.changed.wait()
    assert not who.api.server.overlaps
    return asyncio.get_running_loop().time() - begin


# --- one ---


async def test_the_first_one_makes_the_lease_and_leads() -> None:
    server = Server()
    a = Candidate(server, "a")
    assert not a.leads
    async with running(a):
        await asyncio.sleep(0.1)
        assert a.leads
        assert a.told == [True]
    assert (server.spec["holderIdentity"], server.spec["leaseDurationSeconds"]) == ("a", 15)
    assert (server.spec["leaseTransitions"], a.lease.epoch) == (0, 0)


async def test_it_goes_on_leading_and_renews_three_times_in_the_leases_time() -> None:
    server = Server()
    a = Candidate(server, "a")
    async with running(a):
        await asyncio.sleep(0.1)
        for _ in range(100):
            await asyncio.sleep(1)
            assert a.leads
    assert 19 <= len(server.writes) <= 22
    assert (a.told, a.lease.epoch) == ([True], 0)


async def test_two_renewals_may_fail() -> None:
    a = Candidate(Server(), "a")
    async with running(a):
        await asyncio.sleep(0.1)
        a.api.cut = True
        await asyncio.sleep(9)
        a.api.cut = False
        await asyncio.sleep(10)
        assert a.told == [True]


async def test_who_cannot_renew_stops_by_its_own_clock_and_says_so_once() -> None:
    a = Candidate(Server(), "a")
    async with running(a):
        await asyncio.sleep(0.1)
        a.api.cut = True
        await asyncio.sleep(15)
        assert not a.leads
        await asyncio.sleep(60)
        assert a.told == [True, False]
        a.api.cut = False
        await asyncio.sleep(10)
        assert a.leads
        assert a.told == [True, False, True]


async def test_a_server_that_is_too_slow_is_no_server() -> None:
    a = Candidate(Server(), "a")
    a.api.delay = DURATION / 4 + 0.1
    async with running(a):
        await asyncio.sleep(100)
        assert a.told == []


async def test_the_time_of_a_request_counts_against_the_lease() -> None:
    a = Candidate(Server(), "a")
    a.api.delay = 1.5
    async with running(a):
        await asyncio.sleep(3.5)  # read, write
        assert a.leads
        a.api.cut = True
        # From when the write was begun, not from its answer.
        await asyncio.sleep(DURATION - 1.5)
        assert not a.leads


# --- two ---


@pytest.mark.parametrize("offset", [-4000.0, 0.0, 1e6])
async def test_a_second_one_waits_as_long_as_the_first_renews(offset: float) -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b", offset=offset)
    async with running(a):
        await until_leads(a)
        async with running(b):
            await passes(200, [a, b])
            assert (a.leads, b.told) == (True, [])
            assert set(server.writes) == {"a"}


async def test_a_second_one_takes_over_when_the_lease_has_stood_still_for_its_time() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b", offset=777.0)
    async with running(a, b):
        await until_leads(a)
        await passes(31, [a, b])
        await a.kill()
        writes = len(server.writes)
        took = await until_leads(b)
        assert len(server.writes) == writes + 1
    assert DURATION - DURATION / 3 < took < DURATION * 1.5 + 1
    assert (server.spec["holderIdentity"], b.lease.epoch) == ("b", 1)


@pytest.mark.parametrize("stamp", ["2000-01-01T00:00:00.000000Z", "2100-01-01T00:00:00.000000Z"])
async def test_what_wall_clocks_say_is_not_looked_at(stamp: str) -> None:
    server = Server()
    spec = {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": stamp,
        "renewTime": stamp,
        "leaseTransitions": 3,
    }
    server.put({"metadata": {"name": "operator"}, "spec": spec}, "a")
    b = Candidate(server, "b")
    async with running(b):
        took = await until_leads(b)
    assert DURATION < took < DURATION + DURATION / 5 + 1
    assert b.lease.epoch == 4


async def test_the_leases_own_time_is_waited_for_and_not_the_candidates() -> None:
    server = Server()
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 40}
    server.put({"metadata": {"name": "operator"}, "spec": spec}, "a")
    b = Candidate(server, "b")
    async with running(b):
        assert 40 < await until_leads(b) < 45
    assert b.lease.epoch == 1


async def test_a_candidate_that_is_cut_off_has_not_seen_the_lease_stand_still() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with running(a, b):
        await until_leads(a)
        await passes(5, [a, b])
        b.api.cut = True
        await passes(100, [a, b])
        b.api.cut = False
        await passes(100, [a, b])
        assert (a.told, b.told) == ([True], [])


async def test_a_leader_that_is_cut_off_stops_before_another_begins() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with running(a, b):
        await until_leads(a)
        await passes(20, [a, b])
        a.api.cut = True
        await until_leads(b)
        assert not a.leads
        await passes(5, [a, b])
        assert a.told == [True, False]
        a.api.cut = False
        await passes(60, [a, b])
        assert (a.leads, b.leads) == (False, True)


@pytest.mark.parametrize("first", [1, 2])
async def test_of_many_that_begin_at_once_one_leads(first: int) -> None:
    server = Server()
    if first == 2:
        server.put({"metadata": {"name": "operator"}, "spec": {"holderIdentity": ""}}, "x")
    candidates = [Candidate(server, f"c{number}") for number in range(4)]
    async with running(*candidates):
        await passes(60, candidates)
        assert sum(each.leads for each in candidates) == 1
        assert sum(len(each.told) for each in candidates) == 1


async def test_many_that_wait_for_a_dead_one_do_not_lead_together() -> None:
    server = Server()
    candidates = [Candidate(server, f"c{number}") for number in range(4)]
    async with running(*candidates):
        for _ in range(3):
            await passes(40, candidates)
            (leader,) = [each for each in candidates if each.leads]
            await leader.kill()
            candidates.remove(leader)
    assert server.spec["leaseTransitions"] == 2


# --- the end of a leader ---


async def test_a_lease_that_is_given_up_is_taken_at_once() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with running(a, b):
        await until_leads(a)
        await passes(5, [a, b])
        await a.release()
        assert not a.leads
        assert server.spec["holderIdentity"] == ""
        assert await until_leads(b) <= DURATION / 5 + 0.2
    assert b.lease.epoch == 1


async def test_who_does_not_lead_gives_up_nothing() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with running(a, b):
        await until_leads(a)
        await b.release()
        await passes(20, [a, b])
        assert a.leads
    assert set(server.writes) == {"a"}


async def test_giving_up_without_a_connection_is_no_error() -> None:
    a = Candidate(Server(), "a")
    async with running(a):
        await until_leads(a)
        a.api.cut = True
        await a.release()
        assert not a.leads


# --- a process that was stopped for a while ---


async def test_after_a_pause_it_does_not_lead_before_it_has_asked() -> None:
    server = Server()
    a = Candidate(server, "a")
    async with running(a):
        await until_leads(a)
        a.offset[0] += 60
        assert not a.leads


async def test_a_leader_that_was_paused_finds_another_one_and_waits() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with running(a, b):
        await until_leads(a)
        await a.kill()  # as SIGSTOP: it does nothing, and its clock goes on
        await until_leads(b)
        assert not a.leads
        a.start()
        await passes(60, [a, b])
        assert (a.leads, b.leads) == (False, True)
    assert (a.lease.epoch, b.lease.epoch) == (0, 1)


# --- epochs ---


async def test_epochs_count_up_with_every_change_of_hands() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    epochs = []
    async with running(a, b):
        for turn in range(6):
            leader, other = (a, b) if turn % 2 == 0 else (b, a)
            await until_leads(leader)
            epochs.append(leader.lease.epoch)
            await passes(12, [a, b])
            assert leader.lease.epoch == epochs[-1]
            await leader.release()
            leader.start()
            await asyncio.sleep(0)
            await leader.kill()
            await until_leads(other)
            leader.start()
    assert epochs == sorted(set(epochs))


async def test_a_restart_under_the_same_name_is_another_epoch_and_need_not_wait() -> None:
    server = Server()
    a = Candidate(server, "a")
    async with running(a):
        await until_leads(a)
    server.candidates.clear()
    again = Candidate(server, "a")
    async with running(again):
        assert await until_leads(again) < 1
        assert again.lease.epoch == 1
        await passes(30, [again])
        assert again.lease.epoch == 1


async def test_a_leader_that_lapsed_and_comes_back_has_another_epoch() -> None:
    a = Candidate(Server(), "a")
    async with running(a):
        await until_leads(a)
        a.api.cut = True
        await passes(40, [a])
        a.api.cut = False
        await until_leads(a)
        assert a.lease.epoch == 1


async def test_a_lease_that_was_deleted_goes_on_above_all_that_workers_have_heard() -> None:
    """They refuse orders with a lower epoch: a pool could not have shrunk any more."""
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with running(a):
        await until_leads(a)
        server.spec["leaseTransitions"] = 7
        server.stored = None  # kubectl delete lease
        await passes(40, [a])
        assert a.leads
        assert a.lease.epoch == 1  # above its own
    server.candidates.clear()
    server.stored = None
    _wall[0] = 1.8e9  # another process, which knows nothing of before
    async with running(b):
        await until_leads(b)
        assert 7 < b.lease.epoch == server.spec["leaseTransitions"] < 2**31


async def test_a_write_whose_answer_is_lost_makes_no_leader_and_no_two() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    a.api.loses_answers = 1
    async with running(a, b):
        await asyncio.sleep(0.1)
        assert not a.leads
        assert server.spec["holderIdentity"] == "a"
        await passes(60, [a, b])
        assert a.leads
        before = a.lease.epoch
        a.api.loses_answers = 1
        await passes(60, [a, b])
        assert (a.leads, a.lease.epoch, b.told) == (True, before, [])


@pytest.mark.looptime
async def test_a_lease_of_two_and_a_half_seconds() -> None:
    server = Server()
    a, b = Candidate(server, "a", 2.5), Candidate(server, "b", 2.5)
    async with running(a, b):
        await until_leads(a)
        await passes(2, [a, b])
        a.api.cut = True
        await until_leads(b)
