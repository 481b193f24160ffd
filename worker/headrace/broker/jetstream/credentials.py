"""Who we are towards a NATS server: read anew from the files at every connection.

nats-py reads a credentials file again too, but never comes back from one that is empty or half
written (which a rotation can show for a moment), and computes the public key of an nkey once.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.errors import ConfigurationError

_BLOCK = re.compile(
    r"-+BEGIN (?P<what>NATS USER JWT|USER NKEY SEED)-+\s+(?P<text>\S+)\s+-+END (?P=what)-+"
)


class UnreadableFile(OSError):
    """A file with credentials or certificates that is not there or is none. It names the file."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What is said in CONNECT. Of the fields only those of one kind are set."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    jwt: str | None = field(default=None, repr=False)
    seed: str | None = field(default=None, repr=False)

    def sign(self, nonce: str) -> bytes:
        """The signature of the server's nonce by the seed, in base64."""
        pair = self._pair()
        try:
            return base64.b64encode(pair.sign(nonce.encode()))
        finally:
            pair.wipe()

    @property
    def public_key(self) -> str:
        """Of the seed."""
        pair = self._pair()
        try:
            return str(pair.public_key.decode())
        finally:
            pair.wipe()

    def _pair(self) -> Any:
        try:
            import nkeys  # compiled code that a connection with a password does without
        except ImportError:
            raise ConfigurationError(
                "credentials files and nkeys need the package nkeys",
                hint='pip install "headrace[secure]"',
            ) from None
        assert self.seed is not None
        return nkeys.from_seed(bytearray(self.seed.encode()))


def from_creds(path: str) -> Identity:
    """The identity in a credentials file (JWT and seed). Raises `UnreadableFile`."""
    found = {match["what"]: match["text"] for match in _BLOCK.finditer(read(path))}
    try:
        made = Identity(jwt=found["NATS USER JWT"], seed=found["USER NKEY SEED"])
    except KeyError as missing:
        raise UnreadableFile(f"{path} is no credentials file: it has no {missing}") from None
    return _checked(made, path)


def from_nkey(path: str) -> Identity:
    """The identity in a file with an nkey's seed. Raises `UnreadableFile`."""
    return _checked(Identity(seed=read(path).strip()), path)


def _checked(identity: Identity, path: str) -> Identity:
    try:
        identity.public_key  # noqa: B018  # asked for its error
    except ConfigurationError:
        raise
    except Exception:  # nkeys has several, and its own words might hold the seed
        raise UnreadableFile(f"{path} holds no valid nkey seed") from None
    return identity


def read(path: str) -> str:
    """The file's text. Raises `UnreadableFile`."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror or 'cannot be read'}") from None
    except UnicodeDecodeError:
        raise UnreadableFile(f"{path} is not text") from None
