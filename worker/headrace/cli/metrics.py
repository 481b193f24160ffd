"""A worker's figures for Prometheus, where HEADRACE_METRICS_PORT asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Protocol

from headrace.errors import ConfigurationError
from headrace.worker_info import WorkerInfo


class Measured(Protocol):
    """A worker, or several processes that are one."""

    queue: str

    @property
    def info(self) -> WorkerInfo:
        """As it is now."""


def serve_metrics(worker: Measured) -> None:
    """Answer /metrics on the port of HEADRACE_METRICS_PORT; nothing without it.

    Raises `ConfigurationError` for a port that cannot be had, or without prometheus-client.
    """
    text = os.environ.get("HEADRACE_METRICS_PORT", "")
    if not text:
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise ConfigurationError(
            "HEADRACE_METRICS_PORT is set and prometheus-client is not there",
            hint="Install headrace[metrics], or leave the variable out",
        ) from None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(worker))
    try:
        start_http_server(int(text), registry=registry)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"HEADRACE_METRICS_PORT={text!r} cannot be served: {error}",
            hint="Give a free port",
        ) from None


class _Figures:
    """Read at each scrape; no metric is kept up beside the worker's own counts."""

    def __init__(self, worker: Measured) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Any]:
        """The worker's numbers."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        info = self._worker.info
        queue = [self._worker.queue]
        for name, text, value in (
            ("running_tasks", "Tasks that run.", info.current_tasks),
            ("slots", "Tasks that may run at once.", info.config.max_concurrent_tasks),
            ("draining", "1 while it takes no tasks.", info.status.value == "draining"),
        ):
            gauge = GaugeMetricFamily(f"headrace_worker_{name}", text, labels=["queue"])
            gauge.add_metric(queue, float(value))
            yield gauge
        for outcome, value in (
            ("completed", info.total_completed),
            ("failed", info.total_failed),
        ):
            counter = CounterMetricFamily(
                f"headrace_worker_tasks_{outcome}", f"Tasks {outcome}.", labels=["queue"]
            )
            counter.add_metric(queue, value)
            yield counter
