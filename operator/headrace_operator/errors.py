"""What can go wrong between the operator and the world."""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all of them; its text is fit for a condition."""


class Unreachable(OperatorError):
    """The API server or NATS does not answer. Try again; change nothing meanwhile."""


class Conflict(OperatorError):
    """The object has changed meanwhile: look again."""


class Denied(OperatorError):
    """A right is missing."""


class Refused(OperatorError):
    """The API server does not take the object: the text says why."""


class NotFound(OperatorError):
    """The object is not there."""


class QueueUnreadable(OperatorError):
    """The queue's figures could not be read; `reason` is the condition's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
