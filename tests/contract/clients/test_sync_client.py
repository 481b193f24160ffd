"""SyncClient: threads, notebooks, streams, a stop between, Ctrl-C, a program's end (C07)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.contract.clients.conftest import Served

from headrace import ConfigurationError, NotRunning, SyncClient, TaskFailed, TaskStatus

THREADS = 16


def test_sixteen_threads_use_it_first_at_the_same_moment(served: Served) -> None:
    client = SyncClient(served.url, served.queue)
    together = threading.Barrier(THREADS)

    def use(thread: int) -> list[int]:
        together.wait(20)
        return [client.submit("double", thread * 1000 + n) for n in range(20)]

    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(use, range(THREADS)))
    assert found == [[2 * (thread * 1000 + n) for n in range(20)] for thread in range(THREADS)]
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("headrace-client") == 1  # one connection, whoever was first
    client.stop()
    assert "headrace-client" not in [thread.name for thread in threading.enumerate()]


def test_all_of_the_client_without_a_loop(served: Served) -> None:
    with SyncClient(served.url, served.queue) as client:
        tasks = client.submit_many([("double", n) for n in range(3)])
        assert [client.wait_for(task.id, timeout=10).result for task in tasks] == [0, 2, 4]
        found = client.get_task(client.enqueue("double", 7).id)
        assert found is not None
        assert client.depth().max_size > 0
        assert len(client.get_workers()) == 1
        with pytest.raises(TaskFailed, match="data"):
            client.submit("double", "no number", wait_timeout=10)
        letter = client.dead_letters()[-1]
        client.replay(letter.id)
        waiting = client.submit_async("double", 1, delay=60)
        assert client.cancel_task(waiting.id).status is TaskStatus.CANCELLED
        schedule = client.schedule("nightly", "double", 1, cron="30 2 * * *", zone="Europe/Paris")
        assert client.schedules() == [schedule]
        assert client.unschedule("nightly")
        assert client.schedules() == []


def test_it_streams_and_can_be_used_again_after_a_stop(served: Served) -> None:
    client = SyncClient(served.url, served.queue)
    client.stop()  # harmless before the first use
    assert list(client.stream("count", 4)) == [0, 1, 2, 3]
    client.stop()
    client.stop()
    assert client.submit("double", 4) == 8
    client.stop()


def test_leaving_a_stream_early_cancels_its_task(served: Served) -> None:
    with SyncClient(served.url, served.queue) as client:
        for chunk in client.stream("hold", 1):
            assert chunk == 1
            break
        assert served.cancelled.wait(10)


def test_a_stream_that_outlives_its_client_ends_quietly(served: Served) -> None:
    with SyncClient(served.url, served.queue) as client:
        chunks = client.stream("hold", 1)
        assert next(chunks) == 1
    assert served.cancelled.wait(10)
    chunks.close()  # type: ignore[attr-defined]  # a generator
    with pytest.raises(StopIteration):
        next(chunks)


def test_who_reads_a_stream_is_told_when_it_stops(served: Served) -> None:
    client = SyncClient(served.url, served.queue)
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(lambda: list(client.stream("hold", 1)))
        assert served.begun.acquire(timeout=20)
        client.stop()
        with pytest.raises(NotRunning, match="stopped"):
            reading.result(20)
    assert served.cancelled.wait(10)


async def test_it_works_while_a_loop_runs(served: Served) -> None:
    """As in a cell of a notebook."""
    with SyncClient(served.url, served.queue) as client:
        assert client.submit("double", 4) == 8
        assert list(client.stream("count", 2)) == [0, 1]


def test_who_waits_is_told_when_it_stops(served: Served) -> None:
    client = SyncClient(served.url, served.queue)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(client.submit, "hold", n) for n in range(4)]
        for _ in waiting:
            assert served.begun.acquire(timeout=20)
        client.stop()
        for each in waiting:
            with pytest.raises(NotRunning, match="stopped"):
                each.result(20)


def test_memory_is_refused_with_what_to_use_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="embedded:///"):
        SyncClient("memory://")
    monkeypatch.delenv("HEADRACE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="nats://"):
        SyncClient()


WAITS = """
import sys
from headrace import SyncClient

client = SyncClient(*sys.argv[1:3])
if sys.argv[3] == "stream":
    for chunk in client.stream("hold", 1):
        print(chunk, flush=True)
else:
    print(1, flush=True)
    client.submit("hold", 1)
"""


@pytest.mark.parametrize("how", ["submit", "stream"])
def test_ctrl_c_ends_a_program_that_waits(served: Served, how: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WAITS, served.url, served.queue, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "1\n"
    assert served.begun.acquire(timeout=20)
    program.send_signal(signal.SIGINT)
    _, stderr = program.communicate(timeout=20)
    assert program.returncode == -signal.SIGINT
    assert "\nKeyboardInterrupt\n" in stderr
    assert stderr.count("Traceback") == 1, stderr
    if how == "stream":  # leaving it is leaving it early
        assert served.cancelled.wait(20)


FORGETS = """
import sys
from headrace import SyncClient

print(SyncClient(*sys.argv[1:]).submit("double", 4))
"""


def test_a_program_that_never_stops_it_ends_clean(served: Served) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORGETS, served.url, served.queue],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "8\n", "")
