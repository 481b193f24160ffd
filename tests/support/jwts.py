"""A NATS operator with one account in operator mode: users with credentials files, and revoking."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nkeys
from nats.aio.client import Client as NatsClient

_NO_LIMIT = -1
_NS = 1_000_000_000


class Key(NamedTuple):
    """An nkey: the seed is the secret."""

    seed: str
    public: str


def make_key(prefix: int) -> Key:
    """A new key of an operator, account or user."""
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return Key(seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode())


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(issuer: Key, subject: str, name: str, claims: Mapping[str, Any]) -> str:
    """A JWT as nats-server reads it."""
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {
        "jti": _encode(os.urandom(16)), "iat": int(time.time()), "iss": issuer.public,
        "name": name, "sub": subject, "nats": {"version": 2, **claims},
    }  # fmt: skip
    text = ".".join(_encode(json.dumps(part).encode()) for part in (head, body))
    signature = nkeys.from_seed(bytearray(issuer.seed.encode())).sign(text.encode())
    return f"{text}.{_encode(signature)}"


class Organization:
    """The operator, its system account and the account `app` with JetStream."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._operator = make_key(nkeys.PREFIX_BYTE_OPERATOR)
        self._system = make_key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account = make_key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._revoked: dict[str, int] = {}

    def configuration(self) -> str:
        """For nats-server: the accounts are kept in a folder and changed by messages."""
        operator = sign(
            self._operator, self._operator.public, "op",
            {"type": "operator", "system_account": self._system.public},
        )  # fmt: skip
        preload = {
            self._system.public: self._account_jwt(self._system, "SYS"),
            self._account.public: self._account_jwt(self._account, "app"),
        }
        rows = "\n".join(f"{public}: {jwt}" for public, jwt in preload.items())
        return (
            f"operator: {operator}\nsystem_account: {self._system.public}\n"
            f'resolver {{ type: full, dir: "{self._folder / "jwt"}" }}\n'
            f"resolver_preload {{\n{rows}\n}}\n"
        )

    def _account_jwt(self, key: Key, name: str) -> str:
        limits = dict.fromkeys(
            ("subs", "data", "payload", "imports", "exports", "conn", "leaf"), _NO_LIMIT
        )
        if name != "SYS":  # the system account may not have JetStream
            limits |= dict.fromkeys(
                ("mem_storage", "disk_storage", "streams", "consumer"), _NO_LIMIT
            )
        claims: dict[str, Any] = {"type": "account", "limits": limits | {"wildcards": True}}
        if self._revoked and name != "SYS":
            claims["revocations"] = self._revoked
        return sign(self._operator, key.public, name, claims)

    def credentials(self, path: Path, permissions: Mapping[str, Any] | None = None) -> str:
        """Write a new user's file in place, whole at every moment; the user's public key."""
        text, public = self._user(self._account, permissions or {})
        new = path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, path)
        return public

    def _user(self, account: Key, permissions: Mapping[str, Any]) -> tuple[str, str]:
        user = make_key(nkeys.PREFIX_BYTE_USER)
        claims: dict[str, Any] = {"type": "user", "subs": -1, "data": -1, "payload": -1}
        for ours, theirs in (("publish", "pub"), ("subscribe", "sub")):
            claims[theirs] = permissions.get(ours, {})
        if responses := permissions.get("allow_responses"):
            seconds = int(responses["expires"].removesuffix("s"))
            claims["resp"] = {"max": responses["max"], "ttl": seconds * _NS}
        jwt = sign(account, user.public, "user", claims)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        ), user.public

    async def revoke(self, url: str, public: str) -> None:
        """Revoke a user: the server hangs up on it, and refuses it from now on."""
        self._revoked[public] = int(time.time()) + 1
        path = self._folder / "system.creds"
        path.write_text(self._user(self._system, {})[0])
        path.chmod(0o600)
        nats = NatsClient()
        await nats.connect(url, user_credentials=str(path))
        try:
            jwt = self._account_jwt(self._account, "app")
            answer = await nats.request("$SYS.REQ.CLAIMS.UPDATE", jwt.encode(), timeout=5)
            assert json.loads(answer.data)["data"]["code"] == 200, answer.data
        finally:
            await nats.close()
