"""From the API server's objects to the few facts that are used."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from headrace_operator.adapters.cluster.api import APPLY_MANAGER
from headrace_operator.api.v1alpha1 import SERVING_LABEL
from headrace_operator.core.shape import HASH_ANNOTATION
from headrace_operator.core.values import FAILING_REASONS, Deployment, Pod, ReplicaSet

COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
Object = Mapping[str, Any]


def seconds(stamp: str | None) -> float:
    """Seconds since the epoch; 0 where there is none."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0


def deployment(raw: Object, pool_uid: str) -> Deployment:
    """A Deployment; `ours` if this pool controls it."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    owners = meta.get("ownerReferences") or []
    ours = any(each.get("uid") == pool_uid and each.get("controller") for each in owners)
    replicas = spec.get("replicas")
    return Deployment(
        uid=meta["uid"],
        version=meta["resourceVersion"],
        replicas=1 if replicas is None else replicas,
        ours=ours,
        observed=status.get("observedGeneration", 0) >= meta.get("generation", 0),
        template=(meta.get("annotations") or {}).get(HASH_ANNOTATION, ""),
        total=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
        stuck=_stuck(status),
        size_owner=_size_owner(meta),
        generation=meta.get("generation", 0),
    )


def _stuck(status: Object) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Progressing" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "no progress")
    return ""


def _size_owner(meta: Object) -> bool:
    """Whether somebody else than our apply owns the size: then it may be left out of an apply."""
    for entry in meta.get("managedFields") or []:
        mine = entry.get("manager") == APPLY_MANAGER and entry.get("operation") == "Apply"
        if not mine and "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {}):
            return True
    return False


def replica_set(raw: Object) -> ReplicaSet:
    """A ReplicaSet."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    failure = ""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            failure = str(condition.get("message") or condition.get("reason") or "refused")
    return ReplicaSet(
        name=meta["name"],
        uid=meta["uid"],
        desired=spec.get("replicas") or 0,
        replicas=status.get("replicas", 0),
        fully_labelled=status.get("fullyLabeledReplicas", 0),
        ready=status.get("readyReplicas", 0),
        observed=status.get("observedGeneration", 0) >= meta.get("generation", 0),
        failure=failure,
    )


def pod(raw: Object) -> Pod:
    """A pod."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    owner = next(
        (each["uid"] for each in meta.get("ownerReferences") or [] if each.get("controller")), ""
    )
    ready = any(
        each.get("type") == "Ready" and each.get("status") == "True"
        for each in status.get("conditions") or []
    )
    worker: Object = next(
        (each for each in status.get("containerStatuses") or [] if each.get("name") == "worker"), {}
    )
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        owner=owner,
        created=seconds(meta.get("creationTimestamp")),
        node=spec.get("nodeName"),
        phase=status.get("phase") or "Pending",
        ready=ready,
        started="running" in (worker.get("state") or {}),
        serving=(meta.get("labels") or {}).get(SERVING_LABEL) == "true",
        cost=_cost(meta),
        terminating=bool(meta.get("deletionTimestamp")),
        ends_by=seconds(meta.get("deletionTimestamp")),  # the grace is in it
        failing=_failing(status),
        restarts=worker.get("restartCount", 0),
    )


def _cost(meta: Object) -> int:
    try:
        return int((meta.get("annotations") or {}).get(COST_ANNOTATION, 0))
    except ValueError:
        return 0


def _failing(status: Object) -> str:
    for kind in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(kind) or []:
            waiting = (each.get("state") or {}).get("waiting") or {}
            reason = waiting.get("reason", "")
            if reason in FAILING_REASONS:
                text = waiting.get("message") or _last_words(each)
                return f"{reason}: {text}" if text else reason
    return ""


def _last_words(container: Object) -> str:
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if not ended:
        return ""
    return f"{ended.get('reason', 'ended')} with code {ended.get('exitCode')}"


def dropped(sent: Any, kept: Any, path: str) -> tuple[str, ...]:
    """Paths of fields that were sent and are not in the answer: the definition that the API server
    has does not know them. Nulls are not kept in any case."""
    if isinstance(sent, Mapping):
        answer = kept if isinstance(kept, Mapping) else {}
        rows = (
            (f"{path}.{name}",)
            if name not in answer
            else dropped(value, answer[name], f"{path}.{name}")
            for name, value in sent.items()
            if value is not None
        )
        return tuple(dict.fromkeys(each for row in rows for each in row))
    if isinstance(sent, list) and isinstance(kept, list):
        rows = (dropped(*pair, f"{path}[]") for pair in zip(sent, kept, strict=False))
        return tuple(dict.fromkeys(each for row in rows for each in row))
    return ()
