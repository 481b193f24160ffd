"""What a server refused, as one connection keeps it in mind."""

from __future__ import annotations

import pytest

from headrace import AccessDenied
from headrace.broker.jetstream.rights import Rights

REFUSED = 'nats: permissions violation for subscription to "headrace.reply.docs.x"'


def test_what_an_earlier_connection_was_refused_fails_nothing_of_the_next() -> None:
    """Credentials that lacked a right and were mended in place: the first question after it was
    refused in the old ones' name."""
    rights = Rights("_INBOX")
    assert rights.take(REFUSED)
    with pytest.raises(AccessDenied):
        rights.check()
    rights.take(REFUSED)
    rights.forget()
    rights.check()
