"""Figures for Prometheus. Labels are namespace and pool, never a task.

A pool's figures are kept as values and become metrics at the scrape: a thousand pools cost nothing
in between, and one that has gone is one entry less.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Gauge, Histogram, start_http_server
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace_operator.app.ports import Key

_POOL = ("namespace", "pool")
_WORKERS = ("desired", "ready", "busy", "draining")
_TASKS = ("waiting", "running")
_PREFIX = "headrace_operator_"


@dataclass(slots=True)
class _Figures:
    """One pool."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    conditions: Sequence[tuple[str, str]] = ()
    decisions: Counter[str] = field(default_factory=Counter)
    busy_deleted: int = 0
    decided_at: float | None = None


class Metrics:
    """All of the operator's figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._pools: dict[Key, _Figures] = {}
        self._leader = Gauge(
            f"{_PREFIX}leader", "1 on the replica that reconciles.", registry=self.registry
        )
        self._counters = {
            "reconcile_errors_total": CounterMetric(
                f"{_PREFIX}reconcile_errors",
                "Looks that failed, by kind of error.",
                ("kind",),
                registry=self.registry,
            ),
            "kube_requests_total": CounterMetric(
                f"{_PREFIX}kube_requests",
                "Requests to the API server.",
                ("verb", "code"),
                registry=self.registry,
            ),
        }
        self._reconcile = Histogram(
            f"{_PREFIX}reconcile_duration_seconds", "One look at one pool.", registry=self.registry
        )
        self.registry.register(_Pools(self._pools))

    def serve(self, port: int) -> None:
        """Answer /metrics on all addresses."""
        start_http_server(port, registry=self.registry)

    def decided(self, key: Key, figures: Mapping[str, float], reason: str) -> None:
        """A decision and the pool's numbers."""
        pool = self._of(key)
        pool.numbers, pool.decided_at = figures, time.monotonic()
        pool.decisions[reason] += 1

    def condition(self, key: Key, states: Sequence[tuple[str, str]]) -> None:
        """The pool's conditions."""
        self._of(key).conditions = states

    def busy_deleted(self, key: Key) -> None:
        """A scale-in ended a pod in which a task ran."""
        self._of(key).busy_deleted += 1

    def count(self, name: str, **labels: str) -> None:
        """One more."""
        self._counters[name].labels(**labels).inc()

    def reconciled(self, seconds: float) -> None:
        """How long one look took."""
        self._reconcile.observe(seconds)

    def leads(self, leading: bool) -> None:
        """Whether this replica reconciles. Pools' figures are those of the leader."""
        self._leader.set(leading)
        if not leading:
            self._pools.clear()

    def forget(self, key: Key) -> None:
        """The pool has gone: its figures too."""
        self._pools.pop(key, None)

    def _of(self, key: Key) -> _Figures:
        return self._pools.setdefault(key, _Figures())


class _Pools(Collector):
    """Every pool's figures, as of the scrape."""

    def __init__(self, pools: dict[Key, _Figures]) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        pools = list(self._pools.items())
        decided = [(key, pool) for key, pool in pools if pool.decided_at is not None]
        for name in _WORKERS:
            family = GaugeMetricFamily(
                f"{_PREFIX}pool_{name}_workers", f"Workers: {name}.", labels=_POOL
            )
            for key, pool in decided:
                family.add_metric(list(key), pool.numbers[name])
            yield family
        tasks = GaugeMetricFamily(
            f"{_PREFIX}pool_tasks", "Tasks of the pool's queue.", labels=(*_POOL, "state")
        )
        age = GaugeMetricFamily(
            f"{_PREFIX}decision_age_seconds", "Age of the last decision.", labels=_POOL
        )
        now = time.monotonic()
        for key, pool in decided:
            for state in _TASKS:
                tasks.add_metric([*key, state], pool.numbers[state])
            age.add_metric(list(key), now - (pool.decided_at or now))
        yield tasks
        yield age
        yield _conditions(pools)
        yield from _counts(pools)


def _conditions(pools: Sequence[tuple[Key, _Figures]]) -> Metric:
    family = GaugeMetricFamily(
        f"{_PREFIX}pool_condition",
        "1 for the status a condition has.",
        labels=(*_POOL, "type", "status"),
    )
    for key, pool in pools:
        for kind, status in pool.conditions:
            for each in ("True", "False", "Unknown"):
                family.add_metric([*key, kind, each], float(each == status))
    return family


def _counts(pools: Sequence[tuple[Key, _Figures]]) -> Iterator[Metric]:
    decisions = CounterMetricFamily(
        f"{_PREFIX}decisions", "Decisions by reason.", labels=(*_POOL, "reason")
    )
    # From zero on, or the first one would not show as an increase.
    deleted = CounterMetricFamily(
        f"{_PREFIX}busy_pods_deleted",
        "Pods that a scale-in ended while a task ran there.",
        labels=_POOL,
    )
    for key, pool in pools:
        for reason, count in list(pool.decisions.items()):
            decisions.add_metric([*key, reason], count)
        deleted.add_metric(list(key), pool.busy_deleted)
    yield decisions
    yield deleted
