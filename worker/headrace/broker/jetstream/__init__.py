"""The broker on NATS JetStream: the only package of the SDK that imports nats."""

from headrace.broker.jetstream.broker import JetStreamBroker

__all__ = ["JetStreamBroker"]
