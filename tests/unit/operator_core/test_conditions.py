"""What holds of a pool, since when, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.scaling.builders import depth, look, policy, steady

from headrace.scaling import DrainPlan, LimitedBy, Reason, decide_next
from headrace_operator.api.v1alpha1 import Condition
from headrace_operator.core.conditions import TYPES, Findings, clean, conditions
from headrace_operator.core.shrink import Hold, Steps

T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z"
DECISION, _ = decide_next(policy(), look(10, depth(20, 20)), steady())
PLAN = DrainPlan(target=1, active=2)


def decided(reason: Reason, limited: LimitedBy = LimitedBy.NONE) -> Any:
    return replace(DECISION, reason=reason, limited_by=limited)


def row(kind: str, **found: Any) -> Condition:
    (each,) = [each for each in conditions(Findings(**found), 3, (), T0) if each.type == kind]
    return each


def said(kind: str, **found: Any) -> tuple[str, str]:
    each = row(kind, **found)
    return each.status, each.reason


# --- all of them ---


def test_all_types_are_there_once_and_in_order() -> None:
    found = conditions(Findings(), 3, (), T0)
    assert tuple(each.type for each in found) == TYPES
    assert {each.observed_generation for each in found} == {3}


def test_nothing_positive_is_true_before_the_first_look() -> None:
    found = {each.type: each.status for each in conditions(Findings(), 1, (), T0)}
    assert found == {
        "Ready": "Unknown",
        "QueueReachable": "Unknown",
        "TemplateValid": "Unknown",
        "ScalingActive": "Unknown",
        "ScalingLimited": "Unknown",
        "Draining": "False",
        "Paused": "False",
        "Conflict": "False",
    }


def test_every_condition_says_why() -> None:
    full = Findings(decision=DECISION, ready=10, desired=10, template_known=True, queue_known=True)
    for each in (*conditions(Findings(), 1, (), T0), *conditions(full, 1, (), T0)):
        assert each.reason.isalpha()
        assert each.message


# --- each ---


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"ready": 2, "desired": 2}, ("True", "AsWanted")),
        ({"ready": 3, "desired": 2}, ("True", "AsWanted")),
        ({"ready": 0, "desired": 0}, ("True", "AsWanted")),
        ({"ready": 1, "desired": 2}, ("False", "Starting")),
        ({"ready": 1, "desired": 2, "pods_message": "no image"}, ("False", "PodsFailing")),
        ({"ready": 1, "desired": 2, "quota_message": "exceeded quota"}, ("False", "QuotaExceeded")),
        ({"ready": 1, "desired": 2, "quota_message": "denied"}, ("False", "PodsRefused")),
        ({"ready": 1, "desired": 2, "stuck": "deadline"}, ("False", "PodsFailing")),
    ],
)
def test_ready(found: dict[str, Any], expected: tuple[str, str]) -> None:
    assert said("Ready", decision=DECISION, **found) == expected


def test_ready_repeats_the_clusters_own_words() -> None:
    each = row("Ready", decision=DECISION, desired=2, pods_message="ErrImagePull: no such image")
    assert each.message == "0 of 2 workers are ready: ErrImagePull: no such image"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, ("Unknown", "NotRead")),
        ({"queue_known": True}, ("True", "Read")),
        ({"queue_problem": ("NotRead", "not yet")}, ("Unknown", "NotRead")),
        ({"queue_problem": ("Unreachable", "no route")}, ("False", "Unreachable")),
        (
            {"queue_known": True, "queue_problem": ("NotAllowed", "ask")},
            ("False", "NotAllowed"),
        ),
    ],
)
def test_queue_reachable(found: dict[str, Any], expected: tuple[str, str]) -> None:
    assert said("QueueReachable", **found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, ("Unknown", "NotApplied")),
        ({"template_known": True}, ("True", "Applied")),
        ({"template_problem": ("Refused", "bad port")}, ("False", "Refused")),
    ],
)
def test_template_valid(found: dict[str, Any], expected: tuple[str, str]) -> None:
    assert said("TemplateValid", **found) == expected


@pytest.mark.parametrize("reason", list(Reason))
def test_scaling_active_has_the_decisions_reason_and_sentence(reason: Reason) -> None:
    each = row("ScalingActive", decision=decided(reason))
    off = reason in (Reason.PINNED, Reason.UNKNOWN)
    assert (each.status, each.reason) == ("False" if off else "True", reason.value)
    assert each.message == DECISION.message


def test_scaling_is_not_active_while_somebody_else_sizes_the_pool() -> None:
    conflict = ("Autoscaler", "HorizontalPodAutoscaler x")
    assert row("ScalingActive", decision=DECISION, conflict=conflict).status == "False"
    shared = ("QueueShared", "team-b/documents serves the same tasks")
    assert row("ScalingActive", decision=DECISION, conflict=shared).status == "True"


@pytest.mark.parametrize("limit", list(LimitedBy))
def test_scaling_limited_is_about_limits_that_somebody_may_lift(limit: LimitedBy) -> None:
    found = said("ScalingLimited", decision=decided(Reason.BACKLOG_HIGH, limit))
    wanted = {"AtMax", "PodsFailing", "QuotaExceeded", "StepLimited"}
    if limit.value in wanted:
        assert found == ("True", limit.value)
    else:
        assert found == ("False", limit.value or "NotLimited")


@pytest.mark.parametrize("limit", [LimitedBy.NONE, LimitedBy.QUOTA_EXCEEDED])
@pytest.mark.parametrize(
    ("words", "reason"),
    [("exceeded quota: pods", "QuotaExceeded"), ("denied by a policy", "PodsRefused")],
)
def test_scaling_is_limited_by_who_refuses_pods_and_says_so(
    limit: LimitedBy, words: str, reason: str
) -> None:
    decision = decided(Reason.QUOTA_EXCEEDED, limit)
    each = row("ScalingLimited", decision=decision, quota_message=words)
    assert (each.status, each.reason) == ("True", reason)
    assert each.message.endswith(f": {words}")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, ("False", "NoDrain")),
        ({"steps": Steps(PLAN, hold=Hold.NOT_ANSWERING, text="mute")}, ("False", "NotAnswering")),
        ({"draining": ("a",)}, ("True", "InProgress")),
        ({"draining": ("a",), "overdue": True}, ("True", "Overdue")),
        ({"draining": ("a",), "steps": Steps(PLAN, hold=Hold.BARRIER)}, ("True", "Barrier")),
        ({"draining": ("a",), "steps": Steps(PLAN, hold=Hold.SETTLING)}, ("True", "Settling")),
        ({"draining": ("a",), "steps": Steps(PLAN, hold=Hold.VICTIMS)}, ("True", "VictimsDiffer")),
        ({"draining": ("a",), "steps": Steps(PLAN, hold=Hold.DRAINING)}, ("True", "InProgress")),
    ],
)
def test_draining(found: dict[str, Any], expected: tuple[str, str]) -> None:
    assert said("Draining", **found) == expected


def test_draining_names_three_pods_and_counts_the_others() -> None:
    assert row("Draining", draining=("a",)).message == "a drains"
    assert row("Draining", draining=("a", "b")).message == "a, b drain"
    many = row("Draining", draining=("a", "b", "c", "d", "e"), steps=Steps(PLAN, text="waits"))
    assert many.message == "a, b, c and 2 more drain; waits"


@pytest.mark.parametrize("pause", ["In", "Out", "Both"])
def test_paused(pause: str) -> None:
    assert said("Paused") == ("False", "Automatic")
    assert said("Paused", pause=pause) == ("True", pause)
    assert said("Paused", pause=pause, pinned=True) == ("True", "Pinned")


def test_a_pin_says_how_to_go_back() -> None:
    assert "kubectl patch workerpool" in row("Paused", pinned=True).message


def test_conflict() -> None:
    assert said("Conflict") == ("False", "None")
    assert said("Conflict", conflict=("ForeignDeployment", "rename")) == (
        "True",
        "ForeignDeployment",
    )


# --- since when ---


def test_the_time_of_a_change_is_kept_while_the_status_stays() -> None:
    before = conditions(Findings(), 1, (), T0)
    again = conditions(Findings(decision=DECISION, desired=1), 2, before, T1)
    since = {each.type: each.last_transition_time for each in again}
    changed = {kind for kind, time in since.items() if time == T1}
    assert changed == {"Ready", "ScalingActive", "ScalingLimited"}
    assert {each.observed_generation for each in again} == {2}


def test_another_reason_is_no_change_of_the_status() -> None:
    before = conditions(Findings(draining=("a",)), 1, (), T0)
    after = conditions(Findings(draining=("a",), overdue=True), 1, before, T1)
    old, new = (next(x for x in rows if x.type == "Draining") for rows in (before, after))
    assert (old.reason, new.reason) == ("InProgress", "Overdue")
    assert new.last_transition_time == T0


def test_a_condition_that_never_had_a_time_gets_one() -> None:
    before = [Condition(type="Paused", status="False", reason="Automatic")]
    (found,) = [each for each in conditions(Findings(), 1, before, T1) if each.type == "Paused"]
    assert found.last_transition_time == T1


# --- text of others ---


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("as it is", "as it is"),
        ("two\nlines\tand\x1b[31m red", "two lines and [31m red"),
        ("zero\u200bwidth\u202e", "zero width "),
        ("ü – ✓", "ü – ✓"),
        ("", ""),
    ],
)
def test_text_of_others_is_cleaned(text: str, plain: str) -> None:
    assert clean(text) == plain


def test_text_of_others_has_an_end() -> None:
    assert clean("x" * 1024) == "x" * 1024
    assert clean("x" * 1025) == "x" * 1023 + "…"
    assert clean("abcdef", 3) == "ab…"
    message = row("Ready", decision=DECISION, desired=1, pods_message="y\n" * 3000).message
    assert len(message) == 1024
    assert message.isprintable()
