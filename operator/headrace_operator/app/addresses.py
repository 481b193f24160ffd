"""Where a pool's queue is, and with whose rights it may be read.

`spec.nats` is one unit: a pool that names a server brings its credentials, and the operator's own
never go to a server that an author named. A pool without it uses the operator's connection, for
reading only, where the settings allow its namespace and queue.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from headrace_operator.app.pool import Pool
from headrace_operator.app.ports import Cluster, QueueAddress
from headrace_operator.errors import Denied, NotFound, QueueUnreadable
from headrace_operator.settings import Settings

_READ_AGAIN = 30.0  # seconds; a rotated Secret is seen after that


class Addresses:
    """From a pool to its queue's address. Secrets become files that only this process reads."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._folder = Path(tempfile.mkdtemp(prefix="headrace-operator-"))
        self._read: dict[tuple[str, str, str], tuple[float, str]] = {}

    def close(self) -> None:
        """Remove the Secrets' files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def workers_url(self, pool: Pool) -> str:
        """What the pool's workers connect to."""
        assert pool.manifest is not None
        settings = self._settings
        return pool.manifest.spec.nats.url or settings.workers_nats_url or settings.nats_url

    async def of(self, pool: Pool) -> QueueAddress:
        """The address. Raises `QueueUnreadable` where the pool may not have it."""
        assert pool.manifest is not None
        spec, settings = pool.manifest.spec, self._settings
        namespace = pool.key[0]
        if spec.nats.url is None:
            if not settings.may_use_default(namespace, spec.queue):
                raise QueueUnreadable(
                    "NotAllowed",
                    f"namespace {namespace} may not use queue {spec.queue} of the operator's "
                    "server: name spec.nats.url, or ask for an entry in defaultNats.namespaces",
                )
            return QueueAddress(
                settings.nats_url,
                spec.queue,
                settings.nats_creds,
                settings.nats_ca,
                settings.nats_cert,
                settings.nats_key,
            )
        for server in spec.nats.url.split(","):
            host = urlsplit(server.strip()).hostname or ""
            if not settings.may_use_host(host):
                raise QueueUnreadable(
                    "HostNotAllowed", f"{host} is not among the operator's allowedNatsHosts"
                )
        credentials, ca = spec.nats.credentials_secret_ref, spec.nats.tls_secret_ref
        own = spec.nats.client_certificate_secret_ref
        return QueueAddress(
            spec.nats.url,
            spec.queue,
            await self._file(namespace, credentials.name, credentials.key or "user.creds")
            if credentials
            else "",
            await self._file(namespace, ca.name, ca.key or "ca.crt") if ca else "",
            await self._file(namespace, own.name, "tls.crt") if own else "",
            await self._file(namespace, own.name, "tls.key") if own else "",
        )

    async def _file(self, namespace: str, name: str, key: str) -> str:
        """The path of a Secret's value; the same one after a rotation, which nats-py reads at its
        next reconnect."""
        place = (namespace, name, key)
        known = self._read.get(place)
        if known is not None and time.monotonic() - known[0] < _READ_AGAIN:
            return known[1]
        if not self._settings.read_secrets:
            raise QueueUnreadable(
                "SecretsOff", f"Secret {name} is named, and this operator may not read Secrets"
            )
        try:
            value = await self._cluster.secret(namespace, name, key)
        except (NotFound, Denied) as error:
            raise QueueUnreadable("SecretMissing", f"Secret {name}: {error}") from error
        digest = hashlib.sha256("/".join(place).encode()).hexdigest()[:24]
        path = self._folder / digest
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(value)
        os.replace(new, path)
        self._read[place] = time.monotonic(), str(path)
        return str(path)
