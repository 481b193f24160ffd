"""From a url to a broker."""

from __future__ import annotations

import importlib
import os
from urllib.parse import unquote, urlsplit

from headrace.broker.port import Broker
from headrace.errors import ConfigurationError

DEFAULT_URL = "memory://"


def broker_url(url: str | None) -> str:
    """The url in force: the one given, else HEADRACE_URL, else `memory://`."""
    return url or os.environ.get("HEADRACE_URL") or DEFAULT_URL


def make_broker(url: str | None, name: str = "headrace") -> Broker:
    """The broker for a url, not connected yet. Raises `ConfigurationError`.

    memory://                  in this process, nothing durable
    embedded:///path/folder    a nats-server that Headrace starts, durable in that folder
    nats://host:4222           your NATS; several urls with commas between them; tls:// too
    """
    url = broker_url(url)
    scheme = url.partition("://")[0]
    if scheme in ("nats", "tls"):
        from headrace.broker.jetstream import JetStreamBroker

        return JetStreamBroker(url, name)
    if scheme == "memory":
        from headrace.broker.memory import MemoryBroker

        return MemoryBroker(urlsplit(url).netloc)
    if scheme == "embedded":
        from headrace.broker.embedded import EmbeddedBroker

        return EmbeddedBroker(unquote(url.partition("://")[2]), name)
    from headrace.broker.jetstream.options import redact

    raise ConfigurationError(
        f"{redact(url)!r} is not the url of a broker",
        hint="Use memory://, embedded:///a/folder, nats://host:4222 or tls://host:4222",
    )


def preload(url: str) -> None:
    """Import now what a broker of this url imports at its first use.

    A process that forks while another of its threads imports leaves its child with a module's lock
    that nobody will ever release.
    """
    importlib.import_module("encodings.idna")  # of the name's look-up
    if url.startswith("embedded:"):
        importlib.import_module("headrace.broker.embedded.broker")
    else:
        importlib.import_module("headrace.broker.jetstream.broker")


async def open_broker(url: str | None, name: str = "headrace") -> Broker:
    """A connected broker for a url. Raises `ConfigurationError` and `BrokerError`."""
    broker = make_broker(url, name)
    await broker.connect()
    return broker
