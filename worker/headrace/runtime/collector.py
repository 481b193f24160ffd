"""Python's cyclic collector, set for a process that only runs tasks."""

from __future__ import annotations

import gc


def tune_collector() -> None:
    """Leave what is loaded out of the collector's rounds, and make these rarer.

    For a process of our own (`headrace worker`), never for one that a user's program shares: a
    worker makes many short-lived objects and few cycles. Measured by `benchmarks.throughput`.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
