"""The broker of `embedded:///folder`: a nats-server that Headrace starts, shared by all processes
that name the folder, and stopped when the last of them has gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.broker.embedded.broker import EmbeddedBroker

__all__ = ["EmbeddedBroker"]


def __getattr__(name: str) -> Any:
    # At its first use: the supervisor is in this package too, and starts without nats-py.
    if name != "EmbeddedBroker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from headrace.broker.embedded.broker import EmbeddedBroker

    return EmbeddedBroker
