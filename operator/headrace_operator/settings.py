"""What the operator is told by its environment, as HEADRACE_OPERATOR_<NAME>."""

from __future__ import annotations

import fnmatch
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """All of it; the chart sets it from its values."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_OPERATOR_", frozen=True)

    namespace: str = "default"
    """Its own namespace: the Lease is there."""
    identity: str = "headrace-operator"
    """Its pod's name: who holds the Lease."""
    watch_namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """The namespaces whose pools it serves; none: all."""
    nats_url: str = Field(default="", repr=False)
    """The server of pools that name none."""
    nats_creds: str = ""
    """Path of the operator's own credentials file; never given to a pool or its workers."""
    nats_ca: str = ""
    """Path of the certificate authority."""
    nats_cert: str = ""
    """Path of the operator's own client certificate."""
    nats_key: str = ""
    """Path of its key."""
    workers_nats_url: str = Field(default="", repr=False)
    """What workers of pools that name no server connect to; empty: `nats_url`."""
    default_nats_namespaces: Annotated[tuple[tuple[str, str], ...], NoDecode] = ()
    """Namespace and queue patterns, `namespace=queues`: who may use the default server."""
    allowed_nats_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host patterns that a pool may name; none: any."""
    max_workers_per_pool: int = Field(default=1000, ge=1)
    read_secrets: bool = True
    """Whether it may read the Secrets that pools name."""
    metrics_port: int = 9090
    probe_port: int = 8081
    lease_name: str = "headrace-operator"
    lease_seconds: float = Field(default=15.0, ge=1)
    log_format: Literal["json", "text"] = "json"

    @field_validator("watch_namespaces", "allowed_nats_hosts", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return _split(value) if isinstance(value, str) else value

    @field_validator("default_nats_namespaces", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = []
        for entry in _split(value):
            namespace, equals, queues = entry.partition("=")
            if not (namespace and equals and queues):
                raise ValueError(f"{entry!r} is not namespace=queues, such as team-a=team-a-*")
            pairs.append((namespace, queues))
        return tuple(pairs)

    def may_use_default(self, namespace: str, queue: str) -> bool:
        """Whether a pool of this namespace may have this queue of the default server."""
        return any(
            fnmatch.fnmatchcase(namespace, names) and fnmatch.fnmatchcase(queue, queues)
            for names, queues in self.default_nats_namespaces
        )

    def may_use_host(self, host: str) -> bool:
        """Whether a pool may name a server on this host."""
        allowed = self.allowed_nats_hosts
        return not allowed or any(fnmatch.fnmatchcase(host, each) for each in allowed)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
