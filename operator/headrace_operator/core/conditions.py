"""The conditions of a pool: what holds, since when, and why.

Positive ones start as Unknown: nothing is True by default. All of them carry the sentence that the
decision carries, or what the cluster itself said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from headrace.scaling import Decision, LimitedBy, Reason
from headrace_operator.api.v1alpha1 import Condition
from headrace_operator.core.shrink import Hold, Steps

TYPES = (
    *("Ready", "QueueReachable", "TemplateValid", "ScalingActive"),
    *("ScalingLimited", "Draining", "Paused", "Conflict"),
)
_LIMITS = {
    LimitedBy.AT_MAX,
    LimitedBy.PODS_FAILING,
    LimitedBy.QUOTA_EXCEEDED,
    LimitedBy.STEP_LIMITED,
}


@dataclass(frozen=True, slots=True)
class Findings:
    """What one look found, for the conditions."""

    decision: Decision | None = None
    steps: Steps | None = None
    ready: int = 0
    desired: int = 0
    queue_known: bool = False
    """Its figures are known and fresh."""
    queue_problem: tuple[str, str] | None = None
    """Why they are not: reason and message."""
    template_problem: tuple[str, str] | None = None
    template_known: bool = False
    """The API server has taken the template."""
    conflict: tuple[str, str] | None = None
    pods_message: str = ""
    """The kubelet's or the scheduler's own words on a pod that does not start."""
    quota_message: str = ""
    draining: tuple[str, ...] = ()
    """The pods that drain, oldest first."""
    overdue: bool = False
    pause: str = "None"
    pinned: bool = False
    stuck: str = ""
    terminating: tuple[str, ...] = ()
    """Pods that should have gone long ago."""
    pruned: tuple[str, ...] = ()
    """Fields of the status that the cluster's definition does not have."""
    can_mark: bool = True


def conditions(
    found: Findings, generation: int, before: Iterable[Condition], now: str
) -> tuple[Condition, ...]:
    """All of them, with the time of their last change kept."""
    known = {each.type: each for each in before}
    rows = []
    for kind in TYPES:
        status, reason, message = _RULES[kind](found)
        old = known.get(kind)
        since = old.last_transition_time if old is not None and old.status == status else now
        rows.append(
            Condition(
                type=kind,
                status=status,
                reason=reason,
                message=clean(message),
                observed_generation=generation,
                last_transition_time=since or now,
            )
        )
    return tuple(rows)


def clean(text: str, limit: int = 1024) -> str:
    """Text of others, fit for a condition: no control characters, and an end."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


Row = tuple[Literal["True", "False", "Unknown"], str, str]


def _ready(found: Findings) -> Row:
    if found.decision is None:
        why_not = found.template_problem or found.conflict
        if why_not is not None:  # there is no Deployment, and there will be none by waiting
            return "False", *why_not
        return "Unknown", "NotDecided", "no decision has been made yet"
    if found.ready >= found.desired:
        return "True", "AsWanted", f"{found.ready} of {found.desired} workers are ready"
    why = found.quota_message or found.pods_message or found.stuck
    reason = "PodsFailing" if why else "Starting"
    if found.quota_message:
        reason = _refusal(found.quota_message)
    text = f"{found.ready} of {found.desired} workers are ready"
    return "False", reason, f"{text}: {why}" if why else text


def _refusal(message: str) -> str:
    """A quota, or somebody else who refuses pods: an admission policy, a missing ServiceAccount."""
    return "QuotaExceeded" if "quota" in message else "PodsRefused"


def _queue(found: Findings) -> Row:
    if found.queue_problem is not None:
        reason, message = found.queue_problem
        return "Unknown" if reason == "NotRead" else "False", reason, message
    if not found.queue_known:
        return "Unknown", "NotRead", "the queue has not been read yet"
    return "True", "Read", "the queue's figures are known and fresh"


def _template(found: Findings) -> Row:
    if found.template_problem is not None:
        return "False", *found.template_problem
    if not found.template_known:
        return "Unknown", "NotApplied", "the template has not been applied yet"
    return "True", "Applied", "the Deployment has the pool's template"


def _scaling(found: Findings) -> Row:
    decision = found.decision
    if decision is None:
        return "Unknown", "NotDecided", "no decision has been made yet"
    if found.steps is not None and found.steps.hold is Hold.REFUSED:
        return "False", found.steps.hold.value, f"{decision.message}: {found.steps.text}"
    fought = found.conflict is not None and found.conflict[0] != "QueueShared"
    off = decision.reason in (Reason.PINNED, Reason.UNKNOWN) or fought
    return "False" if off else "True", decision.reason.value, decision.message


def _limited(found: Findings) -> Row:
    decision = found.decision
    if decision is None:
        return "Unknown", "NotDecided", "no decision has been made yet"
    more = found.quota_message or found.pods_message
    text = decision.message + (f": {more}" if more else "")
    if found.quota_message:
        return "True", _refusal(found.quota_message), text
    if decision.limited_by in _LIMITS:
        return "True", decision.limited_by.value, text
    if decision.limited_by is not LimitedBy.NONE:
        return "False", decision.limited_by.value, decision.message
    return "False", "NotLimited", "the pool has the size that its law asks for"


def _draining(found: Findings) -> Row:
    status, reason, text = _drains(found)
    if not found.terminating:
        return status, reason, text
    names = _some(found.terminating)
    more = f"; {text}" if status == "True" else ""
    return (
        "True",
        "StuckTerminating",
        (f"{names} should have gone: see the finalizers and the node (kubectl describe pod){more}"),
    )


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _drains(found: Findings) -> Row:
    steps = found.steps
    if not found.draining:
        if steps is not None and steps.hold is Hold.NOT_ANSWERING:
            return "False", steps.hold.value, steps.text
        return "False", "NoDrain", "no worker drains"
    text = _some(found.draining)
    why = f"; {steps.text}" if steps is not None and steps.text else ""
    reason = "Overdue" if found.overdue else "InProgress"
    if steps is not None and steps.hold in (Hold.BARRIER, Hold.VICTIMS, Hold.SETTLING):
        reason = steps.hold.value
    return "True", reason, f"{text} drain{'s' if len(found.draining) == 1 else ''}{why}"


def _paused(found: Findings) -> Row:
    if found.pinned:
        return (
            "True",
            "Pinned",
            "spec.replicas is set; to go back: kubectl patch workerpool NAME --type=merge "
            '-p \'{"spec":{"replicas":null}}\'',
        )
    if found.pause != "None":
        return "True", found.pause, f"spec.scaling.pause is {found.pause}"
    return "False", "Automatic", "the size follows the queue"


def _conflict(found: Findings) -> Row:
    if found.conflict is not None:
        return "True", *found.conflict
    if found.pruned:
        return (
            "True",
            "OlderDefinition",
            (
                f"the cluster's definition of a WorkerPool is older than this operator and drops "
                f"{_some(found.pruned)}: apply the chart's crds; scaling goes on"
            ),
        )
    return "False", "None", "nobody else changes the Deployment"


_RULES = {
    "Ready": _ready,
    "QueueReachable": _queue,
    "TemplateValid": _template,
    "ScalingActive": _scaling,
    "ScalingLimited": _limited,
    "Draining": _draining,
    "Paused": _paused,
    "Conflict": _conflict,
}
