"""What rights do not keep apart, as docs/security.md says. If this fails, NATS is stricter now."""

from __future__ import annotations

import asyncio
import json

from tests.contract.rights.conftest import QUEUE, MakeBroker
from tests.support.recorder import when

from headrace import AccessDenied


async def test_an_answer_goes_to_any_subject_that_the_asker_names(
    make_broker: MakeBroker, made: None
) -> None:
    admin, worker = await make_broker("admin"), await make_broker("worker")
    heard = asyncio.Event()
    victim = "headrace.control.other.w.drain"
    await admin.subscribe(victim, lambda *_: heard.set())
    await admin.flush()
    try:
        await worker.request(victim, b"{}", 1.0)
    except AccessDenied:
        pass
    assert not heard.is_set()
    await worker.publish(f"$JS.API.STREAM.INFO.HEADRACE_{QUEUE}", b"", victim)
    async with asyncio.timeout(5):
        await heard.wait()


async def test_it_reads_nothing_by_that(make_broker: MakeBroker, made: None) -> None:
    """The question itself must be one that it may ask."""
    admin, worker = await make_broker("admin"), await make_broker("worker")
    got: list[bytes] = []
    await admin.queue("other").write_record("secret", b'{"status":"completed"}', 0, 60)
    await worker.subscribe("headrace.control.docs.x.drain", lambda _, body, __: got.append(body))
    await worker.flush()
    for call, body in (
        ("DIRECT.GET.HEADRACE_STATE_other", {"last_by_subj": "headrace.state.other.secret"}),
        ("STREAM.INFO.HEADRACE_docs", {}),  # the last one comes: what was refused would be before
    ):
        await worker.publish(
            f"$JS.API.{call}", json.dumps(body).encode(), "headrace.control.docs.x.drain"
        )

    async def count() -> int:
        return len(got)

    await when(count, lambda number: number > 0)
    assert [json.loads(body)["config"]["name"] for body in got] == ["HEADRACE_docs"]
