"""What is remembered from one look to the next: a pure fold over snapshots and decisions.

Three things: since when the data has been complete without a break, what the law asked for lately,
and how the size moved lately. An empty history knows none of it, so whoever restarts begins in
hold: a pool shrinks only after a whole window of complete data (knative/serving#2705).
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.scaling.policy import MAX_SPAN
from headrace.scaling.values import Decision, Reason


@dataclass(frozen=True, slots=True)
class Mark:
    """A number of workers at a time of the snapshots' clock."""

    at: float
    workers: int


@dataclass(frozen=True, slots=True)
class History:
    """What `decide` remembers; `History()` at the start. Make the next one with `observe`."""

    seen: float | None = None
    """Time of the last snapshot."""
    complete_since: float | None = None
    """Since when every look was complete; None: the last one was not."""
    wishes: tuple[Mark, ...] = ()
    """Sizes that were wanted, oldest first: only those that no later and larger one covers, so
    that there are never more than sizes."""
    moves: tuple[Mark, ...] = ()
    """Changes of the size by automatic decisions, oldest first; negative for fewer."""

    def complete_from(self, now: float, max_age: float) -> float:
        """Since when the data is complete without a break, given that it is so at `now`.

        Looks further apart than `max_age` seconds do not join up: nobody knows what was between.
        """
        if self.complete_since is None or self.seen is None:
            return now
        return self.complete_since if 0 <= now - self.seen <= max_age else now

    def highest_wish(self, after: float) -> int:
        """The largest size wanted since `after` (not included), 0 if none."""
        return max((mark.workers for mark in self.wishes if mark.at > after), default=0)

    def last_wish_of(self, workers: int) -> float | None:
        """When at least this many workers were last wanted."""
        return max((mark.at for mark in self.wishes if mark.workers >= workers), default=None)

    def moved(self, after: float, *, up: bool) -> tuple[Mark, ...]:
        """The changes in one direction since `after` (not included)."""
        return tuple(mark for mark in self.moves if mark.at > after and (mark.workers > 0) is up)


def observe(history: History, decision: Decision) -> History:
    """The history after `decision`, which was made with it.

    The decision carries what matters of its snapshot. Observe every decision that was made, in
    order, also those that changed nothing. A change is remembered as made: if it could not be
    carried out, the step limit (where there is one) delays the next attempt by up to one period.
    """
    inputs = decision.inputs
    horizon = inputs.now - MAX_SPAN
    wishes = tuple(
        mark for mark in history.wishes if mark.at > horizon and mark.workers > inputs.wanted
    )
    moves = tuple(mark for mark in history.moves if mark.at > horizon)
    # A change by hand is not a step of ours: the next automatic one need not wait for it.
    if decision.changes and decision.reason is not Reason.PINNED:
        moves += (Mark(inputs.now, decision.desired - inputs.target),)
    return History(
        seen=inputs.now,
        complete_since=inputs.complete_since,
        wishes=(*wishes, Mark(inputs.now, inputs.wanted)),
        moves=moves,
    )
