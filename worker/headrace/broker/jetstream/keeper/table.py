"""The table of held deliveries, in memory that the worker writes and the keeper reads.

A header and slots of fixed size. Holding and releasing are plain writes: no lock, no system call.
A slot's generation goes up when it is filled, so that a reader who saw two generations around a
copy throws the copy away. Times are aligned doubles, each written by one store of the processor.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

HEADER = 64
SLOT = 512
LONGEST_SUBJECT = SLOT - 32
"""Bytes. The longest ack subject there can be, with names of 63 characters, has under 350."""

# Header, as doubles and 32-bit numbers: beat, how many slots were ever used, ready.
_BEAT, _USED, _READY = 0, 2, 3
# Slot, counted from its start in the same units: state, generation, length, sure, answered.
_STATE, _GENERATION, _LENGTH = 0, 1, 2
_SURE, _ANSWERED = 2, 3
_SUBJECT = 32  # bytes


class Held(NamedTuple):
    """A slot that is held."""

    slot: int
    generation: int
    ack_subject: bytes
    extended_at: float
    """When the signal was sent that the server answered last; 0 if it has answered none."""


class Table:
    """The shared memory, seen from either side. Times are monotonic seconds, which on one machine
    are the same in every process."""

    def __init__(self, descriptor: int, slots: int) -> None:
        self.slots = slots
        self._memory = mmap.mmap(descriptor, size_of(slots))
        self._numbers = memoryview(self._memory).cast("I")
        self._times = memoryview(self._memory).cast("d")

    # --- header ---

    @property
    def beaten_at(self) -> float:
        """When the worker's loop last turned."""
        return self._times[_BEAT]

    @beaten_at.setter
    def beaten_at(self, now: float) -> None:
        self._times[_BEAT] = now

    @property
    def ready(self) -> bool:
        """Whether the worker takes tasks."""
        return self._numbers[_READY] == 1

    @ready.setter
    def ready(self, value: bool) -> None:
        self._numbers[_READY] = int(value)

    # --- slots ---

    def fill(self, index: int, ack_subject: bytes, received_at: float) -> None:
        """Hold the delivery with this ack subject."""
        start = HEADER + index * SLOT
        number, time = start // 4, start // 8
        self._numbers[number + _STATE] = 0
        self._numbers[number + _GENERATION] = (self._numbers[number + _GENERATION] + 1) % 2**32
        self._numbers[number + _LENGTH] = len(ack_subject)
        self._times[time + _SURE] = received_at
        self._times[time + _ANSWERED] = 0.0
        self._memory[start + _SUBJECT : start + _SUBJECT + len(ack_subject)] = ack_subject
        self._numbers[number + _STATE] = 1  # last: what a reader finds held is whole
        if index >= self._numbers[_USED]:
            self._numbers[_USED] = index + 1

    def empty(self, index: int) -> None:
        """Hold it no more."""
        self._numbers[(HEADER + index * SLOT) // 4] = 0

    def sure_from(self, index: int) -> float:
        """When the lease of a held slot was last extended for certain."""
        return self._times[(HEADER + index * SLOT) // 8 + _SURE]

    def held(self) -> list[Held]:
        """Every slot that is held."""
        found = []
        for index in range(self._numbers[_USED]):
            start = HEADER + index * SLOT
            number = start // 4
            if self._numbers[number + _STATE] != 1:
                continue
            generation = self._numbers[number + _GENERATION]
            end = start + _SUBJECT + self._numbers[number + _LENGTH]
            subject = self._memory[start + _SUBJECT : end]
            extended_at = self._times[start // 8 + _ANSWERED]
            if self._is_held(index, generation):
                found.append(Held(index, generation, subject, extended_at))
        return found

    def answered(
        self, index: int, generation: int, sent_at: float, now: float, ack_wait: float
    ) -> None:
        """The server has answered, `now`, the signal that was sent at `sent_at`.

        That proves the extension only if the lease cannot have lapsed before the signal was read,
        some time before now: a lapsed one may be somebody else's, and is never made sure again.
        """
        if index >= self.slots or not self._is_held(index, generation):
            return
        time = (HEADER + index * SLOT) // 8
        self._times[time + _ANSWERED] = max(sent_at, self._times[time + _ANSWERED])
        sure_from = self._times[time + _SURE]
        if sent_at > sure_from and now - sure_from < ack_wait:
            self._times[time + _SURE] = sent_at

    def _is_held(self, index: int, generation: int) -> bool:
        number = (HEADER + index * SLOT) // 4
        return (
            self._numbers[number + _STATE] == 1
            and self._numbers[number + _GENERATION] == generation
        )


def size_of(slots: int) -> int:
    """Bytes of a table."""
    return HEADER + slots * SLOT
