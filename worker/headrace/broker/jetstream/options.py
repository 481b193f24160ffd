"""How to reach a NATS server: parsed from a url and from HEADRACE_NATS_* variables."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from headrace.broker.jetstream import credentials
from headrace.broker.jetstream.credentials import Identity, UnreadableFile
from headrace.errors import ConfigurationError

INBOX = "_INBOX"


@dataclass(frozen=True, slots=True, repr=False)
class ConnectOptions:
    """Servers and credentials. Never shown: `repr` and `str` leave the secrets out.

    What is a path here is read again at every connection, so that a file may be replaced in place.
    """

    servers: tuple[str, ...]
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    """Path of a credentials file (JWT and seed)."""
    nkey_seed: str | None = None
    """Path of a file with an nkey seed."""
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    password_file: str | None = None
    token_file: str | None = None
    inbox: str = INBOX
    """Prefix of the subjects on which answers are received."""

    @classmethod
    def from_url(cls, url: str, env: Mapping[str, str] | None = None) -> ConnectOptions:
        """Options for `nats://` or `tls://` urls, several with commas between them.

        Credentials come from the url's user part or from `env`, by default the process's; all
        variables are in docs/reference/environment.md. Raises `ConfigurationError`.
        """
        servers: list[str] = []
        user = password = token = None
        for part in url.split(","):
            pieces, port = _split(part.strip())
            if pieces.password is not None:
                user, password = unquote(pieces.username or ""), unquote(pieces.password)
            elif pieces.username:
                token = unquote(pieces.username)
            host = f"[{pieces.hostname}]" if ":" in pieces.hostname else pieces.hostname
            servers.append(f"{pieces.scheme}://{host}:{port}")
        env = os.environ if env is None else env
        return cls._from_environment(tuple(servers), env, user, password, token)

    @classmethod
    def _from_environment(
        cls,
        servers: tuple[str, ...],
        env: Mapping[str, str],
        user: str | None,
        password: str | None,
        token: str | None,
    ) -> ConnectOptions:
        inbox = check_inbox(env.get("HEADRACE_NATS_INBOX") or INBOX)
        made = cls(
            servers,
            user or env.get("HEADRACE_NATS_USER"),
            password or env.get("HEADRACE_NATS_PASSWORD"),
            token or env.get("HEADRACE_NATS_TOKEN"),
            env.get("HEADRACE_NATS_CREDS") or None,
            env.get("HEADRACE_NATS_NKEY") or None,
            env.get("HEADRACE_NATS_CA") or None,
            env.get("HEADRACE_NATS_CERT") or None,
            env.get("HEADRACE_NATS_KEY") or None,
            # what the url says goes before every variable
            None if password else env.get("HEADRACE_NATS_PASSWORD_FILE") or None,
            None if token else env.get("HEADRACE_NATS_TOKEN_FILE") or None,
            inbox,
        )
        if bool(made.tls_key) > bool(made.tls_cert):
            raise ConfigurationError("HEADRACE_NATS_KEY is given without HEADRACE_NATS_CERT")
        return made

    def to_json(self) -> dict[str, Any]:
        """All of it, secrets included, for the lease keeper's private pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> ConnectOptions:
        """What `to_json` gave."""
        return cls(**(raw | {"servers": tuple(raw["servers"])}))

    def identity(self) -> Identity | None:
        """Who to be, as the files say now; None: nobody. Raises `UnreadableFile`."""
        if self.creds:
            return credentials.from_creds(self.creds)
        if self.nkey_seed:
            return credentials.from_nkey(self.nkey_seed)
        if self.user is not None:
            password = self.password or ""
            if self.password_file:
                password = credentials.read(self.password_file).rstrip("\r\n")
            return Identity(user=self.user, password=password)
        if self.token_file:
            return Identity(token=credentials.read(self.token_file).strip())
        return Identity(token=self.token) if self.token is not None else None

    @property
    def wants_tls(self) -> bool:
        """Whether a server that offers no TLS is refused: nothing is said to it in the clear."""
        return bool(self.tls_ca or self.tls_cert) or any(s.startswith("tls:") for s in self.servers)

    def tls(self) -> ssl.SSLContext:
        """The context for the next connection, as the files say now. Raises `UnreadableFile`."""
        for path in (self.tls_ca, self.tls_cert, self.tls_key):
            if path:
                credentials.read(path)  # ssl names no file in its errors
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
        except ssl.SSLError as error:
            raise UnreadableFile(f"{self.tls_ca} holds no certificate: {error.reason}") from None
        if self.tls_cert:
            try:
                # An empty password: a key that needs one must not ask for it on the terminal.
                context.load_cert_chain(self.tls_cert, self.tls_key, password="")
            except ssl.SSLError as error:
                files = f"{self.tls_cert} and {self.tls_key or 'the key in it'}"
                raise UnreadableFile(
                    f"{files} are no certificate and its key: {error.reason}"
                ) from None
        return context

    def __repr__(self) -> str:
        return f"ConnectOptions({', '.join(self.servers)})"


def check_inbox(prefix: str) -> str:
    """The prefix, if a subject may begin with it. Raises `ConfigurationError`."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", prefix):
        raise ConfigurationError(
            f"the inbox {prefix!r} is not the beginning of a subject",
            hint="HEADRACE_NATS_INBOX looks like _INBOX_docs",
        )
    return prefix


def _split(part: str) -> tuple[Any, int]:
    """The pieces of one url and its port. Its errors show no more than the scheme: where a url
    cannot be read, nobody can tell which part of it is a password."""
    shown = f"{part.partition('://')[0]}://…" if "://" in part else "…"
    try:
        pieces = urlsplit(part)
        port = pieces.port or 4222
    except ValueError:
        raise ConfigurationError(
            f"{shown} is not a url that can be read",
            hint="nats://host:4222; in a user or password write / as %2F, @ as %40, a comma as %2C",
        ) from None
    if pieces.scheme not in ("nats", "tls") or not pieces.hostname:
        raise ConfigurationError(
            f"{shown} is not a url of a NATS server",
            hint="It looks like nats://host:4222 or tls://host:4222",
        )
    return pieces, port


def redact(text: str) -> str:
    """A url, or a text with urls in it, without user, password and token: for logs and errors."""
    if "://" in text:
        return re.sub(r"(?<=://)(?:(?!,\w+://)[^\s'\"])*@", "…@", text)
    return re.sub(r"^\S*@", "…@", text)
