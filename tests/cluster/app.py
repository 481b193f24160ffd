"""The workers of these tests: handlers that hold, fail, block, and tell when they run.

Each run tells its start and its end to a stream of the test's own, so that what is counted there
does not come from Headrace's records.
"""

import asyncio
import json
import os
import time
from pathlib import Path

import nats
import nats.errors

from headrace import Coordinator, Retry

app = Coordinator(queue="default")
_connection = None


async def tell(what: str, n: int) -> None:
    """Until it is stored: an outage of the server is not the handler's failure."""
    global _connection
    line = {"what": what, "n": n, "pod": os.environ.get("HEADRACE_POD_NAME"), "at": time.time()}
    subject = f"journal.{os.environ['HEADRACE_QUEUE']}"
    while True:
        try:
            if _connection is None:
                _connection = await nats.connect(
                    os.environ["HEADRACE_URL"], max_reconnect_attempts=-1
                )
            await _connection.jetstream().publish(
                subject, json.dumps(line).encode(), headers={"Nats-Msg-Id": f"{line}"}
            )
            return
        except (nats.errors.Error, OSError):
            await asyncio.sleep(0.5)


@app.handler("hold", timeout=600)
async def hold(n: int, seconds: float = 1.0) -> int:
    await tell("start", n)
    await asyncio.sleep(seconds)
    await tell("end", n)
    return n


def first_time_here(n: int) -> bool:
    """Whether this task has not run in this pod before; a restarted container has the same."""
    marker = Path(f"/scratch/blocked-{n}")
    found = not marker.exists()
    marker.touch()
    return found


def occupy(seconds: float) -> None:
    """As a call that knows nothing of loops."""
    time.sleep(seconds)


@app.handler("block", timeout=600)
async def block(n: int, seconds: float) -> int:
    """Blocks the loop in its first run in a pod, so that the kubelet's probe fails."""
    await tell("start", n)
    if first_time_here(n):
        occupy(seconds)
    await tell("end", n)
    return n


@app.handler("again", timeout=60, retries=5)
async def again(n: int, delay: float, until: float) -> int:
    """Is put off until a time of day."""
    if time.time() < until:
        raise Retry(delay=delay)
    await tell("start", n)
    return n


def not_ready(yes: bool) -> None:
    """What the probe of the test's own looks for."""
    marker = Path("/scratch/unready")
    marker.touch() if yes else marker.unlink()


@app.handler("unready", timeout=600)
async def unready(n: int, seconds: float) -> int:
    """Runs while its pod is not ready, as a pod with a slow probe would."""
    not_ready(True)
    await tell("start", n)
    await asyncio.sleep(seconds)
    await tell("end", n)
    not_ready(False)
    return n
