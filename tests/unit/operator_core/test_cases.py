"""Cases C33, C34, C42 and C43 where a condition is the answer."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.unit.operator_core import builders
from tests.unit.operator_core.test_conditions import DECISION, PLAN, row, said

from headrace_operator.adapters.cluster.parse import dropped
from headrace_operator.adapters.cluster.parse import pod as parse_pod
from headrace_operator.app.act import Actor
from headrace_operator.app.pool import Pool, read
from headrace_operator.app.report import Reporter
from headrace_operator.core.conditions import Findings
from headrace_operator.core.fleet import STUCK_AFTER, facts_of, stuck
from headrace_operator.core.shrink import Ground, Hold, Steps
from headrace_operator.core.values import Member
from headrace_operator.errors import Denied, OperatorError, Refused


def test_c33_a_pod_that_should_have_gone_counts_for_nothing_and_is_named() -> None:
    raw = {
        "metadata": {
            "name": "p",
            "uid": "u",
            "resourceVersion": "1",
            "deletionTimestamp": "2026-03-01T10:10:30Z",  # the grace is in it
        }
    }
    pod = parse_pod(raw)
    assert facts_of(Member(pod), 4).state.value == "gone"
    assert stuck([pod], pod.ends_by + STUCK_AFTER - 1) == ()
    assert stuck([pod, replace(pod, name="a")], pod.ends_by + STUCK_AFTER + 1) == ("a", "p")
    assert stuck([replace(pod, ends_by=0.0, terminating=False)], 1e12) == ()
    each = row("Draining", terminating=("a", "b", "c", "d"))
    assert (each.status, each.reason) == ("True", "StuckTerminating")
    assert each.message.startswith("a, b, c and 1 more should have gone")
    both = row("Draining", terminating=("a",), draining=("b",))
    assert both.reason == "StuckTerminating"
    assert both.message.endswith("; b drains")


def test_c34_a_pool_without_a_deployment_is_not_ready_and_says_why() -> None:
    problem = ("Refused", 'Deployment.apps "x" is invalid: spec.template')
    each = row("Ready", template_problem=problem)
    assert (each.status, each.reason, each.message) == ("False", *problem)
    assert said("Ready") == ("Unknown", "NotDecided")
    # one that has a Deployment goes on with the old template
    assert said("Ready", decision=DECISION, template_problem=problem, ready=2, desired=2) == (
        "True",
        "AsWanted",
    )


def test_c42_fields_that_an_older_definition_drops_are_found() -> None:
    sent = {"a": 1, "b": {"c": None, "d": []}, "rows": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}
    assert dropped(sent, sent, "status") == ()
    assert dropped(sent, {"a": 1, "b": {"d": []}, "rows": sent["rows"], "own": 1}, "status") == ()
    kept = {"b": {}, "rows": [{"x": 1}, {"x": 3}]}
    assert dropped(sent, kept, "status") == ("status.a", "status.b.d", "status.rows[].y")
    assert dropped({"a": 1}, None, "status") == ("status.a",)


class OldCluster:
    """An API server whose definition lacks a field; or one that refuses a size."""

    def __init__(self, refusal: OperatorError | None = None) -> None:
        self.refusal = refusal
        self.written: list[dict[str, Any]] = []
        self.events: list[tuple[str, str]] = []

    async def status(self, key: object, status: dict[str, Any]) -> tuple[str, ...]:
        self.written.append(status)
        return ("status.workers.failing",)

    async def event(self, key: object, uid: str, kind: str, reason: str, message: str) -> None:
        self.events.append((reason, message))

    async def scale(self, key: object, replicas: int, version: str) -> None:
        assert self.refusal is not None
        raise self.refusal


class Nothing:
    """Takes every call."""

    epoch = 1

    def __getattr__(self, name: str) -> Any:
        return lambda *_: True


def _pool() -> Pool:
    return read(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "WorkerPool",
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
            "spec": {"queue": "q", "template": {"spec": {"containers": [{"name": "worker"}]}}},
        }
    )


async def test_c42_an_operator_newer_than_the_definition_says_so_once_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster, pool, other = OldCluster(), _pool(), _pool()
    reporter = Reporter(cast(Any, cluster), cast(Any, Nothing()))
    found = Findings(decision=DECISION, ready=2, desired=2, template_known=True, queue_known=True)
    with caplog.at_level(logging.WARNING):
        for each in (pool, pool, other):
            await reporter.report(each, None, None, found)
    assert len([each for each in caplog.messages if "older than this operator" in each]) == 1
    rows = {each["type"]: each for each in cluster.written[1]["conditions"]}
    assert (rows["Conflict"]["status"], rows["Conflict"]["reason"]) == ("True", "OlderDefinition")
    assert "status.workers.failing" in rows["Conflict"]["message"]
    assert rows["ScalingActive"]["status"] == "True"


@pytest.mark.parametrize(
    "refusal", [Denied('cannot patch resource "deployments/scale"'), Refused("no such size")]
)
async def test_c43_a_size_that_is_refused_is_a_condition(refusal: OperatorError) -> None:
    cluster = OldCluster(refusal)
    actor = Actor(cast(Any, cluster), cast(Any, Nothing()), cast(Any, Nothing()))
    ground = Ground(builders.deployment(2), (), (), slots=1)
    done = await actor.carry_out(_pool(), ground, Steps(PLAN, size=5), None)
    assert (done.size, done.hold) == (None, Hold.REFUSED)
    each = row("ScalingActive", decision=DECISION, steps=done)
    assert (each.status, each.reason) == ("False", "Refused")
    assert str(refusal) in each.message
    reporter = Reporter(cast(Any, cluster), cast(Any, Nothing()))
    pool = _pool()
    for _ in range(3):
        await reporter.report(pool, None, None, Findings(decision=DECISION, steps=done))
        await asyncio.sleep(0)
    assert cluster.events == [("SizeRefused", str(refusal))]
