"""However what the server says is cut into reads, the parser hands on what nats-py's would."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from headrace.broker.jetstream.parser import DirectParser

DIRECT, PLAIN = 7, 12


class Heard:
    """What a client is told by its parser."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def direct(self, subject: str, reply: str, body: bytes, headers: bytes) -> None:
        self.said.append((DIRECT, subject, reply, body, headers))

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        self.said.append((sid, subject.decode(), reply.decode(), data, headers or b""))

    async def _process_ping(self) -> None:
        self.said.append(("ping",))

    async def _process_pong(self) -> None:
        self.said.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.said.append(("err", text))


def message(sid: int, reply: str, body: bytes, headers: bytes) -> bytes:
    words = [f"a.{sid}", str(sid), *([reply] if reply else [])]
    if headers:
        words += [str(len(headers)), str(len(headers) + len(body))]
    else:
        words.append(str(len(body)))
    kind = "HMSG" if headers else "MSG"
    return f"{kind} {' '.join(words)}\r\n".encode() + headers + body + b"\r\n"


BODIES = st.binary(max_size=30) | st.sampled_from([b"\r\n", b"MSG a 7 2\r\nhi\r\n", b"x" * 70_000])
MESSAGES = st.builds(
    message,
    st.sampled_from([DIRECT, PLAIN]),
    st.sampled_from(["", "_INBOX.1.n.0", "$JS.ACK.s.c.1.2.3.4.5"]),
    BODIES,
    st.sampled_from(
        [b"", b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n", b"NATS/1.0 404 No Messages\r\n\r\n"]
    ),
)
SAID = st.lists(
    MESSAGES | st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'no'\r\n"]),
    max_size=8,
)


def heard_by(kind: type[Parser], reads: list[bytes]) -> tuple[list[tuple[object, ...]], bytes]:
    heard = Heard()
    parser = kind(heard)
    if isinstance(parser, DirectParser):
        parser.direct[b"%d" % DIRECT] = heard.direct

    async def run() -> None:
        for read in reads:
            await parser.parse(read)

    asyncio.run(run())
    return heard.said, bytes(parser.buf)


@settings(max_examples=150, deadline=None)
@given(SAID, st.lists(st.integers(0, 1000), max_size=12))
def test_any_cut_gives_the_same(said: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(said)
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    reads = [stream[a:b] for a, b in pairwise(edges)]
    found, left = heard_by(DirectParser, reads)
    assert found == heard_by(Parser, [stream])[0]
    assert left == b""


def test_byte_by_byte() -> None:
    stream = b"".join(
        [message(DIRECT, "r", b"one", b""), b"PING\r\n", message(PLAIN, "", b"", b""),
         message(DIRECT, "", b"two", b"NATS/1.0\r\n\r\n")]
    )  # fmt: skip
    found, left = heard_by(DirectParser, [bytes([byte]) for byte in stream])
    assert found == heard_by(Parser, [stream])[0]
    assert left == b""


@pytest.mark.parametrize("line", [b"MSG a 7\r\n", b"MSG a 7 x\r\n", b"HMSG a 7 x 3\r\nabc\r\n"])
def test_a_broken_line_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        heard_by(DirectParser, [line + b"PING\r\n"])


def test_a_fault_of_a_callback_ends_nothing() -> None:
    heard = Heard()
    parser = DirectParser(heard)
    parser.direct[b"7"] = lambda *_: 1 / 0
    asyncio.run(parser.parse(message(DIRECT, "", b"x", b"") + b"PING\r\n"))
    assert heard.said == [("ping",)]


def test_what_is_left_of_an_old_connection_does_not_reach_the_new_one() -> None:
    heard = Heard()
    parser = DirectParser(heard)

    async def lost(_: str) -> None:
        parser.reset()

    heard._process_err = lost  # type: ignore[method-assign]
    asyncio.run(parser.parse(b"-ERR 'stale'\r\nMSG a 7 5\r\nab"))
    assert parser.buf == b""
