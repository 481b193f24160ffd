"""What is remembered of a pool from one look to the next; a restart begins without it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import InvalidManifest
from headrace.manifest import WorkerPoolManifest, parse
from headrace.scaling import Decision, History, Tally
from headrace_operator.api.v1alpha1 import PoolStatus
from headrace_operator.app.ports import Key

QUIET_AFTER_UNMARK = 5.0
"""Seconds without new marks after one was taken back."""


@dataclass(slots=True)
class Pool:
    """One WorkerPool."""

    key: Key
    uid: str
    generation: int
    manifest: WorkerPoolManifest | None
    problem: str
    """Why the manifest cannot be used."""
    status: PoolStatus
    """As it was last read or written."""
    history: History = field(default_factory=History)
    tally: Tally = field(default_factory=Tally)
    target: int | None = None
    """The size last decided and carried out; None before the first look."""
    decision: Decision | None = None
    drains: dict[str, float] = field(default_factory=dict)
    """Since when each pod has been draining, monotonic."""
    unmarked_at: float = field(default_factory=time.monotonic)
    """When a mark was last taken back. Before a start of ours that may have been just now."""
    shape: tuple[tuple[int, str], dict[str, Any]] | None = None
    """The Deployment to apply, with the generation and the url that it was made for."""
    applied: tuple[str, int] = ("", 0)
    """Hash and generation of the Deployment after the last apply."""
    conflicts: tuple[str, ...] = ()
    conflicts_at: float = -1e9
    running: dict[str, int] = field(default_factory=dict)
    """Tasks that ran in each pod at the last look, by its uid."""
    leaving: bool = False
    """Pods were ending at the last look."""
    gone: set[str] = field(default_factory=set)
    """Uids of pods that were seen to end."""
    lowered_at: float = -1e9
    written_at: float = -1e9
    said: dict[str, str] = field(default_factory=dict)
    """What the last Event of each kind was about."""
    change_time: str | None = None
    epoch: int = -1
    """Of the reign that what is remembered is from."""
    latest: PoolStatus | None = None
    """The status as the watch last showed it, whoever wrote it."""
    pruned: tuple[str, ...] = ()
    """Fields of its status that the cluster's definition dropped at the last write."""

    @property
    def quiet(self) -> bool:
        """Whether marks may be made."""
        return time.monotonic() - self.unmarked_at >= QUIET_AFTER_UNMARK

    def begin(self, epoch: int) -> None:
        """Lead again: what is remembered of an earlier reign is older than what another replica
        has made of the pool since. As after a start, the size that is there is the first."""
        self.epoch, self.status = epoch, self.latest or self.status
        self.change_time = self.status.decision.change_time
        self.history, self.tally, self.target, self.decision = History(), Tally(), None, None
        self.drains, self.running, self.gone = {}, {}, set()
        self.lowered_at, self.unmarked_at = -1e9, time.monotonic()

    def renew(self, body: Mapping[str, Any]) -> bool:
        """Take a newer body; whether the spec is another one."""
        changed = bool(body["metadata"].get("generation", 0) != self.generation)
        fresh = read(body)
        self.latest = fresh.status
        self.generation, self.manifest, self.problem = (
            fresh.generation,
            fresh.manifest,
            fresh.problem,
        )
        return changed


def read(body: Mapping[str, Any]) -> Pool:
    """A pool from the object that the API server gave."""
    meta = body["metadata"]
    key = (meta["namespace"], meta["name"])
    manifest: WorkerPoolManifest | None = None
    problem = ""
    try:
        manifest = parse(
            {
                "apiVersion": body.get("apiVersion"),
                "kind": body.get("kind"),
                "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
                "spec": body.get("spec") or {},
            },
            "WorkerPool",
        )
    except InvalidManifest as error:
        problem = str(error)
    try:
        status = PoolStatus.model_validate(body.get("status") or {})
    except ValueError:
        status = PoolStatus()  # written by something else: begin anew
    pool = Pool(key, meta["uid"], meta.get("generation", 0), manifest, problem, status)
    pool.change_time = status.decision.change_time
    return pool
