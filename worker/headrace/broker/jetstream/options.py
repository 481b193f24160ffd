"""How to reach a NATS server: parsed from a url and from HEADRACE_NATS_* variables."""

from __future__ import annotations

import os
import ssl
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from headrace.errors import ConfigurationError


@dataclass(frozen=True, slots=True, repr=False)
class ConnectOptions:
    """Servers and credentials. Never shown: `repr` and `str` leave the secrets out."""

    servers: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    """Path of a credentials file (JWT and seed); read again at each reconnect."""
    nkey_seed: str | None = None
    """Path of a file with an nkey seed."""
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    @classmethod
    def from_url(cls, url: str) -> ConnectOptions:
        """Options for `nats://` or `tls://` urls, several with commas between them.

        Credentials come from the url's user part or from the environment:
        HEADRACE_NATS_CREDS, HEADRACE_NATS_NKEY, HEADRACE_NATS_USER, HEADRACE_NATS_PASSWORD,
        HEADRACE_NATS_TOKEN, HEADRACE_NATS_CA, HEADRACE_NATS_CERT, HEADRACE_NATS_KEY.
        Raises `ConfigurationError`.
        """
        servers: list[str] = []
        user = password = token = None
        for part in url.split(","):
            try:
                pieces = urlsplit(part.strip())
                port = pieces.port or 4222
            except ValueError as error:
                raise ConfigurationError(f"{redact(part)!r} is not a url: {error}") from None
            if pieces.scheme not in ("nats", "tls") or not pieces.hostname:
                raise ConfigurationError(
                    f"{redact(part)!r} is not a url of a NATS server",
                    hint="It looks like nats://host:4222 or tls://host:4222",
                )
            if pieces.password is not None:
                user, password = unquote(pieces.username or ""), unquote(pieces.password)
            elif pieces.username:
                token = unquote(pieces.username)
            host = f"[{pieces.hostname}]" if ":" in pieces.hostname else pieces.hostname
            servers.append(f"{pieces.scheme}://{host}:{port}")
        env = os.environ.get
        return cls(
            tuple(servers),
            user or env("HEADRACE_NATS_USER"),
            password or env("HEADRACE_NATS_PASSWORD"),
            token or env("HEADRACE_NATS_TOKEN"),
            env("HEADRACE_NATS_CREDS"),
            env("HEADRACE_NATS_NKEY"),
            env("HEADRACE_NATS_CA"),
            env("HEADRACE_NATS_CERT"),
            env("HEADRACE_NATS_KEY"),
        )

    def to_json(self) -> dict[str, Any]:
        """All of it, secrets included, for the lease keeper's private pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ConnectOptions:
        """What `to_json` gave."""
        return cls(**(raw | {"servers": tuple(raw["servers"])}))

    def for_nats(self) -> dict[str, Any]:
        """Arguments of `nats.aio.client.Client.connect`."""
        options: dict[str, Any] = {"servers": list(self.servers)}
        if self.creds:
            options["user_credentials"] = self.creds
        elif self.nkey_seed:
            options["nkeys_seed"] = self.nkey_seed
        elif self.user is not None:
            options["user"], options["password"] = self.user, self.password or ""
        elif self.token is not None:
            options["token"] = self.token
        if self.tls_ca or self.tls_cert or any(s.startswith("tls:") for s in self.servers):
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key)
            options["tls"] = context
        return options

    def __repr__(self) -> str:
        return f"ConnectOptions({', '.join(self.servers)})"


def redact(url: str) -> str:
    """The url without user, password and token, for logs and errors."""
    shown = []
    for part in url.split(","):
        try:
            pieces = urlsplit(part.strip())
        except ValueError:
            shown.append("…")
            continue
        host = pieces.netloc.rpartition("@")[2]
        netloc = f"…@{host}" if "@" in pieces.netloc else host
        shown.append(urlunsplit((pieces.scheme, netloc, pieces.path, "", "")))
    return ",".join(shown)
