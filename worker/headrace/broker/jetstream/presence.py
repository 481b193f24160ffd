"""Workers as NATS micro services, so that `nats service ls` shows them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import nats.errors
import nats.micro
from nats.aio.msg import Msg
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, EndpointStats, Service, ServiceConfig

from headrace.broker.jetstream.connection import NatsConnection
from headrace.broker.jetstream.rights import access_denied
from headrace.broker.port import ControlCallback, WorkerFacts
from headrace.jsondata import dumps, loads
from headrace.wire import QueueNames

log = logging.getLogger("headrace.broker")

FIRST_ANSWER = 0.3  # seconds to wait for the first answer
QUIET = 0.1  # seconds without a further answer that end the question
_FACTS_ENDPOINT = "facts"


class Announcement:
    """A running service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def close(self) -> None:
        """Answer no more."""
        try:
            await self._service.stop()
        except (nats.errors.Error, OSError, TimeoutError):
            pass  # the connection has ended, and the service with it


async def announce(
    connection: NatsConnection,
    names: QueueNames,
    worker_id: str,
    version: str,
    facts: WorkerFacts,
    control: Mapping[str, ControlCallback],
) -> Announcement:
    """Serve the worker's facts under $SRV and its control verbs on its own subjects."""

    def stats(_: EndpointStats) -> Any:
        return dict(facts())

    service = await nats.micro.add_service(
        connection.nc,
        ServiceConfig(
            name=names.service,
            version=version,
            description=f"A worker of the Headrace queue {names.queue}",
            metadata={"worker_id": worker_id},
            stats_handler=stats,
        ),
    )
    endpoints: dict[str, ControlCallback] = dict(control)

    async def tell(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return facts()

    endpoints[_FACTS_ENDPOINT] = tell
    for verb, callback in endpoints.items():
        await service.add_endpoint(
            EndpointConfig(
                name=verb, subject=names.worker(worker_id, verb), handler=_handler(callback)
            )
        )
    await connection.flush()  # who asks from now on gets an answer
    return Announcement(service)


def _handler(callback: ControlCallback) -> Any:
    async def handle(request: Request) -> None:
        try:
            body = loads(request.data) if request.data else {}
            if not isinstance(body, dict):
                raise ValueError(f"{body!r:.80} is not an object")
            answer = await callback(body)
        except Exception as error:
            log.exception("a control request failed")
            await request.respond_error("500", type(error).__name__)
            return
        await request.respond(dumps(dict(answer), "answer"))

    return handle


async def ask_workers(
    connection: NatsConnection, names: QueueNames, expect: int | None
) -> list[dict[str, Any]]:
    """The facts of all workers that answer `$SRV.STATS`."""
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = connection.nc.new_inbox()

    async def receive(msg: Msg) -> None:
        answers.put_nowait(msg)

    question = f"$SRV.STATS.{names.service}"
    denied = False

    def refused(subject: str) -> None:
        nonlocal denied
        denied = denied or subject == question.lower()

    subscription = await connection.subscribe(inbox, receive)
    found: dict[str, dict[str, Any]] = {}
    connection.rights.on_denied.append(refused)
    try:
        await connection.publish(question, b"", inbox)
        wait = FIRST_ANSWER
        while expect is None or len(found) < expect:
            try:
                async with asyncio.timeout(wait):
                    msg = await answers.get()
            except TimeoutError:
                if denied:
                    raise access_denied("publish", question) from None
                break
            if not msg.data:  # 503: nobody serves this queue
                break
            wait = QUIET if expect is None else FIRST_ANSWER
            answer = json.loads(msg.data)
            for endpoint in answer.get("endpoints") or []:
                if endpoint.get("name") == _FACTS_ENDPOINT and endpoint.get("data"):
                    found[answer["id"]] = endpoint["data"]
    finally:
        connection.rights.on_denied.remove(refused)
        try:
            await subscription.unsubscribe()
        except (nats.errors.Error, OSError):
            pass  # the connection has ended
    return list(found.values())
