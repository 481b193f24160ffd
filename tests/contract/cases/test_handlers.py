"""Cases C11 to C15: what handlers return, raise and swallow, on every broker."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.contract.cases.bench import Bench

from headrace import Backoff, TaskFailed, TaskStatus
from headrace.runtime import engine

QUICK = Backoff(first=0.02, maximum=0.05)


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_c11_a_result_that_is_not_json(bench: Bench, plain: bool) -> None:
    values = {"set": {1, 2}, "object": object(), "float": float("nan")}
    worker = bench.worker(slots=1)
    runs: list[str] = []

    def give(kind: str):  # type: ignore[no-untyped-def]
        runs.append(kind)
        return {"x": [values[kind]]}

    async def give_async(kind: str):  # type: ignore[no-untyped-def]
        return give(kind)

    async def echo(data: Any) -> Any:
        return data

    worker.register_handler("give", give if plain else give_async, retries=3, backoff=QUICK)
    worker.register_handler("echo", echo)
    await worker.start()
    for kind in values:
        began = time.monotonic()
        with pytest.raises(TaskFailed) as caught:
            await bench.client.submit("give", kind, retries=3)
        assert time.monotonic() - began < 3
        assert "result.x[0]" in str(caught.value)
        assert kind in str(caught.value)
        assert (caught.value.reason, caught.value.attempt) == ("result", 1)
        assert await bench.ended(caught.value.task_id) is TaskStatus.FAILED
        assert await bench.client.submit("echo", 1) == 1
    assert runs == list(values)


async def test_c11_a_plain_function_that_returns_a_coroutine_is_awaited(bench: Bench) -> None:
    worker = bench.worker()

    async def inner(data: Any) -> Any:
        return {"got": data}

    worker.register_handler("wraps", lambda data: inner(data))
    await worker.start()
    assert await bench.client.submit("wraps", 1) == {"got": 1}


class TwoArguments(Exception):
    def __init__(self, first: str, second: int) -> None:
        super().__init__(f"{first} and {second}")


class WithLock(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def _chain() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise OSError("second") from error
    except OSError as error:
        raise LookupError("third") from error


def _raise(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def _group() -> None:
    raise ExceptionGroup("both", [ValueError("left"), Unspeakable()])


STRANGE: dict[str, tuple[Callable[[], None], str, str]] = {
    "two-arguments": (_raise(TwoArguments("a", 2)), "TwoArguments: a and 2", ""),
    "with-lock": (_raise(WithLock()), "WithLock: holds a lock", ""),
    "unspeakable": (_raise(Unspeakable()), "Unspeakable", ""),
    "surrogates": (_raise(ValueError("broken \ud800 text")), "ValueError: broken ? text", ""),
    "chain": (_chain, "LookupError: third", "KeyError: 'first'"),
    "group": (_group, "ExceptionGroup: both", "ValueError: left"),
}


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_c12_exceptions_that_cannot_travel(bench: Bench, plain: bool) -> None:
    worker = bench.worker()
    heard: dict[str, BaseException] = {}
    worker.on_task_error(heard.__setitem__)
    for name, (work, _, _) in STRANGE.items():

        def bind(work: Callable[[], None]) -> Any:
            async def run(data: Any) -> None:
                work()

            return (lambda data: work()) if plain else run

        worker.register_handler(name, bind(work))
    await worker.start()
    for name, (_, says, behind) in STRANGE.items():
        with pytest.raises(TaskFailed) as caught:
            await bench.client.submit(name, {}, wait_timeout=10)
        assert caught.value.message.startswith(says)
        assert behind in caught.value.remote_traceback
        assert await bench.ended(caught.value.task_id) is TaskStatus.FAILED
        original = heard[caught.value.task_id]
        assert type(original).__name__ == says.partition(":")[0]
        assert caught.value.remote_type.endswith(type(original).__name__)
    assert not worker.failed
    assert {letter.type for letter in await bench.client.dead_letters()} == set(STRANGE)


EXITS: dict[str, tuple[Callable[[], None], str]] = {
    "exit-1": (lambda: sys.exit(1), "SystemExit: 1"),
    "exit-0": (lambda: sys.exit(0), "SystemExit: 0"),
    "exit-text": (lambda: sys.exit("enough"), "SystemExit: enough"),
    "interrupt": (_raise(KeyboardInterrupt()), "KeyboardInterrupt"),
    "base": (_raise(BaseException("x")), "BaseException: x"),
    "cancelled": (_raise(asyncio.CancelledError("by itself")), "CancelledError"),
}


@pytest.mark.parametrize("kind", ["async", "plain", "stream", "plain stream"])
async def test_c13_a_handler_that_would_end_the_process_ends_its_task(
    bench: Bench, kind: str
) -> None:
    worker = bench.worker(slots=2)
    attempts: list[str] = []
    goes_on = asyncio.Event()

    def leave(name: str) -> None:
        attempts.append(name)
        EXITS[name][0]()

    async def leave_async(name: str) -> None:
        leave(name)

    async def leave_stream(name: str):  # type: ignore[no-untyped-def]
        leave(name)
        yield 1

    def leave_plain_stream(name: str):  # type: ignore[no-untyped-def]
        leave(name)
        yield 1

    async def neighbour(data: Any) -> str:
        await goes_on.wait()
        return "undisturbed"

    handlers = {
        "async": leave_async,
        "plain": leave,
        "stream": leave_stream,
        "plain stream": leave_plain_stream,
    }
    worker.register_handler("leave", handlers[kind], backoff=QUICK)
    worker.register_handler("neighbour", neighbour)
    await worker.start()
    beside = await bench.client.submit_async("neighbour", {})
    await bench.running(beside.id)
    left = await asyncio.gather(
        *(bench.client.submit("leave", name, retries=1, wait_timeout=20) for name in EXITS),
        return_exceptions=True,
    )
    for (name, (_, says)), error in zip(EXITS.items(), left, strict=True):
        assert isinstance(error, TaskFailed)
        assert error.message.startswith(says)
        assert attempts.count(name) == 2  # retries apply
    goes_on.set()
    assert (await bench.client.wait_for(beside.id, 10)).result == "undisturbed"
    assert not worker.failed


GRACE = 0.4


KINDS = ("swallows", "cleans-up", "comes-back", "raises")


class Stubborn:
    """Handlers that do not end when they are told to, each in its own way."""

    def __init__(self) -> None:
        self.begun = {kind: asyncio.Event() for kind in KINDS}
        self.told = {kind: asyncio.Event() for kind in KINDS}
        self.ended = {kind: asyncio.Event() for kind in KINDS}
        self.enough = asyncio.Event()

    async def run(self, kind: str) -> str:
        self.begun[kind].set()
        try:
            while not self.enough.is_set():
                try:
                    await asyncio.sleep(0.01 if self.told[kind].is_set() else 60)
                except asyncio.CancelledError:
                    self.told[kind].set()
                    if kind == "cleans-up":
                        await asyncio.sleep(GRACE / 2)  # within the grace: it ends in its own time
                        raise
                    if kind == "comes-back":
                        return "as if nothing had happened"
                    if kind == "raises":
                        raise RuntimeError("another exception") from None
            return "too late"
        finally:
            self.ended[kind].set()


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_c15_handlers_that_will_not_be_cancelled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(engine, "CANCEL_GRACE", GRACE)
    worker, stubborn = bench.worker(slots=len(KINDS)), Stubborn()
    all_slots = asyncio.Barrier(len(KINDS))

    async def meet(data: Any) -> Any:
        await all_slots.wait()
        return data

    worker.register_handler("stubborn", stubborn.run)
    worker.register_handler("meet", meet)
    await worker.start()
    client = bench.client
    timeout = 0.5 if how == "timeout" else 60.0
    tasks = await client.submit_many(
        [{"type": "stubborn", "data": kind, "timeout": timeout} for kind in KINDS]
    )
    async with asyncio.timeout(20):
        for kind, task in zip(KINDS, tasks, strict=True):
            await stubborn.begun[kind].wait()
            if how == "cancel":
                assert (await client.cancel_task(task.id)).status is TaskStatus.CANCELLED
        for kind in KINDS:
            await stubborn.told[kind].wait()
    since = time.monotonic()
    expected = TaskStatus.TIMEOUT if how == "timeout" else TaskStatus.CANCELLED
    assert [await bench.ended(task.id) for task in tasks] == [expected] * len(KINDS)

    async def all_meet(value: int) -> None:
        """Every slot is free: no task that meets the others ends before all have begun."""
        calls = (client.submit("meet", value, wait_timeout=10) for _ in KINDS)
        assert await asyncio.gather(*calls) == [value] * len(KINDS)

    await all_meet(5)
    assert time.monotonic() - since < GRACE + 3
    assert stubborn.ended["cleans-up"].is_set()
    assert not stubborn.ended["swallows"].is_set()
    stubborn.enough.set()
    async with asyncio.timeout(20):
        await stubborn.ended["swallows"].wait()
    # what they returned or raised in the end changes nothing
    await all_meet(6)
    for task in tasks:
        assert await bench.ended(task.id) is expected
        assert (await client.wait_for(task.id)).result is None
    assert worker.running == 0
