"""The broker in this process: a small JetStream for the quick start and for unit tests.

Nothing is durable. All brokers of one name in one event loop see the same queues; the last one that
closes drops them.
"""

from headrace.broker.memory.broker import MemoryBroker

__all__ = ["MemoryBroker"]
