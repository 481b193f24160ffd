"""What kopf tells: only keys are taken from it, and all work is done by the loop.

Event handlers only, on purpose (docs/adr/0007): kopf then writes nothing to the objects, no
finalizer and no annotation, and deleting a pool, a namespace or the operator never hangs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from headrace_operator.api.v1alpha1 import GROUP, PLURAL, POOL_LABEL, VERSION
from headrace_operator.app.keyed import Keyed
from headrace_operator.app.ports import Key
from headrace_operator.app.reconcile import Reconciler

_STUCK_AFTER = 60.0  # seconds that a key may wait

Step = Callable[[], Awaitable[None]]
Observe = Callable[[Key, Mapping[str, Any], bool], None]


def _configure(settings: kopf.OperatorSettings) -> None:
    settings.posting.enabled = False  # kopf's own Events have no stable reason
    settings.scanning.disabled = True  # no right to list all kinds of a cluster is needed
    settings.peering.standalone = True  # the Lease says who works
    settings.watching.label_selectors["deployments"] = POOL_LABEL
    # A watch that was cut silently is begun anew within a minute (kopf#585).
    settings.watching.server_timeout = 60
    settings.watching.client_timeout = 75
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)


def registry(
    reconciler: Reconciler, keys: Keyed[Key], observe: Observe, start: Step, stop: Step
) -> kopf.OperatorRegistry:
    """The handlers, and what is to be started and stopped with kopf."""
    reg = kopf.OperatorRegistry()

    @kopf.on.startup(registry=reg)
    async def begin(settings: kopf.OperatorSettings, **_: Any) -> None:
        _configure(settings)
        await start()

    @kopf.on.login(registry=reg)
    def login(**given: Any) -> kopf.ConnectionInfo | None:
        # Pure functions of kopf's own: a registry that is made by hand has none by default.
        return kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)

    @kopf.on.cleanup(registry=reg)
    async def end(**_: Any) -> None:
        # Here, or kopf waits 5 s for the tasks that were begun above before it cancels them.
        await stop()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=reg)
    async def pool(body: kopf.Body, **event: Any) -> None:
        meta = body["metadata"]
        if event["type"] == "DELETED":
            key = (meta["namespace"], meta["name"])
            reconciler.deleted(key)
            keys.forget(key)
            return
        key_to_do = reconciler.seen(body)
        if key_to_do is not None:
            keys.add(key_to_do)

    @kopf.on.event("apps", "v1", "deployments", labels={POOL_LABEL: kopf.PRESENT}, registry=reg)
    async def owned(
        body: kopf.Body, namespace: str | None, labels: kopf.Labels, **event: Any
    ) -> None:
        key = (namespace or "", labels[POOL_LABEL])
        observe(key, body, event["type"] == "DELETED")
        if key in reconciler.pools:
            keys.add(key)

    @kopf.on.probe(registry=reg, id="loop")
    async def alive(**_: Any) -> str:
        # The age of the oldest waiting key, not of the last run: no pools is no fault.
        if not keys.alive or keys.oldest_wait > _STUCK_AFTER:
            raise kopf.PermanentError("the reconcile loop is stuck")
        return "ok"

    return reg
