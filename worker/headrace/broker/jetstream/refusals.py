"""Why a connection was not made: nats-py's and ssl's exceptions, and what we say of them."""

from __future__ import annotations

import ssl

import nats.errors

from headrace.broker.jetstream.credentials import UnreadableFile
from headrace.broker.jetstream.options import redact
from headrace.errors import (
    AccessDenied,
    BrokerError,
    BrokerUnavailable,
    BrokerUntrusted,
    ConfigurationError,
)

_DENIALS = ("authorization", "authentication")  # also "User Authentication Revoked" and "Expired"
_EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 10, 62, 64  # OpenSSL's X509_V_ERR_…
_OURS = "the server refused the client's certificate"


def is_denial(error: BaseException | None) -> bool:
    """Whether the server refused the credentials."""
    text = str(error).lower()
    return isinstance(error, nats.errors.Error) and any(word in text for word in _DENIALS)


def tls_problem(error: BaseException | None) -> str:
    """What is wrong with TLS, in words; "" for another error."""
    if isinstance(error, nats.errors.SecureConnWantedError):
        return "the server offers no TLS, and was told nothing"
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return "the server's certificate has expired"
        if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
            return f"the server's certificate is for another name: {error.verify_message}"
        return f"the server's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = str(error.reason or "").lower().replace("_", " ")
        if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
            return f"{_OURS}: {reason}"
        return f"TLS failed: {reason or type(error).__name__}"
    return ""


def says_why(error: BaseException | None) -> bool:
    """Whether this is a reason, and not the reset of the connection that follows it."""
    return is_denial(error) or bool(tls_problem(error)) or isinstance(error, UnreadableFile)


def words(error: BaseException | None) -> str:
    """Why there is no connection, for a sentence that begins with what could not be done."""
    if is_denial(error):
        return f"the NATS server refuses the credentials ({_denial(error)})"
    if problem := tls_problem(error):
        return problem
    if isinstance(error, UnreadableFile):
        return f"credentials or TLS files cannot be read: {error}"
    return "the NATS server is not reachable"


def _denial(error: BaseException | None) -> str:
    """In our words: what a server says is not repeated, it may be any server."""
    text = str(error).lower()
    return next((word for word in ("revoked", "expired") if word in text), "authorization")


def connect_error(error: BaseException, shown: str) -> BrokerError | ConfigurationError:
    """What the first connection raises; `shown` are the servers without secrets."""
    if isinstance(error, UnreadableFile):
        return ConfigurationError(
            f"credentials or TLS files cannot be read: {error}",
            hint="HEADRACE_NATS_CREDS, _NKEY, _CA, _CERT and _KEY name them",
        )
    if is_denial(error):
        return AccessDenied(
            f"the NATS server at {shown} refused the credentials",
            hint="Check the user, token or credentials file",
        )
    if problem := tls_problem(error):
        return BrokerUntrusted(shown, problem, hint=_tls_hint(error, problem))
    text = redact(str(error)) or type(error).__name__
    return BrokerUnavailable(
        f"no NATS server answers at {shown}: {text}",
        hint="Check the url and that the server runs; for a laptop use embedded:///some/folder",
    )


def _tls_hint(error: BaseException, problem: str) -> str:
    if isinstance(error, nats.errors.SecureConnWantedError):
        return "Give the server a `tls` block, or use nats:// without HEADRACE_NATS_CA and _CERT"
    if "expired" in problem:
        return "Renew it; check the clock of this machine too"
    if "another name" in problem:
        return "Use the name that the certificate has, or make one that has this name"
    if problem.startswith(_OURS):
        return "HEADRACE_NATS_CERT and HEADRACE_NATS_KEY name the client's certificate and key"
    return "HEADRACE_NATS_CA names the file of the authority that signed it"
