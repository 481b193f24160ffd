"""The `Cluster` port on a real API server."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headrace_operator.adapters.cluster import parse
from headrace_operator.adapters.cluster.api import (
    APPLY,
    APPLY_MANAGER,
    MERGE,
    SCALE_MANAGER,
    KubeApi,
)
from headrace_operator.api.v1alpha1 import (
    API_VERSION,
    GROUP,
    KIND,
    PLURAL,
    POOL_LABEL,
    SERVING_LABEL,
    VERSION,
)
from headrace_operator.app.ports import Key
from headrace_operator.core.values import MARK_COST, Deployment, Pod, ReplicaSet
from headrace_operator.errors import Conflict, Denied, NotFound, OperatorError

_AUTOSCALERS_FOR = 10.0  # seconds for which a list of them is good
_EVENT_EVERY = 60.0  # seconds between two Events of one reason on one pool


class KubeCluster:
    """Reads and writes a pool's objects. Every write says who writes."""

    def __init__(self, api: KubeApi, identity: str) -> None:
        self._api = api
        self._identity = identity
        self._deployments: dict[Key, tuple[str, Deployment]] = {}
        self._autoscalers: dict[str, tuple[float, dict[str, tuple[str, ...]]]] = {}
        self._last_event: dict[tuple[Key, str], tuple[float, str]] = {}

    async def deployment(self, key: Key, pool_uid: str) -> Deployment | None:
        """The Deployment of the pool's name: as the watch last showed it, or read now if we wrote
        to it since. What is stale nevertheless is refused by its resourceVersion."""
        known = self._deployments.get(key)
        if known is not None and known[0] == pool_uid:
            return known[1]
        try:
            raw = await self._api.request("GET", _deployments(key, key[1]))
        except NotFound:
            return None
        return self._keep(key, pool_uid, raw)

    def observe(self, key: Key, body: Mapping[str, Any], deleted: bool) -> None:
        """What the watch shows of a pool's Deployment."""
        known = self._deployments.get(key)
        if deleted:
            self._deployments.pop(key, None)
        elif known is not None and not _older(body, known[1]):
            self._keep(key, known[0], body)

    def _keep(self, key: Key, pool_uid: str, raw: Mapping[str, Any]) -> Deployment:
        found = parse.deployment(raw, pool_uid)
        if found.ours:  # a foreign one is not watched, and may go unseen
            self._deployments[key] = pool_uid, found
        return found

    async def replica_sets(self, key: Key) -> tuple[ReplicaSet, ...]:
        """Those with pods, or with pods to come."""
        rows = await self._list(f"/apis/apps/v1/namespaces/{key[0]}/replicasets", key)
        found = (parse.replica_set(each) for each in rows)
        return tuple(each for each in found if each.desired or each.replicas or each.failure)

    async def pods(self, key: Key) -> tuple[Pod, ...]:
        """All pods of the pool."""
        rows = await self._list(f"/api/v1/namespaces/{key[0]}/pods", key)
        return tuple(parse.pod(each) for each in rows)

    async def _list(self, path: str, key: Key) -> list[dict[str, Any]]:
        answer = await self._api.request(
            "GET", path, query={"labelSelector": f"{POOL_LABEL}={key[1]}"}
        )
        return answer.get("items") or []

    async def apply(self, body: Mapping[str, Any]) -> Deployment:
        """Server-side apply of everything that the body says."""
        meta = body["metadata"]
        raw = await self._api.request(
            "PATCH",
            _deployments((meta["namespace"], meta["name"]), meta["name"]),
            dict(body),
            query={"fieldManager": APPLY_MANAGER, "force": "true"},
            content=APPLY,
        )
        key = (meta["namespace"], meta["name"])
        return self._keep(key, meta["ownerReferences"][0]["uid"], raw)

    async def scale(self, key: Key, replicas: int, version: str) -> None:
        """Set the size by its subresource, so that no template can change with it."""
        self._deployments.pop(key, None)  # whatever comes of it: read anew
        await self._api.request(
            "PATCH",
            _deployments(key, f"{key[1]}/scale"),
            {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}},
            query={"fieldManager": SCALE_MANAGER},
            content=MERGE,
        )

    async def mark(self, key: Key, pod: Pod, serving: bool) -> None:
        """The label and the cost of a pod, in one write, so that who sees one sees both."""
        cost = None if serving else str(MARK_COST)
        await self._api.request(
            "PATCH",
            f"/api/v1/namespaces/{key[0]}/pods/{pod.name}",
            {
                "metadata": {
                    "uid": pod.uid,
                    "resourceVersion": pod.version,
                    "labels": {SERVING_LABEL: "true" if serving else "false"},
                    "annotations": {parse.COST_ANNOTATION: cost},
                }
            },
            query={"fieldManager": APPLY_MANAGER},
            content=MERGE,
        )

    async def conflicts(self, key: Key) -> tuple[str, ...]:
        """HPAs and ScaledObjects that size this Deployment. Rights to list them are optional.

        One list of each kind serves all pools of a namespace for some seconds.
        """
        namespace, name = key
        at, targets = self._autoscalers.get(namespace, (-_AUTOSCALERS_FOR, {}))
        if time.monotonic() - at >= _AUTOSCALERS_FOR:
            targets = await self._targets(namespace)
            self._autoscalers[namespace] = time.monotonic(), targets
        return targets.get(name, ())

    async def _targets(self, namespace: str) -> dict[str, tuple[str, ...]]:
        """Who sizes which Deployment."""
        found: dict[str, tuple[str, ...]] = {}
        for kind, path in (
            ("HorizontalPodAutoscaler", "autoscaling/v2/{}/horizontalpodautoscalers"),
            ("ScaledObject", "keda.sh/v1alpha1/{}/scaledobjects"),
        ):
            try:
                answer = await self._api.request(
                    "GET", "/apis/" + path.format(f"namespaces/{namespace}")
                )
            except (Denied, NotFound):
                continue
            for each in answer.get("items") or []:
                target = (each.get("spec") or {}).get("scaleTargetRef") or {}
                if target.get("kind", "Deployment") == "Deployment" and target.get("name"):
                    name = str(target["name"])
                    found[name] = (*found.get(name, ()), f"{kind} {each['metadata']['name']}")
        return found

    async def secret(self, namespace: str, name: str, key: str) -> bytes:
        """One value of a Secret, decoded."""
        raw = await self._api.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        try:
            return base64.b64decode(raw["data"][key], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise NotFound(f"Secret {name} has no key {key}") from None

    async def status(self, key: Key, status: Mapping[str, Any]) -> tuple[str, ...]:
        """Replace the pool's status by a merge patch; a pool that has gone is no error."""
        try:
            answer = await self._api.request(
                "PATCH",
                f"/apis/{GROUP}/{VERSION}/namespaces/{key[0]}/{PLURAL}/{key[1]}/status",
                {"status": dict(status)},
                query={"fieldManager": APPLY_MANAGER},
                content=MERGE,
            )
        except NotFound:
            return ()
        return parse.dropped(status, answer.get("status"), "status")

    async def event(self, key: Key, uid: str, kind: str, reason: str, message: str) -> None:
        """At most one a minute for each reason; the same one again is counted up.

        An Event that cannot be written is not worth a failed reconcile.
        """
        now = time.monotonic()
        last, text = self._last_event.get((key, reason), (-_EVENT_EVERY, ""))
        if now - last < _EVENT_EVERY and (text == message or kind == "Normal"):
            return
        self._last_event[(key, reason)] = now, message
        digest = hashlib.sha256(f"{uid}{reason}{message}".encode()).hexdigest()[:12]
        body = _event(key, uid, kind, reason, message, f"{key[1]}.{digest}", self._identity)
        path = f"/api/v1/namespaces/{key[0]}/events"
        try:
            try:
                await self._api.request("POST", path, body)
            except Conflict:
                known = await self._api.request("GET", f"{path}/{body['metadata']['name']}")
                again = {"count": known.get("count", 1) + 1, "lastTimestamp": body["lastTimestamp"]}
                await self._api.request(
                    "PATCH", f"{path}/{body['metadata']['name']}", again, content=MERGE
                )
        except OperatorError:
            pass

    def forget(self, key: Key) -> None:
        """The pool has gone."""
        self._deployments.pop(key, None)
        for each in [each for each in self._last_event if each[0] == key]:
            del self._last_event[each]


def _older(body: Mapping[str, Any], known: Deployment) -> bool:
    """Whether a watch lags behind what was read or written. Versions count up."""
    try:
        return int(body["metadata"]["resourceVersion"]) < int(known.version)
    except ValueError:
        return False


def _deployments(key: Key, rest: str) -> str:
    return f"/apis/apps/v1/namespaces/{key[0]}/deployments/{rest}"


def _event(
    key: Key, uid: str, kind: str, reason: str, message: str, name: str, instance: str
) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metadata": {"name": name, "namespace": key[0]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": key[0],
            "name": key[1],
            "uid": uid,
        },
        "type": kind,
        "reason": reason,
        "message": message[:1000],
        "source": {"component": "headrace-operator"},
        "reportingComponent": "headrace.dev/operator",
        "reportingInstance": instance,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
