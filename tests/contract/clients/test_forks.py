"""Clients that were connected before a fork (C06): gunicorn --preload, multiprocessing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.contract.clients.conftest import Served

from headrace import Client, SyncClient

# A fork beside threads is what these tests are about; Python 3.12 warns of it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def in_child(work: Callable[[], bool]) -> int:
    """Start a child that ends with 0 if `work` says so, without anything of pytest's own end."""
    pid = os.fork()
    if pid:
        return pid
    ok = False
    try:
        ok = work()
    finally:
        os._exit(0 if ok else 1)


def codes(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def test_each_child_gets_its_own_results_and_the_parent_goes_on(served: Served) -> None:
    client = SyncClient(served.url, served.queue)
    assert client.submit("double", 1) == 2

    def fifty(start: int) -> bool:
        found = [client.submit("double", start + n, wait_timeout=20) for n in range(50)]
        return found == [2 * (start + n) for n in range(50)]

    children = [in_child(lambda n=n: fifty(n * 1000)) for n in range(1, 5)]  # type: ignore[misc]
    assert fifty(100_000)
    assert codes(children) == [0, 0, 0, 0]
    assert client.submit("double", 5, wait_timeout=20) == 10
    client.stop()


def test_a_fork_while_other_threads_are_in_a_call(served: Served) -> None:
    client = SyncClient(served.url, served.queue)
    enough = threading.Event()

    def busy(_: int) -> bool:
        while not enough.is_set():
            if client.submit("double", 2, wait_timeout=20) != 4:
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        busy_ones = [threads.submit(busy, n) for n in range(4)]
        try:
            children = [
                in_child(lambda: client.submit("double", 3, wait_timeout=20) == 6) for _ in range(4)
            ]
            assert codes(children) == [0, 0, 0, 0]
        finally:
            enough.set()
        assert all(each.result(20) for each in busy_ones)
    client.stop()


def test_the_threads_of_a_child_share_one_connection(served: Served) -> None:
    """As with gunicorn --preload -k gthread."""
    client = SyncClient(served.url, served.queue)
    assert client.submit("double", 1) == 2

    def threaded() -> bool:
        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(lambda n: client.submit("double", n), range(100)))
            alive = [thread.name for thread in threading.enumerate()]
        return found == [2 * n for n in range(100)] and alive.count("headrace-client") == 1

    assert codes([in_child(threaded), in_child(threaded)]) == [0, 0]
    client.stop()


def test_a_stream_begun_before_the_fork_is_the_parents(served: Served) -> None:
    client = SyncClient(served.url, served.queue)
    chunks = client.stream("count", 3)
    assert next(chunks) == 0

    def leaves_it() -> bool:
        chunks.close()  # type: ignore[attr-defined]  # a generator; the collector would do it
        return client.submit("double", 2, wait_timeout=20) == 4

    assert codes([in_child(leaves_it)]) == [0]
    assert list(chunks) == [1, 2]
    client.stop()


PRELOADED = """
import multiprocessing, sys
from headrace import SyncClient

client = SyncClient(*sys.argv[1:])
assert client.submit("double", 1) == 2

def child(n):
    assert client.submit("double", n) == 2 * n
    if n == 3:
        client.stop()

children = [multiprocessing.get_context("fork").Process(target=child, args=(n,)) for n in (2, 3)]
for each in children: each.start()
for each in children: each.join()
assert [each.exitcode for each in children] == [0, 0]
assert client.submit("double", 5) == 10
client.stop()
"""


def test_children_end_clean(served: Served) -> None:
    """Their interpreters end in the ordinary way, with no word about what is the parent's."""
    ran = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning"),
            *("-c", PRELOADED, served.url, served.queue),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_client_of_the_parents_loop_connects_anew_in_the_childs(served: Served) -> None:
    client = Client(served.url, served.queue)

    async def parent() -> None:
        assert await client.submit("double", 1) == 2
        child = in_child(fresh_loop)
        found = await asyncio.to_thread(codes, [child])
        assert found == [0]
        assert await client.submit("double", 3, wait_timeout=20) == 6
        await client.stop()

    def fresh_loop() -> bool:
        found: list[bool] = []

        async def use() -> None:
            found.append(await client.submit("double", 2, wait_timeout=20) == 4)

        # The copy of the parent's loop still counts as running in the thread that forked.
        thread = threading.Thread(target=lambda: asyncio.run(use()))
        thread.start()
        thread.join(20)
        return found == [True]

    asyncio.run(parent())
