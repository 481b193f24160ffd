"""Certificate authorities for tests, by the `openssl` program."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
LOOPBACK = "DNS:localhost,IP:127.0.0.1"


class Certificate(NamedTuple):
    """Paths of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """One that signs what it is asked to; `ca` is its own certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self.ca = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        self._issued = 0
        _openssl(
            "req", "-x509", *_KEY, "-keyout", self._key, "-out", self.ca, "-days", 30,
            "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    def issue(self, name: str, alternatives: str = LOOPBACK, days: int = 30) -> Certificate:
        """A certificate for this name; of -1 days it has expired."""
        self._issued += 1
        stem = self._folder / f"{self._name}-{name}-{self._issued}"
        request, made = (
            stem.with_suffix(".csr"),
            Certificate(Path(f"{stem}.crt"), Path(f"{stem}.key")),
        )
        _openssl(
            "req", *_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}",
            "-addext", f"subjectAltName={alternatives}",
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial",
            "-out", made.cert, "-days", days, "-copy_extensions", "copyall",
        )  # fmt: skip
        return made


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
