"""Everything put together: the only place that makes adapters."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from datetime import UTC, datetime

import kopf

from headrace_operator.adapters.cluster.api import KubeApi
from headrace_operator.adapters.cluster.cluster import KubeCluster
from headrace_operator.adapters.cluster.lease import Lease
from headrace_operator.adapters.jetstream.queues import JetStreamQueues
from headrace_operator.adapters.metrics import Metrics
from headrace_operator.app.keyed import Keyed
from headrace_operator.app.ports import Key
from headrace_operator.app.reconcile import Reconciler
from headrace_operator.handlers import registry
from headrace_operator.settings import Settings

log = logging.getLogger("headrace_operator")


class Operator:
    """One replica. All watch; the one that holds the Lease reconciles."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.api = KubeApi(
            lambda verb, code: self.metrics.count("kube_requests_total", verb=verb, code=str(code))
        )
        self.keys: Keyed[Key] = Keyed(self._reconcile, failed=self._failed)
        self.cluster = KubeCluster(self.api, settings.identity)
        self.queues = JetStreamQueues(self.keys.add)
        self.lease = Lease(
            self.api,
            settings.namespace,
            settings.lease_name,
            settings.identity,
            settings.lease_seconds,
            self._leads,
        )
        self.reconciler = Reconciler(settings, self.cluster, self.queues, self.lease, self.metrics)
        self._leasing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until SIGTERM or SIGINT, which kopf takes for itself."""
        self.metrics.serve(self.settings.metrics_port)
        namespaces = self.settings.watch_namespaces
        await kopf.operator(
            registry=registry(
                self.reconciler, self.keys, self.cluster.observe, self._start, self._stop
            ),
            clusterwide=not namespaces,
            namespaces=namespaces,
            liveness_endpoint=f"http://0.0.0.0:{self.settings.probe_port}/healthz",
        )

    async def _start(self) -> None:
        await self.api.open()
        self.keys.start()
        self._leasing = asyncio.create_task(self.lease.run(), name="headrace-lease")

    async def _stop(self) -> None:
        await self.keys.stop()
        if self._leasing is not None:
            self._leasing.cancel()
            await asyncio.gather(self._leasing, return_exceptions=True)
        # Whatever fails here must not hold up the end: kopf would try it again a minute later.
        for close in (
            self.lease.release,
            self.queues.close,
            self.reconciler.close,
            self.api.close,
        ):
            try:
                await close()
            except Exception:
                log.exception("the end was not clean")

    async def _reconcile(self, key: Key) -> float | None:
        return await self.reconciler.reconcile(key)

    def _failed(self, key: Key, error: BaseException) -> None:
        self.metrics.count("reconcile_errors_total", kind=type(error).__name__)

    def _leads(self, leading: bool) -> None:
        log.info("leads, epoch %d", self.lease.epoch) if leading else log.warning("leads no more")
        self.metrics.leads(leading)
        if leading:
            for key in self.reconciler.pools:
                self.keys.add(key)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        row = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False)


def configure_logging(form: str) -> None:
    """To stderr, as JSON or as text."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("kopf", "aiohttp", "nats"):
        logging.getLogger(name).setLevel(logging.WARNING)
