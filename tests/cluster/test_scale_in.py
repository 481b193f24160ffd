"""The promise: a pool shrinks, and no task is cut."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.cluster.conftest import PoolHandle
from tests.cluster.kube import get, kubectl, until
from tests.cluster.operator_process import OperatorProcess

Make = Callable[..., PoolHandle]


def busy_deletions(operator: OperatorProcess) -> float:
    name = "headrace_operator_busy_pods_deleted_total"
    return sum(value for key, value in operator.metrics().items() if key.startswith(name))


def each_ran_once(pool: PoolHandle, count: int) -> None:
    """By the handlers' own journal: every task has one start and one end."""
    journal = pool.journal()
    for what in ("start", "end"):
        assert sorted(row["n"] for row in journal if row["what"] == what) == list(range(count))


def long_tasks(count: int, least: float, most: float, seed: int = 7) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [{"n": n, "seconds": chance.uniform(least, most)} for n in range(count)]


def test_thirty_long_tasks_end_where_they_began(operator: OperatorProcess, make_pool: Make) -> None:
    """The backlog ends, the pool shrinks step by step; each task has one run and one pod."""
    pool = make_pool()
    pool.submit("hold", long_tasks(30, 1, 16))
    pool.until_size(10)
    assert pool.finish() == {"completed": 30}
    pool.until_size(0, seconds=90)
    each_ran_once(pool, 30)
    assert busy_deletions(operator) == 0
    steps = [message for reason, message in pool.events() if reason == "ScaledIn"]
    assert steps, pool.events()


def drains(pool: PoolHandle) -> bool:
    return any(worker.status == "draining" for worker in pool.client.get_workers())


def marked(pool: PoolHandle) -> bool:
    return any(
        each["metadata"]["labels"].get("headrace.dev/serving") == "false" for each in pool.pods()
    )


def lowered(pool: PoolHandle) -> bool:
    return pool.size() < 5


@pytest.mark.parametrize("step", [drains, marked, lowered])
def test_the_operator_is_killed_after_a_step(
    make_operator: Callable[..., OperatorProcess],
    make_pool: Make,
    step: Callable[[PoolHandle], bool],
) -> None:
    operator = make_operator()
    pool = make_pool(maxWorkers=5)
    pool.submit("hold", [{"n": n, "seconds": 15 + 3 * n} for n in range(5)])
    pool.until_ready(5)
    until(lambda: step(pool), 60, 0.02, what=step.__name__)
    operator.kill()
    time.sleep(3)
    operator = make_operator("two")
    pool.submit("hold", [{"n": 5, "seconds": 1}])
    assert pool.finish() == {"completed": 6}
    pool.until_size(0, seconds=120)
    each_ran_once(pool, 6)
    assert busy_deletions(operator) == 0


def test_a_burst_in_the_middle_of_a_drain_takes_workers_back(
    operator: OperatorProcess, make_pool: Make
) -> None:
    pool = make_pool(maxWorkers=4)
    pool.submit("hold", [{"n": n, "seconds": 15 + 6 * n} for n in range(4)])
    pool.until_ready(4)
    pods = {each["metadata"]["uid"] for each in pool.pods()}
    until(lambda: drains(pool) or pool.size() < 4, 60, 0.05)
    pool.submit("hold", [{"n": n, "seconds": 3} for n in range(4, 16)])
    assert pool.finish() == {"completed": 16}
    each_ran_once(pool, 16)
    assert busy_deletions(operator) == 0
    # Those that drained were resumed, or had gone by then; nobody else was replaced.
    assert len({row["pod"] for row in pool.journal()} - {None}) <= len(pods) + 3
    pool.until_size(0, seconds=90)


def test_with_a_terminating_pod_among_them(operator: OperatorProcess, make_pool: Make) -> None:
    """A pod that somebody deletes finishes what it runs, and nobody else goes for it."""
    pool = make_pool(maxWorkers=5)
    pool.submit("hold", [{"n": n, "seconds": 16 + 3 * n} for n in range(5)])
    pool.until_ready(5)
    until(lambda: len(pool.runs()) == 5)
    victim = pool.journal()[-1]["pod"]
    kubectl("delete", "pod", victim, "-n", pool.namespace, "--wait=false")
    assert pool.finish() == {"completed": 5}
    each_ran_once(pool, 5)
    pool.until_size(0, seconds=90)


def test_a_rollout_neither_shrinks_nor_cuts(operator: OperatorProcess, make_pool: Make) -> None:
    """A new template while four are busy and fewer are wanted: no size below what runs."""
    pool = make_pool(maxWorkers=4)
    pool.submit("hold", [{"n": n, "seconds": 16 + 5 * n} for n in range(4)])
    pool.until_ready(4)
    until(lambda: len(pool.runs()) == 4)
    pool.apply(template={"metadata": {"labels": {"version": "two"}}})
    sizes = set()

    def ended() -> bool:
        sizes.add(pool.size())
        return all(each["what"] != "start" for each in pool.journal()[-4:]) and (
            sum(row["what"] == "end" for row in pool.journal()) == 4
        )

    until(ended, 120, what="all ended")
    assert min(sizes) >= 1
    assert pool.finish() == {"completed": 4}
    each_ran_once(pool, 4)
    pool.until_size(0, seconds=120)
    assert busy_deletions(operator) == 0
    labels = pool.deployment()["spec"]["template"]["metadata"]["labels"]
    assert labels["version"] == "two"


def test_a_node_is_drained(operator: OperatorProcess, make_pool: Make) -> None:
    nodes = [each["metadata"]["name"] for each in get("nodes")]
    if len(nodes) < 2:
        pytest.skip("needs two nodes")
    node = next(name for name in nodes if "control-plane" not in name)
    pool = make_pool("drained", maxWorkers=4)  # a name of its own: others' pods are left alone
    pool.submit("hold", [{"n": n, "seconds": 16 + 4 * n} for n in range(4)])
    pool.until_ready(4)
    until(lambda: len(pool.runs()) == 4)
    try:
        kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=100s"),
            f"--pod-selector=headrace.dev/pool={pool.name}",
            timeout=110,
        )
        assert pool.finish() == {"completed": 4}
    finally:
        kubectl("uncordon", node)
    each_ran_once(pool, 4)


PROBE = """
import os, sys, urllib.request
urllib.request.urlopen("http://127.0.0.1:8081/readyz", timeout=3)
sys.exit(os.path.exists("/scratch/unready"))
"""


def test_a_busy_pod_that_is_not_ready_is_spared(operator: OperatorProcess, make_pool: Make) -> None:
    """A ReplicaSet deletes what is not ready first: among those the marked ones are before it."""
    probe = {"exec": {"command": ["python3", "-c", PROBE]}, "periodSeconds": 1, "timeoutSeconds": 5}
    pool = make_pool(maxWorkers=3)
    pool.manifest["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = probe
    pool.apply()
    pool.submit("unready", [{"n": 0, "seconds": 45}])
    pool.submit("hold", [{"n": n, "seconds": 15} for n in (1, 2)])
    until(lambda: len(pool.runs()) == 3, 90)
    victim = next(row["pod"] for row in pool.journal() if row["n"] == 0)
    pool.until_size(1, seconds=60)
    assert {row["n"] for row in pool.journal() if row["what"] == "end"} == {1, 2}
    until(lambda: len(pool.pods()) == 1, 30)
    assert pool.pods()[0]["metadata"]["name"] == victim
    assert pool.finish() == {"completed": 3}
    each_ran_once(pool, 3)
    pool.until_size(0, seconds=90)
    assert busy_deletions(operator) == 0
