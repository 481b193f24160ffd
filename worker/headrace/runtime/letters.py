"""Dead letters, stored so that they fit."""

from __future__ import annotations

import logging

from headrace.blobs import Blob, Blobs
from headrace.broker.port import Broker, BrokerQueue
from headrace.errors import BrokerError, BrokerUnavailable, HeadraceError, SubmitRefused
from headrace.runtime.persist import persist
from headrace.wire import DEAD_TTL, DeadLetter, Undecodable, decode_dead, encode_dead

log = logging.getLogger("headrace.worker")

_HEADERS = 128  # bytes; the time to live
_TRIES = 3  # to store a blob on a server that is there: the letter must not wait for ever
_SHORT = 512  # characters kept of an error's text where the server's limit is very small


class Letters:
    """Writes the dead letters of one queue."""

    def __init__(self, broker: Broker, queue: BrokerQueue) -> None:
        self._broker, self._queue = broker, queue
        self._blobs = Blobs(self._link)

    async def store(self, letter: DeadLetter) -> None:
        """Store it. What says why comes first; where letter and message do not fit together, the
        message is stored as a blob. If that is refused too it is cut, and the letter says so."""
        if not self._fits(letter) and len(letter.raw) < len(letter.remote_traceback):
            letter.remote_traceback = ""
        if not self._fits(letter):
            blob = await self._put_aside(letter.raw)
            if blob is None:
                letter.error += f" (the message of {len(letter.raw):,} bytes was too large to keep)"
            else:
                letter.raw_blob = blob.model_dump(mode="json")
            letter.raw = b""
        if not self._fits(letter):
            letter.remote_traceback = ""
        if not self._fits(letter):
            letter.error = letter.error[:_SHORT]
        body = encode_dead(letter)
        await persist(lambda: self._queue.write_dead(letter.id, body))

    async def _put_aside(self, raw: bytes) -> Blob | None:
        failures = 0

        async def put() -> Blob | None:
            nonlocal failures
            try:
                return await self._blobs.put(raw, DEAD_TTL)
            except (BrokerError, SubmitRefused) as error:  # it is full, or a right is missing
                failures += self._broker.connected
                if isinstance(error, BrokerUnavailable) and failures < _TRIES:
                    raise
                log.warning("the body of a dead letter is not kept: %s", error)
                return None

        return await persist(put)

    async def drop(self, task_id: str) -> None:
        """Take a letter back, and its blob."""
        stored = await persist(lambda: self._queue.read_dead(task_id))
        await persist(lambda: self._queue.remove_dead(task_id))
        try:
            if stored is not None and (blob := decode_dead(stored.body).raw_blob) is not None:
                await self._blobs.delete(blob)
        except (Undecodable, HeadraceError):
            pass  # it goes with its time

    async def _link(self) -> tuple[Broker, BrokerQueue]:
        return self._broker, self._queue

    def _fits(self, letter: DeadLetter) -> bool:
        return len(encode_dead(letter)) <= self._broker.max_payload - _HEADERS
