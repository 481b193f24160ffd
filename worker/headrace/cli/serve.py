"""`headrace worker`: one worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from headrace.cli.exits import INTERRUPTED
from headrace.cli.loading import load_app
from headrace.cli.metrics import serve_metrics
from headrace.cli.serving import Options, Signals, say, stop_worker, worker_of
from headrace.runtime.collector import tune_collector
from headrace.worker import Worker
from headrace.worker_info import WorkerStatus


async def serve(app_name: str, options: Options) -> int:
    """Work until told to stop; the exit code.

    The first signal drains: running tasks finish within the grace, the rest is handed back. The
    second hands back at once.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    worker = worker_of(load_app(app_name), options)

    def first(number: signal.Signals) -> None:
        count = worker.running
        say(f"{number.name}: draining {count} tasks, again to stop now" if count else number.name)

    signals = Signals(first)
    serve_metrics(worker)  # before it takes tasks: a port that is taken ends it here
    # Who is probed answers from the beginning, and waits for a server that is somewhere else.
    patient = is_patient(worker)
    if not await signals.unless_stopped(worker.start(patient=patient)):
        return 0
    worker.info.metadata["health_port"] = getattr(worker.leases, "health_port", None)
    tune_collector()
    showing = asyncio.create_task(_show_readiness(worker))
    await signals.stop.wait()
    showing.cancel()
    _ready(worker, False)
    back = await stop_worker(worker, signals.now)
    say(f"stopped; {back} tasks handed back" if back else "stopped; nothing was interrupted")
    return INTERRUPTED if signals.now.is_set() else 0


def is_patient(worker: Worker) -> bool:
    """Whether to wait for a server that does not answer yet."""
    remote = worker.url.startswith(("nats:", "tls:"))
    return remote and bool(os.environ.get("HEADRACE_HEALTH_PORT"))


async def _show_readiness(worker: Worker) -> None:
    """Not ready means "may be deleted first": only a worker that drains and is empty says so. An
    outage of the broker must not, or the busy ones would be the first to go."""
    while True:
        drained = worker.status is WorkerStatus.DRAINING and not worker.running
        _ready(worker, not drained)
        await worker.wait_changed()


def _ready(worker: Worker, ready: bool) -> None:
    tell = getattr(worker.leases, "set_ready", None)  # memory:// has no probes
    if tell is not None:
        tell(ready)
